"""What passed its scan is published, though the message that asks for it was lost."""

import asyncio
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest

from marketplace.kv.keys import pending_key, publication_key, scan_key
from marketplace.kv.submissions import oldest_pending, record_publication
from marketplace.operations.redrive import count_letters
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError
from marketplace.publishing.messages import publish_message
from marketplace.publishing.submissions import (
    ASK_AGAIN_SECONDS,
    LONGEST_PAUSE_SECONDS,
    STUCK_SECONDS,
    ask_again,
    get_submission_status,
    record_scan_results,
    submit,
)
from marketplace.repair.light_repair import run_light_repair
from marketplace.skills.scan import Scan, ScanReport
from marketplace.skills.submission import (
    Publication,
    Submission,
    SubmissionState,
    SubmissionStatus,
)
from marketplace.skills.tiers import Verdict
from marketplace.worker.consumers import DEAD_LETTER_QUEUE, consume
from tests.doubles.kv import KvOperation
from tests.doubles.loop import current_loop
from tests.doubles.marketplace import Delivered, Market, fault, postgres_away
from tests.doubles.network import Fault

CHECKS_APART = 300.0  # seconds


def _submission(market: Market, number: int) -> Submission:
    return Submission(
        id=f"s{number}",
        repo_url=f"https://github.com/octo/tools-{number}",
        skill_name="reader",
        base_slug="reader",
        created_at=market.env.now(),
    )


async def _scanned(market: Market, number: int, verdict: Verdict = Verdict.PASS) -> Scan:
    """A submission whose verdict is kept, and whose message the queue did not take."""
    submission = _submission(market, number)
    await submit(market.env, submission)
    report = ScanReport(submission_id=f"s{number}", verdict=verdict, score=90)
    market.publish.failing = True
    receipt = await record_scan_results(market.env, [report])
    market.publish.failing = False
    assert [refused.reason for refused in receipt.rejected] == ["queue-unavailable"]
    return report.on(submission, market.env.now())


def _published_by(scan: Scan) -> Publication:
    return Publication(
        submission_id=scan.submission_id,
        slug="reader",
        version="1.0.0",
        published_at=scan.scanned_at,
        scanned_at=scan.scanned_at,
    )


async def _repair(market: Market) -> int:
    market.publish.bodies.clear()
    return (await run_light_repair(market.env)).asked_again


async def _checks_until_asked(market: Market, submission_id: str, most: int) -> int:
    """How many checks, five minutes apart, it takes until a submission is asked for."""
    for number in range(1, most + 1):
        await _repair(market)
        if submission_id in {body["submissionId"] for body in market.publish.bodies}:
            return number
        await asyncio.sleep(CHECKS_APART)
    pytest.fail(f"{submission_id} is not asked for within {most} checks")


def _mark(market: Market, count: int, *, asked_at: str | None, hour: str = "2025-12-31T23") -> None:
    """Passed submissions, one a millisecond, asked for at a moment."""
    for number in range(count):
        submission = _submission(market, number)
        moment = f"{hour}:00:{number // 1000:02d}.{number % 1000:03d}Z"
        report = ScanReport(submission_id=f"m{number}", verdict=Verdict.PASS, score=90)
        scan = msgspec.structs.replace(report.on(submission, moment), scanned_at=moment)
        value = msgspec.json.encode(scan)
        market.kv.damage(pending_key(moment, scan.submission_id), value, metadata=asked_at)
        market.kv.damage(scan_key(scan.submission_id), value)


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.FAIL, Verdict.WITHDRAWN])
async def test_a_lost_message_of_any_verdict_is_sent_again(
    market: Market, verdict: Verdict
) -> None:
    scan = await _scanned(market, 1, verdict)
    await asyncio.sleep(STUCK_SECONDS)
    assert await _repair(market) == 1
    assert market.publish.bodies == [publish_message("s1", scan.scanned_at)]


