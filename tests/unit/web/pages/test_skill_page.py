"""The skill page shows what strangers wrote, so everything in it is escaped."""

from typing import Final

import pytest

from marketplace.content.skill_content import Availability, Kept, SkillContent
from marketplace.skills.skill import Skill
from marketplace.web.pages.skill_page import render_skill

ONE: Final = "1" * 64
TWO: Final = "2" * 64


def make_skill(**changes: str) -> Skill:
    values = {
        "name": "a-skill",
        "base_slug": "a-skill",
        "display_name": "A skill",
        "description": "Does a thing.",
        "author": "acme",
        "repo_url": "https://github.com/acme/tools",
    }
    return Skill(**(values | changes))  # type: ignore[arg-type]


def page_of(
    skill: Skill,
    archive: Availability = Availability.NOT_NAMED,
    skill_md: Availability = Availability.NOT_NAMED,
) -> str:
    kept = Kept(skill.content_digest, archive), Kept(skill.skill_md_digest, skill_md)
    return render_skill(SkillContent(skill, *kept))


def test_markup_in_a_description_is_shown_and_not_run() -> None:
    page = page_of(make_skill(description="<script>alert(1)</script>"))

    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_markup_in_names_is_escaped_in_title_and_heading() -> None:
    page = page_of(make_skill(display_name='"><img src=x>'))

    assert "<img" not in page
    assert page.count("&lt;img src=x&gt;") == 2


def test_only_web_addresses_become_links() -> None:
    page = page_of(make_skill(repo_url="javascript:alert(1)"))

    assert "<dd>javascript:alert(1)</dd>" in page
    assert "javascript:" not in page.replace("<dd>javascript:alert(1)</dd>", "")


def test_an_address_for_git_alone_leads_to_where_a_browser_finds_it() -> None:
    page = page_of(make_skill(repo_url="git@github.com:Acme/Tools.git"))

    link = '<a href="https://github.com/Acme/Tools" rel="nofollow noopener">'
    assert f"{link}git@github.com:Acme/Tools.git</a>" in page


def test_the_page_names_version_author_and_repository() -> None:
    page = page_of(make_skill())

    assert "by acme · version 1.0.0" in page
    assert 'href="https://github.com/acme/tools"' in page


def test_kept_content_is_linked_with_its_digest() -> None:
    skill = make_skill(content_digest=ONE, skill_md_digest=TWO)
    page = page_of(skill, Availability.STORED, Availability.STORED)

    assert f'<a href="/content/{ONE}?skill=a-skill">zip</a> <code>sha256:{ONE}</code>' in page
    assert f'<a href="/content/{TWO}?skill=a-skill">text</a> <code>sha256:{TWO}</code>' in page


@pytest.mark.parametrize(
    ("availability", "why"),
    [
        (Availability.NOT_LICENSED, "only the digest is kept: the licence does not let"),
        (Availability.NOT_UPLOADED, "nobody has uploaded it yet"),
        (Availability.PURGED, "removed by an operator"),
        (Availability.UNKNOWN, "cannot be told now"),
    ],
)
def test_what_is_not_kept_is_said_beside_its_digest(availability: Availability, why: str) -> None:
    page = page_of(make_skill(content_digest=ONE), availability)

    assert why in page
    assert f"sha256:{ONE}" in page
    assert "/content/" not in page


def test_the_page_tells_where_it_comes_from_and_who_scanned_it() -> None:
    at = "2026-11-01T08:00:00.000Z"
    page = page_of(make_skill(commit="c" * 40, scanned_by="scan<1>", verdict_at=at))

    assert f"<code>{'c' * 40}</code>" in page
    assert f'<time datetime="{at}">2026-11-01</time> by scan&lt;1&gt;' in page


def test_a_source_that_is_gone_is_said() -> None:
    page = page_of(make_skill(source_gone_at="2026-11-01T08:00:00.000Z"))

    assert "Its repository is gone, as a scan found on" in page


def test_what_failed_its_scan_is_said_and_not_linked() -> None:
    at = "2026-11-01T08:00:00.000Z"
    skill = make_skill(content_digest=ONE, scan_failed_at=at, verdict_reason="It <phones> home.")
    page = page_of(skill, Availability.STORED)

    assert "It failed its latest scan on" in page
    assert "It &lt;phones&gt; home." in page
    assert "/content/" not in page
