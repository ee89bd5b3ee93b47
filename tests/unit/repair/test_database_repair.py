"""A database that lost changes is repaired before anything else uses it; another one is adopted."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from marketplace.catalog.listings import get_skills
from marketplace.kv.acknowledged import ASK_AGAIN, READ_EVERY, acknowledge, repairing
from marketplace.kv.keys import ACKNOWLEDGED_KEY
from marketplace.kv.records import write_record
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import KV_LATENESS, Env
from marketplace.ports.errors import DatabaseError
from marketplace.ports.known_database import Acknowledged
from marketplace.publishing.publish import publish_skill
from marketplace.repair.cron import NIGHTLY_CRON, run_scheduled
from marketplace.repair.rebuild import (
    REPAIR_PAUSE_SECONDS,
    STALLED_SECONDS,
    DatabaseNeeded,
    get_rebuild,
    resume_stalled,
    start_rebuild,
)
from marketplace.repair.rebuild_job import RebuildJob, load_rebuilds
from marketplace.skills.listing_rules import ListingQuery
from marketplace.worker.consumers import MAINTENANCE_QUEUE, consume
from tests.doubles.database import Hook, no_hook
from tests.doubles.marketplace import Delivered, Market, make_skill, make_skills

SKILLS = make_skills(12)
CHECK = "*/5 * * * *"


def fresh(market: Market) -> Env:
    """The Env of an invocation in an isolate that knows nothing yet."""
    return replace(market.env, database=DatabaseSession(market.tables.connect))


async def published(market: Market) -> None:
    """Twelve skills, acknowledged, and later readers that know of it."""
    for skill in SKILLS:
        await publish_skill(market.env, skill)
    await acknowledge(market.env, every=0)


def acknowledged(market: Market) -> Acknowledged:
    """What KV has."""
    value = market.kv.peek(ACKNOWLEDGED_KEY)
    assert value is not None
    return msgspec.json.decode(value, type=Acknowledged)


def restored(market: Market, count: int = 3) -> None:
    """The table as it was when it had the first few skills; a dump has all other tables too."""
    market.lose_rows(SKILLS[count:])
    market.tables.changes = count
    market.tables.missing_until = None
    market.tables.states.clear()


def another(market: Market) -> None:
    """An empty database in its place."""
    restored(market, 0)
    market.tables.instance = "another"


async def listed(env: Env) -> tuple[int, tuple[str, ...]]:
    """How many skills a listing has, and why it is degraded."""
    answer = await get_skills(env, ListingQuery(limit=100))
    return answer.value.total, answer.reasons


async def deliver(market: Market, *, most: int = 100) -> None:
    """Consume messages until none is left, each of them when it is due."""
    for _ in range(most):
        if not market.maintenance.bodies:
            return
        message = Delivered(market.maintenance.bodies.pop(0))
        await consume(fresh(market), MAINTENANCE_QUEUE, [message])
        (settled,) = message.settled
        if settled != "ack":
            await asyncio.sleep(float(settled.rpartition(" ")[2]))
            market.maintenance.bodies.append(message.body)
    assert not market.maintenance.bodies


async def current(market: Market) -> RebuildJob:
    """The rebuild that is current."""
    rebuilds = await load_rebuilds(repairing(fresh(market), adopt=True))
    assert rebuilds is not None
    return rebuilds.current


async def test_a_restored_database_is_repaired_and_then_believed(market: Market) -> None:
    await published(market)
    restored(market)
    assert await listed(fresh(market)) == (12, ("postgres: older-state",))
    await deliver(market)

    assert len(market.tables.rows) == 12
    assert await listed(fresh(market)) == (12, ())
    assert acknowledged(market).instance == "the double"
    assert acknowledged(market).changes == market.tables.changes >= 12
    assert (await current(market)).failure is None
    assert await listed(market.env) == (12, ())  # an isolate that has seen it all
    assert market.maintenance.bodies == []


async def test_an_emptied_table_is_repaired_and_then_believed(market: Market) -> None:
    """Its instance and its number are as they were."""
    await published(market)
    before = market.tables.changes
    market.delete_rows(SKILLS)
    assert await listed(market.env) == (12, ("postgres: older-state",))
    assert await listed(fresh(market)) == (12, ("postgres: older-state",))
    await deliver(market)

    assert len(market.tables.rows) == 12
    assert await listed(fresh(market)) == (12, ())
    assert await listed(market.env) == (12, ())
    assert acknowledged(market).changes == market.tables.changes >= before
    assert market.maintenance.bodies == []


async def test_what_is_lost_soon_after_a_repair_is_repaired_too(market: Market) -> None:
    """Though an isolate asks for one repair of a loss only."""
    settings = replace(market.env.settings, kv_lateness=0.0)
    market.env = replace(market.env, settings=settings)
    await published(market)
    for _ in range(2):
        restored(market)
        assert await listed(market.env) == (12, ("postgres: older-state",))
        assert await listed(market.env) == (12, ("postgres: older-state",))
        assert len(market.maintenance.bodies) == 1
        await deliver(market)
        await asyncio.sleep(ASK_AGAIN)
        assert await listed(market.env) == (12, ())


async def test_a_few_rows_that_are_deleted_are_a_difference(market: Market) -> None:
    await published(market)
    market.delete_rows(SKILLS[:5])
    assert (await listed(fresh(market)))[1] == ()
    assert market.maintenance.bodies == []


async def test_until_the_repair_has_ended_nobody_believes_it(market: Market) -> None:
    """Nor when it has made more changes than were lost, so that the number tells nothing."""
    await published(market)
    restored(market)
    await listed(fresh(market))
    seen: list[tuple[str, ...]] = []

    async def look(operation: str) -> None:
        if operation not in {"upsert_skills", "mark_in_kv"} or market.tables.missing_until is None:
            return
        market.tables.after = no_hook
        market.tables.changes += 100
        seen.append((await listed(fresh(market)))[1])
        market.tables.after = look

    market.tables.after = look
    await deliver(market)
    assert seen
    assert set(seen) == {("postgres: older-state",)}


async def test_many_that_notice_begin_one_repair(market: Market) -> None:
    await published(market)
    restored(market)
    for _ in range(6):
        await listed(fresh(market))
    assert len(market.maintenance.bodies) == 6
    await deliver(market)
    finished = [line for line in market.log.lines if line["event"] == "rebuild-finished"]
    assert len(finished) == 1
    assert await listed(fresh(market)) == (12, ())


async def test_the_repair_begins_when_kv_shows_what_was_written(market: Market) -> None:
    """What was published just before the loss may be in no list for a minute."""
    await published(market)
    restored(market)
    await listed(fresh(market))
    begun = asyncio.get_running_loop().time()
    late = make_skill("late-one")
    market.tables.after = _once_walking(begun)
    await write_record(market.env, late)  # which no list call shows before it must
    await deliver(market)
    assert asyncio.get_running_loop().time() - begun >= KV_LATENESS
    assert late.identity in market.tables.rows


def _once_walking(begun: float) -> Hook:
    async def check(operation: str) -> None:
        if operation == "compare_range":
            assert asyncio.get_running_loop().time() - begun >= KV_LATENESS

    return check


async def test_waiting_for_kv_is_no_failure(market: Market) -> None:
    await published(market)
    restored(market)
    await listed(fresh(market))
    await deliver(market)
    assert "rebuild-step-failed" not in market.log.events()


async def test_what_is_written_meanwhile_waits_in_the_outbox_and_is_published(
    market: Market,
) -> None:
    await published(market)
    restored(market)
    await listed(fresh(market))
    await deliver_one(market)
    new = make_skill("new-one")
    await publish_skill(fresh(market), new)
    assert new.identity not in market.tables.rows
    await deliver(market)
    assert new.identity in market.tables.rows
    assert await listed(fresh(market)) == (13, ())


async def deliver_one(market: Market) -> None:
    """Consume the next message."""
    message = Delivered(market.maintenance.bodies.pop(0))
    await consume(fresh(market), MAINTENANCE_QUEUE, [message])
    if not message.acknowledged:
        market.maintenance.bodies.append(message.body)


async def test_a_request_that_comes_after_the_repair_begins_none(market: Market) -> None:
    await published(market)
    restored(market)
    await listed(fresh(market))
    request = market.maintenance.bodies[0]
    await deliver(market)
    market.maintenance.bodies.append(request)
    await deliver(market)
    assert market.log.events().count("rebuild-finished") == 1


async def test_a_repair_that_failed_is_tried_again_later(market: Market) -> None:
    await published(market)
    restored(market)
    await listed(fresh(market))
    request = market.maintenance.bodies[0]
    await deliver_one(market)
    job = await current(market)
    assert job.fills
    market.maintenance.bodies.clear()
    for _ in range(5):  # nothing delivers its messages
        await asyncio.sleep(STALLED_SECONDS + 1)
        await resume_stalled(fresh(market))
        market.maintenance.bodies.clear()
    assert (await current(market)).failure == "stalled"

    market.maintenance.bodies.append(request)
    await deliver(market)
    assert (await current(market)).id == job.id
    await asyncio.sleep(REPAIR_PAUSE_SECONDS)
    market.maintenance.bodies.append(request)
    await deliver(market)
    assert await listed(fresh(market)) == (12, ())


async def test_a_rebuild_from_before_the_loss_makes_nothing_complete(market: Market) -> None:
    """A dump brings back the state of a rebuild that was under way, half of its walk done."""
    await published(market)
    before = await start_rebuild(market.env)
    message = market.maintenance.bodies.pop()
    states = dict(market.tables.states)
    restored(market)
    market.tables.states = states
    market.maintenance.bodies.append(message)
    await deliver(market)
    assert await listed(fresh(market)) == (12, ("postgres: older-state",))
    found = await get_rebuild(fresh(market), before.id)
    assert found is not None
    assert found.failure == "replaced"

    await deliver(market)  # what that listing asked for
    assert await listed(fresh(market)) == (12, ())


async def test_a_repair_takes_the_place_of_a_rebuild_from_before(market: Market) -> None:
    await published(market)
    await start_rebuild(market.env)
    market.maintenance.bodies.clear()
    states = dict(market.tables.states)
    restored(market)
    market.tables.states = states
    await listed(fresh(market))
    await deliver(market)
    assert await listed(fresh(market)) == (12, ())


async def test_a_database_that_is_restored_during_its_repair_is_repaired_again(
    market: Market,
) -> None:
    await published(market)
    restored(market)
    await listed(fresh(market))

    async def lose_again(operation: str) -> None:
        if operation == "upsert_skills":
            market.tables.after = no_hook
            restored(market)

    market.tables.after = lose_again
    await deliver(market)
    assert len(market.tables.rows) < 12
    assert await listed(fresh(market)) == (12, ("postgres: older-state",))

    await deliver(market)
    assert await listed(fresh(market)) == (12, ())


async def test_a_check_of_cron_gets_a_repair_going_that_lost_its_message(market: Market) -> None:
    await published(market)
    restored(market)
    await listed(fresh(market))
    await deliver_one(market)
    market.maintenance.bodies.clear()
    await asyncio.sleep(STALLED_SECONDS + 1)
    await run_scheduled(fresh(market), CHECK)
    await deliver(market)
    assert await listed(fresh(market)) == (12, ())


async def test_a_rebuild_by_hand_repairs_it_too(market: Market) -> None:
    await published(market)
    restored(market)
    job = await start_rebuild(fresh(market), wait_seconds=5)
    assert not job.complete
    assert job.report(market.env.now())["waitsUntil"] is not None
    assert "rebuild-step-failed" not in market.log.events()
    await deliver(market)
    assert await listed(fresh(market)) == (12, ())


async def test_a_rebuild_that_is_asked_for_during_a_repair_follows_it(market: Market) -> None:
    await published(market)
    restored(market)
    first = await start_rebuild(fresh(market))
    second = await start_rebuild(fresh(market))
    assert first.id != second.id
    await deliver(market)
    found = [await get_rebuild(fresh(market), job.id) for job in (first, second)]
    assert [(job.complete, job.failure) for job in found if job] == [(True, None)] * 2


async def test_a_loss_is_made_good_that_kv_did_not_know_of(market: Market) -> None:
    """An isolate has seen more than KV has acknowledged: it says how much."""
    await published(market)
    market.tables.changes = 20
    await listed(market.env)
    assert acknowledged(market).changes == 12
    restored(market, 12)
    market.lose_rows(SKILLS[9:])
    assert (await listed(market.env))[1] == ("postgres: older-state",)
    await deliver(market)
    assert len(market.tables.rows) == 12
    assert market.tables.changes == 20
    assert await listed(market.env) == (12, ())


async def test_a_dry_run_of_an_older_database_notes_and_acknowledges_nothing(
    market: Market,
) -> None:
    await published(market)
    restored(market)
    before = acknowledged(market)
    job = await start_rebuild(fresh(market), dry_run=True, wait_seconds=5)
    assert job.complete
    assert job.prisma_backfilled == 9
    assert (market.tables.missing_until, acknowledged(market)) == (None, before)
    assert len(market.tables.rows) == 3


# --- another database -------------------------------------------------------------------------


async def test_another_database_is_left_alone_by_all_that_runs_by_itself(market: Market) -> None:
    await published(market)
    another(market)
    tables = market.tables
    for _ in range(3):
        await listed(fresh(market))
        await publish_skill(fresh(market), make_skill("new-one"))
        await run_scheduled(fresh(market), CHECK)
        await run_scheduled(fresh(market), NIGHTLY_CRON)
        await deliver(market)
        await asyncio.sleep(3600)
    assert (tables.rows, tables.states, tables.dead_letters, tables.leases) == ({}, {}, {}, {})
    assert (tables.changes, tables.missing_until) == (0, None)
    assert acknowledged(market).instance == "the double"


async def test_a_rebuild_without_adoption_says_what_to_do(market: Market) -> None:
    await published(market)
    another(market)
    job = await start_rebuild(fresh(market))
    assert job.failure == "other-instance"
    assert any("adopt=true" in error.reason for error in job.error_details)
    with pytest.raises(DatabaseNeeded):
        await start_rebuild(fresh(market), dry_run=True)
    assert market.tables.states == {}


async def test_an_adopted_database_is_filled_and_then_believed(market: Market) -> None:
    await published(market)
    another(market)
    await publish_skill(fresh(market), make_skill("new-one"))  # waits in the outbox
    job = await start_rebuild(fresh(market), adopt=True, wait_seconds=5)
    assert not job.complete
    assert await listed(fresh(market)) == (13, ("postgres: other-instance",))
    assert market.maintenance.bodies == [{"rebuildJob": job.id, "adopt": True}]
    await deliver(market)

    assert len(market.tables.rows) == 13
    assert await listed(fresh(market)) == (13, ())
    found = acknowledged(market)
    assert (found.instance, found.changes) == ("another", market.tables.changes)
    assert found.since
    kept = await get_rebuild(fresh(market), job.id)
    assert kept is not None
    assert kept.failure is None


async def test_an_adoption_that_is_cut_off_is_resumed_by_the_check(market: Market) -> None:
    await published(market)
    another(market)
    await start_rebuild(fresh(market), adopt=True)
    market.maintenance.bodies.clear()
    await asyncio.sleep(STALLED_SECONDS + 1)
    await run_scheduled(fresh(market), CHECK)
    await deliver(market)
    assert await listed(fresh(market)) == (12, ())


async def test_an_adoption_that_is_asked_for_twice_is_followed_by_another(market: Market) -> None:
    await published(market)
    another(market)
    first = await start_rebuild(fresh(market), adopt=True)
    second = await start_rebuild(fresh(market), adopt=True)
    await asyncio.sleep(KV_LATENESS)
    while len(market.maintenance.bodies) == 1 and not (await _is_complete(market, first)):
        await deliver_one(market)
    # Also where KV still shows the one before.
    assert market.maintenance.bodies == [{"rebuildJob": second.id, "adopt": True}]
    await deliver(market)
    assert await _is_complete(market, second)
    assert await listed(fresh(market)) == (12, ())


async def _is_complete(market: Market, job: RebuildJob) -> bool:
    found = await get_rebuild(fresh(market), job.id)
    assert found is not None
    assert found.failure is None
    return found.complete


async def test_an_isolate_of_before_follows_the_adoption(market: Market) -> None:
    await published(market)
    another(market)
    await listed(market.env)
    await start_rebuild(fresh(market), adopt=True)
    await deliver(market)
    await asyncio.sleep(READ_EVERY)
    assert await listed(market.env) == (12, ())
    assert acknowledged(market).instance == "another"


async def test_adopting_accepts_a_deliberate_restore(market: Market) -> None:
    await published(market)
    restored(market)
    await start_rebuild(fresh(market), adopt=True)
    await deliver(market)
    assert await listed(fresh(market)) == (12, ())
    assert (acknowledged(market).instance, acknowledged(market).since) == ("the double", "")


async def test_adopting_the_right_database_is_a_rebuild(market: Market) -> None:
    await published(market)
    job = await start_rebuild(fresh(market), adopt=True, wait_seconds=5)
    await deliver(market)
    kept = await get_rebuild(fresh(market), job.id)
    assert kept is not None
    assert (kept.failure, kept.waits_until) == (None, None)
    assert acknowledged(market).since == ""


async def test_a_step_whose_database_was_replaced_goes_on_nowhere(market: Market) -> None:
    """The message of an ordinary rebuild does not reach the state of another database."""
    await published(market)
    job = await start_rebuild(market.env)
    (message,) = market.maintenance.bodies
    states = dict(market.tables.states)
    another(market)
    market.tables.states = dict(states)
    delivered = Delivered(message)
    await consume(fresh(market), MAINTENANCE_QUEUE, [delivered])
    assert delivered.retried
    assert market.tables.states == states
    with pytest.raises(DatabaseError):
        await load_rebuilds(fresh(market))
    assert job.id
