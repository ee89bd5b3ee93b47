"""Anybody may report installs; what is known is counted by day, and a client has a limit."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from marketplace.ports.database import DatabaseSession
from marketplace.ports.rate_limit import RateLimits
from tests.doubles.loop import SimulatedLoop
from tests.doubles.marketplace import Market, make_skill, postgres_away
from tests.doubles.rate_limit import RateLimitDouble
from tests.examples import seed_of, skill
from tests.unit.web.clients import KEYS, OPERATOR, client_of

BULK = "/api/v1/skills/installs"
PDF = "https://github.com/octo/pdf-tools#pdf-tools"
ACME = "https://github.com/acme/tools#pdf-tools"

pytestmark = pytest.mark.market(settings=KEYS)


@pytest.fixture
def client(loop: SimulatedLoop, market: Market) -> Iterator[httpx.AsyncClient]:
    """Of a marketplace with two skills of one name, and one of the seed."""
    seed = seed_of(skill("seeded"), skill("pdf-tools", repository="octo/pdf-tools"))
    market.env = replace(market.env, seed=seed)
    of_acme = skill("pdf-tools", name="acme-pdf-tools")
    loop.run_until_complete(market.fill([make_skill("pdf-tools"), of_acme]))
    market.tables.aliases["old-tools"] = PDF
    client = client_of(market)
    yield client
    loop.run_until_complete(client.aclose())


def counted(market: Market) -> dict[str, int]:
    """The installs of today, by identity."""
    today = market.env.now()[:10]
    assert {day for _, day in market.tables.installs} <= {today}
    return {identity: count for (identity, _), count in market.tables.installs.items()}


async def bulk(client: httpx.AsyncClient, *skills: dict[str, Any]) -> httpx.Response:
    return await client.post(BULK, json={"skills": list(skills)})


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("pdf-tools", PDF),
        ("old-tools", PDF),
        ("acme-pdf-tools", ACME),
        ("acme/tools/pdf-tools", ACME),
        ("acme%2Ftools%2FPDF-Tools", ACME),
        ("octo/pdf-tools", PDF),
        ("acme%2Fpdf-tools", ACME),
        ("seeded", "https://github.com/acme/tools#seeded"),
    ],
)
async def test_an_install_is_counted_however_the_skill_is_named(
    market: Market, client: httpx.AsyncClient, name: str, identity: str
) -> None:
    for number in (1, 2):
        answer = await client.post(f"/api/v1/skills/{name}/installs")
        assert (answer.status_code, answer.json()) == (200, {"counted": 1, "unknown": 0})
        assert counted(market) == {identity: number}


@pytest.mark.parametrize("name", ["nobody", "Not A Slug", "nobody/pdf-tools", "a/b/c", "a%00b"])
async def test_what_nobody_knows_is_not_counted(
    market: Market, client: httpx.AsyncClient, name: str
) -> None:
    answer = await client.post(f"/api/v1/skills/{name}/installs")
    assert answer.status_code in (404, 422)
    assert counted(market) == {}


async def test_several_are_counted_at_once_and_unknown_ones_told(
    market: Market, client: httpx.AsyncClient
) -> None:
    answer = await bulk(
        client,
        {"skillName": "pdf-tools", "version": "1.0.0"},
        {"skillName": "pdf-tools", "repoUrl": "https://github.com/acme/tools"},
        {"skillName": "PDF Tools", "repoUrl": "git@github.com:Acme/tools.git"},
        {"skillName": "acme-pdf-tools", "repoUrl": "https://github.com/acme/tools"},
        {"skillName": "pdf-tools", "repoUrl": "https://github.com/nobody/tools"},
        {"skillName": "pdf-tools", "repoUrl": "no repository"},
        {"skillName": "nobody"},
    )
    assert answer.status_code == 200
    assert answer.json() == {"counted": 4, "unknown": 3}
    assert counted(market) == {PDF: 1, ACME: 3}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "skills"),
        ({"skills": []}, "skills"),
        ({"skills": [{"skillName": "a"}] * 101}, "skills"),
        ({"skills": [{}]}, "skills[0].skillName"),
        ({"skills": [{"skillName": "a\0"}]}, "skills[0].skillName"),
        ({"skills": [{"skillName": "a", "repoUrl": "x" * 257}]}, "skills[0].repoUrl"),
    ],
)
async def test_what_cannot_be_counted_is_refused(
    market: Market, client: httpx.AsyncClient, body: object, field: str
) -> None:
    answer = await client.post(BULK, json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert counted(market) == {}


async def test_a_client_has_a_limit_whether_it_reports_one_or_several(
    market: Market, client: httpx.AsyncClient
) -> None:
    limit = RateLimitDouble(5, market.env.clock)
    market.env = replace(market.env, rate_limits=RateLimits(installs_by_client=limit))
    one, other = {"CF-Connecting-IP": "192.0.2.1"}, {"CF-Connecting-IP": "192.0.2.2"}
    three = {"skills": [{"skillName": "pdf-tools"}] * 3}

    assert (await client.post(BULK, json=three, headers=one)).status_code == 200
    refused = await client.post(BULK, json=three, headers=one)
    assert (refused.status_code, "installs of one client" in refused.text) == (429, True)
    assert refused.headers["retry-after"]
    url = "/api/v1/skills/pdf-tools/installs"
    assert (await client.post(url, headers=one)).status_code == 429
    assert (await client.post(BULK, json=three, headers=other)).status_code == 200
    assert (await client.post(BULK, json=three, headers={**one, **OPERATOR})).status_code == 200
    assert counted(market) == {PDF: 9}


async def test_five_hundred_installs_from_ten_addresses_count_five_hundred(
    market: Market, client: httpx.AsyncClient
) -> None:
    limit = RateLimitDouble(100, market.env.clock)
    market.env = replace(market.env, rate_limits=RateLimits(installs_by_client=limit))

    async def report(number: int) -> int:
        headers = {"CF-Connecting-IP": f"192.0.2.{number % 10}"}
        url = "/api/v1/skills/pdf-tools/installs"
        return (await client.post(url, headers=headers)).status_code

    assert set(await asyncio.gather(*map(report, range(500)))) == {200}
    assert counted(market) == {PDF: 500}


async def test_without_postgres_nothing_is_counted_and_the_client_told_to_come_again(
    market: Market, client: httpx.AsyncClient
) -> None:
    market.env = replace(market.env, database=DatabaseSession(postgres_away))
    for answer in (
        await client.post("/api/v1/skills/pdf-tools/installs"),
        await bulk(client, {"skillName": "pdf-tools"}),
    ):
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
    assert counted(market) == {}
