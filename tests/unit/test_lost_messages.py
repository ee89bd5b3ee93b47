"""What passed its scan is published, though the message that asks for it was lost."""

import asyncio

from marketplace.kv.submissions import oldest_pending, record_publication
from marketplace.publishing.messages import publish_message
from marketplace.publishing.submissions import (
    ASK_AGAIN_SECONDS,
    STUCK_SECONDS,
    record_scan_results,
    submit,
)
from marketplace.repair.light_repair import run_light_repair
from marketplace.skills.submission import Publication, Scan, Submission, Verdict
from tests.unit.operations_support import Market, run


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
    await submit(market.env, _submission(market, number))
    scan = Scan(submission_id=f"s{number}", verdict=verdict, score=90, scanned_at=market.env.now())
    market.publish.failing = True
    receipt = await record_scan_results(market.env, [scan])
    market.publish.failing = False
    if verdict is Verdict.PASS:
        assert [refused.reason for refused in receipt.rejected] == ["queue-unavailable"]
    return scan


async def _repair(market: Market) -> int:
    market.publish.bodies.clear()
    return (await run_light_repair(market.env)).asked_again


def test_a_lost_message_is_sent_again_after_a_while_and_then_now_and_then() -> None:
    async def test(market: Market) -> None:
        scan = await _scanned(market, 1)
        assert await _repair(market) == 0
        await asyncio.sleep(STUCK_SECONDS)
        assert await _repair(market) == 1
        assert market.publish.bodies == [publish_message("s1", scan.scanned_at)]
        assert await _repair(market) == 0
        await asyncio.sleep(ASK_AGAIN_SECONDS)
        assert await _repair(market) == 1

    run(test)


def test_what_is_decided_or_not_scanned_is_not_asked_for() -> None:
    async def test(market: Market) -> None:
        await _scanned(market, 1, Verdict.FAIL)
        await submit(market.env, _submission(market, 2))
        scan = await _scanned(market, 3)
        publication = Publication(
            submission_id="s3", slug="reader", version="1.0.0", published_at=scan.scanned_at
        )
        await record_publication(market.env, _submission(market, 3), publication)
        await asyncio.sleep(STUCK_SECONDS)
        assert await _repair(market) == 0

    run(test)


def test_a_mark_that_outlived_its_publication_is_taken_away() -> None:
    async def test(market: Market) -> None:
        await _scanned(market, 1)
        market.kv.damage("published:s1", b"{}")
        await asyncio.sleep(STUCK_SECONDS)
        assert await oldest_pending(market.env) is not None
        assert await _repair(market) == 0
        assert await oldest_pending(market.env) is None

    run(test)


def test_a_queue_that_is_away_is_asked_again_next_time() -> None:
    async def test(market: Market) -> None:
        await _scanned(market, 1)
        await asyncio.sleep(STUCK_SECONDS)
        market.publish.failing = True
        assert await _repair(market) == 0
        market.publish.failing = False
        assert await _repair(market) == 1

    run(test)
