"""Every check makes installs and trends of the counts, and brings them to KV; bounded."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import count

import pytest

from marketplace.catalog.listings import get_skills
from marketplace.catalog.lookup import get_skill_by_name
from marketplace.installs import measuring
from marketplace.installs.counting import Install, count_installs
from marketplace.installs.measuring import measure_installs, write_measured
from marketplace.kv.records import read_record
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import get_db
from marketplace.repair.light_repair import run_light_repair
from marketplace.skills.listing_rules import ListingQuery, SortField
from marketplace.skills.skill import Skill
from tests.doubles.marketplace import Market, fault, make_skill, postgres_away
from tests.doubles.network import Fault

NAMES = ("a", "b", "c")


async def report(market: Market, *names: str) -> None:
    assert all(await count_installs(market.env, [Install(name) for name in names]))


async def record_of(market: Market, name: str) -> Skill:
    record = await read_record(market.env, name)
    assert isinstance(record, Skill)
    return record


def _same(moment: datetime) -> datetime:
    return moment


def measured(skill: Skill) -> tuple[int, float, float]:
    return skill.installs, skill.trending_score_7d, skill.trending_score_30d


async def listed(market: Market, sort_by: SortField) -> Sequence[str]:
    answer = await get_skills(market.env, ListingQuery(sort_by=sort_by))
    return [item.decode().split('"')[3] for item in answer.value.items]


async def test_a_check_shows_installs_in_answers_listings_and_records(market: Market) -> None:
    await market.fill([make_skill(name) for name in NAMES])
    await report(market, "b", "b", "c")
    check = await run_light_repair(market.env)
    assert (check.measured, check.measured_in_kv, check.errors) == (2, 2, [])

    found = await get_skill_by_name(market.env, "b")
    assert found is not None
    assert measured(found.value) == measured(await record_of(market, "b")) == (2, 2, 2)
    for field in (SortField.INSTALLS, SortField.TRENDING_SCORE_7D):
        assert await listed(market, field) == ["b", "c", "a"]
        market.env = replace(market.env, database=DatabaseSession(postgres_away))
        assert await listed(market, field) == ["b", "c", "a"]
        market.env = replace(market.env, database=DatabaseSession(market.tables.connect))

    again = await run_light_repair(market.env)
    assert (again.measured, again.measured_in_kv) == (0, 0)


async def test_what_is_measured_makes_no_state_and_no_version(market: Market) -> None:
    await market.fill([make_skill("a")])
    before = await record_of(market, "a")
    await report(market, "a")
    await run_light_repair(market.env)
    after = await record_of(market, "a")
    assert (after.revision, after.updated_at) == (before.revision, before.updated_at)
    assert await (await get_db(market.env)).skills_not_in_kv(limit=9) == []


async def test_a_trend_ends_with_its_days_and_the_total_stays(market: Market) -> None:
    await market.fill([make_skill("a")])
    await report(market, "a")
    begun = market.env.clock()
    for days, expected in ((6, (1, 1, 1)), (7, (1, 0, 1)), (29, (1, 0, 1)), (30, (1, 0, 0))):
        now = begun + timedelta(days=days)
        market.env = replace(market.env, clock=partial(_same, now))
        await run_light_repair(market.env)
        assert measured(await record_of(market, "a")) == expected, days


async def test_a_check_goes_on_where_the_last_one_stopped(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "ROWS", 1)
    monkeypatch.setattr(measuring, "STATEMENTS", 2)
    await market.fill([make_skill(name) for name in NAMES])
    await report(market, *NAMES)
    assert [await measure_installs(market.env) for _ in range(3)] == [2, 1, 0]


async def test_a_check_writes_few_records_and_the_next_ones_the_others(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "MOST_RECORDS", 2)
    await market.fill([make_skill(name) for name in NAMES])
    await report(market, *NAMES)
    await measure_installs(market.env)
    assert await write_measured(market.env) == 2
    await report(market, "a", "b")  # those in front change all the time
    await measure_installs(market.env)
    assert await write_measured(market.env) == 1
    assert [(await record_of(market, name)).installs for name in NAMES] == [1, 1, 1]
    assert await write_measured(market.env) == 2
    assert [(await record_of(market, name)).installs for name in NAMES] == [2, 2, 1]


async def test_while_kv_takes_nothing_it_is_tried_again(market: Market) -> None:
    await market.fill([make_skill("a")])
    await report(market, "a")
    await measure_installs(market.env)
    market.kv.faults = fault(Fault.FAIL, "put")
    assert await write_measured(market.env) == 0
    market.kv.faults = None
    assert await write_measured(market.env) == 1


async def test_a_check_that_takes_long_leaves_the_rest_to_the_next(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "ROWS", 1)
    await market.fill([make_skill(name) for name in NAMES])
    await report(market, *NAMES)
    begun, times = market.env.clock(), count()
    slow = replace(market.env, clock=lambda: begun + timedelta(seconds=9 * next(times)))
    assert 0 < await measure_installs(slow) < len(NAMES)
    assert await measure_installs(market.env) > 0
    assert await measure_installs(market.env) == 0
