"""What operators do to a skill over HTTP, and what everybody sees of it then."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from marketplace.kv.acceptance_log import read_acts
from marketplace.kv.records import read_record
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Settings
from marketplace.repair.light_repair import run_light_repair
from marketplace.skills.acts import ActKind
from marketplace.skills.seed import read_seed
from marketplace.skills.skill import Skill, Status
from tests.doubles.marketplace import Market, kv_away, make_skill, postgres_away
from tests.unit.web.clients import KEYS, OPERATOR, client_of

ADMIN = "/api/v1/admin/skills/pdf-tools"
BLOCK = {"reason": "Steals keys.", "threatType": "exfiltration", "severity": "CRITICAL"}


@pytest.fixture
def settings() -> Settings:
    return KEYS


async def _post(client: httpx.AsyncClient, act: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post(f"{ADMIN}/{act}", json=body, headers=OPERATOR)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def _shown(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get(ADMIN, headers=OPERATOR)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def _listed(client: httpx.AsyncClient) -> list[str]:
    listing = (await client.get("/api/v1/skills")).json()
    return [skill["name"] for skill in listing["skills"]]


def _row(market: Market) -> Skill:
    (row,) = market.tables.rows.values()
    return row.skill


@pytest.mark.parametrize(
    ("act", "body"),
    [
        ("correct", {"category": "documents", "reason": "It is about documents."}),
        ("withdraw", {"reason": "Its author asked."}),
        ("block", BLOCK),
        ("restore", {"acts": ["some"], "reason": "A mistake."}),
        ("accept-owner", {"ownerId": "7", "reason": "The new owner wrote to us."}),
    ],
)
async def test_only_an_operator_may(
    client: httpx.AsyncClient, market: Market, act: str, body: dict[str, Any]
) -> None:
    await market.fill([make_skill()])
    answer = await client.post(f"{ADMIN}/{act}", json=body)
    assert answer.status_code == 401
    assert (await client.get(ADMIN)).status_code == 401
    assert _row(market).acts == ()


async def test_a_blocked_skill_is_in_no_listing_and_answers_410(
    client: httpx.AsyncClient, market: Market
) -> None:
    await market.fill([make_skill(), make_skill("other")])

    told = await _post(client, "block", BLOCK)

    assert told["status"] == "BLOCKED"
    assert told["stores"] == {"log": True, "postgres": True, "kv": True}
    assert await _listed(client) == ["other"]
    for path in ("pdf-tools", "octo/pdf-tools/pdf-tools"):
        answer = await client.get(f"/api/v1/skills/{path}")
        assert answer.status_code == 410
        assert answer.headers["cache-control"] == "no-store"
        assert answer.json()["withheld"] == {
            "status": "BLOCKED",
            "reason": "Steals keys.",
            "at": told["act"]["at"],
            "threatType": "exfiltration",
            "severity": "CRITICAL",
            "evidenceUrls": [],
        }
    page = await client.get("/skills/pdf-tools")
    assert (page.status_code, page.headers["cache-control"]) == (410, "no-store")
    assert "Blocked" in page.text
    assert "Steals keys." in page.text
    assert "exfiltration (critical)" in page.text


async def test_a_reason_is_escaped_on_the_page(client: httpx.AsyncClient, market: Market) -> None:
    await market.fill([make_skill()])
    await _post(client, "withdraw", {"reason": "<script>alert(1)</script>"})
    page = await client.get("/skills/pdf-tools")
    assert "Withdrawn" in page.text
    assert "<script>" not in page.text


async def test_a_restore_lifts_the_acts_that_it_names_and_no_others(
    client: httpx.AsyncClient, market: Market
) -> None:
    await market.fill([make_skill()])
    block = (await _post(client, "block", BLOCK))["act"]["id"]
    withdrawal = (await _post(client, "withdraw", {"reason": "Asked."}))["act"]["id"]

    restored = await _post(client, "restore", {"acts": [block], "reason": "It is harmless."})

    assert restored["status"] == "WITHDRAWN"
    assert (await client.get("/api/v1/skills/pdf-tools")).json()["withheld"]["reason"] == "Asked."
    acts = {act["id"]: act["liftedBy"] for act in (await _shown(client))["acts"]}
    assert acts == {block: restored["act"]["id"], withdrawal: None, restored["act"]["id"]: None}
    last = await _post(client, "restore", {"acts": [withdrawal], "reason": "Back."})
    assert last["status"] == "LISTED"
    assert await _listed(client) == ["pdf-tools"]


async def test_a_restore_of_what_is_not_in_force_is_refused_by_name(
    client: httpx.AsyncClient, market: Market
) -> None:
    await market.fill([make_skill()])
    block = (await _post(client, "block", BLOCK))["act"]["id"]
    lift = (await _post(client, "restore", {"acts": [block], "reason": "Harmless."}))["act"]["id"]

    body = {"acts": ["nonsense", block, lift], "reason": "Again."}
    answer = await client.post(f"{ADMIN}/restore", json=body, headers=OPERATOR)

    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"field": "acts", "message": f"unknown: nonsense, {lift}; already lifted: {block}"}
    ]
    assert len(_row(market).acts) == 2


async def test_a_correction_is_listed_instead_of_what_the_repository_says(
    client: httpx.AsyncClient, market: Market
) -> None:
    await market.fill([make_skill(category="other", labels=("a",))])
    body = {"category": "documents", "labels": ["pdf"], "certTier": "VERIFIED", "reason": "Read."}
    await _post(client, "correct", body)
    shown = (await client.get("/api/v1/skills/pdf-tools")).json()
    assert (shown["category"], shown["labels"], shown["certTier"]) == (
        "documents", ["pdf"], "VERIFIED",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("act", "body", "field"),
    [
        ("correct", {"reason": "Nothing."}, "body"),
        ("correct", {"category": "documents"}, "reason"),
        ("block", {"reason": "A threat."}, "threatType"),
        ("block", BLOCK | {"severity": "odd"}, "severity"),
        ("block", BLOCK | {"evidenceUrls": ["javascript:alert(1)"]}, "evidenceUrls[0]"),
        ("withdraw", {"reason": ""}, "reason"),
        ("withdraw", {"reason": "So.", "acts": []}, "acts"),
        ("restore", {"acts": [], "reason": "So."}, "acts"),
        ("accept-owner", {"reason": "So."}, "body"),
    ],
)
async def test_a_wrong_act_is_refused_by_the_field(
    client: httpx.AsyncClient, market: Market, act: str, body: dict[str, Any], field: str
) -> None:
    await market.fill([make_skill()])
    answer = await client.post(f"{ADMIN}/{act}", json=body, headers=OPERATOR)
    assert answer.status_code == 422
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert _row(market).acts == ()


async def test_what_is_not_there_answers_404(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{ADMIN}/block", json=BLOCK, headers=OPERATOR)
    assert answer.status_code == 404


async def test_a_seed_skill_can_be_blocked(market: Market) -> None:
    seed = read_seed(
        b'[{"name": "pdf-tools", "displayName": "PDF", "repoUrl": "https://github.com/octo/tools"}]'
    )
    market.env = replace(market.env, seed=seed)
    async with client_of(market) as client:
        assert await _listed(client) == ["pdf-tools"]
        await _post(client, "block", BLOCK)
        assert await _listed(client) == []
        assert (await client.get("/api/v1/skills/pdf-tools")).status_code == 410


async def test_with_postgres_away_the_act_waits_in_kv_and_is_seen(market: Market) -> None:
    await market.fill([make_skill()])
    present = market.env
    market.env = replace(market.env, database=DatabaseSession(postgres_away))
    async with client_of(market) as client:
        told = await _post(client, "block", BLOCK)
        assert told["stores"] == {"log": True, "postgres": False, "kv": True}
        assert await _listed(client) == []
        assert (await client.get("/api/v1/skills/pdf-tools")).status_code == 410
    await run_light_repair(present)
    assert _row(market).status is Status.BLOCKED
    record = await read_record(present, "pdf-tools")
    assert isinstance(record, Skill)
    assert record.status is Status.BLOCKED


async def test_with_kv_away_postgres_has_the_act(client: httpx.AsyncClient, market: Market) -> None:
    await market.fill([make_skill()])
    market.kv.faults = kv_away
    told = await _post(client, "block", BLOCK)
    assert told["stores"] == {"log": False, "postgres": True, "kv": False}
    assert _row(market).status is Status.BLOCKED
    market.kv.faults = None
    await run_light_repair(market.env)
    record = await read_record(market.env, "pdf-tools")
    assert isinstance(record, Skill)
    assert record.status is Status.BLOCKED


async def test_with_both_away_the_operator_is_told_that_nothing_was_done(market: Market) -> None:
    await market.fill([make_skill()])
    market.env = replace(market.env, database=DatabaseSession(postgres_away))
    market.kv.faults = kv_away
    async with client_of(market) as client:
        answer = await client.post(f"{ADMIN}/block", json=BLOCK, headers=OPERATOR)
    assert answer.status_code == 503
    assert _row(market).acts == ()


@pytest.mark.parametrize("away", [None, "postgres", "kv"])
async def test_of_two_operators_at_once_neither_loses_an_act(
    market: Market, away: str | None
) -> None:
    await market.fill([make_skill()])
    present = market.env
    if away == "postgres":
        market.env = replace(market.env, database=DatabaseSession(postgres_away))
    if away == "kv":
        market.kv.faults = kv_away
    async with client_of(market) as client:
        told = await asyncio.gather(
            _post(client, "block", BLOCK), _post(client, "withdraw", {"reason": "Asked."})
        )
    market.kv.faults = None
    await run_light_repair(present)
    wanted = {each["act"]["id"] for each in told}
    assert {act.id for act in _row(market).acts} == wanted
    record = await read_record(present, "pdf-tools")
    assert isinstance(record, Skill)
    assert {act.id for act in record.acts} == wanted
    if away != "kv":
        logged = await read_acts(present, _row(market).identity)
        assert {act.id for act in logged} == wanted


async def test_what_an_operator_sees_names_principal_reason_and_moment(
    client: httpx.AsyncClient, market: Market
) -> None:
    await market.fill([make_skill()])
    act = (await _post(client, "accept-owner", {"ownerId": 7, "reason": "Wrote to us."}))["act"]
    shown = await _shown(client)
    (told,) = shown["acts"]
    assert told == act | {"liftedBy": None}
    assert (told["kind"], told["by"], told["reason"]) == (
        ActKind.ACCEPT_OWNER, "ann", "Wrote to us.",
    )  # fmt: skip
    assert shown["row"]["name"] == shown["record"]["name"] == "pdf-tools"
    assert shown["degraded"] is False
