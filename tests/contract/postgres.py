"""A throw-away PostgreSQL for the contract tests: migrated once, copied for every module."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local.host.ports import LOOPBACK
from local.host.postgres import DATABASE, USER
from pgwire import Connection, ConnectOptions, asyncio_stream
from tests.postgres import throwaway_postgres

MIGRATIONS: Final = Path(__file__).resolve().parents[2] / "migrations"


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server, reached over TCP, and one of its databases."""

    host: str
    port: int
    user: str
    password: str
    database: str
    psql: Path

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


def migrations(direction: str) -> list[str]:
    """The ``up`` or ``down`` parts of all migrations, in the order in which they are to run."""
    scripts = []
    for path in sorted(MIGRATIONS.glob("*.sql")):
        up, down = path.read_text().split("-- migrate:down")
        scripts.append(up.removeprefix("-- migrate:up") if direction == "up" else down)
    return scripts if direction == "up" else scripts[::-1]


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """A server of its own, gone in the end."""
    with throwaway_postgres() as server:
        yield PostgresServer(
            host=LOOPBACK,
            port=server.port,
            user=USER,
            password="local",
            database=DATABASE,
            psql=server.binaries / "psql",
        )
