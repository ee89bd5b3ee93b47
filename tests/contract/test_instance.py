"""Which database it is, and how far it has come: demanded in the transaction of each operation."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from marketplace.ports.database import DatabaseConnector, RecordKey, SkillDatabase
from marketplace.ports.errors import DatabaseError, DatabaseRejected, OlderDatabase, OtherDatabase
from marketplace.ports.known_database import Expectation, Standing
from marketplace.postgres.db import PostgresSkillDatabase
from marketplace.skills.acts import ActKind
from marketplace.skills.change import Acted, State
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.seed import EMPTY_SEED
from pgwire import asyncio_stream
from tests.contract.postgres import PostgresServer, migrations
from tests.examples import FEBRUARY, JANUARY, MARCH, act, key_of, publish, skill


async def standing(db: SkillDatabase) -> Standing:
    """What the database says of itself, asked with no demand."""
    expectation = Expectation()
    db.hold_to(replace(expectation, repairing=True))
    await db.load_state("nothing")
    db.hold_to(expectation)
    await db.load_state("nothing")
    assert expectation.standing is not None
    return expectation.standing


async def read(db: SkillDatabase) -> Any:
    return await db.list_skills(ListingQuery(), seed=EMPTY_SEED, offset=0, limit=10)


async def write(db: SkillDatabase) -> Any:
    return await publish(db, skill(updated_at=FEBRUARY))


async def write_many(db: SkillDatabase) -> Any:
    return await db.upsert_skills([skill(updated_at=FEBRUARY)])


async def note(db: SkillDatabase) -> Any:
    return await db.save_state("a report", b"{}")


@pytest.mark.parametrize("operation", [read, write, write_many, note])
@pytest.mark.parametrize("behind", [-1, 0])
async def test_the_same_instance_that_has_come_as_far_or_further_answers(
    connect: DatabaseConnector, operation: Any, behind: int
) -> None:
    with await connect() as db:
        await publish(db, skill())
        now = await standing(db)
        db.hold_to(Expectation(now.instance, now.changes + behind))
        await operation(db)


@pytest.mark.parametrize("operation", [read, write, write_many, note])
@pytest.mark.parametrize("error", [OtherDatabase, OlderDatabase])
async def test_another_instance_or_an_older_state_is_neither_read_nor_written(
    connect: DatabaseConnector, operation: Any, error: type[DatabaseError]
) -> None:
    with await connect() as db:
        await publish(db, skill())
        now = await standing(db)
        expectation = (
            Expectation("another", 0)
            if error is OtherDatabase
            else Expectation(now.instance, now.changes + 1)
        )
        db.hold_to(expectation)
        with pytest.raises(error):
            await operation(db)

        db.hold_to(Expectation())
        assert await db.get_skill_by_identity(skill().identity) == skill()
        assert await db.load_state("a report") is None
        assert (await standing(db)).changes == now.changes


async def test_a_session_demands_no_less_than_it_has_seen(connect: DatabaseConnector) -> None:
    expectation = Expectation()
    with await connect() as db:
        db.hold_to(expectation)
        await publish(db, skill())
        await read(db)
        assert expectation.standing == await standing(db)
        assert expectation.least > 0


async def test_each_change_of_a_skill_raises_the_number_and_nothing_else_does(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        numbers = [(await standing(db)).changes]

        async def after(*operations: Any) -> int:
            for operation in operations:
                await operation
            numbers.append((await standing(db)).changes)
            return numbers[-1] - numbers[-2]

        first = skill()
        assert await after(publish(db, first)) == 1
        assert await after(publish(db, first), db.upsert_skills([first])) == 0
        assert await after(db.check_skills([skill(updated_at=FEBRUARY)])) == 0
        assert await after(publish(db, skill(updated_at=FEBRUARY))) == 1
        assert await after(publish(db, skill(updated_at=JANUARY))) == 0
        newest = State(skill(updated_at=MARCH))  # made from a row that has changed meanwhile
        lost = {1, 2}  # the attempt that came too late may have taken a number
        assert await after(db.upsert_skill(newest, candidates=["pdf-tools"], row=first)) in lost
        several = [skill(name=name, base_slug=name) for name in ("one", "two", "three")]
        assert await after(db.upsert_skills(several)) == 1
        assert await after(db.upsert_skills(several)) == 0
        block = Acted(first.identity, (act(ActKind.BLOCK),))
        assert await after(db.upsert_skill(block, candidates=["pdf-tools"])) == 1
        stored = await db.get_skill_by_identity(first.identity)
        assert stored is not None
        keys = [key_of(stored), RecordKey("one", several[0].identity, several[0].revision)]
        assert await after(db.mark_in_kv(keys)) == 0
        assert await after(db.add_alias("old", first.identity)) == 1
        assert await after(db.add_alias("old", first.identity)) == 0
        assert await after(db.save_state("a report", b"{}")) == 0


async def test_while_changes_are_missing_only_repairs_get_an_answer(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await publish(db, skill())
        now = await standing(db)
        repairing = Expectation(now.instance, repairing=True)
        db.hold_to(repairing)
        assert not await db.note_missing(None)
        assert not await db.note_missing(now)
        assert await db.note_missing(Standing(now.instance, now.changes + 10))
        assert await db.note_missing(None)  # it stays so

        for _ in range(12):  # a repair changes more than was lost
            await db.upsert_skills([skill(name=f"s-{_}", base_slug=f"s-{_}")])
        for expectation in (Expectation(), Expectation(now.instance, now.changes)):
            db.hold_to(expectation)
            for operation in (read, write, write_many, note):
                with pytest.raises(OlderDatabase):
                    await operation(db)

        db.hold_to(repairing)
        assert (await db.note_complete()).changes == now.changes + 12
        db.hold_to(Expectation())
        await read(db)


async def test_after_a_repair_the_number_is_not_below_the_one_that_was_known(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        now = await standing(db)
        known = Standing(now.instance, now.changes + 100)
        db.hold_to(Expectation(repairing=True))
        assert await db.note_missing(known)
        assert await db.note_missing(Standing(now.instance, now.changes + 50))
        assert await db.note_complete() == known
        assert await db.note_complete() == known
        assert await standing(db) == known


async def test_another_instance_lacks_changes_and_its_number_is_its_own(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        now = await standing(db)
        db.hold_to(Expectation(repairing=True))
        assert await db.note_missing(Standing("another", now.changes + 100))
        assert await db.note_complete() == now


# --- PostgreSQL alone -------------------------------------------------------------------------


async def test_two_databases_are_two_instances(
    postgres: DatabaseConnector, postgres_server: PostgresServer
) -> None:
    name = "made_anew"
    await postgres_server.execute(f"create database {name}")
    try:
        postgres_server.run_script(name, "".join(migrations("up")))
        with await postgres() as db, await postgres_server.connect(name) as other:
            (row,) = (await other.query("select id, changes from instance")).rows
            assert row[0] != (await standing(db)).instance
            assert row[1] == "0"
    finally:
        await postgres_server.execute(f"drop database {name} with (force)")


async def test_numbers_rise_in_the_order_of_commits(
    postgres: DatabaseConnector, postgres_server: PostgresServer, database: str
) -> None:
    """What is committed later has the greater number, however long the transactions take."""
    with await postgres() as db, await postgres_server.connect(database) as slow:
        before = (await standing(db)).changes
        await slow.query("begin")
        await slow.query("update instance set changes = changes + 1")
        publishing = asyncio.ensure_future(publish(db, skill()))
        await asyncio.sleep(0.2)
        assert not publishing.done()
        await slow.query("commit")
        await publishing
        assert (await standing(db)).changes == before + 2


@pytest.mark.parametrize(
    ("damage", "repair", "error"),
    [
        ("delete from instance", "insert into instance default values", OtherDatabase),
        (
            "alter table instance rename to absent",
            "alter table absent rename to instance",
            DatabaseRejected,
        ),
    ],
    ids=["emptied", "before the migration"],
)
async def test_a_database_that_cannot_say_which_it_is_does_not_answer(
    postgres: DatabaseConnector,
    postgres_server: PostgresServer,
    database: str,
    damage: str,
    repair: str,
    error: type[DatabaseError],
) -> None:
    with await postgres_server.connect(database) as connection:
        await connection.query(damage)
        try:
            with await postgres() as db:
                for operation in (read, write):
                    with pytest.raises(error):
                        await operation(db)
        finally:
            await connection.query(repair)
    with await postgres() as db:
        assert await db.get_skill_by_identity(skill().identity) is None


_ROWS = 24


@pytest.mark.parametrize(
    ("statement", "is_loss"),
    [
        ("truncate skill", True),
        ("delete from skill", True),
        ("delete from skill where name > 's-10'", True),
        ("delete from skill where name > 's-11'", False),  # half of them
        ("delete from skill where name = 's-11'", False),
        ("update skill set status = 'BLOCKED'", False),
    ],
)
async def test_a_table_that_loses_most_of_its_rows_lacks_changes(
    postgres: DatabaseConnector,
    postgres_server: PostgresServer,
    database: str,
    statement: str,
    is_loss: bool,
) -> None:
    many = [skill(name=name, base_slug=name) for name in (f"s-{n:02}" for n in range(_ROWS))]
    with await postgres() as db, await postgres_server.connect(database) as connection:
        await db.upsert_skills(many)
        now = await standing(db)
        await connection.query("begin")
        await connection.query(statement)
        await connection.query("rollback")
        await read(db)

        await connection.query(statement)
        db.hold_to(Expectation(now.instance, now.changes))
        if not is_loss:
            await read(db)
            return
        for operation in (read, write, write_many, note):
            with pytest.raises(OlderDatabase):
                await operation(db)
        db.hold_to(Expectation(now.instance, repairing=True))
        assert await db.note_missing(now)
        await db.upsert_skills(many)
        assert (await db.note_complete()).changes == now.changes + 1
        db.hold_to(Expectation(now.instance, now.changes))
        await read(db)


async def test_to_empty_an_empty_table_is_no_loss(
    postgres: DatabaseConnector, postgres_server: PostgresServer, database: str
) -> None:
    async with asyncio.timeout(10):
        with await postgres() as db, await postgres_server.connect(database) as connection:
            await connection.query("truncate skill")
            await connection.query("delete from skill")
            await read(db)


async def test_a_demand_costs_no_round_trip(postgres_server: PostgresServer, database: str) -> None:
    connection = await asyncio_stream.connect(postgres_server.options(database))
    pipelines: list[int] = []
    original = connection.pipeline

    async def counted(statements: Any, **options: Any) -> Any:
        pipelines.append(len(statements))
        return await original(statements, **options)

    connection.pipeline = counted  # type: ignore[method-assign]
    with PostgresSkillDatabase(connection) as db:
        await read(db)
        await db.get_skill("pdf-tools")
    assert len(pipelines) == 2
