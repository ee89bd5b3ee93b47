"""What happens to the running marketplace's PostgreSQL: frozen, read-only, emptied, restored."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from local.host.postgres import DATABASE
from local.setup.migrations import apply_migrations
from tests.worker.marketplace import Marketplace
from tests.worker.storage import query

EMPTY: Final = "drop schema public cascade; create schema public;"


def _program(marketplace: Marketplace, name: str, *arguments: str, given: str = "") -> str:
    """What a program of PostgreSQL says of the marketplace's database."""
    done = subprocess.run(
        [marketplace.postgres.binaries / name, f"--dbname={marketplace.postgres.dsn}", *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def dump(marketplace: Marketplace) -> str:
    """The database as it is, as SQL."""
    return _program(marketplace, "pg_dump")


def restore(marketplace: Marketplace, sql: str) -> None:
    """Put a dump in the place of what there is, all or nothing."""
    options = ("--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1")
    _program(marketplace, "psql", *options, given=EMPTY + sql)


def make_anew(marketplace: Marketplace, *, instance: str | None = None) -> None:
    """Put empty tables in the place of what there is: of another instance, or of this one."""
    restore(marketplace, "")
    apply_migrations(marketplace.postgres.dsn)
    if instance is not None:
        query(marketplace, "update instance set id = $1", instance)


@contextmanager
def killed(marketplace: Marketplace) -> Iterator[None]:
    """PostgreSQL ended by SIGKILL; at the end it starts again."""
    marketplace.postgres.kill()
    try:
        yield
    finally:
        marketplace.postgres.start()


@contextmanager
def frozen(marketplace: Marketplace) -> Iterator[None]:
    """PostgreSQL and all of its sessions stopped where they are; at the end they go on there."""
    postmaster = int((marketplace.postgres.data / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGSTOP)  # first, so that there are no further ones
    stopped = [postmaster, *_children(postmaster)]
    for pid in stopped[1:]:
        _send(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(stopped):
            _send(pid, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # a session that has ended


@contextmanager
def read_only(marketplace: Marketplace) -> Iterator[None]:
    """PostgreSQL answering reads and refusing writes of every new session, as a standby does."""
    setting = f"alter database {DATABASE} set default_transaction_read_only ="
    query(marketplace, f"{setting} on", database="postgres")
    try:
        yield
    finally:
        query(marketplace, f"{setting} off", database="postgres")
