"""The running Worker, how PostgreSQL is reached, and which tests share a process."""

from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.pooler import PROGRAM
from tests.postgres import why_not_debian
from tests.worker.marketplace import (  # noqa: F401 - fixtures and a hook
    client,
    marketplace,
    pytest_runtest_makereport,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--pooler`: the same tests, behind a transaction pooler as in production. `--pg15`: on an
    older PostgreSQL than the embedded one, which Hyperdrive does not know yet."""
    parser.addoption(
        "--pooler", action="store_true", help="reach PostgreSQL through a real PgBouncer"
    )
    parser.addoption(
        "--pg15", action="store_true", help="run the contract tests on Debian's PostgreSQL 15"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Ends the run at once where it would need a program that is not there."""
    if config.getoption("--pooler") and PROGRAM is None:
        raise pytest.UsageError(
            "PgBouncer is missing. On Debian or Ubuntu: apt-get install pgbouncer (as root); "
            "then try again."
        )
    if config.getoption("--pg15") and (reason := why_not_debian()):
        raise pytest.UsageError(reason)


_SHARING: Final = {
    "tests/worker/test_missing_binding.py": "a Worker that lacks a binding",
    "tests/worker/test_slow_kv.py": "a Worker whose KV is slow",
    "tests/worker/": "the running Worker",
    "tests/browser/": "the running Worker",
    "tests/clients/": "the running Worker",
    "tests/long/": "the running Worker",
    "tests/local/test_run.py": "a marketplace started by hand",
    "tests/contract/test_search_cost.py": "a large table",
    "tests/contract/test_changes.py": "a large table",
}
"""What some tests share and takes long to start, by how their names begin.
The first that fits counts."""


class _BySharing(LoadScopeScheduling):  # type: ignore[misc] # not typed
    """Gives all tests that share something to one process, so that it starts once. These begin
    first. All other tests go one by one to whichever process is free."""

    def _split_scope(self, nodeid: str) -> str:
        shared = (what for start, what in _SHARING.items() if nodeid.startswith(start))
        return next(shared, nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _BySharing(config, log)
