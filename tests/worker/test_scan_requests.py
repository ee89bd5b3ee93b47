"""Scanners get work from the running Worker: with their key, each something else."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx
import pytest

from tests.worker.marketplace import SCANNER_KEY, Marketplace
from tests.worker.publishing import eventually, publish, submit, wait_published
from tests.worker.storage import empty, health, keys, query, without_postgres

SCANNER: Final = {"X-Internal-Key": SCANNER_KEY}
COUNT: Final = 24
LONG_AGO: Final = "2026-01-01T00:00:00.000Z"


@pytest.fixture(autouse=True)
def emptied(marketplace: Marketplace) -> None:
    empty(marketplace)


def take(client: httpx.Client, limit: int = 20) -> list[dict[str, Any]]:
    answer = client.post(f"/api/v1/webhooks/scan-requests?limit={limit}", headers=SCANNER)
    assert answer.status_code == 200, answer.text
    requests: list[dict[str, Any]] = answer.json()["requests"]
    return requests


def report(client: httpx.Client, submission_id: str, **fields: Any) -> None:
    result = {"submissionId": submission_id, "verdict": "PASS", "score": 90, **fields}
    answer = client.post(
        "/api/v1/webhooks/scan-results", json={"results": [result]}, headers=SCANNER
    )
    assert answer.json()["accepted"] == [submission_id], answer.text


def test_scanners_at_once_get_different_work(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    ids = [submit(client, f"scan-{n}", "Work", trusted=True)["id"] for n in range(COUNT)]

    def work(_: int) -> list[str]:
        with marketplace.client() as own:
            return [request["submissionId"] for request in take(own, 4)]

    with ThreadPoolExecutor(8) as pool:
        taken = [id_ for some in pool.map(work, range(16)) for id_ in some]
    assert len(taken) == len(set(taken))
    taken += [request["submissionId"] for request in take(client, COUNT)]
    assert sorted(taken) == sorted(ids)
    scanning = health(client)["scanning"]
    assert (scanning["waiting"]["new"], scanning["handed_out"]) == (COUNT, COUNT)


def test_what_is_handed_out_is_published_and_later_due_again(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    submit(client, "scan-due", "Work")
    (request,) = take(client)
    report(client, request["submissionId"], skill={"name": "Work", "description": "As read."})
    wait_published(client, request["submissionId"])
    assert take(client) == []

    ((read_at,),) = query(marketplace, "select verdict_at from skill")
    query(marketplace, "update skill set verdict_at = $1::text", LONG_AGO)
    query(marketplace, "update scan_request set requested_at = $1::text", LONG_AGO)
    (due,) = take(client)
    assert (due["reason"], due["identity"]) == ("due", request["identity"])
    assert due["submissionId"] != request["submissionId"]
    assert take(client) == []
    query(marketplace, "update skill set verdict_at = $1::text", read_at or "")  # as its revision
    report(client, due["submissionId"], skill={"name": "Work", "description": "Read again."})
    eventually(
        lambda: client.get("/api/v1/skills/work").json(),
        lambda skill: skill["description"] == "Read again.",
    )
    assert query(marketplace, "select reason from scan_request where answered_at is null") == []


def test_a_rescan_is_handed_out_and_a_second_one_within_the_hour_is_not(
    client: httpx.Client,
) -> None:
    publish(client, "scan-again", "Work")
    assert submit(client, "scan-again", "Work")["alreadyVerified"] is True
    asked = submit(client, "scan-again", "Work", rescan=True)
    assert (asked["state"], asked["alreadyVerified"]) == ("RECEIVED", False)
    (request,) = take(client)
    assert (request["reason"], request["submissionId"]) == ("rescan", asked["id"])
    report(client, asked["id"])
    wait_published(client, asked["id"])
    assert submit(client, "scan-again", "Work", rescan=True)["alreadyVerified"] is True


def test_with_postgres_away_submissions_are_taken_and_no_work_is_handed_out(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    with without_postgres(marketplace):
        receipt = submit(client, "scan-away", "Work")
        assert receipt["state"] == "RECEIVED"
        answer = client.post("/api/v1/webhooks/scan-requests", headers=SCANNER)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert len(keys(marketplace, "unqueued:")) == 1
    assert marketplace.worker.control.fire_scheduled("*/5 * * * *") == "ok"
    assert [request["submissionId"] for request in take(client)] == [receipt["id"]]
    assert keys(marketplace, "unqueued:") == []
