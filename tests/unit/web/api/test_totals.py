"""What routes say of totals, exact ones and floors, out of every source."""

from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import httpx
import pytest

from marketplace.ports.database import DatabaseSession
from marketplace.skills import listing_rules
from tests.doubles import database as database_double
from tests.doubles.marketplace import Market, make_skills, postgres_away

MOST = 5
_ROUTES = [
    ("/api/v1/skills?search=skill", "total", "totalIsExact"),
    ("/api/v1/skills/search?q=skill", "total", "totalIsExact"),
    ("/api/v1/skills/count?search=skill", "count", "countIsExact"),
    ("/api/v1/skills?author=octo&category=development", "total", "totalIsExact"),
]


@pytest.fixture(autouse=True)
def few() -> Iterator[None]:
    """As if few matches were counted."""
    with (
        mock.patch.object(listing_rules, "MOST_COUNTED", MOST),
        mock.patch.object(database_double, "MOST_COUNTED", MOST),
    ):
        yield


@pytest.mark.parametrize(("route", "field", "is_exact"), _ROUTES)
@pytest.mark.parametrize(("skills", "told"), [(MOST, True), (MOST + 1, False), (9, False)])
@pytest.mark.parametrize("source", ["postgres", "kv-enumeration"])
async def test_a_total_is_exact_up_to_a_number_and_a_floor_beyond(
    market: Market,
    client: httpx.AsyncClient,
    route: str,
    field: str,
    is_exact: str,
    skills: int,
    source: str,
    *,
    told: bool,
) -> None:
    await market.fill(make_skills(skills))
    if source != "postgres":
        market.env = replace(market.env, database=DatabaseSession(postgres_away))

    answer = (await client.get(route)).json()
    assert (answer[field], answer[is_exact], answer["source"]) == (MOST, told, source)


async def test_totals_without_a_search_and_of_one_filter_are_exact(
    market: Market, client: httpx.AsyncClient
) -> None:
    await market.fill(make_skills(MOST + 4))
    for filters in (
        "",
        "author=octo",
        "category=development",
        "category=development&certTier=SCANNED",
    ):
        answer = (await client.get(f"/api/v1/skills/count?{filters}")).json()
        assert (answer["count"], answer["countIsExact"]) == (MOST + 4, True)


async def test_a_search_takes_offsets_to_a_bound_and_names_the_cursor_beyond(
    client: httpx.AsyncClient,
) -> None:
    most = listing_rules.MAX_SEARCH_OFFSET
    assert (await client.get(f"/api/v1/skills?search=a&offset={most}")).status_code == 200
    assert (await client.get(f"/api/v1/skills?offset={most + 1}")).status_code == 200
    refused = await client.get(f"/api/v1/skills?search=a&offset={most + 1}")
    assert refused.status_code == 422
    assert "nextCursor" in refused.text
