"""A marketplace of its own for measuring: a throw-away PostgreSQL and the real Worker."""

import contextlib
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from local.host.postgres import PostgresServer
from local.host.worker_stack import WorkerStack
from local.setup.migrations import apply_migrations
from local.setup.prepare import prepare
from local.setup.steps import Progress
from pgwire import Connection, ConnectOptions
from pgwire.asyncio_stream import connect

REQUEST_TIMEOUT: Final = 30.0  # seconds
QUERY_TIMEOUT: Final = 120.0  # seconds


class Stack(NamedTuple):
    """What runs, and where the Worker's log lines go."""

    worker: WorkerStack
    postgres: PostgresServer
    log_file: Path


@contextlib.contextmanager
def migrated_postgres(settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """A PostgreSQL of its own with the marketplace's empty tables, gone afterwards."""
    prepare(Progress())
    with tempfile.TemporaryDirectory(prefix="marketplace-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root, PostgreSQL runs as another user
        postgres = PostgresServer(folder / "postgres", settings=settings)
        try:
            postgres.start()
            apply_migrations(postgres.dsn)
            yield postgres
        finally:
            postgres.stop("immediate")


@contextlib.contextmanager
def running(key: str) -> Iterator[Stack]:
    """A marketplace of its own on free ports, gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="marketplace-bench-") as name,
        migrated_postgres() as postgres,
    ):
        folder = Path(name)
        log_file = folder / "worker.log"
        with log_file.open("ab") as log:
            worker = WorkerStack(
                dsn=postgres.dsn,
                secrets={"INTERNAL_KEY": key, "JWT_SECRET": secrets.token_hex(32)},
                persist_to=folder / "bindings",
                output=log,
            )
            try:
                worker.start()
                worker.wait_healthy()
                yield Stack(worker, postgres, log_file)
            finally:
                worker.stop()


async def session(postgres: PostgresServer) -> Connection:
    """A session with the marketplace's database, without a limit for its statements."""
    url = httpx.URL(postgres.dsn)
    options = ConnectOptions(
        host=url.host,
        port=url.port or 5432,
        user=url.username,
        database=url.path.strip("/"),
        statement_timeout_ms=0,
        query_timeout=QUERY_TIMEOUT,
    )
    return await connect(options)


def health(url: str, key: str) -> dict[str, Any]:
    """The admin health answer."""
    response = httpx.get(
        f"{url}/api/v1/admin/health/skills",
        headers={"X-Internal-Key": key},
        timeout=REQUEST_TIMEOUT,
        trust_env=False,
    )
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def heap_bytes(url: str, key: str) -> int:
    """The Worker's Python heap, from the admin health answer."""
    return int(health(url, key)["heap"]["bytes"])
