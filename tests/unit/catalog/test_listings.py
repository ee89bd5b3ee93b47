"""Counts of categories, from every source in the same order."""

from dataclasses import replace

import pytest

from marketplace.catalog import listings
from marketplace.ports.database import DatabaseSession
from marketplace.skills.seed import load_seed
from tests.doubles.marketplace import Market, make_skill, postgres_away


@pytest.mark.parametrize("away", [False, True])
async def test_the_largest_category_comes_first_and_equal_ones_by_name(
    market: Market, away: bool
) -> None:
    categories = ["zebra", "yak", "xerus", "yak", "xerus", "xylo", "zebra", "zebra"]
    await market.fill([make_skill(f"own-{n}", category=each) for n, each in enumerate(categories)])
    env = replace(market.env, database=DatabaseSession(postgres_away)) if away else market.env
    seeded = {summary.category for summary in load_seed().skills}
    counted = (await listings.get_skill_categories(env)).value
    own = [(name, count) for name, count in counted.items() if name not in seeded]
    assert own == [("zebra", 3), ("xerus", 2), ("yak", 2), ("xylo", 1)]
