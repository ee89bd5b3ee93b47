"""What the caller is told when PostgreSQL is away, slow or refusing, and that nothing hangs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from marketplace.ports.database import DatabaseConnector, DatabaseSession, SkillDatabase
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseBusy, DatabaseError
from marketplace.postgres import queries
from marketplace.postgres.db import (
    MAX_ATTEMPTS,
    PostgresSkillDatabase,
    database_error,
    postgres_connector,
)
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.seed import EMPTY_SEED
from pgwire import (
    Connection,
    ConnectionFailed,
    PostgresError,
    QueryTimeout,
    Result,
    Statement,
    asyncio_stream,
)
from tests.contract.postgres import PostgresServer, transaction
from tests.doubles.database import DatabaseDouble
from tests.examples import MARCH, publish, skill


def refused(sqlstate: str, constraint: str | None = None) -> PostgresError:
    return PostgresError("no", sqlstate=sqlstate, constraint=constraint)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (QueryTimeout("late"), "timeout"),
        (refused("57014"), "too-long"),
        (ConnectionFailed("gone"), "unavailable"),
        (refused("57P01"), "unavailable"),
        (refused("53300"), "unavailable"),
        (refused("08006"), "unavailable"),
        (refused("08P01"), "unavailable"),
        (refused("58000"), "unavailable"),
        (refused("23505", "skill_name_key"), "conflict"),
        (refused("40P01"), "conflict"),
        (refused("23505", "skill_pkey"), "rejected"),
        (refused("23514"), "rejected"),
        (refused("42P01"), "rejected"),
        (refused("28P01"), "refused"),
        (refused("3D000"), "refused"),
    ],
)
def test_an_error_says_what_can_be_done_about_it(
    error: PostgresError | ConnectionFailed, reason: str
) -> None:
    translated = database_error(error)

    assert translated.reason == reason
    if isinstance(error, PostgresError):
        assert error.sqlstate in str(translated)


@pytest.mark.parametrize(
    ("sqlstate", "reason"),
    [
        ("28000", "refused"),  # no such role, or none that may log in
        ("28P01", "refused"),
        ("3D000", "refused"),
        ("08P01", "refused"),  # a pooler: unsupported start-up parameter
        ("42501", "refused"),  # no right to connect
        ("55000", "refused"),  # a database that accepts no connections
        ("08006", "unavailable"),
        ("53300", "unavailable"),
        ("57P03", "unavailable"),  # starting up
        ("58000", "unavailable"),
        ("57014", "timeout"),  # authentication took too long
    ],
)
async def test_a_start_up_is_refused_by_all_that_does_not_pass(sqlstate: str, reason: str) -> None:
    async def connect() -> Connection:
        raise refused(sqlstate)

    with pytest.raises(DatabaseError) as failure:
        await postgres_connector(connect)()
    assert failure.value.reason == reason
    assert failure.value.level == ("error" if reason == "refused" else "warning")


class LosingConnection:
    """A connection that has no rows and whose writes always fail in the same way."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.reads = self.writes = 0

    async def query(self, sql: str, *parameters: Any) -> Result:
        (result,) = await self.pipeline([Statement(sql, parameters)])
        return result

    async def pipeline(self, statements: Sequence[Statement]) -> list[Result]:
        _, statement = statements
        if statement.sql == queries.UPSERT_SKILL:
            self.writes += 1
            if self.error is not None:
                raise self.error
        else:
            self.reads += 1
        return [Result(("id", "changes"), [("one", "0")], "SELECT 1"), Result((), [], "INSERT 0 0")]


@pytest.mark.parametrize(
    "error",
    [
        refused("23505", "skill_name_key"),
        refused("40P01"),
        None,  # the row has another revision, time and again
    ],
    ids=str,
)
async def test_a_race_is_not_run_for_ever(error: Exception | None) -> None:
    connection = LosingConnection(error)
    db = PostgresSkillDatabase(cast("Connection", connection))

    with pytest.raises(DatabaseError) as failure:
        await publish(db, skill())
    assert failure.value.reason == "conflict"
    assert failure.value.__cause__ is error
    assert (connection.reads, connection.writes) == (MAX_ATTEMPTS, MAX_ATTEMPTS)


@pytest.mark.parametrize("error", [ConnectionFailed("lost"), refused("23514")], ids=str)
async def test_what_is_no_lost_race_is_not_repeated(error: Exception) -> None:
    connection = LosingConnection(error)
    db = PostgresSkillDatabase(cast("Connection", connection))

    with pytest.raises(DatabaseError) as failure:
        await publish(db, skill())
    assert failure.value.__cause__ is error
    assert (connection.reads, connection.writes) == (1, 1)


