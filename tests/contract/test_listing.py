"""Listings, counts and pages: every answer is that of ``skills.listing_rules``, by brute force."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec
import pytest

from marketplace.ports.database import DatabaseConnector, SkillDatabase
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.change import State
from marketplace.skills.listing_rules import (
    Cursor,
    InvalidQuery,
    ListingQuery,
    Rank,
    SortDirection,
    SortField,
    SortKey,
    decode_cursor,
    encode_cursor,
    matches,
    rank,
)
from marketplace.skills.merging import as_listed
from marketplace.skills.seed import EMPTY_SEED, Claim, seed_of
from marketplace.skills.skill import Skill, SkillSummary
from marketplace.skills.tiers import CertTier
from tests.examples import publish, random_skills, skill

SKILLS = 240
_BLOCK = Act(id="a", kind=ActKind.BLOCK, reason="x", at="2026-05-01T00:00:00.000Z", by="ops")
QUERIES_A_SEED = 40

SEARCHES = (
    *(
        "pdf",
        "PDF tool",
        "tool",
        "cod",
        "codé",
        "éclair",
        "e\u0301clair",
        "日本",
        "日",
        "🦊",
        "\U0001d4b3",
    ),
    *("file", "strasse", "STRASSE", "İ", "i", "istanbul", "back\\slash", "it's", "a&b | !c", "x:*"),
    *("acme", "ünal", "development", "pdf-tools-1", "z", "zz-nothing", "--", "'", "\\", "σας"),
)
AUTHORS = ("acme", "ACME", "ÜNAL", "ünal", "Zed", "nobody", "nul\0")
CATEGORIES = ("development", "data", "Data", "nothing", "nul\0")


_T = TypeVar("_T")


def _random_query(chance: random.Random) -> ListingQuery:
    def maybe(likelihood: float, values: Sequence[_T]) -> _T | None:
        return chance.choice(values) if chance.random() < likelihood else None

    return ListingQuery(
        category=maybe(0.3, CATEGORIES),
        cert_tier=maybe(0.3, list(CertTier)),
        author=maybe(0.3, AUTHORS),
        extensible=maybe(0.2, (True, False)),
        search=maybe(0.5, SEARCHES),
        sort_by=chance.choice(list(SortField)),
        sort_dir=chance.choice(list(SortDirection)),
    )


def _expected(skills: Sequence[Skill], query: ListingQuery) -> list[SkillSummary]:
    found = [summary for s in skills if matches(summary := s.summary(), query)]
    return sorted(found, key=lambda summary: rank(summary, query))


async def _check_pages(
    db: SkillDatabase, query: ListingQuery, expected: list[SkillSummary]
) -> None:
    """By offset, and by cursor all the way through, the listing is the expected one."""
    half = len(expected) // 2
    by_offset = await db.list_skills(query, seed=EMPTY_SEED, offset=half, limit=9)
    assert by_offset.total == len(expected)
    assert [row.name for row in by_offset.rows] == [s.name for s in expected[half : half + 9]]

    collected: list[SkillSummary] = []
    page_query = query
    while True:
        page = await db.list_skills(page_query, seed=EMPTY_SEED, offset=0, limit=23)
        assert page.total == len(expected)
        collected += [msgspec.json.decode(row.item, type=SkillSummary) for row in page.rows]
        for row, summary in zip(page.rows, collected[-len(page.rows) :], strict=False):
            position = rank(summary, query)
            assert (row.key, row.name) == (position.key, position.name)
            assert type(row.key) is type(position.key)
        if len(page.rows) < 23:
            break
        last = page.rows[-1]
        page_query = replace(query, cursor=Cursor(last.key, last.name))
    assert collected == expected


@pytest.mark.parametrize("seed", range(6))
async def test_listings_equal_a_brute_force_evaluation(
    connect: DatabaseConnector, seed: int
) -> None:
    chance = random.Random(seed)
    skills = [
        as_listed(msgspec.structs.replace(record, acts=(_BLOCK,))) if number % 9 == 0 else record
        for number, record in enumerate(random_skills(chance, SKILLS))
    ]
    with await connect() as db:
        assert await db.upsert_skills(skills) == []
        for _ in range(QUERIES_A_SEED):
            query = _random_query(chance)
            expected = _expected(skills, query)

            assert (await db.count_skills(query, seed=EMPTY_SEED)).value == len(expected), query
            await _check_pages(db, query, expected)


async def test_categories_count_what_is_listed(connect: DatabaseConnector) -> None:
    skills = random_skills(random.Random(1), 60)
    only_one = as_listed(skill("only-one", category="rare", acts=(_BLOCK,)))
    with await connect() as db:
        await db.upsert_skills([*skills, only_one])

        counted = await db.count_categories(seed=EMPTY_SEED)
    assert counted.value == Counter(s.category for s in skills)


async def test_every_answer_tells_which_skills_of_the_seed_are_published(
    connect: DatabaseConnector,
) -> None:
    seeded = [skill(name, repository="seed/skills") for name in ("one", "two", "three")]
    seed = seed_of(seeded)
    withheld = as_listed(
        skill("one", repository="seed/skills", name="seed-skills-one", acts=(_BLOCK,))
    )
    with await connect() as db:
        await db.upsert_skills([withheld, skill("two"), skill("other")])
        page = await db.list_skills(ListingQuery(), seed=seed, offset=0, limit=5)
        count = await db.count_skills(ListingQuery(), seed=seed)
        categories = await db.count_categories(seed=seed)

    expected = {
        Claim("seed-skills-one", withheld.identity),
        Claim("two", skill("two").identity),
    }
    for claims in (page.claims, count.claims, categories.claims):
        assert set(claims) == expected
    beside = seed.beside(page.claims)
    assert [listed.name for listed in beside] == ["seed-two", "three"]


async def test_an_entry_has_the_fields_of_a_summary_in_its_order(
    connect: DatabaseConnector,
) -> None:
    record = skill(license=None, certified_at=None, description="long " * 200)
    with await connect() as db:
        await publish(db, record)
        page = await db.list_skills(ListingQuery(), seed=EMPTY_SEED, offset=0, limit=1)

    fields = msgspec.json.decode(page.rows[0].item)
    expected = msgspec.json.decode(msgspec.json.encode(record.summary()))
    assert list(fields.items()) == list(expected.items())


async def test_a_skill_is_found_by_the_slug_it_has_not_by_the_one_it_asked_for(
    connect: DatabaseConnector,
) -> None:
    record = skill("pdf", name="wanted", repository="zed/archive")
    by_repository = ListingQuery(search="archive", sort_by=SortField.RELEVANCE)
    with await connect() as db:
        await db.upsert_skill(State(record), candidates=["zed-archive-pdf"])
        found = await db.list_skills(by_repository, seed=EMPTY_SEED, offset=0, limit=5)
        assert [(row.key, row.name) for row in found.rows] == [(1, "zed-archive-pdf")]
        missing = await db.count_skills(ListingQuery(search="wanted"), seed=EMPTY_SEED)
        assert missing.value == 0


async def test_a_search_for_a_name_ranks_slug_and_base_slug_alike(
    connect: DatabaseConnector,
) -> None:
    query = ListingQuery(search="PDF tools", sort_by=SortField.RELEVANCE)
    named = skill("pdf-tools")
    second = skill("pdf-tools", name="zed-pdf-tools", repository="zed/x", display_name="Z")
    longer = skill("pdf-tools-extra")
    with await connect() as db:
        await db.upsert_skills([longer, second, named])
        page = await db.list_skills(query, seed=EMPTY_SEED, offset=0, limit=5)

    assert [(row.key, row.name) for row in page.rows] == [
        (2, "pdf-tools"),
        (2, "zed-pdf-tools"),
        (1, "pdf-tools-extra"),
    ]


async def test_without_a_search_all_are_equally_relevant(connect: DatabaseConnector) -> None:
    query = ListingQuery(sort_by=SortField.RELEVANCE)
    with await connect() as db:
        await db.upsert_skills([skill("b"), skill("a")])
        page = await db.list_skills(query, seed=EMPTY_SEED, offset=0, limit=5)

    assert [(row.key, row.name) for row in page.rows] == [(1, "a"), (1, "b")]


@pytest.mark.parametrize("field", SortField)
@pytest.mark.parametrize(
    "key",
    ["", "a", "nul\0", 0, 1, -1, 101, 2**31, 2**63, 10**400, 0.5, 1e308, -1e308, float("1e999")],
    ids=lambda key: repr(key)[:12],
)
@pytest.mark.parametrize("name", ["a", "nul\0"])
async def test_a_made_up_cursor_is_refused_or_answered_but_never_fails_the_database(
    postgres: DatabaseConnector, field: SortField, key: SortKey, name: str
) -> None:
    made_up = encode_cursor(ListingQuery(sort_by=field), Rank(key, name, descending=True))
    try:
        cursor = decode_cursor(made_up, field, SortDirection.DESC)
    except InvalidQuery:
        return
    with await postgres() as db:
        query = ListingQuery(sort_by=field, cursor=cursor)
        assert (await db.list_skills(query, seed=EMPTY_SEED, offset=0, limit=5)).rows == []
