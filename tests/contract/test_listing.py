"""Listings, counts and pages: every answer is what ``listing``'s rules give by brute force."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec
import pytest

from marketplace.ports.database import DatabaseConnector, SkillDatabase
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
from marketplace.skills.skill import Skill, SkillSummary
from marketplace.skills.tiers import CertTier
from tests.examples import publish, random_skills, skill

SKILLS = 240
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


def _expected(
    skills: Sequence[Skill], query: ListingQuery, exclude: set[str]
) -> list[SkillSummary]:
    summaries = [record.summary() for record in skills]
    found = [s for s in summaries if s.name not in exclude and matches(s, query)]
    return sorted(found, key=lambda summary: rank(summary, query))


async def _check_pages(
    db: SkillDatabase, query: ListingQuery, expected: list[SkillSummary], exclude: list[str]
) -> None:
    """By offset, and by cursor all the way through, the listing is the expected one."""
    half = len(expected) // 2
    by_offset = await db.list_skills(query, exclude=exclude, offset=half, limit=9)
    assert by_offset.total == len(expected)
    assert [row.name for row in by_offset.rows] == [s.name for s in expected[half : half + 9]]

    collected: list[SkillSummary] = []
    page_query = query
    while True:
        page = await db.list_skills(page_query, exclude=exclude, offset=0, limit=23)
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
    skills = random_skills(chance, SKILLS)
    with await connect() as db:
        assert await db.upsert_skills(skills) == []
        for _ in range(QUERIES_A_SEED):
            query = _random_query(chance)
            exclude = [record.name for record in chance.sample(skills, chance.choice((0, 40)))]
            expected = _expected(skills, query, set(exclude))

            assert await db.count_skills(query, exclude=exclude) == len(expected), query
            await _check_pages(db, query, expected, exclude)


async def test_categories_are_counted_without_the_excluded(connect: DatabaseConnector) -> None:
    skills = random_skills(random.Random(1), 60)
    only_one = skill("only-one", category="rare")
    exclude = [only_one.name, *(record.name for record in skills[:20]), "not-there"]
    with await connect() as db:
        await db.upsert_skills([*skills, only_one])

        assert await db.count_categories(exclude=exclude) == Counter(
            s.category for s in skills[20:]
        )
        everything = Counter(s.category for s in [*skills, only_one])
        assert await db.count_categories(exclude=[]) == everything


async def test_an_entry_has_the_fields_of_a_summary_in_its_order(
    connect: DatabaseConnector,
) -> None:
    record = skill(license=None, certified_at=None, description="long " * 200)
    with await connect() as db:
        await publish(db, record)
        page = await db.list_skills(ListingQuery(), exclude=[], offset=0, limit=1)

    fields = msgspec.json.decode(page.rows[0].item)
    expected = msgspec.json.decode(msgspec.json.encode(record.summary()))
    assert list(fields.items()) == list(expected.items())


async def test_a_skill_is_found_by_the_slug_it_has_not_by_the_one_it_asked_for(
    connect: DatabaseConnector,
) -> None:
    record = skill("pdf", name="wanted", repository="zed/archive")
    by_repository = ListingQuery(search="archive", sort_by=SortField.RELEVANCE)
    with await connect() as db:
        await db.upsert_skill(record, candidates=["zed-archive-pdf"])
        found = await db.list_skills(by_repository, exclude=[], offset=0, limit=5)
        assert [(row.key, row.name) for row in found.rows] == [(1, "zed-archive-pdf")]
        assert await db.count_skills(ListingQuery(search="wanted"), exclude=[]) == 0


async def test_a_search_for_a_name_ranks_slug_and_base_slug_alike(
    connect: DatabaseConnector,
) -> None:
    query = ListingQuery(search="PDF tools", sort_by=SortField.RELEVANCE)
    named = skill("pdf-tools")
    second = skill("pdf-tools", name="zed-pdf-tools", repository="zed/x", display_name="Z")
    longer = skill("pdf-tools-extra")
    with await connect() as db:
        await db.upsert_skills([longer, second, named])
        page = await db.list_skills(query, exclude=[], offset=0, limit=5)

    assert [(row.key, row.name) for row in page.rows] == [
        (2, "pdf-tools"),
        (2, "zed-pdf-tools"),
        (1, "pdf-tools-extra"),
    ]


async def test_without_a_search_all_are_equally_relevant(connect: DatabaseConnector) -> None:
    query = ListingQuery(sort_by=SortField.RELEVANCE)
    with await connect() as db:
        await db.upsert_skills([skill("b"), skill("a")])
        page = await db.list_skills(query, exclude=[], offset=0, limit=5)

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
        assert (await db.list_skills(query, exclude=[], offset=0, limit=5)).rows == []