async def test_a_server_that_is_not_there_is_unavailable(postgres_server: PostgresServer) -> None:
    options = replace(postgres_server.options(), port=1)
    connect = postgres_connector(lambda: asyncio_stream.connect(options))

    with pytest.raises(DatabaseError) as failure:
        await connect()
    assert failure.value.reason == "unavailable"
    assert isinstance(failure.value.__cause__, ConnectionFailed)


@pytest.mark.parametrize("unknown", [{"database": "nowhere"}, {"user": "nobody"}], ids=str)
async def test_an_unknown_database_or_role_is_refused(
    postgres_server: PostgresServer, unknown: dict[str, Any]
) -> None:
    options = replace(postgres_server.options(), **unknown)
    connect = postgres_connector(lambda: asyncio_stream.connect(options))

    with pytest.raises(DatabaseError) as failure:
        await connect()
    assert failure.value.reason == "refused"
    assert isinstance(failure.value.__cause__, PostgresError)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"statement_timeout_ms": 50}, "too-long"), ({"query_timeout": 0.05}, "timeout")],
    ids=["of the server", "of the client"],
)
async def test_a_statement_that_waits_too_long_tells_who_ended_it(
    postgres: DatabaseConnector,
    postgres_server: PostgresServer,
    database: str,
    limits: dict[str, Any],
    reason: str,
) -> None:
    impatient = replace(postgres_server.options(database), **limits)
    with (
        await postgres_server.connect(database) as holder,
        await asyncio_stream.connect(impatient) as connection,
    ):
        async with transaction(holder):
            await publish(PostgresSkillDatabase(holder), skill())
            with pytest.raises(DatabaseError) as failure:
                await publish(PostgresSkillDatabase(connection), skill(updated_at=MARCH))
    assert failure.value.reason == reason


@asynccontextmanager
async def slow_postgres(server: PostgresServer, database: str) -> AsyncIterator[SkillDatabase]:
    """A session whose reads of skills last until the end."""
    with (
        await server.connect(database) as holder,
        await server.connect(database) as connection,
    ):
        async with transaction(holder):
            await holder.query("lock table skill in access exclusive mode")
            yield PostgresSkillDatabase(connection)


@asynccontextmanager
async def slow_double(*_: object) -> AsyncIterator[SkillDatabase]:
    """As `slow_postgres`."""

    async def work(operation: str) -> None:
        await asyncio.sleep(0.0 if operation == "load_state" else 60.0)

    yield await DatabaseDouble(work=work).connect()


@pytest.mark.parametrize("slow", [slow_postgres, slow_double])
async def test_the_limit_of_a_session_ends_what_is_too_long_and_nothing_else(
    postgres: DatabaseConnector,
    postgres_server: PostgresServer,
    database: str,
    slow: Callable[..., AbstractAsyncContextManager[SkillDatabase]],
) -> None:
    async with slow(postgres_server, database) as db:
        db.limit_statements(0.1)
        for read in (
            db.get_skill("pdf"),
            db.list_skills(ListingQuery(), seed=EMPTY_SEED, offset=0, limit=1),
        ):
            with pytest.raises(DatabaseBusy) as failure:
                await read
            assert failure.value.reason == "too-long"
            assert not db.closed
        assert await db.load_state("nothing") is None
        db.limit_statements(None)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await db.get_skill("pdf")


async def test_a_check_that_waits_too_long_leaves_the_session_usable(
    postgres: DatabaseConnector, postgres_server: PostgresServer, database: str
) -> None:
    impatient = replace(postgres_server.options(database), statement_timeout_ms=50)
    with (
        await postgres_server.connect(database) as holder,
        await asyncio_stream.connect(impatient) as connection,
    ):
        db = PostgresSkillDatabase(connection)
        async with transaction(holder):
            await publish(PostgresSkillDatabase(holder), skill())
            with pytest.raises(DatabaseError) as failure:
                await db.check_skills([skill(updated_at=MARCH)])
        assert failure.value.reason == "too-long"
        assert await db.get_skill("pdf-tools") == skill()


async def test_a_session_ended_by_the_server_is_unavailable(
    postgres: DatabaseConnector, postgres_server: PostgresServer, database: str
) -> None:
    with (
        await postgres_server.connect(database) as connection,
        await postgres_server.connect(database) as operator,
    ):
        await connection.query("begin")  # a pooler keeps the session for the transaction
        pid = (await connection.query("select pg_backend_pid()")).scalar()
        await operator.query("select pg_terminate_backend($1::integer)", pid)
        with pytest.raises(DatabaseError) as failure:
            await PostgresSkillDatabase(connection).get_skill("pdf")
    assert failure.value.reason == "unavailable"


async def test_get_db_opens_a_session_of_the_environment(connect: DatabaseConnector) -> None:
    env = Env(
        submissions_kv=cast("Any", None),
        database=DatabaseSession(connect),
        publish_queue=cast("Any", None),
        maintenance_queue=cast("Any", None),
    )
    db = await get_db(env)
    assert await db.get_skill("nothing") is None
    env.close()
