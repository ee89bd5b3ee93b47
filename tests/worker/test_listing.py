"""Listings over HTTP, against the same question answered by brute force."""

from typing import Any

import httpx
import pytest

from tests.worker.publishing import listing, publish

AUTHOR = "listing-author"
CATEGORIES = {"Alpha reader": "testing", "Beta writer": "data", "Gamma reader": "testing"}


@pytest.fixture(scope="module")
def everything(marketplace: Any) -> list[dict[str, Any]]:
    """Every listed skill, seed and published, in no order that matters."""
    with marketplace.client() as client:
        for name, category in CATEGORIES.items():
            publish(client, AUTHOR, name, category=category)
        skills: list[dict[str, Any]] = []
        while len(skills) < (page := listing(client, limit=100, offset=len(skills)))["total"]:
            skills += page["skills"]
    assert len({skill["name"] for skill in skills}) == len(skills)
    return skills


@pytest.mark.parametrize(
    "filters",
    [
        {"category": "testing"},
        {"author": AUTHOR},
        {"author": AUTHOR.upper(), "category": "testing"},
        {"certTier": "VERIFIED", "category": "ai"},
        {"certTier": "SCANNED", "category": "data"},
        {"extensible": "true"},
    ],
)
def test_filters_list_what_brute_force_finds(
    client: httpx.Client, everything: list[dict[str, Any]], filters: dict[str, str]
) -> None:
    def matches(skill: dict[str, Any]) -> bool:
        return all(str(skill[field]).lower() == value.lower() for field, value in filters.items())

    answer = listing(client, limit=100, **filters)

    expected = {skill["name"] for skill in everything if matches(skill)}
    assert {skill["name"] for skill in answer["skills"]} == expected
    assert answer["total"] == len(expected)


@pytest.mark.parametrize("field", ["name", "displayName", "publishedAt", "updatedAt", "certScore"])
@pytest.mark.parametrize("descending", [False, True])
def test_orders_and_pages_are_those_of_brute_force(
    client: httpx.Client, everything: list[dict[str, Any]], field: str, descending: bool
) -> None:
    by_name = sorted(everything, key=lambda skill: str(skill["name"]))
    expected = sorted(by_name, key=lambda skill: skill[field], reverse=descending)

    found: list[str] = []
    cursor: str | None = None
    while True:
        order = {"sortBy": field, "sortDir": "desc" if descending else "asc", "limit": 40}
        page = listing(client, **order, **({"cursor": cursor} if cursor else {}))
        found += [skill["name"] for skill in page["skills"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break

    assert found == [skill["name"] for skill in expected]
