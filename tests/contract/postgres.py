"""A throw-away PostgreSQL for the contract tests: migrated once, copied for every module."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from local.host.ports import LOOPBACK
from local.host.postgres import DATABASE, USER
from pgwire import Connection, ConnectOptions, asyncio_stream
from tests.pooler import pooler_before
from tests.postgres import DEBIAN_BINARIES, throwaway_postgres

MIGRATIONS: Final = Path(__file__).resolve().parents[2] / "migrations"


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server, reached over TCP, and one of its databases."""

    host: str
    port: int
    session_port: int
    """Where sessions like the Worker's go: the pooler's port, or the server's own."""
    user: str
    password: str
    database: str
    psql: Path

    def options(self, database: str | None = None) -> ConnectOptions:
        """A session like the Worker's with one of its databases (the default one for None)."""
        return ConnectOptions(
            host=self.host,
            port=self.session_port,
            user=self.user,
            password=self.password,
            database=database or self.database,
            connect_timeout=20.0,
            query_timeout=30.0,
            statement_timeout_ms=30_000,
            session_settings="transaction",
        )

    async def connect(self, database: str | None = None) -> Connection:
        """Open a session like the Worker's."""
        return await asyncio_stream.connect(self.options(database))

    async def connect_directly(self, database: str | None = None) -> Connection:
        """Open a real session, for what no transaction can do (``vacuum``, ``create database``)."""
        options = replace(self.options(database), port=self.port, session_settings="startup")
        return await asyncio_stream.connect(options)

    async def execute(self, sql: str) -> None:
        """Run one statement in a real session of its own."""
        with await self.connect_directly() as connection:
            await connection.query(sql)

    def run_script(self, database: str, sql: str) -> None:
        """Run a script of several statements, all or nothing."""
        subprocess.run(
            [
                self.psql,
                *("--host", self.host, "--port", str(self.port), "--username", self.user),
                *("--dbname", database, "--no-psqlrc", "--quiet", "--single-transaction"),
                *("--set", "ON_ERROR_STOP=1", "--file", "-"),
            ],
            input=sql,
            text=True,
            check=True,
            capture_output=True,
        )


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[None]:
    """One transaction; an error leaves it open until the connection is closed."""
    await connection.query("begin")
    yield
    await connection.query("commit")


def migrations(direction: str) -> list[str]:
    """The ``up`` or ``down`` parts of all migrations, in the order in which they are to run."""
    scripts = []
    for path in sorted(MIGRATIONS.glob("*.sql")):
        up, down = path.read_text().split("-- migrate:down")
        scripts.append(up.removeprefix("-- migrate:up") if direction == "up" else down)
    return scripts if direction == "up" else scripts[::-1]


@contextmanager
def running_server(*, pooled: bool = False, debian: bool = False) -> Iterator[PostgresServer]:
    """A server of its own, gone in the end."""
    with ExitStack() as stack:
        binaries = DEBIAN_BINARIES if debian else None
        server = stack.enter_context(throwaway_postgres(binaries=binaries))
        yield PostgresServer(
            host=LOOPBACK,
            port=server.port,
            session_port=stack.enter_context(pooler_before(server)) if pooled else server.port,
            user=USER,
            password="local",
            database=DATABASE,
            psql=server.binaries / "psql",
        )
