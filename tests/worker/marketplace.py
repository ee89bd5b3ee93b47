"""The real Worker in workerd with a real PostgreSQL, one pair for each pytest-xdist worker."""

import shutil
import ssl
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from local.host.postgres import PostgresServer
from local.host.state import StateFolder
from local.host.worker_stack import WorkerStack
from local.setup.migrations import apply_migrations
from tests.pooler import pooler_before

INTERNAL_KEY = "test-internal-key-of-at-least-32-bytes"
SCANNER_KEY = "test-key-of-a-scanner-of-at-least-32-bytes"
JWT_SECRET = "test-jwt-secret-of-at-least-32-bytes"
ADDED_FORGE = "git.example.org"
LOG_LINES_SHOWN = 60
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Reading the certificates of authorities would take a client longer than most requests."""


@dataclass(frozen=True)
class Marketplace:
    """A running marketplace. `worker.control` looks into its bindings."""

    worker: WorkerStack
    postgres: PostgresServer
    log_file: Path

    @property
    def url(self) -> str:
        return self.worker.url

    def client(self) -> httpx.Client:
        """An HTTP client for the Worker, to be closed."""
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, verify=_NO_TLS)

    def log(self) -> str:
        """What the Worker and its host printed, as far as it has reached the file."""
        return self.log_file.read_text(errors="replace")

    def log_tail(self) -> str:
        """Its last lines."""
        return "\n".join(self.log().splitlines()[-LOG_LINES_SHOWN:])


@pytest.fixture(scope="session")
def marketplace(request: pytest.FixtureRequest) -> Iterator[Marketplace]:
    """Started once per session on free ports with temporary state; ready when it is healthy."""
    # Not pytest's own folder, which only its owner may enter: as root, PostgreSQL is another user.
    folder = Path(tempfile.mkdtemp(prefix="marketplace-"))
    folder.chmod(0o711)
    state = StateFolder(folder)
    # Killing processes does not lose what the operating system has, so fsync would only cost time.
    postgres = PostgresServer(state.postgres, settings={"fsync": "off"})
    log_file = folder / "worker.log"
    try:
        with log_file.open("ab") as log, ExitStack() as stack:
            postgres.start()
            apply_migrations(postgres.dsn)
            dsn = httpx.URL(postgres.dsn)
            if request.config.getoption("--pooler"):
                dsn = dsn.copy_with(port=stack.enter_context(pooler_before(postgres)))
            worker = WorkerStack(
                dsn=str(dsn),
                secrets={
                    "INTERNAL_KEY": f"{INTERNAL_KEY},scan-1:scanner:{SCANNER_KEY}",
                    "JWT_SECRET": JWT_SECRET,
                    "FORGES": ADDED_FORGE,
                    "KV_LATENESS": "1",  # locally it is never late
                },
                persist_to=state.bindings,
                output=log,
            )
            running = Marketplace(worker, postgres, log_file)
            request.config.stash[_RUNNING] = running
            stack.callback(worker.stop)
            worker.start()
            worker.wait_healthy()
            yield running
    finally:
        postgres.stop("immediate")
        shutil.rmtree(folder)


@pytest.fixture
def client(marketplace: Marketplace) -> Iterator[httpx.Client]:
    """An HTTP client for the Worker."""
    with marketplace.client() as client:
        yield client


_RUNNING = pytest.StashKey[Marketplace]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the end of the Worker's log to the report of a failed test."""
    report = yield
    running = item.config.stash.get(_RUNNING, None)
    if report.failed and running is not None and running.log_file.exists():
        report.sections.append(("Worker log", running.log_tail()))
        report.sections.append(("PostgreSQL log", running.postgres.log_tail()))
    return report
