"""A real PostgreSQL for the client's tests, and coroutine tests without a plugin."""

import asyncio
import fcntl
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import settings

from local.host.ports import LOOPBACK
from local.host.postgres import DATABASE, USER, PostgresServer
from pgwire import ConnectionFailed, ConnectOptions, PostgresError, asyncio_stream
from tests.coroutines import in_real_time, run_coroutine_test
from tests.postgres import throwaway_postgres

# What an example takes depends on the machine's load, not on the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


_PASSWORD = "s3cret"
_DEADLINE_SECONDS = 30.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run coroutine tests, each in an event loop of its own and with a deadline."""
    return run_coroutine_test(pyfuncitem, in_real_time(_DEADLINE_SECONDS))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A throw-away server that asks for a password by SCRAM unless ``pg_hba.conf`` says more."""
    with throwaway_postgres(auth="scram-sha-256", password=_PASSWORD) as server:
        yield server


def _options(server: PostgresServer) -> ConnectOptions:
    return ConnectOptions(
        host=LOOPBACK,
        port=server.port,
        user=USER,
        password=_PASSWORD,
        database=DATABASE,
        query_timeout=20.0,
        connect_timeout=20.0,
    )


async def _accepts(options: ConnectOptions) -> bool:
    try:
        connection = await asyncio_stream.connect(options)
    except (ConnectionFailed, PostgresError):
        return False
    connection.close()
    return True


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll until the condition holds; fail loudly if it does not within the deadline."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not come true")
        await asyncio.sleep(0.02)


Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture(name="eventually", scope="session")
def eventually_fixture() -> Eventually:
    """The polling helper, for tests."""
    return eventually


@pytest.fixture
def options(postgres_server: PostgresServer) -> ConnectOptions:
    """How to reach the server; the application name is unique, to find this test's sessions."""
    return replace(_options(postgres_server), application_name=f"test-{uuid.uuid4().hex}")


Sessions = Callable[[], Awaitable[list[str | None]]]


@pytest.fixture
def sessions(options: ConnectOptions) -> Sessions:
    """The states (``active``, ``idle``, …) of this test's sessions, seen from another one."""
    observer = replace(options, application_name="observer")

    async def states() -> list[str | None]:
        with await asyncio_stream.connect(observer) as connection:
            result = await connection.query(
                "SELECT state FROM pg_stat_activity WHERE application_name = $1",
                options.application_name,
            )
        return [state for (state,) in result.rows]

    return states


@dataclass(frozen=True, slots=True)
class Roles:
    """One role for each authentication method; all have the same password, trust needs none."""

    trust: str
    password: str
    md5: str
    scram: str
    secret: str


@pytest.fixture(scope="session")
def roles(postgres_server: PostgresServer) -> Roles:
    """Create the roles and let ``pg_hba.conf`` ask each for its own method."""
    suffix = uuid.uuid4().hex
    # Not ASCII, so that SASLprep matters: it turns the ligature into two letters.
    roles = Roles(
        trust=f"trust_{suffix}",
        password=f"password_{suffix}",
        md5=f"md5_{suffix}",
        scram=f"scram_{suffix}",
        secret="p\u00e4ss\ufb01x",
    )
    asyncio.run(_create(roles, postgres_server))
    return roles


async def _create(roles: Roles, server: PostgresServer) -> None:
    options = _options(server)
    with await asyncio_stream.connect(options) as connection:
        for name, encryption in (
            (roles.trust, "scram-sha-256"),
            (roles.password, "scram-sha-256"),
            (roles.md5, "md5"),
            (roles.scram, "scram-sha-256"),
        ):
            await connection.query(f"SET password_encryption = '{encryption}'")
            await connection.query(f"CREATE ROLE {name} LOGIN PASSWORD '{roles.secret}'")
        _prepend_rules(roles, server.data / "pg_hba.conf")
        await connection.query("SELECT pg_reload_conf()")
    # The reload is asynchronous: it is done when trust asks for no password.
    await eventually(lambda: _accepts(replace(options, user=roles.trust, password="")))


def _prepend_rules(roles: Roles, path: Path) -> None:
    rules = "".join(
        f"host all {role} 127.0.0.1/32 {method}\n"
        for role, method in (
            (roles.trust, "trust"),
            (roles.password, "password"),
            (roles.md5, "md5"),
            (roles.scram, "scram-sha-256"),
        )
    )
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # parallel test runners may share the server
        rest = file.read()
        file.seek(0)
        file.write(rules + rest)
