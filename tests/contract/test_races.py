"""What parallel sessions do to each other in the real PostgreSQL: nothing."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import pytest

from marketplace.ports.database import DatabaseConnector, RecordKey, Upserted, UpsertResult
from marketplace.postgres.db import PostgresSkillDatabase
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.change import Acted
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.merging import merge
from marketplace.skills.seed import EMPTY_SEED
from marketplace.skills.skill import Skill
from pgwire import Connection
from tests.contract.postgres import PostgresServer, transaction
from tests.examples import FEBRUARY, JANUARY, MARCH, key_of, publish, skill

ROUNDS = 40
SESSIONS = 6
AT_ONCE = 4  # on one row: fewer than the attempts that a change has

OpenConnection = Callable[[], Awaitable[Connection]]


@pytest.fixture
def open_connection(
    postgres: DatabaseConnector, postgres_server: PostgresServer, database: str
) -> OpenConnection:
    """Opens a bare session with the emptied database."""
    return lambda: postgres_server.connect(database)


async def _publish_at_once(
    connect: DatabaseConnector, records: Sequence[Skill]
) -> list[UpsertResult]:
    """Publish each in a session of its own, all sessions open before the first statement."""
    sessions = [await connect() for _ in records]
    try:
        return await asyncio.gather(*map(publish, sessions, records))
    finally:
        for session in sessions:
            session.close()


async def _until_waiting(observer: Connection) -> None:
    """Return as soon as another session of this database waits for a lock."""
    waiting = (
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock'"
    )
    while (await observer.query(waiting)).scalar() == "0":  # noqa: ASYNC110 - nothing to await
        await asyncio.sleep(0)


async def test_identities_racing_for_a_slug_all_survive_under_different_ones(
    postgres: DatabaseConnector,
) -> None:
    for number in range(ROUNDS):
        rivals = [
            skill(f"pdf-{number}", repository=f"owner-{rival}/x") for rival in range(SESSIONS)
        ]
        results = await _publish_at_once(postgres, rivals)

        assert {result.outcome for result in results} == {Upserted.INSERTED}
        assert len({result.skill.name for result in results}) == SESSIONS
        assert f"pdf-{number}" in {result.skill.name for result in results}
        with await postgres() as db:
            for result in results:
                assert await db.get_skill(result.skill.name) == result.skill


async def test_states_of_one_skill_racing_end_in_the_newest(postgres: DatabaseConnector) -> None:
    for number in range(ROUNDS):
        states = [
            skill(f"pdf-{number}", updated_at=f"2026-03-0{day + 1}T00:00:00.000Z")
            for day in range(AT_ONCE)
        ]
        random.Random(number).shuffle(states)
        results = await _publish_at_once(postgres, states)

        # No session is told of a row older than the state that it brought.
        for state, result in zip(states, results, strict=True):
            assert result.skill.revision >= state.revision
        assert sum(result.outcome is Upserted.INSERTED for result in results) == 1
        with await postgres() as db:
            stored = await db.get_skill(f"pdf-{number}")
        assert stored is not None
        assert stored.revision == max(state.revision for state in states)


async def test_an_older_state_that_waited_for_a_newer_one_sees_it(
    open_connection: OpenConnection,
) -> None:
    """Its statement may not write and its snapshot has no row: it must look again."""
    newer, older = skill(updated_at=MARCH), skill(updated_at=JANUARY)
    with (
        await open_connection() as first,
        await open_connection() as second,
        await open_connection() as observer,
    ):
        async with transaction(first):
            await publish(PostgresSkillDatabase(first), newer)
            late = asyncio.create_task(publish(PostgresSkillDatabase(second), older))
            await _until_waiting(observer)

        assert await late == UpsertResult(newer, Upserted.UNCHANGED)


async def test_acts_on_one_skill_at_once_are_all_kept(postgres: DatabaseConnector) -> None:
    for number in range(ROUNDS):
        listed = skill(f"pdf-{number}")
        acts = [
            Act(id=str(n), kind=ActKind.BLOCK, reason="x", at=MARCH, by="ops")
            for n in range(AT_ONCE)
        ]
        with await postgres() as db:
            await publish(db, listed)
        sessions = [await postgres() for _ in acts]
        try:
            await asyncio.gather(
                *(
                    session.upsert_skill(Acted(listed.identity, (act,)), candidates=[], row=listed)
                    for session, act in zip(sessions, acts, strict=True)
                )
            )
        finally:
            for session in sessions:
                session.close()
        with await postgres() as db:
            stored = await db.get_skill(listed.name)
        assert stored is not None
        assert {act.id for act in stored.acts} == {act.id for act in acts}


async def test_an_update_that_waited_for_a_newer_one_is_told_of_that(
    open_connection: OpenConnection,
) -> None:
    """Its snapshot still has the oldest row: which must not be returned as the present one."""
    oldest, older, newest = (skill(updated_at=moment) for moment in (JANUARY, FEBRUARY, MARCH))
    with (
        await open_connection() as first,
        await open_connection() as second,
        await open_connection() as observer,
    ):
        await publish(PostgresSkillDatabase(first), oldest)
        async with transaction(first):
            await publish(PostgresSkillDatabase(first), newest)
            late = asyncio.create_task(publish(PostgresSkillDatabase(second), older))
            await _until_waiting(observer)

        assert await late == UpsertResult(merge(oldest, newest), Upserted.UNCHANGED)


async def test_a_publisher_that_waited_for_a_taken_slug_gets_the_next_one(
    open_connection: OpenConnection,
) -> None:
    with (
        await open_connection() as first,
        await open_connection() as second,
        await open_connection() as observer,
    ):
        async with transaction(first):
            await publish(PostgresSkillDatabase(first), skill("pdf"))
            rival = asyncio.create_task(
                publish(PostgresSkillDatabase(second), skill("pdf", repository="zed/x"))
            )
            await _until_waiting(observer)

        assert (await rival).skill.name == "zed-pdf"


async def test_a_publisher_that_waited_for_a_slug_that_is_not_taken_gets_it(
    open_connection: OpenConnection,
) -> None:
    with (
        await open_connection() as first,
        await open_connection() as second,
        await open_connection() as observer,
    ):
        await first.query("begin")
        await publish(PostgresSkillDatabase(first), skill("pdf"))
        rival = asyncio.create_task(
            publish(PostgresSkillDatabase(second), skill("pdf", repository="zed/x"))
        )
        await _until_waiting(observer)
        await first.query("rollback")

        assert (await rival).skill.name == "pdf"


async def test_bulk_upserts_that_cross_each_other_lose_nothing(
    postgres: DatabaseConnector,
) -> None:
    """Each session wants slugs that the others want, in another order, and updates theirs."""
    for number in range(ROUNDS // 4):
        shared = [skill(f"shared-{number}-{entry}") for entry in range(30)]

        async def bulk(
            session: int, number: int = number, shared: Sequence[Skill] = tuple(shared)
        ) -> Sequence[Skill]:
            chance = random.Random(f"{number} {session}")
            own = [
                skill(f"slug-{number}-{entry}", repository=f"owner-{session}/{chance.random()}")
                for entry in range(30)
            ]
            records = [*own, *shared]
            chance.shuffle(records)
            with await postgres() as db:
                unplaced = await db.upsert_skills(records)
                for record in unplaced:
                    await publish(db, record)
                for record in own:
                    assert await db.get_skill_by_identity(record.identity) is not None
            return unplaced

        unplaced = await asyncio.gather(*map(bulk, range(SESSIONS)))

        assert sum(map(len, unplaced)) == 30 * (SESSIONS - 1)
        with await postgres() as db:
            expected = (number + 1) * 30 * (SESSIONS + 1)
            counted = await db.count_skills(ListingQuery(), seed=EMPTY_SEED)
            assert counted.value == expected


async def test_marks_that_cross_each_other_all_arrive(postgres: DatabaseConnector) -> None:
    records = [skill(f"skill-{number}") for number in range(200)]
    keys = [key_of(record) for record in records]

    async def mark(versions: Sequence[RecordKey]) -> None:
        with await postgres() as db:
            assert await db.mark_in_kv(versions) == []

    with await postgres() as db:
        await db.upsert_skills(records)
        await asyncio.gather(*(mark(order) for order in (keys, keys[::-1]) * 3))
        assert await db.skills_not_in_kv(limit=10) == []


async def test_one_of_many_gets_a_lease(postgres: DatabaseConnector) -> None:
    async def acquire(name: str, holder: int) -> bool:
        with await postgres() as db:
            return await db.acquire_lease(name, str(holder), now=JANUARY, expires_at=MARCH)

    for number in range(ROUNDS // 4):
        won = await asyncio.gather(*(acquire(f"lease-{number}", h) for h in range(SESSIONS)))
        assert sum(won) == 1
