"""Cloudflare's rate limits, as the local runtime has them: a flood is stopped, others are not.
What was reported and done is found again by operators."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx
import pytest

from tests.worker.publishing import OPERATOR, listing

LIMIT: Final = 60  # of a client, in wrangler.toml
REPORTS: Final = 10  # of a client
FLOOD: Final = 2 * LIMIT + 10
"""More than two periods allow, for one may end while it lasts."""
FLOODING: Final = {"CF-Connecting-IP": "203.0.113.1"}
ANOTHER: Final = {"CF-Connecting-IP": "203.0.113.2"}
OWNERS: Final = 10  # a limit of owners must not be what stops the flood


def submit(client: httpx.Client, number: int, headers: dict[str, str]) -> httpx.Response:
    owner = f"flood-{number % OWNERS}"
    body: dict[str, Any] = {
        "repoUrl": f"https://github.com/{owner}/tools",
        "skillName": f"Flood {number}",
    }
    return client.post("/api/v1/submissions", json=body, headers=headers)


def report(client: httpx.Client, slug: str, headers: dict[str, str]) -> httpx.Response:
    body = {"reason": "malicious", "text": "It sends my keys away."}
    return client.post(f"/api/v1/skills/{slug}/reports", json=body, headers=headers)


@pytest.fixture(scope="module")
def flood(marketplace: Any) -> list[httpx.Response]:
    """The answers to a flood from one address."""
    with marketplace.client() as client, ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda number: submit(client, number, FLOODING), range(FLOOD)))


def test_a_flood_from_one_address_is_limited(flood: list[httpx.Response]) -> None:
    statuses = Counter(answer.status_code for answer in flood)
    assert set(statuses) == {202, 429}
    assert LIMIT <= statuses[202] <= 2 * LIMIT
    refused = next(answer for answer in flood if answer.status_code == 429)
    assert refused.headers["content-type"] == "application/problem+json"
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_another_address_and_a_key_are_not_affected(
    flood: list[httpx.Response], client: httpx.Client
) -> None:
    assert submit(client, FLOOD + 1, ANOTHER).status_code == 202
    assert submit(client, FLOOD + 2, FLOODING | OPERATOR).status_code == 202


def test_a_flood_of_reports_is_limited_and_what_was_taken_can_be_resolved(
    client: httpx.Client,
) -> None:
    slug = listing(client, limit=1)["skills"][0]["name"]

    answers = [report(client, slug, FLOODING) for _ in range(2 * REPORTS + 1)]

    assert {answer.status_code for answer in answers} == {201, 429}
    assert report(client, slug, ANOTHER).status_code == 201
    reports = "/api/v1/admin/reports"
    taken = answers[0].json()["id"]
    listed = client.get(reports, params={"limit": 100}, headers=OPERATOR).json()["reports"]
    assert taken in {each["id"] for each in listed if each["resolvedAt"] is None}
    resolved = client.post(
        f"{reports}/{taken}/resolve", json={"reason": "Looked at."}, headers=OPERATOR
    )
    assert resolved.json()["resolvedBy"] == "operator"
    (entry,) = client.get("/api/v1/admin/audit", params={"target": taken}, headers=OPERATOR).json()[
        "entries"
    ]
    assert (entry["action"], entry["principal"]) == ("resolve-report", "operator")
    assert entry["reason"] == "Looked at."
