"""110,000 skills, a KV whose calls take up to half a second or for ever, and no PostgreSQL.

Each answer comes in time, is marked, never the seed's alone, and says what it lacks. At a hundredth
of the size (`slow_kv`); ``tests/long`` has the same at full size, and in real time.
"""

import asyncio
from collections.abc import Iterator

import pytest

from marketplace.catalog.published_skills import KEPT_FROM_BEFORE
from marketplace.kv.keys import INDEX_KEY
from marketplace.ports.isolate import KEPT_SECONDS, FallbackCache
from tests.doubles.loop import SimulatedLoop
from tests.doubles.marketplace import Market
from tests.unit.catalog.slow_kv import (
    QUESTIONS,
    Calls,
    Postgres,
    Question,
    SlowMarket,
    fill,
    judge,
    scaled,
)

PART = 100
SLOW = (Calls.MS_100, Calls.MS_300, Calls.MS_500, Calls.HANGING)
LISTINGS = [name for name, question in QUESTIONS.items() if question.is_listing]


@pytest.fixture(autouse=True)
def _scaled() -> Iterator[None]:
    with scaled(PART):
        yield


@pytest.fixture
def slow(loop: SimulatedLoop, market: Market) -> SlowMarket:
    slow: SlowMarket = loop.run_until_complete(fill(market, part=PART, index=True))
    return slow


@pytest.mark.parametrize("postgres", Postgres)
@pytest.mark.parametrize("index", [True, False], ids=["index", "no index"])
@pytest.mark.parametrize("calls", SLOW)
async def test_each_answer_comes_in_time_and_says_what_it_lacks(
    slow: SlowMarket, calls: Calls, postgres: Postgres, *, index: bool
) -> None:
    if not index:
        slow.market.kv.damage(INDEX_KEY, None)
    slow.calls, slow.postgres = calls, postgres
    for name, question in QUESTIONS.items():
        slow.memory = FallbackCache()  # a new isolate
        first = await slow.ask(question)
        judge(name, first, slow.whole)
        second = await slow.ask(question)
        judge(name, second, slow.whole)
        if calls is not Calls.HANGING:
            assert second.seconds <= first.seconds + 0.001, name
            if question.is_listing:
                assert (second.total or 0) >= (first.total or 0), name


READ_IN_TIME = {
    (Calls.MS_100, Postgres.REFUSES): 1.0,
    (Calls.MS_100, Postgres.HANGS): 1.0,
    (Calls.MS_300, Postgres.REFUSES): 0.7,
    (Calls.MS_300, Postgres.HANGS): 0.1,
    (Calls.MS_500, Postgres.REFUSES): 0.3,
}
"""The share of 110,000 skills that a new isolate reads out of the index in time."""


@pytest.mark.parametrize(("cell", "share"), READ_IN_TIME.items(), ids=str)
@pytest.mark.parametrize("name", ["listing", "count", "categories"])
async def test_the_index_makes_up_for_all_records_that_cannot_be_listed_in_time(
    slow: SlowMarket, name: str, cell: tuple[Calls, Postgres], share: float
) -> None:
    slow.calls, slow.postgres = cell
    assert ((await slow.ask(QUESTIONS[name])).total or 0) >= share * slow.whole


@pytest.mark.parametrize("postgres", Postgres)
@pytest.mark.parametrize("calls", [Calls.MS_100, Calls.MS_300, Calls.MS_500])
async def test_a_skill_is_answered_whatever_the_calls_take(
    slow: SlowMarket, calls: Calls, postgres: Postgres
) -> None:
    slow.calls, slow.postgres = calls, postgres
    asked = await slow.ask(QUESTIONS["one skill"])
    assert asked.response.status_code == 200
    assert asked.calls <= 3


@pytest.mark.parametrize("postgres", Postgres)
@pytest.mark.parametrize("calls", SLOW)
async def test_a_skill_that_nobody_has_seen_is_not_said_to_be_missing(
    slow: SlowMarket, calls: Calls, postgres: Postgres
) -> None:
    slow.calls, slow.postgres = calls, postgres
    asked = await slow.ask(Question("/api/v1/skills/never-published"))
    assert asked.response.status_code == 503


@pytest.mark.parametrize("postgres", Postgres)
@pytest.mark.parametrize("calls", SLOW)
async def test_the_last_whole_answer_stands_in_while_kv_is_slow_and_the_index_gone(
    slow: SlowMarket, calls: Calls, postgres: Postgres
) -> None:
    whole = {name: (await slow.ask(QUESTIONS[name])).total for name in LISTINGS}
    assert whole["listing"] == slow.whole
    slow.market.kv.damage(INDEX_KEY, None)
    slow.calls, slow.postgres = calls, postgres
    await asyncio.sleep(KEPT_SECONDS - 60)
    for name in LISTINGS:
        asked = await slow.ask(QUESTIONS[name])
        judge(name, asked, slow.whole)
        assert asked.total == whole[name], name
        assert KEPT_FROM_BEFORE in asked.document["reasons"], name
    await asyncio.sleep(KEPT_SECONDS)
    assert (await slow.ask(QUESTIONS["listing"])).total != slow.whole


async def test_three_reads_of_a_postgres_that_hangs_leave_kv_the_time_of_the_next(
    slow: SlowMarket,
) -> None:
    slow.calls, slow.postgres = Calls.MS_300, Postgres.HANGS
    totals = [(await slow.ask(QUESTIONS["listing"])).total for _ in range(4)]
    assert totals[3] is not None
    assert totals[3] > 0.9 * slow.whole > (totals[0] or 0)
