"""The running Worker, and the one choice that all tests share: how PostgreSQL is reached."""

import pytest

from tests.pooler import PROGRAM
from tests.worker.marketplace import (  # noqa: F401 - fixtures and a hook
    client,
    marketplace,
    pytest_runtest_makereport,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--pooler`: the same tests, behind a transaction pooler as in production."""
    parser.addoption(
        "--pooler", action="store_true", help="reach PostgreSQL through a real PgBouncer"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Ends the run at once where it would need a program that is not there."""
    if config.getoption("--pooler") and PROGRAM is None:
        raise pytest.UsageError(
            "PgBouncer is missing. On Debian or Ubuntu: apt-get install pgbouncer (as root); "
            "then try again."
        )
