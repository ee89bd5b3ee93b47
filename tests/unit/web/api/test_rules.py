"""Rules over HTTP: listed, made, lifted, and recorded."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Settings
from tests.doubles.marketplace import Market, kv_away, make_skill, make_skills, postgres_away
from tests.unit.web.clients import KEYS, OPERATOR, client_of

RULES = "/api/v1/admin/rules"
RULE = {
    "kind": "BLOCK",
    "matches": "owner",
    "value": "https://github.com/Octo/",
    "reason": "Steals keys.",
    "threatType": "exfiltration",
    "severity": "CRITICAL",
    "evidenceUrls": ["https://example.org/proof"],
}


@pytest.fixture
def settings() -> Settings:
    return KEYS


async def _made(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post(RULES, json=RULE | fields, headers=OPERATOR)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def _listed(client: httpx.AsyncClient) -> list[str]:
    return [skill["name"] for skill in (await client.get("/api/v1/skills")).json()["skills"]]


async def test_a_rule_blocks_an_owner_until_it_is_lifted(
    client: httpx.AsyncClient, market: Market
) -> None:
    other = make_skill("other", author="else", repo_url="https://github.com/else/other")
    await market.fill([make_skill(), make_skill("csv-tools"), other])

    told = await _made(client)

    rule = told["rule"]
    assert (rule["value"], rule["by"], rule["liftedAt"]) == ("github.com/octo", "ann", None)
    assert (told["applied"], told["complete"]) == (2, True)
    assert told["stores"] == {"log": True, "postgres": True}
    assert await _listed(client) == ["other"]
    answer = await client.get("/api/v1/skills/pdf-tools")
    assert answer.status_code == 410
    assert answer.json()["withheld"]["evidenceUrls"] == RULE["evidenceUrls"]
    blocked = (await client.get("/api/v1/blocklist")).json()
    assert [entry["skillName"] for entry in blocked["entries"]] == ["csv-tools", "pdf-tools"]
    shown = (await client.get("/api/v1/admin/skills/pdf-tools", headers=OPERATOR)).json()
    assert shown["acts"][0]["rule"] == rule["id"]

    body = {"reason": "A mistake."}
    answer = await client.post(f"{RULES}/{rule['id']}/lift", json=body, headers=OPERATOR)
    assert answer.status_code == 200
    lifted = answer.json()
    assert (lifted["applied"], lifted["complete"]) == (2, True)
    assert (lifted["rule"]["liftedBy"], lifted["rule"]["liftReason"]) == ("ann", "A mistake.")
    assert sorted(await _listed(client)) == ["csv-tools", "other", "pdf-tools"]

    entries = sorted(market.tables.audit.values(), key=lambda entry: entry.action)
    assert [(e.action, e.target, e.principal) for e in entries] == [
        ("add-rule", rule["id"], "ann"),
        ("lift-rule", rule["id"], "ann"),
    ]
    assert [entry.reason for entry in entries] == ["Steals keys.", "A mistake."]


async def test_rules_are_listed_by_page(client: httpx.AsyncClient) -> None:
    made = [(await _made(client, value=f"github.com/o{n}"))["rule"]["id"] for n in range(3)]
    first = (await client.get(RULES, params={"limit": 2}, headers=OPERATOR)).json()
    cursor = {"limit": 2, "cursor": first["nextCursor"]}
    second = (await client.get(RULES, params=cursor, headers=OPERATOR)).json()
    listed = [rule["id"] for rule in (*first["rules"], *second["rules"])]
    assert listed == sorted(made, reverse=True)
    assert second["nextCursor"] is None


async def test_a_call_may_be_repeated(client: httpx.AsyncClient, market: Market) -> None:
    rule = (await _made(client))["rule"]
    again = await client.post(RULES, json=RULE, headers=OPERATOR)
    assert (again.status_code, again.json()["rule"]) == (200, rule)
    for _ in range(2):
        body = {"reason": "A mistake."}
        answer = await client.post(f"{RULES}/{rule['id']}/lift", json=body, headers=OPERATOR)
        assert answer.status_code == 200
    assert len(market.tables.audit) == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"value": "octo"}, "value"),
        ({"matches": "identity", "value": "https://github.com/octo/tools"}, "value"),
        ({"matches": "contentDigest", "value": "d"}, "value"),
        ({"matches": "name"}, "matches"),
        ({"kind": "RESTORE"}, "kind"),
        ({"threatType": None}, "body"),
        ({"reason": ""}, "reason"),
        ({"evidenceUrls": ["javascript:alert(1)"]}, "evidenceUrls[0]"),
        ({"other": 1}, "other"),
    ],
)
async def test_what_is_no_rule_is_refused_by_the_field(
    client: httpx.AsyncClient, market: Market, changes: dict[str, Any], field: str
) -> None:
    answer = await client.post(RULES, json=RULE | changes, headers=OPERATOR)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert market.tables.rules == {}


async def test_an_unknown_rule_answers_404(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{RULES}/none/lift", json={"reason": "So."}, headers=OPERATOR)
    assert answer.status_code == 404


async def test_a_withdrawal_needs_no_threat(client: httpx.AsyncClient, market: Market) -> None:
    await market.fill([make_skill()])
    told = await _made(client, kind="WITHDRAW", threatType=None, severity=None, evidenceUrls=[])
    assert told["applied"] == 1
    assert (await client.get("/api/v1/blocklist")).json()["entries"] == []


async def test_what_one_call_does_not_finish_goes_on(
    client: httpx.AsyncClient, market: Market
) -> None:
    await market.fill(make_skills(150))
    told = await _made(client)
    assert (told["applied"], told["complete"]) == (100, False)
    assert len(market.maintenance.bodies) == 1


@pytest.mark.parametrize("away", ["postgres", "kv"])
async def test_one_store_is_enough(market: Market, away: str) -> None:
    if away == "postgres":
        market.env = replace(market.env, database=DatabaseSession(postgres_away))
    else:
        market.kv.faults = kv_away
    async with client_of(market) as client:
        told = await _made(client)
        stores = {"log": away != "kv", "postgres": away != "postgres"}
        assert told["stores"] == stores
        assert told["complete"] is (away != "postgres")
        id_, body = told["rule"]["id"], {"reason": "A mistake."}
        answer = await client.post(f"{RULES}/{id_}/lift", json=body, headers=OPERATOR)
        assert answer.json()["stores"] == stores


async def test_with_both_away_the_operator_is_told_that_nothing_was_done(market: Market) -> None:
    market.env = replace(market.env, database=DatabaseSession(postgres_away))
    market.kv.faults = kv_away
    async with client_of(market) as client:
        answer = await client.post(RULES, json=RULE, headers=OPERATOR)
    assert answer.status_code == 503


async def test_a_submission_that_a_rule_matches_is_told_that_it_is_blocked(
    client: httpx.AsyncClient,
) -> None:
    await _made(client)
    body = {"repoUrl": "https://github.com/octo/new", "source": "vskill"}
    answer = await client.post("/api/v1/submissions", json=body)
    assert answer.status_code == 200
    assert answer.json() | {"slug": None} == {
        "id": None,
        "submissionId": None,
        "state": "REJECTED",
        "skillName": "new",
        "slug": None,
        "duplicate": False,
        "alreadyVerified": False,
        "blocked": True,
    }
