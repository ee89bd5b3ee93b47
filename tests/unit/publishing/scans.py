"""Submissions and verdicts that go through the queue of a marketplace in memory."""

from typing import Any

from marketplace.kv.submissions import create_submission
from marketplace.publishing.consumer import handle_publish_batch
from marketplace.publishing.submissions import record_scan_results
from marketplace.skills.scan import Facts, ScanReport
from marketplace.skills.submission import Submission
from marketplace.skills.tiers import Verdict
from tests.doubles.marketplace import Delivered, Market

REPOSITORY = "https://github.com/octo/pdf-tools"


async def scan(
    market: Market, id_: str, verdict: Verdict = Verdict.PASS, **fields: Any
) -> Delivered:
    """Submit pdf-tools and report a verdict on it; the message that the queue has then."""
    submission = Submission(
        id=id_,
        repo_url=REPOSITORY,
        skill_name="pdf-tools",
        base_slug="pdf-tools",
        created_at=market.env.now(),
    )
    await create_submission(market.env, submission)
    facts = Facts(name="pdf-tools", description="As read.")
    report = ScanReport(
        submission_id=id_, verdict=verdict, score=90, skill=facts, path="", **fields
    )
    receipt = await record_scan_results(market.env, [report])
    assert receipt.accepted == [id_], receipt
    return Delivered(market.publish.bodies[-1])


async def publish(market: Market, *messages: Delivered) -> None:
    await handle_publish_batch(market.env, messages)
    assert all(message.acknowledged for message in messages)
