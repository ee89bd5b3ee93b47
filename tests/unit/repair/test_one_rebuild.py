"""One rebuild at a time: calls while one runs, messages that come twice or late, lost databases."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from marketplace.kv.keys import INDEX_KEY, INDEX_PAGE_PREFIX
from marketplace.ports.database import DatabaseSession
from marketplace.ports.errors import DatabaseError
from marketplace.repair.cron import NIGHTLY_CRON, run_scheduled
from marketplace.repair.rebuild import (
    MAX_ATTEMPTS,
    STALLED_SECONDS,
    DatabaseNeeded,
    get_rebuild,
    resume_stalled,
    start_rebuild,
)
from marketplace.repair.rebuild_job import MAX_PLACED, RebuildJob, load_rebuilds, new_job
from marketplace.worker.consumers import MAINTENANCE_QUEUE, consume
from tests.doubles.marketplace import Delivered, Market, make_skills, postgres_away
from tests.doubles.network import Fault
from tests.unit.repair.rebuilds import changes, deliver, finished, rebuild


async def _turn(_operation: str) -> None:
    """Let others run between any two statements."""
    await asyncio.sleep(0)


async def _step(market: Market) -> None:
    """Deliver the next message."""
    message = Delivered(market.maintenance.bodies.pop(0))
    await consume(market.env, MAINTENANCE_QUEUE, [message])
    assert message.acknowledged


async def _failure(market: Market, job: RebuildJob) -> str | None:
    kept = await get_rebuild(market.env, job.id)
    assert kept is not None
    assert kept.complete
    return kept.failure


async def test_the_message_carries_the_id_alone(market: Market) -> None:
    job = await start_rebuild(market.env)
    assert market.maintenance.bodies == [{"rebuildJob": job.id}]


async def test_calls_while_one_runs_are_answered_with_the_one_that_will_follow_it(
    market: Market,
) -> None:
    await market.fill(make_skills(20), table=False)
    first = await start_rebuild(market.env)
    second = await start_rebuild(market.env, wait_seconds=5)
    third = await start_rebuild(market.env)
    assert second.id == third.id != first.id
    assert not second.complete
    kept = await get_rebuild(market.env, second.id)
    assert kept is not None
    assert not kept.complete
    assert len(market.maintenance.bodies) == 1
    await _step(market)
    assert (await finished(market, first.id))["prismaBackfilled"] == 20
    await deliver(market)
    assert (await finished(market, second.id))["prismaBackfilled"] == 0
    assert await _failure(market, first) is None  # the one before stays to be seen


async def test_of_two_calls_at_the_same_moment_one_begins_and_the_other_follows(
    market: Market,
) -> None:
    market.tables.before = market.tables.after = _turn
    jobs = await asyncio.gather(
        *(start_rebuild(replace(market.env), wait_seconds=5) for _ in range(4))
    )
    assert len({job.id for job in jobs}) == 2
    assert sum(job.complete for job in jobs) == 1
    await deliver(market)
    for job in jobs:
        assert await _failure(market, job) is None


async def test_a_real_call_ends_a_dry_run(market: Market) -> None:
    await market.fill(make_skills(20), table=False)
    dry = await start_rebuild(market.env, dry_run=True)
    real = await start_rebuild(market.env)
    assert await _failure(market, dry) == "superseded"
    await deliver(market)
    assert (await finished(market, real.id))["prismaBackfilled"] == 20


async def test_a_dry_run_that_is_ended_within_a_step_does_not_go_on(market: Market) -> None:
    await market.fill(make_skills(20), table=False)
    dry = await start_rebuild(market.env, dry_run=True)
    real: list[RebuildJob] = []

    async def meanwhile(operation: str) -> None:
        if operation == "check_skills" and not real:
            real.append(await start_rebuild(replace(market.env)))

    market.tables.before = meanwhile
    await _step(market)
    assert await _failure(market, dry) == "superseded"
    assert market.maintenance.bodies == [{"rebuildJob": real[0].id}]
    await deliver(market)
    assert (await finished(market, real[0].id))["prismaBackfilled"] == 20


@pytest.mark.parametrize("dry_run_first", [True, False])
async def test_what_follows_is_real_where_one_call_asked_for_that(
    market: Market, dry_run_first: bool
) -> None:
    await start_rebuild(market.env)
    asked = [
        await start_rebuild(market.env, dry_run=dry_run)
        for dry_run in (dry_run_first, not dry_run_first)
    ]
    assert asked[0].id == asked[1].id
    await deliver(market)
    assert (await finished(market, asked[0].id))["dryRun"] is False


async def test_a_message_of_another_rebuild_is_acknowledged_and_does_nothing(
    market: Market,
) -> None:
    await rebuild(market)
    job = await start_rebuild(market.env)
    before = dict(market.tables.states)
    market.maintenance.bodies.append({"rebuildJob": "another"})
    market.maintenance.bodies.reverse()
    operations = market.kv.operations.total()
    await _step(market)
    assert (market.tables.states, market.kv.operations.total()) == (before, operations)
    await deliver(market)
    assert await _failure(market, job) is None


async def test_a_message_that_comes_late_does_nothing(market: Market) -> None:
    job = await start_rebuild(market.env)
    (body,) = market.maintenance.bodies
    await deliver(market)
    before = dict(market.tables.states)
    market.maintenance.bodies.append(body)
    await _step(market)
    assert market.tables.states == before
    assert market.maintenance.bodies == []
    assert await _failure(market, job) is None


async def test_a_message_delivered_twice_at_once_leaves_one_that_goes_on(market: Market) -> None:
    await market.fill(make_skills(40), table=False)
    job = await start_rebuild(market.env)
    (body,) = market.maintenance.bodies
    market.maintenance.bodies.clear()
    market.tables.before = market.tables.after = _turn
    deliveries = [Delivered(body), Delivered(body)]
    await asyncio.gather(
        *(
            consume(
                replace(market.env, database=DatabaseSession(market.tables.connect)),
                MAINTENANCE_QUEUE,
                [delivery],
            )
            for delivery in deliveries
        )
    )
    assert all(delivery.acknowledged for delivery in deliveries)
    assert len(market.maintenance.bodies) <= 1
    await deliver(market)
    report = await finished(market, job.id)
    assert (report["ok"], report["rebuilt"], report["resumed"]) == (True, 40, 1)
    assert not any(changes(await rebuild(market)))


async def test_with_postgres_away_a_rebuild_stands_still_and_goes_on_afterwards(
    market: Market,
) -> None:
    await market.fill(make_skills(20), table=False)
    job = await start_rebuild(market.env)
    (body,) = market.maintenance.bodies
    market.maintenance.bodies.clear()

    env = replace(market.env, database=DatabaseSession(postgres_away))
    last = Delivered(body, attempts=MAX_ATTEMPTS)
    await consume(env, MAINTENANCE_QUEUE, [last])
    assert last.acknowledged
    with pytest.raises(DatabaseNeeded):
        await get_rebuild(env, job.id)
    await asyncio.sleep(STALLED_SECONDS + 1)
    assert await resume_stalled(env) is None
    assert await resume_stalled(market.env) is not None
    await deliver(market)
    assert (await finished(market, job.id))["prismaBackfilled"] == 20


async def test_a_statement_that_fails_at_every_attempt_ends_no_rebuild_at_once(
    market: Market,
) -> None:
    await market.fill(make_skills(20), table=False)
    job = await start_rebuild(market.env)
    (body,) = market.maintenance.bodies
    market.maintenance.bodies.clear()

    async def failing(operation: str) -> None:
        if operation == "upsert_skills":
            raise DatabaseError("away")

    market.tables.before = failing
    await consume(market.env, MAINTENANCE_QUEUE, [Delivered(body, attempts=MAX_ATTEMPTS)])
    kept = await get_rebuild(market.env, job.id)
    assert kept is not None
    assert not kept.complete


async def test_a_repeated_step_writes_index_pages_under_keys_of_its_own(market: Market) -> None:
    await market.fill(make_skills(20))
    await start_rebuild(market.env)
    (body,) = market.maintenance.bodies
    market.maintenance.bodies.clear()
    market.kv.faults = lambda operation: Fault.FAIL if operation.key == INDEX_KEY else None
    await consume(market.env, MAINTENANCE_QUEUE, [Delivered(body)])
    market.kv.faults = None
    await consume(market.env, MAINTENANCE_QUEUE, [Delivered(body, attempts=2)])
    pages = market.kv.keys(INDEX_PAGE_PREFIX)
    assert [page.split(":")[-2:] for page in pages] == [["0", "0"], ["1", "0"]]


async def test_two_triggers_close_together_run_one_rebuild(market: Market) -> None:
    await market.fill(make_skills(20), table=False)
    await run_scheduled(market.env, NIGHTLY_CRON)
    await run_scheduled(market.env, NIGHTLY_CRON)
    await run_scheduled(market.env, "*/5 * * * *")
    assert len(market.maintenance.bodies) == 1
    rebuilds = await load_rebuilds(market.env)
    assert rebuilds is not None
    assert rebuilds.following is None


async def test_a_call_finds_that_the_current_one_stands_still(market: Market) -> None:
    await start_rebuild(market.env)
    market.maintenance.bodies.clear()
    await asyncio.sleep(STALLED_SECONDS + 1)
    job = await start_rebuild(market.env)
    await deliver(market)
    assert await _failure(market, job) is None


async def test_what_was_placed_ahead_stays_bounded(market: Market) -> None:
    job = new_job(market.env, dry_run=False)
    for number in range(MAX_PLACED + 10):
        job.place(f"{number:064}")
    assert len(msgspec.json.encode(job)) < 5_000_000


@pytest.mark.parametrize("body", [{"rebuildJob": {"id": "old"}}, {"other": 1}, [], None])
async def test_a_message_without_an_id_is_logged_and_acknowledged(
    market: Market, body: object
) -> None:
    message = Delivered(body)
    await consume(market.env, MAINTENANCE_QUEUE, [message])
    assert message.acknowledged
    assert market.log.events() == ["rebuild-message-malformed"]
