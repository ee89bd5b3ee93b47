"""The cron triggers: what they repair, what they leave behind, and that they do not overlap."""

import asyncio
from dataclasses import replace

import pytest

from marketplace.health.check import check_health
from marketplace.ports.database import DatabaseSession
from marketplace.ports.errors import QueueError
from marketplace.repair.cron import NIGHTLY_CRON, run_scheduled
from marketplace.worker.consumers import MAINTENANCE_QUEUE, consume
from tests.doubles.marketplace import REFUSED, Delivered, Market, fault, make_skills, postgres_away
from tests.doubles.network import Fault

_CHECK = "*/5 * * * *"


async def _deliver(market: Market) -> None:
    while market.maintenance.bodies:
        body = market.maintenance.bodies.pop(0)
        await consume(market.env, MAINTENANCE_QUEUE, [Delivered(body)])


async def test_a_check_begins_a_rebuild_where_there_is_drift(market: Market) -> None:
    skills = make_skills(50)
    await market.fill(skills)
    market.lose_rows(skills[:10])
    await run_scheduled(market.env, _CHECK)
    await _deliver(market)
    health = await check_health(market.env)
    assert health.status == "ok"
    assert health.last_repair["prismaBackfilled"] == 10
    assert health.last_check["status"] == "drift"
    assert market.log.events().count("scheduled-run-finished") == 1


async def test_a_check_of_a_healthy_marketplace_begins_nothing(market: Market) -> None:
    skills = make_skills(50)
    await market.fill(skills)
    await market.index(skills)
    await run_scheduled(market.env, _CHECK)
    assert market.maintenance.bodies == []
    assert not market.tables.leases


async def test_the_nightly_run_rebuilds(market: Market) -> None:
    await market.fill(make_skills(5))
    await run_scheduled(market.env, NIGHTLY_CRON)
    await _deliver(market)
    assert (await check_health(market.env)).last_repair["rebuilt"] == 5


async def test_a_run_is_skipped_while_another_holds_the_lease(market: Market) -> None:
    with await market.database() as database:
        far = "2999-01-01T00:00:00.000Z"
        await database.acquire_lease(
            "scheduled-check", "other", now=market.env.now(), expires_at=far
        )
    await run_scheduled(market.env, _CHECK)
    assert "scheduled-run-skipped" in market.log.events()
    assert "scheduled-run-finished" not in market.log.events()


async def test_with_postgres_away_a_check_runs_without_a_lease_and_its_report_is_in_kv(
    market: Market,
) -> None:

    env = replace(market.env, database=DatabaseSession(postgres_away))
    await run_scheduled(env, _CHECK)
    assert (await check_health(env)).last_check["status"] == "failing"
    assert "lease-not-taken" in market.log.events()


async def test_with_postgres_away_a_check_begins_no_rebuild_and_the_nightly_run_writes_the_index(
    market: Market,
) -> None:

    await market.fill(make_skills(5))
    env = replace(market.env, database=DatabaseSession(postgres_away))
    await run_scheduled(env, _CHECK)
    assert market.maintenance.bodies == []
    assert (await check_health(env)).last_check["rebuildPutOff"]
    await run_scheduled(env, NIGHTLY_CRON)
    assert (await check_health(env)).last_repair["rebuilt"] == 5


async def test_with_kv_away_a_check_still_comes_to_its_end(market: Market) -> None:
    await market.fill(make_skills(5))
    market.kv.faults = fault(Fault.FAIL, "get", "get_many", "list", "put")
    await run_scheduled(market.env, _CHECK)
    market.kv.faults = None
    assert (await check_health(market.env)).last_check["status"] == "failing"


async def test_a_run_that_fails_is_logged_and_fails(market: Market) -> None:
    await market.fill(make_skills(5))
    market.maintenance.failing = True
    with pytest.raises(QueueError):
        await run_scheduled(market.env, NIGHTLY_CRON)
    assert "scheduled-run-failed" in market.log.events()


async def test_a_run_that_fails_gives_its_lease_back(market: Market) -> None:
    market.maintenance.failing = True
    with pytest.raises(QueueError):
        await run_scheduled(market.env, NIGHTLY_CRON)
    assert not market.tables.leases
    market.maintenance.failing = False
    await run_scheduled(market.env, NIGHTLY_CRON)
    assert "scheduled-run-finished" in market.log.events()


async def _checks_that_rebuilt(market: Market, checks: int) -> list[int]:
    """Which of so many checks, five minutes apart, began a rebuild; each comes to its end."""
    begun = []
    for number in range(checks):
        await run_scheduled(market.env, _CHECK)
        if market.maintenance.bodies:
            begun.append(number)
        await _deliver(market)
        await asyncio.sleep(300)
    return begun


async def test_drift_that_a_rebuild_does_not_mend_is_tried_less_and_less_often(
    market: Market,
) -> None:
    await market.fill(make_skills(10))
    await market.fill(make_skills(2, "refused", category=REFUSED), table=False)
    assert await _checks_that_rebuilt(market, 40) == [0, 2, 6, 14, 30]


async def test_after_a_time_without_drift_a_new_one_is_mended_at_once(market: Market) -> None:
    skills = make_skills(50)
    await market.fill(skills)
    market.lose_rows(skills[:10])
    assert await _checks_that_rebuilt(market, 6) == [0]
    market.lose_rows(skills[:10])
    assert await _checks_that_rebuilt(market, 1) == [0]


async def test_no_second_rebuild_is_begun_while_one_is_unfinished(market: Market) -> None:
    skills = make_skills(50)
    await market.fill(skills)
    market.lose_rows(skills[:10])
    await run_scheduled(market.env, _CHECK)
    assert len(market.maintenance.bodies) == 1
    await asyncio.sleep(100)
    await run_scheduled(market.env, _CHECK)
    assert len(market.maintenance.bodies) == 1


async def test_a_check_resumes_a_rebuild_that_stands_still(market: Market) -> None:
    skills = make_skills(50)
    await market.fill(skills)
    market.lose_rows(skills[:10])
    await run_scheduled(market.env, _CHECK)
    market.maintenance.bodies.clear()
    await asyncio.sleep(300)
    await run_scheduled(market.env, _CHECK)
    await _deliver(market)
    health = await check_health(market.env)
    assert health.status == "ok"
    assert health.last_repair["prismaBackfilled"] == 10


@pytest.mark.parametrize("damage", [b"no json", b"[" * 5000, b'{"rebuilds": "many"}', b"[1]"])
async def test_damaged_state_does_not_keep_a_check_from_repairing(
    market: Market, damage: bytes
) -> None:
    skills = make_skills(50)
    await market.fill(skills)
    market.lose_rows(skills[:20])
    for name in ("rebuilds-by-check", "rebuild"):
        market.kv.damage(f"state:{name}", damage)
        market.tables.states[name] = damage
    await run_scheduled(market.env, _CHECK)
    await _deliver(market)
    assert len(market.tables.rows) == 50
