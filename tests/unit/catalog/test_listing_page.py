"""The fallback's pages: the same as sorting everything would give, by offset and by cursor."""

import random
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest

from marketplace.catalog.listings import get_skills
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Env
from marketplace.skills.listing_rules import (
    ListingQuery,
    SortDirection,
    SortField,
    decode_cursor,
    matches,
    rank,
)
from marketplace.skills.seed import read_seed
from marketplace.skills.skill import Skill, SkillSummary
from tests.doubles.marketplace import Market, postgres_away
from tests.examples import random_skills


@dataclass(frozen=True)
class _Catalog:
    """A marketplace whose PostgreSQL is away, and all that it lists."""

    env: Env
    listed: list[SkillSummary]

    async def page(self, query: ListingQuery) -> tuple[list[Any], int, str | None]:
        """Items, total and the cursor that leads on."""
        answer = await get_skills(self.env, query)
        assert answer.degraded
        items = [msgspec.json.decode(item) for item in answer.value.items]
        return items, answer.value.total, answer.value.next_cursor

    def sorted(self, query: ListingQuery) -> list[Any]:
        """What all pages together should hold."""
        found = [skill for skill in self.listed if matches(skill, query)]
        found.sort(key=lambda skill: rank(skill, query))
        return msgspec.json.decode(msgspec.json.encode(found), type=list[Any])


async def _catalog(market: Market, skills: list[Skill]) -> _Catalog:

    seed = read_seed(msgspec.json.encode(skills[::7]))
    await market.fill([s for n, s in enumerate(skills) if n % 7 or n % 2], table=False)
    env = replace(market.env, database=DatabaseSession(postgres_away), seed=seed)
    return _Catalog(env, [skill.summary() for skill in skills])


_FILTERS: list[dict[str, Any]] = [
    {},
    {"category": "data"},
    {"author": "ACME"},
    {"extensible": True},
    {"search": "pdf"},
    {"search": "ÄRGER"},
    {"search": "!"},
]


@pytest.mark.parametrize("field", SortField)
@pytest.mark.parametrize("direction", SortDirection)
async def test_pages_by_offset_and_by_cursor_are_those_of_the_sorted_whole(
    market: Market, field: SortField, direction: SortDirection
) -> None:
    catalog = await _catalog(market, random_skills(random.Random(7), 60))
    for filters in _FILTERS:
        query = ListingQuery(sort_by=field, sort_dir=direction, limit=13, **filters)
        whole = catalog.sorted(query)
        for offset in (0, 5, 20, 30, 45, 59, 200, 1_000_000):
            page, total, _ = await catalog.page(replace(query, offset=offset))
            assert (page, total) == (whole[offset : offset + 13], len(whole))
        walked: list[Any] = []
        cursor: str | None = ""
        while cursor is not None:
            after = decode_cursor(cursor, field, direction) if cursor else None
            page, total, cursor = await catalog.page(replace(query, cursor=after))
            assert total == len(whole)
            walked += page
        assert walked == whole
