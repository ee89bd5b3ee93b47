"""A check mends the totals that PostgreSQL keeps, and tells that they were wrong."""

from marketplace.repair.light_repair import run_light_repair
from tests.doubles.marketplace import Market


async def test_a_check_mends_totals_and_the_next_one_finds_nothing(market: Market) -> None:
    market.tables.miscounted = 2
    assert (await run_light_repair(market.env)).totals_mended == 2
    assert market.log.events().count("totals-mended") == 1

    assert (await run_light_repair(market.env)).totals_mended == 0
    assert market.log.events().count("totals-mended") == 1
