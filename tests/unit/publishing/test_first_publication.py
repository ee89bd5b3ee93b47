"""When a skill was first published is the same, in whatever order and store it comes."""

import asyncio
from itertools import permutations

import pytest

from marketplace.kv.records import read_record
from marketplace.publishing.publish import publish_skills
from marketplace.skills.change import State
from marketplace.skills.scan import Facts
from marketplace.skills.skill import Skill
from tests.doubles.database import no_hook
from tests.doubles.marketplace import (
    EARLIER,
    LATER,
    Market,
    kv_away,
    make_skill,
    postgres_away,
    without_postgres,
)
from tests.unit.publishing.reports import deliver, items, report, reported, row, submitted
from tests.unit.repair.rebuilds import changes, rebuild

FIRST = "2026-01-01T00:00:01.000Z"
EARLY = make_skill("reader", published_at=EARLIER)
LATE = make_skill("reader", published_at=LATER)


async def _expect(market: Market, moment: str) -> None:
    """In row and record, and in the listing out of either."""
    assert row(market).published_at == moment
    record = await read_record(market.env, row(market).name)
    assert isinstance(record, Skill)
    assert record.published_at == moment
    for env in (market.env, without_postgres(market)):
        (item,) = await items(env)
        assert item["publishedAt"] == moment


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("away", [None, "postgres", "kv"])
async def test_verdicts_may_come_in_any_order(
    market: Market, order: tuple[int, ...], away: str | None
) -> None:
    await asyncio.sleep(1)
    for number in range(3):
        await submitted(market, f"{number}")
        facts = Facts(name="Reader", description=f"{number}")
        await reported(market, report(f"{number}", skill=facts))
        await asyncio.sleep(1)
    messages = market.publish.bodies.copy()
    market.publish.bodies.clear()
    for place, number in enumerate(order):
        market.publish.bodies.append(messages[number])
        if place == 1:
            if away == "postgres":
                market.tables.before = postgres_away
            market.kv.faults = kv_away if away == "kv" else None
        await deliver(market)
        market.tables.before, market.kv.faults = no_hook, None
        await deliver(market)
    await rebuild(market)
    await _expect(market, FIRST)
    assert row(market).description == "2"
    assert not any(changes(await rebuild(market)))


@pytest.mark.parametrize("states", [(EARLY, LATE), (LATE, EARLY)])
async def test_of_one_state_the_earlier_first_publication_stays(
    market: Market, states: tuple[Skill, Skill]
) -> None:
    for state in states:
        await publish_skills(market.env, [State(state)])
    await _expect(market, EARLIER)
    assert row(market).revision == EARLY.revision == LATE.revision


@pytest.mark.parametrize("earlier", ["row", "record"])
async def test_a_repair_sees_stores_that_differ_in_it_alone(market: Market, earlier: str) -> None:
    await market.fill([EARLY if earlier == "row" else LATE], kv=False)
    await market.fill([LATE if earlier == "row" else EARLY], table=False)
    await market.mark([EARLY])
    dry = await rebuild(market, dry_run=True)
    real = await rebuild(market)
    assert changes(dry) == changes(real) == [earlier == "record", earlier == "row", 0, 0, 0]
    await _expect(market, EARLIER)
    assert not any(changes(await rebuild(market)))


async def test_what_kv_lacks_of_it_waits_for_the_light_repair(market: Market) -> None:
    await market.fill([LATE])
    market.kv.faults = kv_away
    await publish_skills(market.env, [State(EARLY)])
    market.kv.faults = None
    with await market.database() as database:
        assert await database.skills_not_in_kv(limit=9) == [row(market)]
