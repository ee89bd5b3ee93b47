"""What the tests of the running Worker do over and over: submit, report verdicts, wait."""

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import httpx

from tests.worker.marketplace import INTERNAL_KEY

OPERATOR: Final = {"X-Internal-Key": INTERNAL_KEY}
DEADLINE: Final = 30.0  # seconds
POLL_PAUSE: Final = 0.1
SUBMITTERS: Final = 8  # at once
RESULTS_A_REPORT: Final = 100

T = TypeVar("T")

_STRANGERS: Final = itertools.cycle(range(1, 255))


def eventually(read: Callable[[], T], good: Callable[[T], bool]) -> T:
    """What ``read`` gives once it is good; fails with the last answer after DEADLINE."""
    end = time.monotonic() + DEADLINE
    while not good(value := read()):
        assert time.monotonic() < end, f"not in time; last: {value!r:.500}"
        time.sleep(POLL_PAUSE)
    return value


def submit(client: httpx.Client, owner: str, name: str, **fields: Any) -> dict[str, Any]:
    """Ask for a skill to be listed, as a stranger of an address of their own; the receipt."""
    headers = {"CF-Connecting-IP": f"198.18.0.{next(_STRANGERS)}"}
    body = {"repoUrl": f"https://github.com/{owner}/tools", "skillName": name, **fields}
    response = client.post("/api/v1/submissions", json=body, headers=headers)
    assert response.status_code in (200, 202), response.text
    receipt: dict[str, Any] = response.json()
    return receipt


def report(
    client: httpx.Client, *submission_ids: str, verdict: str = "PASS", **told: Any
) -> dict[str, Any]:
    """Report one verdict on submissions, and what was read; what was accepted and what not."""
    results = [{"submissionId": i, "verdict": verdict, "score": 90} | told for i in submission_ids]
    response = client.post(
        "/api/v1/webhooks/scan-results", json={"results": results}, headers=OPERATOR
    )
    assert response.status_code == 202, response.text
    outcome: dict[str, Any] = response.json()
    return outcome


def status(client: httpx.Client, submission_id: str) -> dict[str, Any]:
    """Where a submission stands."""
    answer: dict[str, Any] = client.get(f"/api/v1/submissions/{submission_id}").json()
    return answer


def publish(client: httpx.Client, owner: str, name: str, **facts: Any) -> dict[str, Any]:
    """Submit, pass, with what the repository says of the skill, and wait until it is published; the
    final status."""
    version = {"version": facts["version"]} if "version" in facts else {}
    submission_id = submit(client, owner, name, **version)["id"]
    receipt = report(client, submission_id, skill={"name": name} | facts)
    assert receipt["accepted"] == [submission_id]
    return wait_published(client, submission_id)


def listing(client: httpx.Client, **parameters: Any) -> dict[str, Any]:
    """One listing."""
    response = client.get("/api/v1/skills", params=parameters)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def names(answer: dict[str, Any]) -> set[str]:
    """The slugs of a listing."""
    return {skill["name"] for skill in answer["skills"]}


def submit_many(client: httpx.Client, owner: str, skill_names: Sequence[str]) -> list[str]:
    """Submit skills of one owner, several at once; their submission ids, in order."""
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        receipts = pool.map(lambda name: submit(client, owner, name), skill_names)
        return [receipt["id"] for receipt in receipts]


def publish_many(client: httpx.Client, owner: str, skill_names: Sequence[str]) -> list[str]:
    """Submit skills of one owner, pass them all, wait until all are published; their ids."""
    ids = submit_many(client, owner, skill_names)
    for start in range(0, len(ids), RESULTS_A_REPORT):
        report(client, *ids[start : start + RESULTS_A_REPORT])
    wait_all_published(client, ids)
    return ids


def wait_all_published(client: httpx.Client, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Wait until all these submissions are published; their final statuses, in order."""
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        return list(pool.map(lambda submission_id: wait_published(client, submission_id), ids))


def wait_published(client: httpx.Client, submission_id: str) -> dict[str, Any]:
    """Wait until a submission is published; its final status."""
    return eventually(
        lambda: status(client, submission_id), lambda answer: answer["state"] == "PUBLISHED"
    )
