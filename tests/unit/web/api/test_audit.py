"""Every call with a credential that changes something leaves a line and an entry; no other does."""

import asyncio
import re
from dataclasses import replace
from typing import Any

import httpx
import pytest

from marketplace.kv.keys import ACKNOWLEDGED_KEY
from marketplace.operations import audit
from marketplace.operations.dead_letters import bury
from marketplace.ports.audit import AuditEntry
from marketplace.ports.database import DatabaseSession
from marketplace.ports.dead_letter import DeadLetterReason
from marketplace.ports.principal import Principal, Role
from tests.doubles.loop import SimulatedLoop
from tests.doubles.marketplace import Delivered, Market, make_skill, postgres_away
from tests.unit.web.clients import KEYS, OPERATOR, SCANNER

AUDIT = "/api/v1/admin/audit"
ANN = Principal("ann", Role.OPERATOR)
SUBMISSION = {"repoUrl": "https://github.com/octo/tools", "skillName": "Reader"}

pytestmark = pytest.mark.market(settings=KEYS)


def lines(market: Market) -> list[dict[str, Any]]:
    return [line for line in market.log.lines if line["event"] == "audit"]


def entry(market: Market) -> AuditEntry:
    """The only one, which the log has too."""
    (kept,) = market.tables.audit.values()
    (line,) = lines(market)
    assert line == {
        "event": "audit",
        "level": "info",
        "id": kept.id,
        "principal": kept.principal,
        "role": kept.role,
        "action": kept.action,
        "target": kept.target,
        "before": kept.before,
        "after": kept.after,
        "reason": kept.reason,
    }
    assert kept.id.startswith(f"{kept.at}-")
    return kept


async def bury_letter(market: Market, submission_id: str) -> str:
    """Leave a dead letter; its id."""
    await bury(
        market.env,
        Delivered({"submissionId": submission_id}),
        queue="skill-publish",
        reason=DeadLetterReason.NOT_SCANNED,
        detail="",
    )
    return list(market.tables.dead_letters)[-1]


async def test_a_rebuild_is_recorded_with_its_principal(
    market: Market, client: httpx.AsyncClient
) -> None:
    url = "/api/v1/admin/rebuild-index"
    answer = await client.post(url, params={"wait": "5"}, headers=OPERATOR)
    kept = entry(market)
    assert (kept.principal, kept.role, kept.action) == ("ann", Role.OPERATOR, "rebuild")
    assert (kept.target, kept.after) == (answer.json()["jobId"], {"complete": True})


async def test_an_adoption_is_recorded_in_the_database_that_is_adopted(
    market: Market, client: httpx.AsyncClient
) -> None:
    market.kv.damage(ACKNOWLEDGED_KEY, b'{"instance": "the one before", "changes": 9}')
    url = "/api/v1/admin/rebuild-index"
    answer = await client.post(url, params={"adopt": "true"}, headers=OPERATOR)
    assert answer.status_code == 202
    assert answer.json()["adopt"] is True
    kept = entry(market)
    assert (kept.principal, kept.action) == ("ann", "adopt-database")
    assert kept.target == answer.json()["jobId"]


async def test_a_redrive_is_recorded_with_what_became_of_each_letter(
    market: Market, client: httpx.AsyncClient
) -> None:
    first = await bury_letter(market, "a")
    await client.post(
        "/api/v1/admin/dead-letters/redrive", json={"ids": [first, "unknown"]}, headers=OPERATOR
    )
    kept = entry(market)
    assert (kept.action, kept.target) == ("redrive", "dead-letters")
    assert kept.after == {first: "redriven"}


async def test_a_redrive_that_failed_half_way_is_recorded_too(
    market: Market, client: httpx.AsyncClient
) -> None:
    first = await bury_letter(market, "a")
    market.publish.failing = True
    body = {"all": True, "reason": "not-scanned"}
    await client.post("/api/v1/admin/dead-letters/redrive", json=body, headers=OPERATOR)
    assert (entry(market).target, entry(market).after) == ("not-scanned", {first: "failed"})


async def test_scan_results_are_recorded_as_a_count(
    market: Market, client: httpx.AsyncClient
) -> None:
    id_ = (await client.post("/api/v1/submissions", json=SUBMISSION)).json()["id"]
    results = [{"submissionId": each, "verdict": "PASS", "score": 9} for each in (id_, "unknown")]
    await client.post("/api/v1/webhooks/scan-results", json={"results": results}, headers=SCANNER)
    kept = entry(market)
    assert (kept.principal, kept.role, kept.action) == ("scan-1", Role.SCANNER, "scan-results")
    assert kept.after == {"accepted": 1, "rejected": 1}


