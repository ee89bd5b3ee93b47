"""What parallel sessions do to each other in the real PostgreSQL: nothing."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from marketplace.ports.database import DatabaseConnector, RecordKey, Upserted, UpsertResult
from marketplace.ports.scan_request import WantedScan
from marketplace.postgres.db import MAX_ATTEMPTS, PostgresSkillDatabase
from marketplace.skills.acts import ActKind
from marketplace.skills.change import Acted, Change, State
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.merging import merge
from marketplace.skills.seed import EMPTY_SEED
from marketplace.skills.skill import Skill, Status
from marketplace.skills.submission import Submission
from pgwire import Connection
from tests.contract.postgres import PostgresServer, transaction
from tests.examples import JANUARY, MARCH, act, change, key_of, publish, skill, with_acts

ROUNDS = 40
SESSIONS = 6
CONTENDERS = MAX_ATTEMPTS  # none of so many can lose a row to others too often

_BLOCK = act(ActKind.BLOCK)

OpenConnection = Callable[[], Awaitable[Connection]]


@pytest.fixture
def open_connection(
    postgres: DatabaseConnector, postgres_server: PostgresServer, database: str
) -> OpenConnection:
    """Opens a bare session with the emptied database."""
    return lambda: postgres_server.connect(database)


def _told(base_slug: str, second: int) -> Skill:
    """What a repository says at a moment; a later one has a smaller version."""
    at = f"2026-02-01T00:00:0{second}.000Z"
    version = f"1.{9 - second}.0"
    return skill(base_slug, current_version=version, updated_at=at, read_at=at, verdict_at=at)


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
        states = [_told(f"pdf-{number}", second) for second in range(CONTENDERS)]
        random.Random(number).shuffle(states)
        results = await _publish_at_once(postgres, states)

        # Nobody is told of a row older than what it brought.
        for state, result in zip(states, results, strict=True):
            assert result.skill.revision >= state.revision
        assert sum(result.outcome is Upserted.INSERTED for result in results) == 1
        with await postgres() as db:
            assert await db.get_skill(f"pdf-{number}") == max(states, key=lambda s: s.revision)


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


@pytest.mark.parametrize("act_first", [False, True])
async def test_who_waited_for_another_change_of_the_row_adds_to_it(
    open_connection: OpenConnection, act_first: bool
) -> None:
    """What it made of the row that it read must not replace what is there in the end."""
    told, acted = skill(description="New.", updated_at=MARCH), with_acts(skill(), _BLOCK)
    states = (acted, told) if act_first else (told, acted)
    with (
        await open_connection() as first,
        await open_connection() as second,
        await open_connection() as observer,
    ):
        await publish(PostgresSkillDatabase(first), skill())
        async with transaction(first):
            await publish(PostgresSkillDatabase(first), states[0])
            late = asyncio.create_task(publish(PostgresSkillDatabase(second), states[1]))
            await _until_waiting(observer)

        result = await late
        assert result.outcome is Upserted.UPDATED
        assert result.skill.revision == merge(told, acted).revision
        assert (result.skill.description, result.skill.status) == ("New.", Status.BLOCKED)
        assert await PostgresSkillDatabase(first).get_skill("pdf-tools") == result.skill


@pytest.mark.parametrize("bulk_first", [False, True])
async def test_a_bulk_upsert_and_an_act_on_one_row_lose_neither(
    open_connection: OpenConnection, bulk_first: bool
) -> None:
    told, block = skill(description="New.", updated_at=MARCH), Acted(skill().identity, (_BLOCK,))
    with (
        await open_connection() as first,
        await open_connection() as second,
        await open_connection() as observer,
    ):
        one, other = PostgresSkillDatabase(first), PostgresSkillDatabase(second)
        await publish(one, skill())
        async with transaction(first):
            if bulk_first:
                await one.upsert_skills([told])
                acting = asyncio.create_task(change(other, block))
                await _until_waiting(observer)
            else:
                await change(one, block)
                filling = asyncio.create_task(other.upsert_skills([told, skill("new")]))
                await _until_waiting(observer)
        if bulk_first:
            await acting
        else:
            assert await filling == []
            assert await one.get_skill("new") == skill("new")

        stored = await one.get_skill("pdf-tools")
        assert stored is not None
        assert (stored.description, stored.acts) == ("New.", (_BLOCK,))


async def test_changes_of_one_row_racing_are_all_kept(postgres: DatabaseConnector) -> None:
    for number in range(ROUNDS):
        record = skill(f"pdf-{number}")
        acts = [act(ActKind.WITHDRAW, id=str(session)) for session in range(CONTENDERS - 1)]
        told = msgspec.structs.replace(record, description="New.", updated_at=MARCH)
        with await postgres() as db:
            await publish(db, record)
        asked: list[Change] = [*(Acted(record.identity, (each,)) for each in acts), State(told)]
        sessions = [await postgres() for _ in asked]
        try:
            await asyncio.gather(*map(change, sessions, asked))
        finally:
            for session in sessions:
                session.close()

        with await postgres() as db:
            stored = await db.get_skill(record.name)
        assert stored is not None
        assert stored.acts == tuple(acts)
        assert stored.description == "New."


async def test_an_update_that_waited_for_a_newer_one_is_told_of_that(
    open_connection: OpenConnection,
) -> None:
    """Its snapshot still has the oldest row: that one must not be passed off as the present."""
    oldest, older, newest = (_told("pdf-tools", second) for second in range(3))
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

        assert await late == UpsertResult(newest, Upserted.UNCHANGED)


async def test_who_waited_for_a_taken_slug_gets_the_next_one(
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


async def test_who_waited_for_a_slug_that_was_given_up_gets_it(
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

        own = [record for records in unplaced for record in records if record not in shared]
        assert len(own) == 30 * (SESSIONS - 1)
        with await postgres() as db:
            expected = (number + 1) * 30 * (SESSIONS + 1)
            assert await db.mend_counts() == 0
            assert (await db.count_skills(ListingQuery(), seed=EMPTY_SEED)).value == expected


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


@pytest.mark.parametrize("in_bulk", [False, True])
@pytest.mark.parametrize("known", [False, True])
async def test_a_row_whose_revision_another_version_of_the_code_made_is_changed_too(
    open_connection: OpenConnection, in_bulk: bool, known: bool
) -> None:
    blocked = with_acts(skill(), _BLOCK)
    with await open_connection() as connection:
        db = PostgresSkillDatabase(connection)
        await publish(db, skill())
        await connection.query("update skill set revision = 'of another version'")
        if in_bulk:
            assert await db.upsert_skills([blocked]) == []
        else:
            await db.upsert_skill(State(blocked), candidates=[], row=skill() if known else None)

        stored = await db.get_skill(blocked.name)
        assert stored is not None
        assert stored.acts == blocked.acts
        revision = (await connection.query("select revision from skill")).scalar()
        assert revision == stored.revision == blocked.revision


async def test_a_request_that_is_made_anew_is_not_forgotten_as_an_old_one(
    open_connection: OpenConnection,
) -> None:
    def wanted(id_: str) -> Submission:
        return Submission(
            id=id_,
            repo_url="https://github.com/acme/tools",
            skill_name="pdf",
            base_slug="pdf",
            created_at=JANUARY,
        )

    with (
        await open_connection() as first,
        await open_connection() as second,
        await open_connection() as observer,
    ):
        db, other = PostgresSkillDatabase(first), PostgresSkillDatabase(second)
        options = {"expired": JANUARY, "asked_since": MARCH}
        await db.ask_for_scans([WantedScan(wanted("old"), JANUARY)], **options)
        async with transaction(first):
            await db.ask_for_scans([WantedScan(wanted("anew"), MARCH)], **options)
            forgetting = asyncio.create_task(
                other.forget_scans(asked_before=JANUARY, hours_before=JANUARY, limit=9)
            )
            await _until_waiting(observer)

        assert await forgetting == 0
        (standing,) = (
            await db.ask_for_scans([WantedScan(wanted("anew"), MARCH)], **options)
        ).values()
        assert standing.submission_id == "anew"
        assert (await first.query("select count(*) from scan_request")).scalar() == "1"


async def test_a_skill_that_was_due_leaves_the_front_of_the_index(
    open_connection: OpenConnection,
) -> None:
    """Else each hand-out would pass by all that was handed out and never answered."""
    with await open_connection() as connection:
        db = PostgresSkillDatabase(connection)
        record = skill()
        await publish(db, record)
        handed = await db.hand_out_due_scans(["a"], now=MARCH, free_at=MARCH, read_before=JANUARY)
        assert len(handed) == 1
        assert (await connection.query("select due_at from skill")).scalar() == MARCH
        assert await db.get_skill(record.name) == record
