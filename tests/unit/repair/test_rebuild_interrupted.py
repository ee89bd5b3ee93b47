"""A rebuild that is cut off, abandoned or refused: it goes on, and its report stays right."""

import asyncio
from functools import partial
from typing import Any

import pytest

from marketplace.health.check import check_health
from marketplace.kv.records import enumerate_published_skills
from marketplace.ports.env import Settings
from marketplace.ports.errors import DatabaseError
from marketplace.repair.light_repair import run_light_repair
from marketplace.repair.rebuild import (
    MAX_RESUMED,
    STALLED_SECONDS,
    get_rebuild,
    resume_stalled,
    start_rebuild,
)
from marketplace.worker.consumers import MAINTENANCE_QUEUE, consume
from tests.doubles.database import no_hook
from tests.doubles.loop import Invocation, current_loop
from tests.doubles.loop import finished as ended
from tests.doubles.marketplace import REFUSED, Delivered, Market, fault, make_skills, run
from tests.doubles.network import Fault
from tests.unit.repair.rebuilds import changes, damaged, deliver, finished, numbers, rebuild


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


async def _interrupted(market: Market, *, cut_at: int) -> bool:
    """A rebuild whose first step is killed and delivered again, and one after it; whether it was
    killed."""
    await damaged(market)
    market.tables.before = market.tables.after = _turn
    job = await start_rebuild(market.env)
    body = market.maintenance.bodies.pop(0)
    was_cut = await _killed(market, body, cut_at=cut_at)
    await consume(market.env, MAINTENANCE_QUEUE, [Delivered(body)])
    await deliver(market)
    report = await finished(market, job.id)
    assert report["ok"]
    assert report["rebuilt"] == 49
    assert report["resumed"] <= was_cut
    market.tables.before = market.tables.after = no_hook
    await run_light_repair(market.env)  # rows that KV is not known to hold
    with await market.database() as database:
        unknown = [skill.name for skill in await database.skills_not_in_kv(limit=100)]
    assert unknown == ["wanted"], cut_at  # another's record, which PostgreSQL refuses, is there
    assert not any(changes(await rebuild(market))), cut_at
    return was_cut


@pytest.mark.parametrize("first", range(1, 9))
def test_killed_at_any_await_the_next_rebuild_finds_nothing_to_do(first: int) -> None:
    cut_at, was_cut = first, True
    while was_cut:
        was_cut = run(partial(_interrupted, cut_at=cut_at))
        cut_at += 8
    assert cut_at > 100


async def test_a_failed_first_step_goes_on_through_the_queue(market: Market) -> None:
    await market.fill(make_skills(30), table=False)
    market.kv.faults = fault(Fault.FAIL, "list")
    job = await start_rebuild(market.env, wait_seconds=5)
    assert not job.complete
    market.kv.faults = None
    await deliver(market)
    report = await finished(market, job.id)
    assert (report["ok"], report["prismaBackfilled"], report["rebuilt"]) == (True, 30, 30)


async def test_a_restart_of_postgres_costs_a_retry_and_not_the_rest_of_the_rebuild(
    market: Market,
) -> None:
    await market.fill(make_skills(30), table=False)

    async def restarting(operation: str) -> None:
        if operation == "upsert_skills":
            raise DatabaseError("the server is shutting down")

    market.tables.before = restarting
    job = await start_rebuild(market.env)
    (body,) = market.maintenance.bodies
    first = Delivered(body)
    await consume(market.env, MAINTENANCE_QUEUE, [first])
    assert first.retried
    market.tables.before = no_hook
    await deliver(market)
    report = await finished(market, job.id)
    assert (report["ok"], report["prismaBackfilled"], report["rebuilt"]) == (True, 30, 30)


async def test_one_that_postgres_refuses_is_found_without_asking_for_each(market: Market) -> None:
    await market.fill(make_skills(200), table=False)
    await market.fill(make_skills(1, "refused", category=REFUSED), table=False)
    upserts = 0

    async def count(operation: str) -> None:
        nonlocal upserts
        upserts += operation == "upsert_skills"

    market.tables.before = count
    report = await rebuild(market)
    assert report["prismaBackfilled"] == 200
    assert [error["key"] for error in report["errorDetails"]] == ["skill:refused-00000"]
    assert upserts <= 20


async def test_long_descriptions_make_smaller_statements(market: Market) -> None:
    await market.fill(make_skills(300, description="x" * 19_000), table=False)
    upserts = 0

    async def count(operation: str) -> None:
        nonlocal upserts
        upserts += operation == "upsert_skills"

    market.tables.before = count
    assert (await rebuild(market))["prismaBackfilled"] == 300
    assert upserts == 3


@pytest.mark.market(settings=Settings(kv_operation_budget=100), page_limit=40)
async def test_records_written_without_metadata_get_it_in_steps_within_the_limits(
    market: Market,
) -> None:
    skills = make_skills(150)
    await market.fill(skills)
    for skill in skills:
        key = f"skill:{skill.name}"
        market.kv.damage(key, market.kv.peek(key))
    dry = await rebuild(market, dry_run=True)
    report = await rebuild(market)
    assert numbers(dry) == numbers(report)
    assert report["metadataRestored"] == 150
    assert report["progress"]["steps"] > 2
    assert report["progress"]["maxKvOperations"] <= 100
    assert not any(changes(await rebuild(market)))
    before = market.kv.operations["get_many"]
    async for page in enumerate_published_skills(market.env):
        assert page.without_metadata == []
    assert market.kv.operations["get_many"] == before


# --- what got lost ----------------------------------------------------------------------------


async def _unfinished(market: Market) -> str | None:
    job = await resume_stalled(market.env)
    return None if job is None else job.id


async def _wait(seconds: float) -> None:
    await asyncio.sleep(seconds)  # of virtual time


async def test_a_rebuild_whose_message_was_lost_is_resumed(market: Market) -> None:
    await market.fill(make_skills(30), table=False)
    job = await start_rebuild(market.env)
    market.maintenance.bodies.clear()
    assert await _unfinished(market) == job.id
    assert market.maintenance.bodies == []  # it may still be on its way
    await _wait(STALLED_SECONDS + 1)
    assert await _unfinished(market) == job.id
    await deliver(market)
    assert (await finished(market, job.id))["prismaBackfilled"] == 30
    assert await _unfinished(market) is None


async def test_a_first_step_that_died_with_its_request_is_resumed(market: Market) -> None:
    await market.fill(make_skills(30), table=False)
    market.tables.before = market.tables.after = _turn
    invocation = Invocation("request", cut_at=25)
    current_loop().start(invocation, start_rebuild(market.env, wait_seconds=5))
    await ended(invocation)
    assert invocation.was_cut
    await _wait(STALLED_SECONDS + 1)
    job_id = await _unfinished(market)
    assert job_id is not None
    await deliver(market)
    report = await finished(market, job_id)
    assert (report["rebuilt"], report["resumed"]) == (30, 1)


async def test_a_rebuild_that_never_moves_is_ended_with_a_report(market: Market) -> None:
    await market.fill(make_skills(30), table=False)
    job = await start_rebuild(market.env)
    for _ in range(MAX_RESUMED):
        market.maintenance.bodies.clear()
        await _wait(STALLED_SECONDS + 1)
        assert await _unfinished(market) == job.id
    await _wait(STALLED_SECONDS + 1)
    assert await _unfinished(market) is None
    kept = await get_rebuild(market.env, job.id)
    assert kept is not None
    assert kept.failure == "stalled"
    health = await check_health(market.env)
    assert health.last_repair["ok"] is False
    assert health.last_repair["errorDetails"][0]["reason"].startswith("stalled")
