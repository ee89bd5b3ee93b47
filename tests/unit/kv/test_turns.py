"""Whoever walks all records lets others have their turn on the one thread."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from marketplace.basics.concurrency import TURN
from marketplace.catalog.published_skills import get_published_skills_list
from marketplace.health.readings import read_pages
from marketplace.kv.records import enumerate_published_skills
from marketplace.ports.env import Env
from tests.doubles.marketplace import Market, make_skills

SKILLS = make_skills(1000)  # in one list call


async def enumerate_all(env: Env) -> None:
    async for _ in enumerate_published_skills(env):
        pass


@pytest.mark.parametrize("walk", [enumerate_all, read_pages, get_published_skills_list])
async def test_a_walk_over_a_thousand_records_leaves_others_ten_turns(
    market: Market, walk: Callable[[Env], Awaitable[object]]
) -> None:
    await market.fill(SKILLS, table=False)
    await market.index(SKILLS)
    turns = 0
    walking = asyncio.ensure_future(walk(market.env))
    while not walking.done():
        turns += 1
        await asyncio.sleep(0)
    await walking
    assert turns >= len(SKILLS) // TURN
