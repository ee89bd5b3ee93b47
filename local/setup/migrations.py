"""Applies migrations/*.sql with dbmate, each once, in order, each in a transaction."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from local.host.processes import run_step
from local.paths import MIGRATIONS, REPOSITORY
from local.setup.packages import platform_package

if TYPE_CHECKING:
    from pathlib import Path


def apply_migrations(dsn: str, folder: Path = MIGRATIONS) -> None:
    """Brings the database to the newest schema; LocalError with dbmate's output when one fails.

    `dsn`: postgres://user:password@host:port/database. A local server without TLS is addressed by
    `?sslmode=disable`, which is added unless the address says something about TLS itself.
    """
    if not any(folder.glob("*.sql")):
        return  # a schema without tables; dbmate takes it for a mistake
    if "sslmode=" not in dsn:
        dsn += "&sslmode=disable" if "?" in dsn else "?sslmode=disable"
    run_step(
        [
            platform_package("@dbmate", "*") / "bin" / "dbmate",
            "--no-dump-schema",
            f"--migrations-dir={folder}",
            "up",
        ],
        what="dbmate",
        env={**os.environ, "DATABASE_URL": dsn},
        cwd=REPOSITORY,
    )
