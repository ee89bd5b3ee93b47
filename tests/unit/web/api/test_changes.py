"""The feed of changes and the filling from a mirror, over HTTP."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from marketplace.ports.database import DatabaseSession
from marketplace.skills.acts import ActKind
from marketplace.skills.change import Acted
from tests.doubles.marketplace import Market, make_skill, make_skills, new_market, postgres_away
from tests.examples import act, seed_of
from tests.unit.web.clients import KEYS, OPERATOR, SCANNER, client_of

CHANGES = "/api/v1/changes"
RESTORE = "/api/v1/admin/restore"

pytestmark = pytest.mark.market(settings=KEYS)


async def everything(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get(CHANGES)
    assert answer.status_code == 200
    feed: dict[str, Any] = answer.json()
    assert feed["next"] == feed["head"]
    return feed


async def test_it_tells_changes_numbers_and_the_fingerprint(
    client: httpx.AsyncClient, market: Market
) -> None:
    await market.fill(make_skills(3))
    answer = await client.get(CHANGES, params={"since": 0, "limit": 2})
    feed = answer.json()
    assert set(feed) == {"changes", "next", "head", "generation", "fingerprint"}
    assert [item["name"] for item in feed["changes"]] == ["skill-00000", "skill-00001"]
    assert feed["next"] == feed["changes"][-1]["number"] < feed["head"]
    assert feed["fingerprint"] is None
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["access-control-allow-origin"] == "*"
    last = (await client.get(CHANGES, params={"since": feed["next"]})).json()
    assert last["fingerprint"]["count"] == 3
    assert len(last["fingerprint"]["digest"]) == 16


@pytest.mark.parametrize(
    "params", [{"since": -1}, {"since": "x"}, {"limit": 0}, {"limit": 1001}, {"generation": "\0"}]
)
async def test_unusable_numbers_are_refused(
    client: httpx.AsyncClient, params: dict[str, Any]
) -> None:
    assert (await client.get(CHANGES, params=params)).status_code == 422


@pytest.mark.parametrize("params", [{"since": 2**50}, {"since": 0, "generation": "another"}])
async def test_what_says_nothing_here_is_answered_with_where_to_begin(
    client: httpx.AsyncClient, params: dict[str, Any]
) -> None:
    answer = await client.get(CHANGES, params=params)
    assert answer.status_code == 410
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["restart"] == "/api/v1/changes?since=0"
    assert (await client.get(problem["restart"])).json()["generation"] == problem["generation"]


async def test_without_postgres_it_says_when_to_ask_again(
    client: httpx.AsyncClient, market: Market
) -> None:
    await market.fill([make_skill()])
    market.env = replace(market.env, database=DatabaseSession(postgres_away))
    answer = await client.get(CHANGES)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "changes" not in answer.json()


async def fill(market: Market) -> None:
    """Skills of all kinds."""
    await market.fill([*make_skills(5), make_skill("taken", repo_url="https://github.com/z/y")])
    with await market.database() as database:
        for kind, number in ((ActKind.BLOCK, 1), (ActKind.WITHDRAW, 2), (ActKind.CORRECT, 3)):
            category = "data" if kind is ActKind.CORRECT else None
            identity = make_skills(5)[number].identity
            acted = Acted(identity, (act(kind, category=category),))
            await database.upsert_skill(acted, candidates=["none"])
        await database.add_alias("old", make_skills(5)[3].identity)


async def test_a_restored_marketplace_tells_the_same(
    client: httpx.AsyncClient, market: Market
) -> None:
    seed = seed_of(make_skill("taken"), make_skill("own"))
    market.env = replace(market.env, seed=seed)
    await fill(market)
    feed = await everything(client)

    empty = new_market(market.env.clock, settings=KEYS)
    empty.env = replace(empty.env, seed=seed)
    there = client_of(empty)
    items = [item for item in feed["changes"] if not item["seed"]]
    answer = await there.post(RESTORE, json={"skills": items}, headers=OPERATOR)
    assert answer.json() == {"restored": 6, "present": 0, "rejected": []}
    restored = await everything(there)
    assert restored["fingerprint"] == feed["fingerprint"]
    told = {item["name"]: item["digest"] for item in feed["changes"]}
    assert {item["name"]: item["digest"] for item in restored["changes"]} == told
    assert empty.tables.aliases == {"old": make_skills(5)[3].identity}
    assert empty.log.events().count("audit") == 1
    again = await there.post(RESTORE, json={"skills": items}, headers=OPERATOR)
    assert again.json() == {"restored": 0, "present": 6, "rejected": []}
    await there.aclose()


async def test_what_is_there_stays_as_it_is(client: httpx.AsyncClient, market: Market) -> None:
    await market.fill([make_skill("a", description="Before."), make_skill("b")])
    items = (await everything(client))["changes"]
    newer = make_skill("a", description="Now.", updated_at="2026-12-01T08:00:00.000Z")
    await market.fill([newer])
    market.lose_rows([make_skill("b")])
    thief = make_skill("b", repo_url="https://github.com/other/b")
    await market.fill([thief])
    before = dict(market.tables.rows)
    answer = await client.post(RESTORE, json={"skills": items}, headers=OPERATOR)
    assert answer.json() == {
        "restored": 0,
        "present": 1,
        "rejected": [{"name": "b", "reason": "another skill has its slug"}],
    }
    assert market.tables.rows == before


async def test_damaged_items_are_told_and_the_others_restored(
    client: httpx.AsyncClient, market: Market
) -> None:
    await market.fill(make_skills(3))
    items = (await everything(client))["changes"]
    market.lose_rows(make_skills(3))
    items[1]["description"] = "Changed by hand."
    answer = await client.post(RESTORE, json={"skills": [*items, {}]}, headers=OPERATOR)
    outcome = answer.json()
    assert outcome["restored"] == 2
    assert [each["name"] for each in outcome["rejected"]] == ["skill-00001", "None"]


async def test_only_an_operator_restores(client: httpx.AsyncClient) -> None:
    assert (await client.post(RESTORE, json={"skills": []})).status_code == 401
    answer = await client.post(RESTORE, json={"skills": []}, headers=SCANNER)
    assert answer.status_code == 403
    many = await client.post(RESTORE, json={"skills": [{}] * 101}, headers=OPERATOR)
    assert many.status_code == 422
