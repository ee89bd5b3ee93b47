"""Cloudflare's rate limits, as the local runtime has them: a flood is stopped, others are not."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx
import pytest

from tests.worker.publishing import OPERATOR

LIMIT: Final = 60  # of a client, in wrangler.toml
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
