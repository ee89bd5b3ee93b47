"""What health tells about the scanners and their work."""

import asyncio
from dataclasses import replace

import msgspec

from marketplace.basics.timestamps import shifted
from marketplace.health.check import check_health
from marketplace.health.findings import SCAN_TOLERATED
from marketplace.health.report import Scanning
from marketplace.ports.database import DatabaseSession
from marketplace.ports.scan_request import ScanHour
from marketplace.publishing.scan_requests import hand_out
from marketplace.publishing.submissions import submit
from marketplace.repair.light_repair import run_light_repair
from marketplace.skills.scan import READ_AGAIN_SECONDS
from marketplace.skills.submission import Submission
from marketplace.skills.tiers import Verdict
from tests.doubles.marketplace import Market, make_skill, postgres_away
from tests.unit.publishing.reports import report, reported

HOUR = 3600.0


async def _asked(market: Market, number: int) -> None:
    submission = Submission(
        id=f"s{number}",
        repo_url=f"https://github.com/octo/{number}",
        skill_name="reader",
        base_slug="reader",
        created_at=market.env.now(),
    )
    await submit(market.env, submission)


async def _scanning(market: Market) -> Scanning:
    scanning = (await check_health(market.env)).scanning
    assert scanning is not None
    return scanning


async def _advice(market: Market) -> list[str]:
    return [item.reason for item in (await check_health(market.env)).recommendations]


async def test_nothing_waits_in_an_empty_marketplace(market: Market) -> None:
    assert await _scanning(market) == Scanning(waiting={"new": 0, "rescan": 0, "due": 0})


async def test_without_postgres_it_is_unknown(market: Market) -> None:
    health = await check_health(replace(market.env, database=DatabaseSession(postgres_away)))
    assert health.scanning is None


async def test_what_waits_is_told_by_reason_with_the_age_of_the_oldest(market: Market) -> None:
    read_at = shifted(market.env.now(), HOUR - READ_AGAIN_SECONDS)
    skills = [make_skill(name, verdict_at=read_at) for name in ("one", "two")]
    await market.fill(skills)
    await _asked(market, 1)
    await asyncio.sleep(HOUR / 2)
    scanning = await _scanning(market)
    assert scanning.waiting == {"new": 1, "rescan": 0, "due": 0}
    assert (scanning.oldest_reason, scanning.oldest_age_seconds) == ("new", HOUR / 2)

    await asyncio.sleep(HOUR)
    assert len(await hand_out(market.env, 2)) == 2  # one of the skills remains
    await reported(market, report("s1", Verdict.FAIL))
    scanning = await _scanning(market)
    assert scanning.waiting == {"new": 0, "rescan": 0, "due": 2}
    assert (scanning.oldest_reason, scanning.oldest_age_seconds) == ("due", HOUR / 2)


async def test_hand_outs_and_results_are_told_by_the_hour_for_a_day(market: Market) -> None:
    began = market.env.now()
    for number in range(3):
        await _asked(market, number)
        await asyncio.sleep(HOUR)
        await hand_out(market.env, 2)
    await reported(market, report("s1", Verdict.FAIL))
    hours = [
        ScanHour(hour=shifted(began, HOUR), handed_out=1),
        ScanHour(hour=shifted(began, 2 * HOUR), handed_out=2),
        ScanHour(hour=shifted(began, 3 * HOUR), handed_out=2, results=1),
    ]
    scanning = await _scanning(market)
    assert (scanning.hours, scanning.handed_out, scanning.results) == (hours, 5, 1)
    await asyncio.sleep(22 * HOUR)
    assert (await _scanning(market)).hours == hours[1:]
    await asyncio.sleep(2 * HOUR)
    await run_light_repair(market.env)
    assert (await _scanning(market)).hours == []
    await asyncio.sleep(48 * HOUR)
    await run_light_repair(market.env)
    assert market.tables.scan_hours == {}


async def test_a_request_that_waits_longer_than_a_day_is_a_finding(market: Market) -> None:
    await _asked(market, 1)
    await asyncio.sleep(SCAN_TOLERATED)
    assert await _advice(market) == []
    await asyncio.sleep(60)
    await hand_out(market.env, 1)
    (reason,) = await _advice(market)
    assert reason == (
        "The oldest scan (new) waits for 1.0 days; within 24 hours 1 were handed out and 0"
        " results came."
    )
    answer = msgspec.json.decode(msgspec.json.encode(await check_health(market.env)))
    assert answer["scanning"]["oldest_age_seconds"] == SCAN_TOLERATED + 60


async def test_a_skill_that_is_due_for_less_than_a_day_is_none(market: Market) -> None:
    read_at = market.env.now()
    await market.fill([make_skill(verdict_at=read_at, updated_at=read_at)])
    await asyncio.sleep(READ_AGAIN_SECONDS + SCAN_TOLERATED)
    assert not any("scan" in reason for reason in await _advice(market))
    await asyncio.sleep(1)
    assert any("oldest scan (due)" in reason for reason in await _advice(market))
