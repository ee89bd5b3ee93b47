"""A configuration that lacks a binding: every handler fails, and the log says what is missing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.host.worker_stack import WorkerStack
from local.paths import REPOSITORY, WRANGLER_CONFIG
from tests.worker.marketplace import INTERNAL_KEY, JWT_SECRET
from tests.worker.publishing import eventually

PRODUCER = '[[queues.producers]]\nbinding = "MAINTENANCE_QUEUE"\nqueue = "skill-maintenance"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose configuration has one binding less."""
    folder = tmp_path_factory.mktemp("incomplete")
    for name in ("src", "public"):
        (folder / name).symlink_to(REPOSITORY / name)
    complete = WRANGLER_CONFIG.read_text()
    assert PRODUCER in complete
    (folder / "wrangler.toml").write_text(complete.replace(PRODUCER, ""))
    return folder


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[WorkerStack]:
    with (folder / "worker.log").open("ab") as log:
        worker = WorkerStack(
            dsn="postgres://nobody:none@127.0.0.1:1/none",
            secrets={"INTERNAL_KEY": INTERNAL_KEY, "JWT_SECRET": JWT_SECRET},
            persist_to=folder / "state",
            output=log,
            config=folder / "wrangler.toml",
        )
        worker.start()
        try:
            yield worker
        finally:
            worker.stop()


def complaints(folder: Path) -> list[dict[str, Any]]:
    """The log's structured lines that name the binding. The last may come after the answer."""
    *lines, _unfinished = (folder / "worker.log").read_text(errors="replace").split("\n")
    return [json.loads(line) for line in lines if line.startswith("{") and "MAINTENANCE" in line]


def test_a_scheduled_run_fails_and_names_it(worker: WorkerStack, folder: Path) -> None:
    before = len(complaints(folder))

    assert worker.control.fire_scheduled("*/5 * * * *") == "exception"

    found = eventually(lambda: complaints(folder), lambda found: len(found) == before + 1)
    assert found[-1]["level"] == "error"


def test_a_request_is_answered_without_telling_why(worker: WorkerStack, folder: Path) -> None:
    before = len(complaints(folder))

    response = httpx.get(f"{worker.url}/api/v1/skills", timeout=30, trust_env=False)

    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "MAINTENANCE" not in response.text
    assert "Traceback" not in response.text
    eventually(lambda: complaints(folder), lambda found: len(found) == before + 1)


def test_a_queue_batch_is_not_acknowledged(worker: WorkerStack, folder: Path) -> None:
    before = len(complaints(folder))

    worker.control.send({"submissionId": "some"})

    eventually(lambda: complaints(folder), lambda found: len(found) > before)
