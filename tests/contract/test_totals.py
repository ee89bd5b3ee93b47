"""The totals that PostgreSQL keeps are those of its rows, after whatever changes them."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
import pytest

from marketplace.ports.database import DatabaseConnector, SkillDatabase
from marketplace.skills.acts import ActKind
from marketplace.skills.change import Acted, State
from marketplace.skills.listing_rules import ListingQuery, matches
from marketplace.skills.seed import EMPTY_SEED
from marketplace.skills.skill import Skill
from marketplace.skills.tiers import CertTier, Verdict
from pgwire import Connection, Result, Statement
from tests.contract.conftest import NOT_EMPTIED
from tests.contract.postgres import PostgresServer
from tests.examples import act, change, publish, random_skills, skill, with_acts

LATER = "2026-03-01T00:00:00.000Z"
_QUERIES = [
    ListingQuery(category=category, cert_tier=tier, extensible=extensible)
    for category, tier, extensible in itertools.product(
        (None, "development", "data", "rare"), (None, *CertTier), (None, False, True)
    )
]
_QUERIES += [ListingQuery(author=author) for author in ("acme", "zed", "nobody")]


async def _check(db: SkillDatabase, skills: list[Skill]) -> None:
    """Every total is what the listing's rules give for these skills."""
    summaries = [each.summary() for each in skills]
    for query in _QUERIES:
        counted = await db.count_skills(query, seed=EMPTY_SEED)
        assert counted.value == sum(matches(summary, query) for summary in summaries), query
    categories = await db.count_categories(seed=EMPTY_SEED)
    listed = [each for each in summaries if matches(each, ListingQuery())]
    assert categories.value == Counter(each.category for each in listed)


async def test_each_kind_of_change_is_counted(connect: DatabaseConnector) -> None:
    blocked, corrected = act(ActKind.BLOCK), act(ActKind.CORRECT, LATER, category="rare")
    lifted = act(ActKind.RESTORE, "2026-04-01T00:00:00.000Z", lifts=(blocked.id,))
    records = [skill(), skill("other", category="data", extensible=True)]
    newer = msgspec.structs.replace(records[0], extensible=True, updated_at=LATER)
    passed = msgspec.structs.replace(
        newer, cert_tier=CertTier.CERTIFIED, certified_at=LATER, verdict_at=LATER
    )
    gone = msgspec.structs.replace(
        passed, verdict=Verdict.WITHDRAWN, verdict_at="2026-05-01T00:00:00.000Z"
    )
    with await connect() as db:
        for record in records:
            await publish(db, record)
        await _check(db, records)
        for asked in (
            State(newer),
            State(passed),
            Acted(passed.identity, (blocked,)),
            Acted(passed.identity, (corrected,)),
            Acted(passed.identity, (lifted,)),
            State(gone),
        ):
            result = await change(db, asked)
            await _check(db, [result.skill, records[1]])
        assert await db.mend_counts() == 0


async def test_what_is_written_in_bulk_is_counted_and_what_is_only_checked_is_not(
    connect: DatabaseConnector,
) -> None:
    chance = random.Random(8)
    skills = {each.identity: each for each in random_skills(chance, 120)}
    with await connect() as db:
        await db.check_skills(list(skills.values()))
        await _check(db, [])
        await db.upsert_skills(list(skills.values()))
        await _check(db, list(skills.values()))
        for number in range(3):
            for identity in chance.sample(sorted(skills), 40):
                category = chance.choice(("development", "data", "rare"))
                moment = f"2026-06-0{number + 1}T00:00:00.000Z"
                skills[identity] = msgspec.structs.replace(
                    skills[identity], category=category, updated_at=moment
                )
            await db.upsert_skills(list(skills.values()))
            stored = await db.get_skills(list(skills))
            await _check(db, list(stored.values()))


async def test_writers_at_the_same_time_are_all_counted(postgres: DatabaseConnector) -> None:
    """While a check counts anew, again and again, and finds the totals right or mends them."""
    shared = [skill(f"shared-{number}") for number in range(20)]

    async def write(session: int) -> None:
        chance = random.Random(session)
        with await postgres() as db:
            for number in range(15):
                await publish(db, skill(f"own-{session}-{number}", category=f"c{number % 3}"))
                each = chance.choice(shared)
                moment = f"2026-0{chance.randint(2, 9)}-01T00:00:00.000Z"
                record = msgspec.structs.replace(
                    each, category=f"c{chance.randint(0, 3)}", updated_at=moment
                )
                await db.upsert_skills([record, *chance.sample(shared, 5)])

    async def spoil_and_mend() -> None:
        with await postgres() as db:
            for _ in range(20):
                await db._query("update skill_count set count = count + 1")  # type: ignore[attr-defined]
                await db.mend_counts()

    await asyncio.gather(*map(write, range(6)), spoil_and_mend())
    with await postgres() as db:
        rows = await db.skills_not_in_kv(limit=500)
        assert len(rows) == 6 * 15 + len(shared)
        await _check(db, list(rows))
        assert await db.mend_counts() == 0


