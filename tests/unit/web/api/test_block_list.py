"""The blocklist: complete or not given, from either store."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Settings
from tests.doubles.marketplace import (
    Market,
    fault,
    kv_away,
    make_skill,
    make_skills,
    postgres_away,
)
from tests.doubles.network import Fault
from tests.unit.web.clients import KEYS, OPERATOR, client_of

BLOCK = {
    "reason": "Steals keys.",
    "threatType": "exfiltration",
    "severity": "CRITICAL",
    "evidenceUrls": ["https://example.com/report"],
}
URL = "/api/v1/blocklist"


@pytest.fixture
def settings() -> Settings:
    return KEYS


async def _block(market: Market, slug: str) -> str:
    return await _act(market, slug, "block", BLOCK)


async def _act(market: Market, slug: str, act: str, body: dict[str, Any]) -> str:
    async with client_of(market) as client:
        url = f"/api/v1/admin/skills/{slug}/{act}"
        answer = await client.post(url, json=body, headers=OPERATOR)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["act"]["id"])


def _lose_postgres(market: Market) -> None:
    market.env = replace(market.env, database=DatabaseSession(postgres_away))


async def test_an_entry_has_what_installers_read(market: Market, client: httpx.AsyncClient) -> None:
    await market.fill(
        [make_skill(content_digest="a" * 64), make_skill("asked"), make_skill("fine")]
    )
    await _block(market, "pdf-tools")
    await _act(market, "asked", "withdraw", {"reason": "Its author asked."})

    answer = await client.get(URL)

    (entry,) = answer.json()["entries"]
    assert entry == {
        "skillName": "pdf-tools",
        "contentHash": "a" * 64,
        "threatType": "exfiltration",
        "severity": "CRITICAL",
        "reason": "Steals keys.",
        "evidenceUrls": ["https://example.com/report"],
        "discoveredAt": entry["discoveredAt"],
        "repoUrl": "https://github.com/octo/pdf-tools",
    }
    assert answer.json()["count"] == 1
    assert answer.json()["lastUpdated"] == entry["discoveredAt"]
    again = await client.get(URL, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


async def test_an_empty_list_has_entries_too(client: httpx.AsyncClient) -> None:
    assert (await client.get(URL)).json() == {"entries": [], "count": 0, "lastUpdated": None}


@pytest.mark.parametrize("part", [None, "withheld", "records"])
async def test_with_postgres_away_kv_answers_and_the_answer_is_not_stored(
    market: Market, part: str | None
) -> None:
    await market.fill([*make_skills(3), make_skill()])
    await _block(market, "pdf-tools")
    _lose_postgres(market)
    if part == "withheld":
        market.kv.faults = fault(Fault.FAIL, "get", key="skills:withheld")
    if part == "records":
        market.kv.faults = fault(Fault.FAIL, "list", key="skill:")
    async with client_of(market) as client:
        answer = await client.get(URL)
        checked = await client.get(f"{URL}/check", params={"name": "pdf-tools"})
    (entry,) = answer.json()["entries"]
    assert (entry["skillName"], entry["threatType"]) == ("pdf-tools", "exfiltration")
    assert answer.headers["cache-control"] == "no-store"
    assert checked.json() == {"blocked": True, "entry": entry}


async def test_what_was_blocked_and_restored_without_postgres_is_told_right(
    market: Market,
) -> None:
    await market.fill([make_skill(), make_skill("other")])
    restored = await _block(market, "other")
    _lose_postgres(market)
    await _block(market, "pdf-tools")
    await _act(market, "other", "restore", {"acts": [restored], "reason": "Harmless."})
    async with client_of(market) as client:
        entries = (await client.get(URL)).json()["entries"]
    assert [entry["skillName"] for entry in entries] == ["pdf-tools"]
    assert entries[0]["reason"] == "Steals keys."


async def test_where_neither_store_can_tell_there_is_no_list(market: Market) -> None:
    await market.fill([make_skill()])
    await _block(market, "pdf-tools")
    _lose_postgres(market)
    market.kv.faults = kv_away
    async with client_of(market) as client:
        assert (await client.get(URL)).status_code == 503
        assert (await client.get(f"{URL}/check", params={"name": "x"})).status_code == 503


@pytest.mark.market(page_limit=1)
async def test_a_part_of_the_records_is_no_list(market: Market) -> None:
    await market.fill([make_skill(), *make_skills(12)])
    _lose_postgres(market)
    market.kv.faults = fault(Fault.FAIL, "get", key="skills:withheld")
    async with client_of(market) as client:
        assert (await client.get(URL)).status_code == 503


@pytest.mark.parametrize(
    ("asked", "blocked"),
    [
        ({"name": "pdf-tools"}, True),
        ({"name": "PDF Tools"}, True),
        ({"name": "pdf-tools", "repoUrl": "https://github.com/Octo/pdf-tools.git"}, True),
        ({"name": "pdf-tools", "repoUrl": "https://github.com/other/pdf-tools"}, False),
        ({"name": "fine"}, False),
        ({"name": "unknown"}, False),
        ({"name": "!"}, False),
    ],
)
@pytest.mark.parametrize("postgres", [True, False])
async def test_a_check_is_by_name_and_repository(
    market: Market, asked: dict[str, str], blocked: bool, postgres: bool
) -> None:
    await market.fill([make_skill(), make_skill("fine")])
    await _block(market, "pdf-tools")
    if not postgres:
        _lose_postgres(market)
    async with client_of(market) as client:
        answer = (await client.get(f"{URL}/check", params=asked)).json()
    assert answer["blocked"] is blocked
    assert (answer["entry"] is not None) is blocked


async def test_a_check_of_no_repository_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{URL}/check", params={"name": "x", "repoUrl": "nonsense"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "repoUrl"
