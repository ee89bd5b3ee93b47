"""A submission moves forward only."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from marketplace.basics.json_text import Unreadable
from marketplace.kv.submissions import (
    PendingSubmission,
    create_submission,
    find_by_identity,
    get_scans,
    get_submission,
    oldest_pending,
    record_publication,
    record_scan,
    submission_status,
)
from marketplace.ports.env import Settings
from marketplace.ports.errors import KvError
from marketplace.skills.submission import (
    Publication,
    Scan,
    Submission,
    SubmissionState,
    SubmissionStatus,
    Verdict,
)
from tests.doubles.marketplace import Market, fault
from tests.doubles.network import Fault


def make_submission(
    identifier: str = "id-1", created_at: str = "2026-11-02T08:00:00.000Z"
) -> Submission:
    return Submission(
        id=identifier,
        repo_url="https://github.com/octo/tools",
        skill_name="PDF tools",
        base_slug="pdf-tools",
        created_at=created_at,
    )


def make_scan(verdict: Verdict = Verdict.PASS, at: str = "2026-11-03T08:00:00.000Z") -> Scan:
    return Scan(submission_id="id-1", verdict=verdict, score=90, scanned_at=at, reason="because")


PUBLICATION = Publication(
    submission_id="id-1",
    slug="pdf-tools",
    version="1.0.0",
    published_at="2026-11-04T08:00:00.000Z",
    scanned_at="2026-11-03T08:00:00.000Z",
)


async def status(market: Market) -> SubmissionStatus:
    found = await submission_status(market.env, "id-1")
    assert isinstance(found, SubmissionStatus)
    return found


async def test_a_submission_moves_forward_only(market: Market) -> None:
    env, submission = market.env, make_submission()
    assert await submission_status(env, "id-1") is None
    await create_submission(env, submission)
    assert (await status(market)).state is SubmissionState.RECEIVED
    assert await find_by_identity(env, submission.identity) == "id-1"
    assert await oldest_pending(env) is None
    await record_scan(env, submission, make_scan())
    pending = PendingSubmission("id-1", make_scan().scanned_at)
    assert await oldest_pending(env) == pending
    assert (await status(market)).state is SubmissionState.SCANNED
    await record_publication(env, PUBLICATION)
    assert (await status(market)).slug == "pdf-tools"
    assert await oldest_pending(env) is None
    await record_scan(env, submission, make_scan(Verdict.FAIL, "2026-11-05T08:00:00.000Z"))
    assert (await status(market)).state is SubmissionState.PUBLISHED


async def test_a_rejected_submission_stays_rejected(market: Market) -> None:
    env, submission = market.env, make_submission()
    await create_submission(env, submission)
    await record_scan(env, submission, make_scan())
    late = make_scan(Verdict.FAIL, "2026-11-02T09:00:00.000Z")
    assert (await record_scan(env, submission, late)).verdict is Verdict.PASS
    rejection = make_scan(Verdict.FAIL, "2026-11-04T09:00:00.000Z")
    assert await record_scan(env, submission, rejection) == rejection
    later = make_scan(Verdict.PASS, "2026-11-05T09:00:00.000Z")
    assert await record_scan(env, submission, later) == rejection
    found = await status(market)
    assert (found.state, found.reason) == (SubmissionState.REJECTED, "because")
    assert found.rejected_at == rejection.scanned_at
    assert await oldest_pending(env) is None


async def test_the_oldest_pending_is_one_list_call(market: Market) -> None:
    for number in (5, 3, 4):
        submission = make_submission(f"a:{number}", "2026-11-01T08:00:00.000Z")
        scan = make_scan(at=f"2026-11-0{number}T08:00:00.000Z")
        scan = msgspec.structs.replace(scan, submission_id=submission.id)
        await create_submission(market.env, submission)
        await record_scan(market.env, submission, scan)
    oldest = await oldest_pending(market.env)
    assert oldest == PendingSubmission("a:3", "2026-11-03T08:00:00.000Z")
    assert market.kv.operations["list"] == 1


async def test_what_nobody_answers_expires_and_what_passed_stays(market: Market) -> None:
    env = replace(market.env, settings=Settings(submission_ttl=60))
    scans = [make_scan(), make_scan(Verdict.FAIL), None]
    for number, scan in enumerate(scans):
        submission = make_submission(f"id-{number}")
        await create_submission(env, submission)
        if scan is not None:
            scan = msgspec.structs.replace(scan, submission_id=submission.id)
            await record_scan(env, submission, scan)
    assert len(market.kv.keys("sub:")) == 3
    await asyncio.sleep(61)
    kept = {"sub:id-0", "scan:id-0", "pending:2026-11-03T08:00:00.000Z:id-0"}
    assert set(market.kv.keys()) == kept
    assert await submission_status(env, "id-2") is None
    found = await submission_status(env, "id-0")
    assert isinstance(found, SubmissionStatus)
    assert found.state is SubmissionState.SCANNED


async def test_a_submission_lives_thirty_days(market: Market) -> None:
    await create_submission(market.env, make_submission())
    await asyncio.sleep(30 * 86_400 - 1)
    assert (await status(market)).state is SubmissionState.RECEIVED
    await asyncio.sleep(2)
    assert market.kv.keys() == []


async def test_a_rejection_after_a_pass_stays(market: Market) -> None:
    env, submission = market.env, make_submission()
    await create_submission(env, submission)
    await record_scan(env, submission, make_scan())
    rejection = make_scan(Verdict.FAIL, "2026-11-04T09:00:00.000Z")
    await record_scan(env, submission, rejection)
    assert await oldest_pending(env) is None
    await asyncio.sleep(env.settings.submission_ttl + 1)
    assert (await status(market)).state is SubmissionState.REJECTED


@pytest.mark.market(rate_limited=True)
async def test_a_verdict_within_a_second_keeps_its_submission(market: Market) -> None:
    env, submission = market.env, make_submission()
    await create_submission(env, submission)
    await record_scan(env, submission, make_scan())
    assert market.kv.refusals["sub:id-1"] == 1
    await asyncio.sleep(env.settings.submission_ttl + 1)
    assert (await status(market)).state is SubmissionState.SCANNED


@pytest.mark.parametrize("key", ["sub:", "pending:", "scan:"])
async def test_a_pass_that_is_cut_off_leaves_what_it_can_be_taken_up_from(
    market: Market, key: str
) -> None:
    """No verdict without its mark, no mark of a submission that expires."""
    env, submission = market.env, make_submission()
    await create_submission(env, submission)
    market.kv.faults = fault(Fault.FAIL, "put", key=key)
    with pytest.raises(KvError):
        await record_scan(env, submission, make_scan())
    market.kv.faults = None
    assert market.kv.keys("scan:") == []
    await asyncio.sleep(env.settings.submission_ttl + 1)
    marks, submissions = market.kv.keys("pending:"), market.kv.keys("sub:")
    assert bool(marks) == (key == "scan:")
    assert bool(submissions) == (key != "sub:")


async def test_damaged_submissions_are_told_from_missing_ones(market: Market) -> None:
    market.kv.damage("sub:id-1", b'{"id": 7}')
    market.kv.damage("scan:id-1", b"\xff")
    assert isinstance(await get_submission(market.env, "id-1"), Unreadable)
    assert isinstance((await get_scans(market.env, ["id-1"]))["id-1"], Unreadable)
    assert isinstance(await submission_status(market.env, "id-1"), Unreadable)
    assert await get_submission(market.env, "\ud800") is None
