"""What ends a session, and what is left of it: deadlines, cancellations, lost servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from pgwire import (
    ConnectionFailed,
    ConnectOptions,
    PostgresError,
    ProtocolViolation,
    QueryTimeout,
    Statement,
    asyncio_stream,
)
from tests.pgwire.server_messages import SESSION_READY, fields

if TYPE_CHECKING:
    from tests.pgwire.conftest import Eventually, Sessions


async def test_closed_connections_leave_no_session(
    options: ConnectOptions, sessions: "Sessions", eventually: "Eventually"
) -> None:
    for _ in range(100):
        with await asyncio_stream.connect(options) as connection:
            await connection.query("SELECT 1")

    await eventually(_empty(sessions))


async def test_close_may_be_repeated_and_later_use_fails(options: ConnectOptions) -> None:
    connection = await asyncio_stream.connect(options)
    connection.close()
    connection.close()
    with pytest.raises(ConnectionFailed, match="closed"):
        await connection.query("SELECT 1")


async def test_statement_timeout_cancels_on_the_server_and_keeps_the_session(
    options: ConnectOptions, sessions: "Sessions"
) -> None:
    with await asyncio_stream.connect(replace(options, statement_timeout_ms=50)) as connection:
        with pytest.raises(PostgresError) as caught:
            await connection.query("SELECT pg_sleep(60)")
        assert caught.value.sqlstate == "57014"
        assert await sessions() == ["idle"]
        assert (await connection.query("SELECT 1")).scalar() == "1"


@pytest.mark.parametrize("settings", ["startup", "transaction"])
async def test_a_limit_counts_all_of_a_pipeline_and_can_be_lifted(
    options: ConnectOptions, settings: Literal["startup", "transaction"]
) -> None:
    sleep = Statement("SELECT pg_sleep(0.2)")
    with await asyncio_stream.connect(replace(options, session_settings=settings)) as connection:
        connection.limit_statements(300)
        assert len(await connection.pipeline([sleep, Statement("SELECT 1")])) == 2
        with pytest.raises(PostgresError) as caught:
            await connection.pipeline([sleep, sleep, Statement("SELECT 1")])
        assert caught.value.sqlstate == "57014"
        results = await connection.pipeline([Statement(f"SELECT {n}") for n in range(3)])
        assert [result.scalar() for result in results] == ["0", "1", "2"]
        connection.limit_statements(None)
        assert len(await connection.pipeline([sleep, sleep])) == 2


async def test_client_deadline_closes_and_the_server_ends_the_statement_soon_after(
    options: ConnectOptions, sessions: "Sessions", eventually: "Eventually"
) -> None:
    with await asyncio_stream.connect(replace(options, statement_timeout_ms=500)) as connection:
        with pytest.raises(QueryTimeout):
            await connection.query("SELECT pg_sleep(60)", timeout=0.05)
        with pytest.raises(ConnectionFailed):
            await connection.query("SELECT 1")

        await eventually(_empty(sessions))


async def test_cancelled_query_closes_and_the_server_ends_the_statement_soon_after(
    options: ConnectOptions, sessions: "Sessions", eventually: "Eventually"
) -> None:
    connection = await asyncio_stream.connect(replace(options, statement_timeout_ms=1000))
    query = asyncio.create_task(connection.query("SELECT pg_sleep(60)"))
    await eventually(_all_are(sessions, "active"))

    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query

    with pytest.raises(ConnectionFailed):
        await connection.query("SELECT 1")
    await eventually(_empty(sessions))


async def test_cancelled_transaction_is_rolled_back(
    options: ConnectOptions, sessions: "Sessions", eventually: "Eventually"
) -> None:
    connection = await asyncio_stream.connect(options)
    table = f'"{options.application_name}"'

    async def write_and_wait() -> None:
        with connection:
            await connection.query("BEGIN")
            await connection.query(f"CREATE TABLE {table} ()")
            await asyncio.Event().wait()

    task = asyncio.create_task(write_and_wait())
    await eventually(_all_are(sessions, "idle in transaction"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await eventually(_empty(sessions))
    with await asyncio_stream.connect(options) as other:
        assert (await other.query("SELECT to_regclass($1)", table)).scalar() is None


async def test_terminated_session_reports_the_servers_reason(
    options: ConnectOptions, eventually: "Eventually", sessions: "Sessions"
) -> None:
    connection = await asyncio_stream.connect(options)
    query = asyncio.create_task(connection.query("SELECT pg_sleep(60)"))
    await eventually(_all_are(sessions, "active"))

    with await asyncio_stream.connect(replace(options, application_name="killer")) as killer:
        await killer.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
            options.application_name,
        )

    with pytest.raises(PostgresError) as caught:
        await query
    assert caught.value.sqlstate == "57P01"
    assert caught.value.is_fatal
    with pytest.raises(ConnectionFailed):
        await connection.query("SELECT 1")


async def test_two_queries_at_once_are_refused(options: ConnectOptions) -> None:
    with await asyncio_stream.connect(options) as connection:
        first = asyncio.create_task(connection.query("SELECT pg_sleep(0.05)"))
        await asyncio.sleep(0)  # let the first one start
        with pytest.raises(RuntimeError, match="another task"):
            await connection.query("SELECT 1")
        await first
        assert (await connection.query("SELECT 1")).scalar() == "1"


async def test_nothing_listening_is_a_failed_connection(tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        await asyncio_stream.connect(_fake_options(tmp_path))
    assert isinstance(caught.value.__cause__, OSError)


async def test_server_that_never_answers_runs_into_the_connect_deadline(tmp_path: Path) -> None:
    options = replace(_fake_options(tmp_path), connect_timeout=0.05)
    async with _fake_server(options, b""):
        with pytest.raises(ConnectionFailed, match=r"no session within 0\.05 s") as caught:
            await asyncio_stream.connect(options)
    assert isinstance(caught.value.__cause__, TimeoutError)


async def test_server_that_falls_silent_runs_into_the_query_deadline(tmp_path: Path) -> None:
    options = _fake_options(tmp_path)
    async with _fake_server(options, SESSION_READY):
        connection = await asyncio_stream.connect(options)
        with pytest.raises(QueryTimeout, match=r"within 0\.05 s"):
            await connection.query("SELECT 1", timeout=0.05)
        with pytest.raises(ConnectionFailed):
            await connection.query("SELECT 1")


async def test_server_that_never_reads_does_not_block_the_close(tmp_path: Path) -> None:
    options = _fake_options(tmp_path)
    async with _fake_server(options, SESSION_READY):
        connection = await asyncio_stream.connect(options)
        with pytest.raises(QueryTimeout):
            await connection.query("SELECT $1", "x" * 10_000_000, timeout=0.05)


async def test_notice_before_authentication_is_ignored(tmp_path: Path) -> None:
    options = _fake_options(tmp_path)
    notice = fields(b"N", {"M": b"hello"})
    async with _fake_server(options, notice + SESSION_READY):
        (await asyncio_stream.connect(options)).close()


async def test_error_that_is_not_utf8_is_still_an_error(tmp_path: Path) -> None:
    options = _fake_options(tmp_path)
    error = fields(b"E", {"S": b"FATAL", "C": b"28000", "M": b"n\xe9"})
    async with _fake_server(options, error):
        with pytest.raises(PostgresError, match="n\ufffd") as caught:
            await asyncio_stream.connect(options)
    assert caught.value.sqlstate == "28000"


async def test_server_of_another_protocol_is_refused(tmp_path: Path) -> None:
    options = _fake_options(tmp_path)
    async with _fake_server(options, b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        with pytest.raises(ProtocolViolation):
            await asyncio_stream.connect(options)


def _fake_options(folder: Path) -> ConnectOptions:
    """For a server in a Unix socket, which needs no free port."""
    return ConnectOptions(host=str(folder), user="u", database="d")


@contextlib.asynccontextmanager
async def _fake_server(options: ConnectOptions, greeting: bytes) -> AsyncIterator[None]:
    """Answers the start-up message with ``greeting`` and then nothing, until the test ends."""
    finished = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await finished.wait()
        writer.close()

    path = f"{options.host}/.s.PGSQL.{options.port}"
    async with await asyncio.start_unix_server(serve, path):
        try:
            yield
        finally:
            finished.set()


def _empty(sessions: "Sessions") -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return await sessions() == []

    return condition


def _all_are(sessions: "Sessions", state: str) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return set(await sessions()) == {state}

    return condition
