"""A rebuild that is cut off, abandoned or refused: it goes on, and its report stays right."""

import asyncio
from typing import Any

import pytest

from marketplace.consumers import MAINTENANCE_QUEUE, consume
from marketplace.rebuild import (
    start_rebuild,
)
from tests.simulation.loop import Invocation, current_loop
from tests.simulation.loop import finished as ended
from tests.unit.operations_support import Delivered, Market, run
from tests.unit.rebuild_support import changes, damaged, deliver, finished, numbers, rebuild


async def _turn(_operation: str) -> None:
    """Give each of the database's operations an await at which it can be cut off."""
    await asyncio.sleep(0)


async def _killed(market: Market, body: Any, *, cut_at: int) -> bool:
    """Deliver a message to an invocation that dies at one of its awaits; whether it did."""
    loop = current_loop()
    invocation = Invocation("step", cut_at=cut_at)
    loop.start(invocation, consume(market.env, MAINTENANCE_QUEUE, [Delivered(body)]))
    await ended(invocation)
    return invocation.was_cut


async def _reported(market: Market, *, cut_at: int | None) -> tuple[dict[str, int], bool]:
    """The report of a rebuild whose first step was killed and then delivered again."""
    await damaged(market)
    market.tables.before = market.tables.after = _turn
    job = await start_rebuild(market.env)
    body = market.maintenance.bodies[0]
    was_cut = cut_at is not None and await _killed(market, body, cut_at=cut_at)
    if not was_cut:
        await deliver(market)
    else:
        await consume(market.env, MAINTENANCE_QUEUE, [Delivered(body)])
    await deliver(market)
    report = numbers(await finished(market, job.id))
    market.tables.before = market.tables.after = _nothing
    assert not any(changes(await rebuild(market)))
    return report, was_cut


async def _nothing(_operation: str) -> None:
    pass


@pytest.mark.parametrize("first", range(1, 9))
def test_killed_at_any_await_the_report_is_that_of_an_undisturbed_run(first: int) -> None:
    undisturbed, _ = run(lambda market: _reported(market, cut_at=None))
    cut_at, was_cut = first, True
    while was_cut:

        async def test(market: Market) -> tuple[dict[str, int], bool]:
            return await _reported(market, cut_at=cut_at)  # noqa: B023

        report, was_cut = run(test)
        assert report == undisturbed, f"cut off at {cut_at}"
        cut_at += 8
    assert cut_at > 100
