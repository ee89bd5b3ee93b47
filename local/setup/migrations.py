"""Applies migrations/*.sql with dbmate, each once, in order, each in a transaction."""

from __future__ import annotations

import os

from local.paths import MIGRATIONS, REPOSITORY
from local.setup.packages import platform_package
from local.setup.steps import run_step


def apply_migrations(dsn: str) -> None:
    """Brings the database to the newest schema; LocalError with dbmate's output when one fails.

    `dsn`: postgres://user:password@host:port/database. A local server without TLS is addressed by
    `?sslmode=disable`, which is added unless the address says something about TLS itself.
    """
    if "sslmode=" not in dsn:
        dsn += "&sslmode=disable" if "?" in dsn else "?sslmode=disable"
    dbmate = platform_package("@dbmate", "*") / "bin" / "dbmate"
    run_step(
        [dbmate, "--no-dump-schema", f"--migrations-dir={MIGRATIONS}", "up"],
        what="dbmate",
        env={**os.environ, "DATABASE_URL": dsn},
        cwd=REPOSITORY,
    )