async def test_a_lost_message_is_sent_again_after_a_while_and_then_now_and_then(
    market: Market,
) -> None:
    scan = await _scanned(market, 1)
    assert await _repair(market) == 0
    await asyncio.sleep(STUCK_SECONDS)
    assert await _repair(market) == 1
    assert market.publish.bodies == [publish_message("s1", scan.scanned_at)]
    assert await _repair(market) == 0
    await asyncio.sleep(ASK_AGAIN_SECONDS)
    assert await _repair(market) == 1


async def test_the_pauses_between_two_messages_grow_to_a_day(market: Market) -> None:
    await _scanned(market, 1)
    began, asked = current_loop().time(), []
    while current_loop().time() < began + 5 * 86_400:
        await asyncio.sleep(CHECKS_APART)
        if await _repair(market):
            asked.append(current_loop().time())
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert pauses[0] == pytest.approx(ASK_AGAIN_SECONDS, abs=CHECKS_APART)
    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE_SECONDS, abs=CHECKS_APART)
    assert len(asked) < 15
    assert (ASK_AGAIN_SECONDS, LONGEST_PAUSE_SECONDS) == (3600, 86_400)  # as the runbook says


async def test_a_dead_letter_of_what_passed_is_sent_again_and_closed_without_an_operator(
    market: Market,
) -> None:
    scan = await _scanned(market, 1)
    message = Delivered(publish_message("s1", scan.scanned_at))
    await consume(market.env, DEAD_LETTER_QUEUE, [message])
    assert await count_letters(market.env, None) == 1
    await asyncio.sleep(STUCK_SECONDS)
    assert await _repair(market) == 1
    assert await count_letters(market.env, None) == 0
    await consume(market.env, DEAD_LETTER_QUEUE, [message])  # it fails once more
    assert await count_letters(market.env, None) == 1


async def test_what_passed_is_sent_again_with_postgres_away_and_its_letter_stays(
    market: Market,
) -> None:

    scan = await _scanned(market, 1)
    message = Delivered(publish_message("s1", scan.scanned_at))
    await consume(market.env, DEAD_LETTER_QUEUE, [message])
    await asyncio.sleep(STUCK_SECONDS)
    env = replace(market.env, database=DatabaseSession(postgres_away))
    assert await ask_again(env) == 1
    assert await count_letters(market.env, None) == 1
    assert "dead-letters-left-open" in market.log.events()


async def test_what_is_decided_or_not_scanned_is_not_asked_for(market: Market) -> None:
    await submit(market.env, _submission(market, 2))
    scan = await _scanned(market, 3)
    await record_publication(market.env, _published_by(scan))
    await asyncio.sleep(STUCK_SECONDS)
    assert await _repair(market) == 0


async def test_a_mark_that_outlived_its_publication_is_taken_away(market: Market) -> None:
    scan = await _scanned(market, 1)
    market.kv.damage(publication_key("s1"), msgspec.json.encode(_published_by(scan)))
    await asyncio.sleep(STUCK_SECONDS)
    assert await oldest_pending(market.env) is not None
    assert await _repair(market) == 0
    assert await oldest_pending(market.env) is None


async def test_a_mark_that_outlived_a_rejection_is_taken_away(market: Market) -> None:
    scan = await _scanned(market, 1)
    await asyncio.sleep(STUCK_SECONDS)
    failed = msgspec.structs.replace(scan, verdict=Verdict.FAIL, scanned_at=market.env.now())
    market.kv.damage(scan_key("s1"), msgspec.json.encode(failed))
    assert await _repair(market) == 0
    assert await oldest_pending(market.env) is None


async def test_a_later_verdict_whose_message_was_lost_is_asked_for_too(market: Market) -> None:
    first = await _scanned(market, 1)
    await record_publication(market.env, _published_by(first))
    await asyncio.sleep(1)
    market.publish.failing = True
    moment = market.env.now()
    second = ScanReport(submission_id="s1", verdict=Verdict.PASS, score=95, scanned_at=moment)
    await record_scan_results(market.env, [second])
    market.publish.failing = False
    await asyncio.sleep(STUCK_SECONDS)
    assert await _repair(market) == 1
    assert market.publish.bodies == [publish_message("s1", moment)]