async def test_what_changes_nothing_is_not_recorded(
    market: Market, client: httpx.AsyncClient
) -> None:
    results = {"results": [{"submissionId": "unknown", "verdict": "PASS", "score": 9}]}
    for method, path, body in (
        ("GET", "/api/v1/admin/health/skills", None),
        ("GET", AUDIT, None),
        ("GET", "/api/v1/admin/reports", None),
        ("POST", "/api/v1/admin/rebuild-index?dryRun=true&wait=5", None),
        ("POST", "/api/v1/admin/dead-letters/redrive", {"all": True}),
        ("POST", "/api/v1/admin/dead-letters/redrive", {"ids": ["unknown"]}),
        ("POST", "/api/v1/admin/reports/unknown/resolve", {"reason": "No."}),
        ("POST", "/api/v1/webhooks/scan-results", results),
    ):
        answer = await client.request(method, path, json=body, headers=OPERATOR)
        assert answer.status_code in (200, 202, 404), path
    assert (lines(market), market.tables.audit) == ([], {})


async def test_with_postgres_away_the_call_works_and_the_line_is_the_record(
    market: Market, client: httpx.AsyncClient
) -> None:
    id_ = (await client.post("/api/v1/submissions", json=SUBMISSION)).json()["id"]
    market.env = replace(market.env, database=DatabaseSession(postgres_away))
    results = {"results": [{"submissionId": id_, "verdict": "PASS", "score": 9}]}
    answer = await client.post("/api/v1/webhooks/scan-results", json=results, headers=SCANNER)
    assert answer.json()["accepted"] == [id_]
    (line,) = lines(market)
    (unkept,) = [line for line in market.log.lines if line["event"] == "audit-not-kept"]
    assert (unkept["level"], unkept["id"]) == ("warning", line["id"])
    assert (await client.get(AUDIT, headers=OPERATOR)).status_code == 503


async def test_the_audit_is_paged_and_filtered(
    market: Market, client: httpx.AsyncClient, loop: SimulatedLoop
) -> None:
    for number in range(5):
        principal = Principal(f"op-{number % 2}", Role.OPERATOR)
        await audit.record(
            market.env,
            principal,
            "block",
            f"skill-{number}",
            before={"status": "LISTED"},
            after={"status": "BLOCKED"},
            reason="It steals keys.",
        )
        await asyncio.sleep(1)  # of virtual time

    async def page(**parameters: str) -> tuple[list[str], str | None]:
        answer = await client.get(AUDIT, params=parameters, headers=OPERATOR)
        assert answer.status_code == 200, answer.text
        document = answer.json()
        return [each["target"] for each in document["entries"]], document["nextCursor"]

    first, cursor = await page(limit="2")
    assert first == ["skill-4", "skill-3"]
    assert cursor is not None
    second, cursor = await page(limit="2", cursor=cursor)
    assert second == ["skill-2", "skill-1"]
    assert cursor is not None
    assert await page(limit="2", cursor=cursor) == (["skill-0"], None)
    assert (await page(principal="op-1"))[0] == ["skill-3", "skill-1"]
    assert (await page(target="skill-2", action="block"))[0] == ["skill-2"]
    assert (await page(action="restore"))[0] == []
    since = sorted(each.at for each in market.tables.audit.values())[3]
    assert (await page(since=since))[0] == ["skill-4", "skill-3"]
    assert (await page(since=since.replace("Z", "+00:00")))[0] == ["skill-4", "skill-3"]
    document = (await client.get(AUDIT, headers=OPERATOR)).json()["entries"][0]
    assert re.fullmatch(r"op-\d", document["principal"])
    assert document["before"] == {"status": "LISTED"}
    assert document["reason"] == "It steals keys."


@pytest.mark.parametrize("parameter", ["since=yesterday", "limit=0", "limit=101", "cursor=%00"])
async def test_what_cannot_be_asked_is_named(client: httpx.AsyncClient, parameter: str) -> None:
    answer = await client.get(f"{AUDIT}?{parameter}", headers=OPERATOR)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == parameter.partition("=")[0]


async def test_a_skill_that_was_changed_can_be_an_entrys_document(market: Market) -> None:
    await audit.record(market.env, ANN, "block", "pdf-tools", before=make_skill("pdf-tools"))
    (kept,) = market.tables.audit.values()
    assert kept.before["name"] == "pdf-tools"
