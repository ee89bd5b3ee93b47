"""Anybody may report a skill; operators see the open reports first, and close them."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from marketplace.ports.database import DatabaseSession
from marketplace.ports.rate_limit import RateLimits
from marketplace.ports.skill_report import ReportReason
from marketplace.skills.seed import load_seed
from tests.doubles.loop import SimulatedLoop
from tests.doubles.marketplace import Market, make_skill, postgres_away
from tests.doubles.rate_limit import RateLimitDouble
from tests.unit.web.clients import KEYS, OPERATOR, client_of

LIST = "/api/v1/admin/reports"

pytestmark = pytest.mark.market(settings=KEYS)


@pytest.fixture
def client(loop: SimulatedLoop, market: Market) -> Iterator[httpx.AsyncClient]:
    loop.run_until_complete(market.fill([make_skill("pdf-tools")]))
    client = client_of(market)
    yield client
    loop.run_until_complete(client.aclose())


async def report(
    client: httpx.AsyncClient,
    slug: str = "pdf-tools",
    *,
    headers: Mapping[str, str] | None = None,
    **body: Any,
) -> httpx.Response:
    document = {"reason": "malicious", "text": "It sends my keys away.", **body}
    return await client.post(f"/api/v1/skills/{slug}/reports", json=document, headers=headers)


async def resolve(client: httpx.AsyncClient, id_: str, reason: str = "Blocked.") -> httpx.Response:
    return await client.post(f"{LIST}/{id_}/resolve", json={"reason": reason}, headers=OPERATOR)


async def test_anybody_may_report_a_skill(market: Market, client: httpx.AsyncClient) -> None:
    answer = await report(client, text="  It sends\nmy keys away. ", email="ignored")
    assert answer.status_code == 201
    (kept,) = market.tables.reports.values()
    assert answer.json() == {"id": kept.id, "slug": "pdf-tools"}
    assert kept.identity == "https://github.com/octo/pdf-tools#pdf-tools"
    assert (kept.reason, kept.text) == (ReportReason.MALICIOUS, "It sends\nmy keys away.")
    assert (await client.get(LIST, headers=OPERATOR)).json() == {
        "reports": [
            {
                "id": kept.id,
                "at": kept.at,
                "slug": "pdf-tools",
                "identity": kept.identity,
                "reason": "malicious",
                "text": "It sends\nmy keys away.",
                "resolvedAt": None,
                "resolvedBy": None,
                "resolution": None,
            }
        ],
        "nextCursor": None,
    }


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"reason": "boring"}, "reason"),
        ({"reason": None}, "reason"),
        ({"text": "x" * 1001}, "text"),
        ({"text": "a\0b"}, "text"),
        ({"text": 7}, "text"),
    ],
)
async def test_what_cannot_be_reported_is_named(
    market: Market, client: httpx.AsyncClient, body: Mapping[str, Any], field: str
) -> None:
    answer = await report(client, **body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert market.tables.reports == {}


async def test_the_longest_text_is_taken(client: httpx.AsyncClient) -> None:
    assert (await report(client, text="🦊" * 1000)).status_code == 201


@pytest.mark.parametrize("slug", ["no-such", "No Slug", "%00"])
async def test_a_skill_that_nobody_knows_cannot_be_reported(
    market: Market, client: httpx.AsyncClient, slug: str
) -> None:
    assert (await report(client, slug)).status_code in (404, 422)
    assert market.tables.reports == {}


async def test_a_seed_skill_can_be_reported(market: Market, client: httpx.AsyncClient) -> None:
    seed = load_seed()
    market.env = replace(market.env, seed=seed)
    slug = next(iter(seed.claimable))
    assert (await report(client, slug)).status_code == 201


async def test_with_postgres_away_a_report_is_refused_and_not_lost_in_silence(
    market: Market, client: httpx.AsyncClient
) -> None:
    market.env = replace(market.env, database=DatabaseSession(postgres_away))
    for answer in (
        await report(client),
        await client.get(LIST, headers=OPERATOR),
        await resolve(client, "some"),
    ):
        assert answer.status_code == 503
        assert answer.headers["retry-after"]


async def test_a_flood_of_reports_from_one_client_is_limited(
    market: Market, client: httpx.AsyncClient
) -> None:
    limit = RateLimitDouble(2, market.env.clock)
    market.env = replace(market.env, rate_limits=RateLimits(reports_by_client=limit))
    one, other = {"CF-Connecting-IP": "192.0.2.1"}, {"CF-Connecting-IP": "192.0.2.2"}
    statuses = [(await report(client, headers=one)).status_code for _ in range(3)]
    assert statuses == [201, 201, 429]
    assert (await report(client, headers=other)).status_code == 201
    assert (await report(client, headers={**one, **OPERATOR})).status_code == 201
    assert "reports of one client" in (await report(client, headers=one)).json()["detail"]


async def test_a_report_is_resolved_once_with_a_reason_and_recorded(
    market: Market, client: httpx.AsyncClient
) -> None:
    id_ = (await report(client)).json()["id"]
    first = (await resolve(client, id_)).json()
    again = await resolve(client, id_, "Another reason.")
    assert (first["resolvedBy"], first["resolution"]) == ("ann", "Blocked.")
    assert again.status_code == 200
    assert again.json() == first
    (entry,) = market.tables.audit.values()
    assert (entry.principal, entry.action, entry.target) == ("ann", "resolve-report", id_)
    assert entry.after == {"slug": "pdf-tools", "reported": "malicious"}
    assert entry.reason == "Blocked."


@pytest.mark.parametrize("reason", ["", " \n ", "x" * 1001, None])
async def test_a_report_is_not_resolved_without_a_reason(
    market: Market, client: httpx.AsyncClient, reason: str | None
) -> None:
    id_ = (await report(client)).json()["id"]
    answer = await client.post(f"{LIST}/{id_}/resolve", json={"reason": reason}, headers=OPERATOR)
    assert answer.status_code == 422
    assert market.tables.reports[id_].resolved_at is None


async def test_a_report_that_nobody_made_cannot_be_resolved(client: httpx.AsyncClient) -> None:
    assert (await resolve(client, "unknown")).status_code == 404


async def test_open_reports_come_first_and_every_page_goes_on_where_the_last_one_ended(
    client: httpx.AsyncClient, loop: SimulatedLoop
) -> None:
    ids = []
    for _ in range(5):
        ids.append((await report(client)).json()["id"])
        await asyncio.sleep(1)  # of virtual time
    for number in (0, 2):
        await resolve(client, ids[number])
    found: list[str] = []
    cursor = None
    for _ in range(3):
        parameters = {"limit": "2"} | ({} if cursor is None else {"cursor": cursor})
        page = (await client.get(LIST, params=parameters, headers=OPERATOR)).json()
        found += [each["id"] for each in page["reports"]]
        cursor = page["nextCursor"]
    assert [ids.index(id_) for id_ in found] == [1, 3, 4, 0, 2]
    assert cursor is None


@pytest.mark.parametrize("cursor", ["nonsense", "closed:2026", "open:%00"])
async def test_a_cursor_of_another_kind_is_refused(client: httpx.AsyncClient, cursor: str) -> None:
    answer = await client.get(f"{LIST}?cursor={cursor}", headers=OPERATOR)
    assert answer.status_code == 422