@dataclass(frozen=True)
class _Drift:
    sql: str
    groups: int


_DRIFTS = {
    "too many": _Drift("update skill_count set count = count + 1 where category = 'data'", 1),
    "lost": _Drift("delete from skill_count", 2),
    "of no skill": _Drift("insert into skill_count values ('none', 'SCANNED', true, 3, 4)", 1),
    "below zero": _Drift("update skill_count set count = -count", 2),
    # As reading a dump does that is of the data alone, with the triggers off.
    "rows without triggers": _Drift(
        "set session_replication_role = replica; delete from skill; reset session_replication_role",
        2,
    ),
}


@pytest.mark.parametrize("drift", _DRIFTS.values(), ids=list(_DRIFTS))
async def test_totals_that_are_wrong_are_noticed_and_mended(
    postgres: DatabaseConnector, postgres_server: PostgresServer, database: str, drift: _Drift
) -> None:
    with await postgres() as db:
        await db.upsert_skills([skill(), skill("other", category="data")])
        with await postgres_server.connect_directly(database) as connection:
            for sql in drift.sql.split("; "):
                await connection.query(sql)
        assert await db.mend_counts() == drift.groups
        assert await db.mend_counts() == 0
        await _check(db, list(await db.skills_not_in_kv(limit=9)))


async def test_who_publishes_while_totals_are_counted_anew_is_counted_once(
    postgres: DatabaseConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Connection.pipeline
    publishing: list[asyncio.Task[None]] = []

    async def publish_another() -> None:
        with await postgres() as db:
            await publish(db, skill("meanwhile"))

    async def in_two_parts(connection: Connection, asked: Sequence[Statement]) -> list[Result]:
        """A publish comes between the deletion of the totals and the count."""
        if asked[-1].sql != "commit":
            return await run(connection, asked)
        results = await run(connection, asked[:-2])
        publishing.append(asyncio.create_task(publish_another()))
        waiting = "0"
        while not publishing[0].done() and waiting == "0":
            (result,) = await run(connection, [Statement(_WAITING)])
            waiting = result.scalar() or "0"
        return [*results, *await run(connection, asked[-2:])]

    with await postgres() as db:
        await publish(db, skill())
        await db._query("update skill_count set count = 7")  # type: ignore[attr-defined]
        monkeypatch.setattr(Connection, "pipeline", in_two_parts)
        assert await db.mend_counts() == 1
        await publishing[0]
        await _check(db, [skill(), skill("meanwhile")])


async def _all(connection: Connection, *statements: str) -> None:
    for sql in statements:
        await connection.query(sql)


_WAITING = "select count(*) from pg_locks where not granted"
_BY_HAND: dict[str, Callable[[Connection], Awaitable[object]]] = {
    "deleted": lambda c: c.query("delete from skill where name = 'other'"),
    "deleted without a search path": lambda c: _all(
        c, "set search_path = ''", "delete from public.skill where name = 'other'", "reset all"
    ),
    "emptied": lambda c: _all(c, "truncate skill", NOT_EMPTIED),
    "changed": lambda c: c.query("update skill set status = 'BLOCKED' where name = 'other'"),
}


@pytest.mark.parametrize("by_hand", _BY_HAND.values(), ids=list(_BY_HAND))
async def test_statements_by_hand_are_counted(
    postgres: DatabaseConnector,
    postgres_server: PostgresServer,
    database: str,
    by_hand: Callable[[Connection], Awaitable[object]],
) -> None:
    with await postgres() as db:
        await db.upsert_skills([skill(), skill("other", category="data")])
        with await postgres_server.connect_directly(database) as connection:
            await by_hand(connection)
            left = await connection.query("select count(*) from skill where status = 'LISTED'")
        assert await db.mend_counts() == 0
        counted = await db.count_skills(ListingQuery(), seed=EMPTY_SEED)
        assert counted.value == int(left.scalar() or 0)


async def test_a_skill_that_was_blocked_before_it_was_counted_is_not(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await publish(db, with_acts(skill(), act(ActKind.BLOCK)))
        await _check(db, [])
