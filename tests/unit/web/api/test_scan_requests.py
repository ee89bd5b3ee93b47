"""Handing out work over HTTP: who gets it, in which form, and with PostgreSQL away."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from marketplace.basics.timestamps import shifted
from marketplace.ports.database import DatabaseSession
from marketplace.publishing.scan_requests import LEASE_SECONDS, MAX_HANDED_OUT
from tests.doubles.marketplace import Market, postgres_away
from tests.unit.web.clients import KEYS, OPERATOR, SCANNER

PATH = "/api/v1/webhooks/scan-requests"

pytestmark = pytest.mark.market(settings=KEYS)


async def submit(client: httpx.AsyncClient, number: int = 0, **fields: Any) -> dict[str, Any]:
    body = {"repoUrl": f"https://github.com/octo/tools-{number}", "skillName": "Reader", **fields}
    answer = await client.post("/api/v1/submissions", json=body)
    assert answer.status_code in (200, 202), answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


async def take(client: httpx.AsyncClient, **parameters: Any) -> list[dict[str, Any]]:
    answer = await client.post(PATH, params=parameters, headers=SCANNER)
    assert answer.status_code == 200, answer.text
    requests: list[dict[str, Any]] = answer.json()["requests"]
    return requests


async def test_a_scanner_gets_what_it_needs_to_read_a_skill(
    market: Market, client: httpx.AsyncClient
) -> None:
    receipt = await submit(client, skillPath="skills/reader")
    now = market.env.now()
    answer = await client.post(PATH, headers=SCANNER)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "requests": [
            {
                "submissionId": receipt["id"],
                "repoUrl": "https://github.com/octo/tools-0",
                "skillPath": "skills/reader",
                "skillName": "Reader",
                "reason": "new",
                "requestedAt": now,
                "leaseExpiresAt": shifted(now, LEASE_SECONDS),
                "attempt": 1,
                "identity": "https://github.com/octo/tools-0#reader",
            }
        ]
    }
    assert await take(client) == []


async def test_a_verdict_on_what_was_handed_out_closes_it(
    market: Market, client: httpx.AsyncClient
) -> None:
    await submit(client)
    (request,) = await take(client)
    result = {"submissionId": request["submissionId"], "verdict": "FAIL"}
    answer = await client.post(
        "/api/v1/webhooks/scan-results", json={"results": [result]}, headers=SCANNER
    )
    assert answer.json()["accepted"] == [request["submissionId"]]
    assert [scan.answered_at for scan in market.tables.scans.values()] == [market.env.now()]


async def test_the_limit_says_how_much(client: httpx.AsyncClient) -> None:
    for number in range(30):
        await submit(client, number)
    assert len(await take(client, limit=1)) == 1
    assert len(await take(client)) == 20
    assert len(await take(client, limit=MAX_HANDED_OUT)) == 9
    for limit in (0, -1, MAX_HANDED_OUT + 1, "many"):
        answer = await client.post(PATH, params={"limit": limit}, headers=SCANNER)
        assert answer.status_code == 422


async def test_a_hand_out_is_audited_and_an_empty_one_is_not(
    market: Market, client: httpx.AsyncClient
) -> None:
    await submit(client)
    await take(client)
    await take(client)
    (entry,) = market.tables.audit.values()
    assert (entry.principal, entry.action, entry.after) == (
        "scan-1",
        "scan-requests",
        {"handedOut": 1},
    )


async def test_without_a_credential_nothing_is_handed_out(
    market: Market, client: httpx.AsyncClient
) -> None:
    await submit(client)
    for headers in ({}, {"X-Internal-Key": "x" * 40}):
        assert (await client.post(PATH, headers=headers)).status_code == 401
    assert [scan.attempts for scan in market.tables.scans.values()] == [0]
    assert (await client.post(PATH, headers=OPERATOR)).status_code == 200


async def test_with_postgres_away_the_answer_says_when_to_come_again(
    market: Market, client: httpx.AsyncClient
) -> None:
    market.env = replace(market.env, database=DatabaseSession(postgres_away))
    answer = await client.post(PATH, headers=SCANNER)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


async def test_a_rescan_is_asked_for_with_a_submission(
    market: Market, client: httpx.AsyncClient
) -> None:
    receipt = await submit(client, rescan=True)
    assert receipt["state"] == "RECEIVED"
    answer = await client.post(
        "/api/v1/submissions",
        json={"repoUrl": "https://github.com/octo/x", "rescan": "yes"},
    )
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["rescan"]
