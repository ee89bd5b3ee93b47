"""The seed: 118 skills that are always listed, so each record has to be right by itself."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from marketplace.skills.slugs import (
    MAX_BASE_SLUG_LENGTH,
    identity_of,
    repository_owner,
    slugify,
)
from tests.assigned_slugs import assign_slugs

SEED_FILE = Path(__file__).parents[3] / "seed" / "skills.json"

CATEGORIES = {
    "ai",
    "cloud",
    "data",
    "design",
    "development",
    "devops",
    "documents",
    "marketing",
    "mobile",
    "productivity",
    "security",
    "testing",
}


class SeedSkill(
    msgspec.Struct,
    rename={"trending_score_7d": "trendingScore7d", "trending_score_30d": "trendingScore30d"},
    forbid_unknown_fields=True,
    frozen=True,
):
    """The exact keys and types of a record, none of them optional."""

    name: str
    base_slug: str = msgspec.field(name="baseSlug")
    display_name: str = msgspec.field(name="displayName")
    description: str
    author: str
    repo_url: str = msgspec.field(name="repoUrl")
    skill_path: str = msgspec.field(name="skillPath")
    category: str
    current_version: str = msgspec.field(name="currentVersion")
    cert_tier: str = msgspec.field(name="certTier")
    cert_method: str = msgspec.field(name="certMethod")
    cert_score: int = msgspec.field(name="certScore")
    certified_at: str = msgspec.field(name="certifiedAt")
    labels: list[str]
    extensible: bool
    extension_points: list[str] = msgspec.field(name="extensionPoints")
    trending_score_7d: int
    trending_score_30d: int
    published_at: str = msgspec.field(name="publishedAt")
    updated_at: str = msgspec.field(name="updatedAt")
    license: str | None


SKILLS = msgspec.json.decode(SEED_FILE.read_bytes(), type=list[SeedSkill])

each_skill = pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)


def test_there_are_118_skills() -> None:
    assert len(SKILLS) == 118


def test_slugs_are_those_of_the_slug_rule() -> None:
    expected = assign_slugs((skill.repo_url, skill.base_slug) for skill in SKILLS)
    assert [skill.name for skill in SKILLS] == expected


def test_slugs_and_identities_are_unique() -> None:
    assert len({skill.name for skill in SKILLS}) == len(SKILLS)
    assert len({identity_of(skill.repo_url, skill.base_slug) for skill in SKILLS}) == len(SKILLS)


def test_slugs_that_links_rely_on() -> None:
    by_slug = {skill.name: skill.author for skill in SKILLS}
    assert by_slug["mcp-builder"] == "anthropics"
    assert by_slug["microsoft-mcp-builder"] == "microsoft"
    assert by_slug["skill-creator"] == "anthropics"
    assert by_slug["openai-skill-creator"] == "openai"
    assert by_slug["microsoft-skill-creator"] == "microsoft"
    assert by_slug["getsentry-brand-guidelines"] == "getsentry"
    assert by_slug["getsentry-doc-coauthoring"] == "getsentry"
    assert by_slug["addyosmani-test-driven-development"] == "addyosmani"
    assert by_slug["antfu-web-design-guidelines"] == "antfu"


def test_no_two_skills_share_a_description() -> None:
    counts = Counter(skill.description.casefold() for skill in SKILLS)
    assert [text for text, count in counts.items() if count > 1] == []


def test_every_category_is_used() -> None:
    assert {skill.category for skill in SKILLS} == CATEGORIES


def test_the_file_is_formatted_for_reading_and_diffs() -> None:
    text = SEED_FILE.read_text(encoding="utf-8")
    records = msgspec.json.decode(text)
    assert text.endswith("}\n]\n")
    assert text == msgspec.json.format(msgspec.json.encode(records), indent=2).decode() + "\n"


@each_skill
def test_names(skill: SeedSkill) -> None:
    assert skill.base_slug == slugify(skill.base_slug)
    assert 0 < len(skill.base_slug) <= MAX_BASE_SLUG_LENGTH
    assert skill.display_name == skill.display_name.strip()
    assert 2 <= len(skill.display_name) <= MAX_BASE_SLUG_LENGTH
    assert "-" not in skill.display_name or skill.display_name.istitle()


@each_skill
def test_description(skill: SeedSkill) -> None:
    assert 60 <= len(skill.description) <= 300
    assert re.fullmatch(r"[A-Z]\S*( \S+)+\.", skill.description)


@each_skill
def test_source(skill: SeedSkill) -> None:
    assert re.fullmatch(r"https://github\.com/[A-Za-z0-9-]+/[A-Za-z0-9._-]+", skill.repo_url)
    assert skill.author == repository_owner(skill.repo_url)
    assert re.fullmatch(r"[\w.-]+(/[\w.-]+)*", skill.skill_path)
    assert ".." not in skill.skill_path.split("/")
    assert skill.license is None or re.fullmatch(r"[A-Za-z0-9.-]+", skill.license)


@each_skill
def test_category_and_labels(skill: SeedSkill) -> None:
    assert skill.category in CATEGORIES
    assert skill.labels
    assert len(set(skill.labels)) == len(skill.labels)
    assert all(re.fullmatch(r"[a-z0-9]+", label) for label in skill.labels)


@each_skill
def test_certification(skill: SeedSkill) -> None:
    certification = (skill.current_version, skill.cert_tier, skill.cert_method, skill.cert_score)
    assert certification == ("1.0.0", "VERIFIED", "VENDOR_AUTO", 90)
    assert (skill.extensible, skill.extension_points) == (False, [])
    assert (skill.trending_score_7d, skill.trending_score_30d) == (0, 0)


@each_skill
def test_timestamps(skill: SeedSkill) -> None:
    for timestamp in (skill.certified_at, skill.published_at, skill.updated_at):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", timestamp)
        assert timestamp == "2026-01-15T00:00:00.000Z"
