"""The slug rule: examples that pin it for good, and properties that hold for any input."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.skills.slugs import (
    DIGEST_LENGTH,
    MAX_BASE_SLUG_LENGTH,
    MAX_OWNER_LENGTH,
    MAX_REPOSITORY_LENGTH,
    MAX_SLUG_LENGTH,
    RESERVED_SLUGS,
    assignable_candidates,
    author_of,
    identity_of,
    known_slugs,
    normalize_repository,
    repository_author,
    repository_name,
    repository_owner,
    slug_candidates,
    slugify,
)
from tests.assigned_slugs import assign_slugs

TOOLS = "https://github.com/acme/tools"

_words = st.sampled_from(["a", "b", "ab", "a-b", "pdf", "count", "search", "x1"])
_base_slugs = st.lists(_words, min_size=1, max_size=3).map("-".join)
_repo_urls = st.builds("https://github.com/{}/{}".format, _words, _words)
_entries = st.lists(st.tuples(_repo_urls, _base_slugs), max_size=30)


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("My @Skill #1!!", "my-skill-1"),
        ("pdf", "pdf"),
        ("MCP_Builder", "mcp-builder"),
        ("--shadcn/ui--", "shadcn-ui"),
        ("a---b", "a-b"),
        ("tab\tand\nline", "tab-and-line"),
        ("Café au lait", "caf-au-lait"),
        ("\N{KELVIN SIGN}2", "2"),
        ("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}x", "x"),
        ("\N{ARABIC-INDIC DIGIT FIVE}5", "5"),
        ("日本語", ""),
        ("!!!", ""),
        ("", ""),
    ],
)
def test_slugify_examples(text: str, slug: str) -> None:
    assert slugify(text) == slug


@given(st.text())
def test_slugify_gives_only_slugs(text: str) -> None:
    slug = slugify(text)
    assert re.fullmatch(r"(?:[a-z0-9]+(?:-[a-z0-9]+)*)?", slug)
    assert len(slug) <= len(text)
    assert slugify(slug) == slug


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_slugify_follows_the_rule_word_by_word(text: str) -> None:
    assert slugify(text).split("-") == (re.findall("[a-z0-9]+", text.lower()) or [""])


@pytest.mark.parametrize(
    "repo_url",
    [
        "https://github.com/Acme/Tools",
        "https://github.com/Acme/Tools.git",
        "https://github.com/Acme/Tools.GIT/",
        "https://github.com/Acme/Tools.git.git",
        "https://github.com//Acme//Tools///",
        "https://github.com/Acme/Tools?tab=readme#usage",
        "https://github.com/Acme/Tools/tree/main/skills/pdf",
        "http://www.github.com:80/Acme/Tools",
        "HTTPS://GitHub.com.:443/Acme/Tools",
        "https://user:secret@github.com/Acme/Tools",
        "git+https://github.com/Acme/Tools.git",
        "git://github.com/Acme/Tools.git",
        "ssh://git@github.com:22/Acme/Tools.git",
        "git@github.com:Acme/Tools.git",
        "github.com/Acme/Tools",
        "  https://github.com/Acme/Tools\n",
    ],
)
def test_forms_of_one_repository(repo_url: str) -> None:
    assert normalize_repository(repo_url) == "https://github.com/acme/tools"
    assert repository_owner(repo_url) == "Acme"
    assert repository_name(repo_url) == "Tools"


@pytest.mark.parametrize(
    ("repo_url", "normalized", "owner", "name"),
    [
        ("https://gitlab.com/acme/tools", "https://gitlab.com/acme/tools", "acme", "tools"),
        ("https://gitlab.com/a/b/C/", "https://gitlab.com/a/b/c", "a/b", "C"),
        ("https://gitlab.com/a/b/-/tree/main", "https://gitlab.com/a/b", "a", "b"),
        ("https://git.acme.dev:8443/a/b.git", "https://git.acme.dev:8443/a/b", "a", "b"),
        ("https://git.sr.ht/~acme/tools", "https://git.sr.ht/~acme/tools", "~acme", "tools"),
        ("https://github.com/a/.github", "https://github.com/a/.github", "a", ".github"),
    ],
)
def test_other_repositories(repo_url: str, normalized: str, owner: str, name: str) -> None:
    assert normalize_repository(repo_url) == normalized
    assert normalize_repository(normalized) == normalized
    assert repository_owner(repo_url) == owner
    assert repository_name(repo_url) == name


@pytest.mark.parametrize(
    "repo_url",
    [
        "",
        "acme/tools",
        "https://github.com",
        "https://github.com/acme",
        "https:///acme/tools",
        "https://github.com/acme/.git",
        "https://github.com/acme/..",
        "https://github.com/../tools",
        "https://github.com/acme/to ols",
        "https://github.com/acme/to\tols",
        "https://github.com/acme\\tools/x",
        "https://github.com/acme/t%6fols",
        "https://github.com/acme/tööls",
        "https://github.com:port/acme/tools",
        "https://[::1/acme/tools",
        "https://-github.com/acme/tools",
        "ftp://github.com/acme/tools",
        "javascript://github.com/acme/tools",
        "file:///acme/tools",
        "https://github.com/acme/" + "t" * 2_048,
    ],
)
def test_not_a_repository(repo_url: str) -> None:
    for function in (normalize_repository, repository_owner, repository_name):
        with pytest.raises(ValueError, match=r"repository|[Pp]ort|IPv6"):
            function(repo_url)


@given(st.text() | st.text(max_size=30).map("https://github.com/{}".format))
def test_normalizing_is_idempotent_or_refused(repo_url: str) -> None:
    try:
        normalized = normalize_repository(repo_url)
    except ValueError:
        return
    assert normalize_repository(normalized) == normalized
    assert normalized.startswith("https://")
    assert normalized == normalized.lower()


def test_identity() -> None:
    assert identity_of("https://github.com/Acme/Tools.git", "pdf") == f"{TOOLS}#pdf"


@pytest.mark.parametrize("base_slug", ["", "PDF", "a b", "-a", "a--b", "é"])
def test_a_base_slug_must_be_a_slug(base_slug: str) -> None:
    for function in (identity_of, slug_candidates, assignable_candidates):
        with pytest.raises(ValueError, match="not a slug"):
            function(TOOLS, base_slug)


def test_candidates_are_these_for_good() -> None:
    assert slug_candidates("https://github.com/Acme/My_Tools.git", "pdf") == (
        "pdf",
        "acme-pdf",
        "acme-my-tools-pdf",
        "acme-my-tools-pdf-f5200aad3f",
    )


def test_candidates_on_another_forge_have_its_host() -> None:
    repository = "https://gitlab.com/Acme/Sub/My_Tools.git"
    digest = slug_candidates(repository, "pdf")[3][-10:]
    assert slug_candidates(repository, "pdf") == (
        "pdf",
        "gitlab-com-acme-sub-pdf",
        "gitlab-com-acme-sub-my-tools-pdf",
        f"gitlab-com-acme-sub-my-tools-pdf-{digest}",
    )
    assert known_slugs(repository, "pdf") == (
        *slug_candidates(repository, "pdf"),
        "acme-sub-pdf",
        "acme-sub-my-tools-pdf",
        f"acme-sub-my-tools-pdf-{digest}",
    )
    assert known_slugs(TOOLS, "pdf") == slug_candidates(TOOLS, "pdf")


@pytest.mark.parametrize(
    ("repo_url", "author"),
    [
        ("https://github.com/Acme/tools", "Acme"),
        ("git@github.com:Acme/tools.git", "Acme"),
        ("https://GitLab.com/Acme/Sub/tools", "gitlab.com/Acme/Sub"),
        ("git@codeberg.org:Acme/tools", "codeberg.org/Acme"),
        ("https://git.acme.example:8443/a/b", "git.acme.example:8443/a"),
    ],
)
def test_the_author_is_the_owner_with_the_forge(repo_url: str, author: str) -> None:
    assert repository_author(repo_url) == author
    assert author_of(repo_url, "Acme") == author


def test_the_author_of_a_skill_on_github_is_as_it_was_stored() -> None:
    assert author_of("https://github.com/Acme/tools", "Jane Doe") == "Jane Doe"


def test_the_longest_slug() -> None:
    owner = "o" * MAX_OWNER_LENGTH
    name = "r" * MAX_REPOSITORY_LENGTH
    *_, last = slug_candidates(f"https://github.com/{owner}/{name}", "s" * MAX_BASE_SLUG_LENGTH)
    assert len(last) == MAX_SLUG_LENGTH == 216


@given(_repo_urls, _base_slugs, _repo_urls, _base_slugs)
def test_only_one_identity_has_a_last_candidate(
    repo_a: str, base_a: str, repo_b: str, base_b: str
) -> None:
    same_identity = identity_of(repo_a, base_a) == identity_of(repo_b, base_b)
    last_a, last_b = slug_candidates(repo_a, base_a)[-1], slug_candidates(repo_b, base_b)[-1]
    assert (last_a == last_b) == same_identity


def test_last_candidates_differ_where_all_others_agree() -> None:
    one = slug_candidates("https://github.com/a-b/c", "pdf")
    other = slug_candidates("https://github.com/a/b-c", "pdf")
    assert one[2] == other[2] == "a-b-c-pdf"
    assert one[3] != other[3]


@given(_repo_urls, _base_slugs)
def test_candidates_are_slugs_and_do_not_depend_on_the_form_of_the_url(
    repo_url: str, base_slug: str
) -> None:
    candidates = slug_candidates(repo_url, base_slug)
    assert candidates == slug_candidates(f"{repo_url.upper()}.git/", base_slug)
    assert all(candidate == slugify(candidate) for candidate in candidates)
    assert set(assignable_candidates(repo_url, base_slug)) <= set(candidates)
    assert assignable_candidates(repo_url, base_slug)[-1] == candidates[-1]


def test_reserved_slugs_are_skipped() -> None:
    assert {"count", "categories", "search"} == RESERVED_SLUGS
    for word in RESERVED_SLUGS:
        assert assignable_candidates(TOOLS, word)[0] == f"acme-{word}"
        assert assign_slugs([(TOOLS, word)]) == [f"acme-{word}"]
    assert assignable_candidates(TOOLS, "counts")[0] == "counts"


def test_a_name_cannot_squat_on_the_last_resort_of_another_skill() -> None:
    victim = "https://github.com/a/b-c"
    *_, last = slug_candidates(victim, "pdf")
    assert last not in assignable_candidates("https://github.com/x/y", last)
    assert last not in assignable_candidates("https://github.com/a/y", last.removeprefix("a-"))
    slugs = assign_slugs(
        [
            ("https://github.com/x/y", last),
            ("https://github.com/x/y", "pdf"),
            ("https://github.com/x/y", "a-pdf"),
            ("https://github.com/x/y", "a-b-c-pdf"),
            (victim, "pdf"),
        ]
    )
    assert len(set(slugs)) == len(slugs)
    assert slugs[-1] == last


def test_a_repository_name_without_letters_gives_no_empty_part() -> None:
    candidates = slug_candidates("https://github.com/acme/_", "pdf")
    assert candidates[:3] == ("pdf", "acme-pdf", "acme-pdf")
    assert len(assignable_candidates("https://github.com/acme/_", "pdf")) == 3


def test_assigning_goes_through_the_steps_in_order() -> None:
    slugs = assign_slugs(
        [
            (TOOLS, "pdf"),
            ("https://github.com/beta/tools", "pdf"),
            ("https://github.com/beta/more", "pdf"),
            ("https://github.com/Acme/Tools.git", "pdf"),
        ]
    )
    assert slugs == ["pdf", "beta-pdf", "beta-more-pdf", "pdf"]


def test_assigning_ends_with_the_digest() -> None:
    slugs = assign_slugs(
        [
            (TOOLS, "pdf"),
            (TOOLS, "a-pdf"),
            (TOOLS, "a-b-c-pdf"),
            ("https://github.com/a/b-c", "pdf"),
        ]
    )
    assert slugs[:3] == ["pdf", "a-pdf", "a-b-c-pdf"]
    assert re.fullmatch(rf"a-b-c-pdf-[0-9a-f]{{{DIGEST_LENGTH}}}", slugs[3])


@given(_entries)
def test_assigned_slugs_and_identities_match_one_to_one(entries: list[tuple[str, str]]) -> None:
    slugs = assign_slugs(entries)
    pairs = {(identity_of(*entry), slug) for entry, slug in zip(entries, slugs, strict=True)}
    assert (
        len(pairs) == len({identity for identity, _ in pairs}) == len({slug for _, slug in pairs})
    )
    assert not RESERVED_SLUGS.intersection(slugs)


@given(_entries, _entries)
def test_later_entries_change_no_earlier_slug(
    entries: list[tuple[str, str]], more: list[tuple[str, str]]
) -> None:
    assert assign_slugs([*entries, *more])[: len(entries)] == assign_slugs(entries)
