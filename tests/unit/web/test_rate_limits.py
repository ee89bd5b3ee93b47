"""A flood of one client, or about one owner, is limited, and nobody else feels it."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace

import httpx
import pytest

from local.paths import WRANGLER_CONFIG
from marketplace.ports.rate_limit import RateLimits
from marketplace.web.rate_limits import PERIOD_SECONDS
from tests.doubles.marketplace import Market
from tests.doubles.rate_limit import RateLimitDouble
from tests.unit.web.clients import KEYS, OPERATOR, SCANNER, client_of

ONE = {"CF-Connecting-IP": "192.0.2.1"}
OTHER = {"CF-Connecting-IP": "192.0.2.2"}


def limited(
    market: Market, *, by_client: int = 100, by_owner: int = 100, how: str = "counts"
) -> tuple[RateLimitDouble, RateLimitDouble]:
    """Give a marketplace limits of submissions."""
    clock = market.env.clock
    client = RateLimitDouble(by_client, clock, how=how)
    owner = RateLimitDouble(by_owner, clock, how=how)
    limits = RateLimits(submissions_by_client=client, submissions_by_owner=owner)
    market.env = replace(market.env, rate_limits=limits)
    return client, owner


async def submit(
    client: httpx.AsyncClient, name: str, headers: Mapping[str, str] = ONE, owner: str = "octo"
) -> httpx.Response:
    body = {"repoUrl": f"https://github.com/{owner}/tools", "skillName": name}
    return await client.post("/api/v1/submissions", json=body, headers=headers)


def test_every_limit_is_configured_and_retry_after_fits_its_period() -> None:
    configuration = tomllib.loads(WRANGLER_CONFIG.read_text(encoding="utf-8"))
    configured = {limit["name"]: limit for limit in configuration["ratelimits"]}
    assert {field.name.upper() for field in fields(RateLimits)} <= set(configured)
    assert {limit["simple"]["period"] for limit in configured.values()} == {PERIOD_SECONDS}
    assert len({limit["namespace_id"] for limit in configured.values()}) == len(configured)
    numbers = {name: limit["simple"]["limit"] for name, limit in configured.items()}
    assert numbers == {
        "SUBMISSIONS_BY_CLIENT": 60,
        "SUBMISSIONS_BY_OWNER": 120,
        "REPORTS_BY_CLIENT": 10,
        "INSTALLS_BY_CLIENT": 100,
    }


async def test_a_flood_of_one_client_is_limited_and_another_is_not(market: Market) -> None:
    limited(market, by_client=3)
    async with client_of(market) as client:
        answers = [await submit(client, f"flood {number}") for number in range(5)]
        other = await submit(client, "other", OTHER)
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429, 429]
    assert other.status_code == 202
    assert len(market.kv.keys("sub:")) == 4
    refused = answers[-1]
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["cache-control"] == "no-store"
    assert "submissions of one client" in refused.json()["detail"]


async def test_a_flood_about_one_owner_is_limited_whoever_sends_it(market: Market) -> None:
    _, owner = limited(market, by_owner=2)
    async with client_of(market) as client:
        statuses = [
            (await submit(client, "s", {"CF-Connecting-IP": f"192.0.2.{n}"}, name)).status_code
            for n, name in enumerate(["Octo", "octo", "OCTO", "other"])
        ]
    assert statuses[2:] == [429, 202]
    assert owner.keys == {"https://github.com/octo", "https://github.com/other"}


async def test_what_the_client_may_not_send_does_not_use_up_the_owners_share(
    market: Market,
) -> None:
    _, owner = limited(market, by_client=1)
    async with client_of(market) as client:
        for number in range(9):
            await submit(client, f"flood {number}")
    assert owner.taken.total() == 1


@pytest.mark.market(settings=KEYS)
@pytest.mark.parametrize("headers", [OPERATOR, SCANNER])
async def test_with_a_key_there_is_no_limit(market: Market, headers: Mapping[str, str]) -> None:
    limits = limited(market, by_client=0, by_owner=0)
    async with client_of(market) as client:
        answer = await submit(client, "mine", {**headers, **ONE})
        assert answer.status_code == 202
        assert (await submit(client, "not mine")).status_code == 429
    assert limits[0].taken.total() == 1


async def test_retry_after_is_the_end_of_the_minute(market: Market) -> None:
    limited(market, by_client=0)
    async with client_of(market) as client:
        answer = await submit(client, "early")
    passed = int(market.env.clock().timestamp()) % 60
    assert answer.headers["retry-after"] == str(60 - passed)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::1", "2001:db8:1:2::/64"),
        ("no address", "no address"),
        ("x" * 999, "x" * 200),
    ],
)
async def test_a_client_is_an_address_or_a_network_of_ipv6(
    market: Market, address: str, key: str
) -> None:
    limit, _ = limited(market)
    async with client_of(market) as client:
        await submit(client, "some", {"CF-Connecting-IP": address})
    assert limit.keys == {key}


@pytest.mark.parametrize(
    ("how", "reason"), [("fails", "unavailable"), ("hangs", "timeout"), ("missing", "missing")]
)
async def test_a_limit_that_cannot_judge_lets_calls_through_and_is_told_once(
    market: Market, how: str, reason: str
) -> None:
    if how != "missing":
        limited(market, by_client=0, by_owner=0, how=how)
    async with client_of(market) as client:
        assert (await submit(client, "some")).status_code == 202
    (line,) = [line for line in market.log.lines if line["event"] == "limit-not-asked"]
    assert (line["level"], line["reason"]) == ("warning", reason)


async def test_a_limit_that_can_judge_counts_beside_one_that_cannot(market: Market) -> None:
    client_limit, _ = limited(market, by_client=0, by_owner=0)
    client_limit.how = "fails"
    async with client_of(market) as client:
        assert (await submit(client, "some")).status_code == 429