async def test_a_queue_that_is_away_is_asked_again_next_time(market: Market) -> None:
    await _scanned(market, 1)
    await asyncio.sleep(STUCK_SECONDS)
    market.publish.failing = True
    assert await _repair(market) == 0
    market.publish.failing = False
    assert await _repair(market) == 1


async def test_a_queue_that_is_away_is_asked_once_a_check_and_then_where_it_was(
    market: Market,
) -> None:
    _mark(market, 3_000, asked_at=None)
    market.publish.failing = True
    assert await _repair(market) == 0
    assert market.log.events().count("nothing-enqueued") == 1
    market.publish.failing = False
    assert await _repair(market) == 100
    assert {body["submissionId"] for body in market.publish.bodies} == {
        f"m{number}" for number in range(100)
    }


async def test_what_passed_just_now_is_not_even_read(market: Market) -> None:
    _mark(market, 3_000, asked_at=None, hour="2026-01-01T00")
    market.kv.operations.clear()
    assert await ask_again(market.env) == 0
    assert market.kv.operations == {"get": 1, "list": 1}


async def test_a_lost_message_does_not_wait_for_postgres(market: Market) -> None:

    await _scanned(market, 1)
    await asyncio.sleep(STUCK_SECONDS)
    report = await run_light_repair(replace(market.env, database=DatabaseSession(postgres_away)))
    assert report.asked_again == 1
    assert report.errors == ["DatabaseError: unavailable"]


async def test_a_verdict_that_was_cut_off_before_it_was_kept_is_taken_from_its_mark(
    market: Market,
) -> None:
    await submit(market.env, _submission(market, 1))
    moment = market.env.now()
    report = ScanReport(submission_id="s1", verdict=Verdict.PASS, score=90, scanned_at=moment)
    market.kv.faults = fault(Fault.FAIL, "put", key="scan:")
    receipt = await record_scan_results(market.env, [report])
    assert [refused.reason for refused in receipt.rejected] == ["storage-unavailable"]
    market.kv.faults = None
    await asyncio.sleep(STUCK_SECONDS)
    assert await _repair(market) == 1
    assert market.publish.bodies == [publish_message("s1", moment)]
    status = await get_submission_status(market.env, "s1")
    assert isinstance(status, SubmissionStatus)
    assert status.state is SubmissionState.SCANNED


async def test_a_mark_that_tells_nothing_is_named_and_taken_away(market: Market) -> None:
    market.kv.damage("pending:2025-12-31T00:00:00.000Z:nothing", b"{}")
    assert await _repair(market) == 0
    assert market.kv.keys("pending:") == []
    (line,) = [x for x in market.log.lines if x["event"] == "pending-without-verdict"]
    assert line["key"] == "pending:2025-12-31T00:00:00.000Z:nothing"


async def test_5_000_submissions_that_nobody_scans_hide_no_lost_message(market: Market) -> None:
    for number in range(5_000):
        await submit(market.env, _submission(market, number))
    await _scanned(market, 5_000)
    await asyncio.sleep(STUCK_SECONDS)
    assert await _checks_until_asked(market, "s5000", most=1) == 1


async def test_12_000_marks_hide_no_lost_message_behind_them(market: Market) -> None:
    _mark(market, 12_000, asked_at=market.env.now())
    await _scanned(market, 1)
    await asyncio.sleep(STUCK_SECONDS)
    market.kv.operations.clear()
    checks = await _checks_until_asked(market, "s1", most=5)
    assert checks > 1
    assert market.kv.operations.total() < 100 * checks


async def test_lost_messages_are_asked_for_one_after_the_other_and_all_of_them(
    market: Market,
) -> None:
    _mark(market, 450, asked_at=None)
    asked: set[str] = set()
    for _ in range(5):
        await _repair(market)
        assert len(market.publish.bodies) <= 100
        asked |= {body["submissionId"] for body in market.publish.bodies}
        await asyncio.sleep(CHECKS_APART)
    assert asked == {f"m{number}" for number in range(450)}


