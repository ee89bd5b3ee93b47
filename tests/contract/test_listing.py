"""Listings, counts and pages: every answer is what ``listing``'s rules give by brute force."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import TypeVar
from unittest import mock

import msgspec
import pytest

from marketplace.ports.database import (
    DatabaseConnector,
    Difference,
    DifferenceKind,
    SkillDatabase,
)
from marketplace.postgres import listing_sql
from marketplace.skills import listing_rules
from marketplace.skills.acts import ActKind
from marketplace.skills.change import Acted, State
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
from marketplace.skills.seed import EMPTY_SEED
from marketplace.skills.skill import Skill, SkillSummary, Status
from marketplace.skills.tiers import CertTier, Verdict
from tests.doubles import database as database_double
from tests.examples import (
    APRIL,
    FEBRUARY,
    JANUARY,
    MARCH,
    act,
    change,
    claims_on,
    key_of,
    publish,
    random_skills,
    seed_of,
    skill,
    with_acts,
)

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


@contextmanager
def small_bounds() -> Iterator[None]:
    """All bounds of listings so small that a few skills reach them."""
    sql = {"_SAMPLE": 10, "_NEARLY_ALL": 6, "_COMMON": 3, "_WALKED": 12, "_WALKED_IN_FILTERS": 5}
    sql |= {"_WALKED_TO_COUNT": 30}
    with ExitStack() as stack:
        for module in (listing_rules, listing_sql, database_double):
            stack.enter_context(mock.patch.object(module, "MOST_COUNTED", 7))
        for name, number in sql.items():
            stack.enter_context(mock.patch.object(listing_sql, name, number))
        yield


def _counted(query: ListingQuery, found: int) -> int:
    """What the database says of so many matches."""
    return found if query.is_counted_whole else min(found, listing_rules.MOST_COUNTED + 1)


def _expected(skills: Sequence[Skill], query: ListingQuery) -> list[SkillSummary]:
    summaries = [record.summary() for record in skills if record.status is Status.LISTED]
    found = [summary for summary in summaries if matches(summary, query)]
    return sorted(found, key=lambda summary: rank(summary, query))


async def _check_pages(
    db: SkillDatabase, query: ListingQuery, expected: list[SkillSummary]
) -> None:
    """By offset, and by cursor all the way through, the listing is the expected one."""
    half, total = len(expected) // 2, _counted(query, len(expected))
    by_offset = await db.list_skills(query, seed=EMPTY_SEED, offset=half, limit=9)
    assert by_offset.total == total
    assert [row.name for row in by_offset.rows] == [s.name for s in expected[half : half + 9]]

    collected: list[SkillSummary] = []
    page_query = query
    while True:
        page = await db.list_skills(page_query, seed=EMPTY_SEED, offset=0, limit=23)
        assert page.total == total
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


@pytest.mark.parametrize("bounds", [nullcontext, small_bounds])
@pytest.mark.parametrize("seed", range(6))
async def test_listings_equal_a_brute_force_evaluation(
    connect: DatabaseConnector, seed: int, bounds: Callable[[], AbstractContextManager[None]]
) -> None:
    chance = random.Random(seed)
    skills = random_skills(chance, SKILLS)
    with bounds(), await connect() as db:
        assert await db.upsert_skills(skills) == []
        for _ in range(QUERIES_A_SEED):
            query = _random_query(chance)
            expected = _expected(skills, query)

            counted = await db.count_skills(query, seed=EMPTY_SEED)
            assert counted.value == _counted(query, len(expected)), query
            await _check_pages(db, query, expected)


async def test_categories_are_counted(connect: DatabaseConnector) -> None:
    skills = [*random_skills(random.Random(1), 60), skill("only-one", category="rare")]
    with await connect() as db:
        await db.upsert_skills(skills)

        counted = await db.count_categories(seed=EMPTY_SEED)
    assert counted.value == Counter(s.category for s in skills if s.status is Status.LISTED)


_WITHHELD = {
    "withdrawn by an operator": with_acts(skill("pdf", category="rare"), act(ActKind.WITHDRAW)),
    "blocked": with_acts(skill("pdf", category="rare"), act(ActKind.BLOCK)),
    "withdrawn by its owner": as_listed(skill("pdf", category="rare", verdict=Verdict.WITHDRAWN)),
}


@pytest.mark.parametrize("withheld", _WITHHELD.values(), ids=list(_WITHHELD))
async def test_what_is_withheld_is_in_no_listing_but_stays_in_the_sources(
    connect: DatabaseConnector, withheld: Skill
) -> None:
    shown = skill("shown")
    with await connect() as db:
        await publish(db, shown)
        alone = await db.fingerprint()
        await publish(db, withheld)
        for field in SortField:
            page = await db.list_skills(
                ListingQuery(sort_by=field), seed=EMPTY_SEED, offset=0, limit=9
            )
            assert ([row.name for row in page.rows], page.total) == (["shown"], 1)
        for query in (
            ListingQuery(search="pdf"),
            ListingQuery(search="pdf", sort_by=SortField.RELEVANCE),
            ListingQuery(category="rare"),
        ):
            page = await db.list_skills(query, seed=EMPTY_SEED, offset=0, limit=9)
            assert (page.rows, page.total) == ([], 0)
            assert (await db.count_skills(query, seed=EMPTY_SEED)).value == 0
        counted = await db.count_skills(ListingQuery(), seed=EMPTY_SEED)
        categories = await db.count_categories(seed=EMPTY_SEED)
        assert (counted.value, categories.value) == (1, {"development": 1})

        assert await db.get_skill("pdf") == withheld
        assert await db.get_skill_by_identity(withheld.identity) == withheld
        assert await db.get_skills([withheld.identity]) == {withheld.identity: withheld}
        both = await db.fingerprint()
        assert (both.count, both.digest != alone.digest) == (2, True)
        found = await db.compare_range([key_of(shown)], after="", until=None)
        assert found == [Difference(DifferenceKind.MISSING_IN_KV, "pdf", withheld)]
        await db.mark_in_kv([key_of(shown)])
        assert await db.skills_not_in_kv(limit=9) == [withheld]
        await db.mark_in_kv([key_of(withheld)])
        assert await db.skills_not_in_kv(limit=9) == []


async def test_a_skill_is_listed_again_when_the_act_on_it_is_lifted(
    connect: DatabaseConnector,
) -> None:
    blocked = act(ActKind.BLOCK)
    with await connect() as db:
        await publish(db, with_acts(skill(), blocked))
        assert (await db.count_skills(ListingQuery(), seed=EMPTY_SEED)).value == 0
        await change(db, Acted(skill().identity, (act(ActKind.RESTORE, lifts=(blocked.id,)),)))
        assert (await db.count_skills(ListingQuery(), seed=EMPTY_SEED)).value == 1


async def test_the_seed_gives_way_by_identity_and_by_slug(connect: DatabaseConnector) -> None:
    seed = seed_of(skill("same"), skill("renamed"), skill("taken"), skill("next"), skill("free"))
    published = [
        skill("same"),
        skill("renamed", name="zed-renamed"),
        with_acts(skill("taken", repository="zed/x"), act(ActKind.BLOCK)),
        skill("acme-next", repository="zed/x"),
        skill("strange"),
    ]
    claims = claims_on(seed, published)
    with await connect() as db:
        await db.upsert_skills(published)
        page = await db.list_skills(ListingQuery(limit=1), seed=seed, offset=0, limit=1)
        counted = await db.count_skills(ListingQuery(category="nothing"), seed=seed)
        categories = await db.count_categories(seed=seed)

    assert sorted(page.claims) == sorted(counted.claims) == sorted(categories.claims) == claims
    assert [claim.name for claim in claims] == ["acme-next", "same", "taken", "zed-renamed"]
    listed = {s.identity: s.name for s in seed.beside(page.claims)}
    assert listed == {
        skill("taken").identity: "acme-taken",
        skill("next").identity: "next",
        skill("free").identity: "free",
    }


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
        await change(db, State(record), "zed-archive-pdf")
        found = await db.list_skills(by_repository, seed=EMPTY_SEED, offset=0, limit=5)
        assert [(row.key, row.name) for row in found.rows] == [((1, 0.0), "zed-archive-pdf")]
        counted = await db.count_skills(ListingQuery(search="wanted"), seed=EMPTY_SEED)
        assert counted.value == 0


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
        ((2, 0.0), "pdf-tools"),
        ((2, 0.0), "zed-pdf-tools"),
        ((1, 0.0), "pdf-tools-extra"),
    ]


async def test_without_a_search_all_are_equally_relevant(connect: DatabaseConnector) -> None:
    query = ListingQuery(sort_by=SortField.RELEVANCE)
    with await connect() as db:
        await db.upsert_skills([skill("b"), skill("a")])
        page = await db.list_skills(query, seed=EMPTY_SEED, offset=0, limit=5)

    assert [(row.key, row.name) for row in page.rows] == [((1, 0.0), "a"), ((1, 0.0), "b")]


async def test_of_skills_that_match_alike_the_trending_one_comes_first(
    connect: DatabaseConnector,
) -> None:
    skills = [
        skill("pdf", trending_score_7d=1.0),
        skill("pdf-a", trending_score_7d=2.0),
        skill("pdf-b", trending_score_7d=3.5),
        skill("elsewhere", description="A pdf.", trending_score_7d=99.0),
    ]
    with await connect() as db:
        await db.upsert_skills(skills)
        for search, names in (
            ("pdf", ["pdf", "pdf-b", "pdf-a", "elsewhere"]),
            (None, ["elsewhere", "pdf-b", "pdf-a", "pdf"]),
        ):
            query = ListingQuery(search=search, sort_by=SortField.RELEVANCE)
            page = await db.list_skills(query, seed=EMPTY_SEED, offset=0, limit=5)
            assert [row.name for row in page.rows] == names


@pytest.mark.parametrize("field", SortField)
@pytest.mark.parametrize(
    "key",
    [
        *("", "a", "nul\0", 0, 1, -1, 101, 2**31, 2**63, 10**400, 0.5, 1e308, -1e308),
        *(float("1e999"), (1, 0), (0, -1e308), (2, 0.5), (3, 0.5)),
        *((1, float("1e999")), (1, 10**400)),
    ],
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
        for asked in (query, replace(query, search="a", category="b")):
            page = await db.list_skills(asked, seed=EMPTY_SEED, offset=0, limit=5)
            assert page.rows == []


_ACTS = (act(ActKind.CORRECT, JANUARY, category="data"),)
_BLOCKED_AND_RESTORED = (
    act(ActKind.BLOCK, MARCH, id="block"),
    act(ActKind.RESTORE, APRIL, lifts=("block",)),
)


async def test_states_that_wait_are_compared_with_their_rows(connect: DatabaseConnector) -> None:
    told = {"read_at": FEBRUARY, "updated_at": FEBRUARY, "certified_at": FEBRUARY}
    later = {"read_at": MARCH, "updated_at": MARCH, "certified_at": MARCH}
    cases = {  # by base slug: the row, the state that waits, and whether that outdoes the row
        "newer": (skill("newer", **told), skill("newer", **later), True),
        "older": (skill("older", **later), skill("older", **told), False),
        "same": (skill("same", **told), skill("same", **told), False),
        "acted": (with_acts(skill("acted", **told), *_ACTS), skill("acted", **later), False),
        "hidden": (
            skill("hidden", **later),
            with_acts(skill("hidden", **told), act(ActKind.BLOCK, APRIL)),
            True,
        ),
        "restored": (
            with_acts(skill("restored", **told), *_BLOCKED_AND_RESTORED),
            with_acts(skill("restored", **told), _BLOCKED_AND_RESTORED[0]),
            False,
        ),
        "moved": (
            skill("moved", skill_path="a", **told),
            skill("moved", skill_path="b", **later),
            False,
        ),
        "unread": (
            skill("unread", provisional=True, skill_path="a", **told),
            skill("unread", skill_path="b", **later),
            True,
        ),
        "act-alone": (
            skill("act-alone", **later),
            with_acts(skill("act-alone", **told), act(ActKind.CORRECT, APRIL, category="data")),
            False,
        ),
        "unchecked": (
            skill("unchecked", **told | {"certified_at": APRIL}),
            skill(
                "unchecked", **told | {"read_at": MARCH, "updated_at": MARCH, "verdict_at": APRIL}
            ),
            False,
        ),
    }
    rows = [row for row, _, _ in cases.values()]
    taken = skill("taken", repository="first/x")
    waiting = [state for _, state, _ in cases.values()]
    waiting += [skill("taken", repository="second/x"), skill("nowhere")]
    states = [state.published_summary() for state in waiting]
    outdone = {name: is_outdone for name, (_, _, is_outdone) in cases.items()} | {"taken": False}
    listed = {row.name for row in [*rows, taken] if row.status is Status.LISTED}
    with await connect() as db:
        await db.upsert_skills([*rows, taken])
        for query in (ListingQuery(), ListingQuery(search="does"), ListingQuery(author="acme")):
            expected = listed if query.author is None else listed - {"taken"}
            found = await db.list_skills(
                query, seed=EMPTY_SEED, offset=0, limit=100, waiting=states
            )
            assert {each.row.name: each.is_outdone for each in found.of_waiting} == outdone
            page = {row.name for row in found.rows}
            assert page == {name for name in expected if not outdone[name]}
            assert found.total == len(expected)
            counted = await db.count_skills(query, seed=EMPTY_SEED, waiting=states)
            assert (counted.value, len(counted.of_waiting)) == (found.total, len(outdone))
        tallied = await db.count_categories(seed=EMPTY_SEED, waiting=states)
        assert len(tallied.of_waiting) == len(outdone)