async def test_after_the_end_the_oldest_are_looked_at_again(market: Market) -> None:
    _mark(market, 3_000, asked_at=market.env.now())
    for _ in range(2):
        assert await _repair(market) == 0
        await asyncio.sleep(CHECKS_APART)
    await asyncio.sleep(ASK_AGAIN_SECONDS)
    assert await _checks_until_asked(market, "m0", most=1) == 1


async def test_the_place_is_kept_in_kv_while_postgres_is_away(market: Market) -> None:

    _mark(market, 3_000, asked_at=market.env.now())
    await _scanned(market, 1)
    await asyncio.sleep(STUCK_SECONDS)
    env = replace(market.env, database=DatabaseSession(postgres_away))
    assert await ask_again(env) == 0
    assert await ask_again(env) == 1


async def test_a_place_that_kv_does_not_take_any_more_is_given_up(market: Market) -> None:
    _mark(market, 3_000, asked_at=market.env.now())
    assert await ask_again(market.env) == 0

    def refuses(operation: KvOperation) -> Fault | None:
        return Fault.FAIL if operation.kind == "list" else None

    market.kv.faults = refuses
    with pytest.raises(KvError):
        await ask_again(market.env)
    market.kv.faults = None
    await asyncio.sleep(ASK_AGAIN_SECONDS)
    assert await _checks_until_asked(market, "m0", most=1) == 1


async def test_a_failure_on_the_way_keeps_the_way_that_was_made(market: Market) -> None:
    _mark(market, 3_000, asked_at=market.env.now())
    await _scanned(market, 1)
    await asyncio.sleep(STUCK_SECONDS)
    lists = 0

    def refuses(operation: KvOperation) -> Fault | None:
        nonlocal lists
        lists += operation.kind == "list"
        return Fault.FAIL if operation.kind == "list" and lists > 20 else None

    market.kv.faults = refuses
    with pytest.raises(KvError):
        await ask_again(market.env)
    market.kv.faults = None
    assert await ask_again(market.env) == 1


def _begun_anew(market: Market) -> Env:
    """The Env after a start that lost the queues, at this moment."""
    settings = replace(market.env.settings, queues_began_at=market.env.now())
    return replace(market.env, settings=settings)


async def test_the_first_check_after_queues_were_lost_asks_for_all_that_they_had(
    market: Market,
) -> None:
    _mark(market, 1_234, asked_at="2025-12-31T23:59:00.000Z")
    for number in (1, 2):
        await _scanned(market, number)
    await asyncio.sleep(1)
    env = _begun_anew(market)
    assert (await run_light_repair(env)).asked_again == 1_236
    asked = {body["submissionId"] for body in market.publish.bodies}
    assert asked == {*(f"m{number}" for number in range(1_234)), "s1", "s2"}
    assert await ask_again(env) == 0


async def test_what_was_sent_to_the_new_queues_is_not_asked_for(market: Market) -> None:
    env = _begun_anew(market)
    await _scanned(market, 1)
    assert await ask_again(env) == 0
    await asyncio.sleep(STUCK_SECONDS)
    assert await ask_again(env) == 1


async def test_what_queues_lost_is_asked_for_from_its_beginning_wherever_the_last_check_was(
    market: Market,
) -> None:
    _mark(market, 3_000, asked_at=market.env.now())
    assert await ask_again(market.env) == 0  # the place is behind 2,500 of them
    await asyncio.sleep(1)
    market.publish.failing = True
    env = _begun_anew(market)
    assert await ask_again(env) == 0
    market.publish.failing = False
    assert await ask_again(env) == 3_000


async def test_each_start_asks_for_what_the_one_before_has_lost(market: Market) -> None:
    for number in (1, 2):
        await _scanned(market, number)
        await asyncio.sleep(1)
        env = _begun_anew(market)
        assert await ask_again(env) == number
        assert await ask_again(env) == 0
    await record_publication(env, _published_by(await _scanned(market, 3)))
    await asyncio.sleep(1)
    assert await ask_again(_begun_anew(market)) == 2
