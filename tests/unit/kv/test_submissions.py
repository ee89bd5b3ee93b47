"""A submission moves forward only."""

import asyncio
import json
from dataclasses import replace

import msgspec
import pytest

from marketplace.basics.json_text import Unreadable
from marketplace.kv.acceptance_log import log_act, read_acts, read_verdicts
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
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.scan import Facts, Scan
from marketplace.skills.submission import (
    Publication,
    Submission,
    SubmissionState,
    SubmissionStatus,
)
from marketplace.skills.tiers import Verdict
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
    return Scan(
        submission_id="id-1",
        repo_url="https://github.com/octo/tools",
        skill_name="PDF tools",
        base_slug="pdf-tools",
        verdict=verdict,
        score=90,
        scanned_at=at,
        reason="because",
    )


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
    await record_scan(env, make_scan())
    pending = PendingSubmission("id-1", make_scan().scanned_at)
    assert await oldest_pending(env) == pending
    assert (await status(market)).state is SubmissionState.SCANNED
    await record_publication(env, PUBLICATION)
    assert (await status(market)).slug == "pdf-tools"
    assert await oldest_pending(env) is None
    await record_scan(env, make_scan(Verdict.FAIL, "2026-11-05T08:00:00.000Z"))
    found = await status(market)
    assert (found.state, found.verdict) == (SubmissionState.PUBLISHED, Verdict.FAIL)


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (Verdict.PASS, SubmissionState.SCANNED),
        (Verdict.FAIL, SubmissionState.REJECTED),
        (Verdict.WITHDRAWN, SubmissionState.REJECTED),
        (Verdict.GONE, SubmissionState.REJECTED),
    ],
)
async def test_a_submission_tells_its_verdict(
    market: Market, verdict: Verdict, state: SubmissionState
) -> None:
    await create_submission(market.env, make_submission())
    await record_scan(market.env, make_scan(verdict))
    found = await status(market)
    assert (found.state, found.verdict) == (state, verdict)
    rejected = state is SubmissionState.REJECTED
    assert (found.reason, found.rejected_at) == (
        ("because", make_scan().scanned_at) if rejected else (None, None)
    )


@pytest.mark.parametrize("moment", ["2026-11-02T09:00:00.000Z", "2026-11-04T09:00:00.000Z"])
async def test_of_a_pass_and_a_fail_the_fail_stands_in_any_order(
    market: Market, moment: str
) -> None:
    """It counts from the later of both moments, so that it is the newest verdict on the skill."""
    env, passed = market.env, make_scan()
    failed = make_scan(Verdict.FAIL, moment)
    await create_submission(env, make_submission())
    await record_scan(env, passed)
    standing = await record_scan(env, failed)
    assert standing.verdict is Verdict.FAIL
    assert standing.scanned_at == max(moment, passed.scanned_at)
    later = make_scan(Verdict.PASS, "2026-11-05T09:00:00.000Z")
    assert await record_scan(env, later) == standing
    found = await status(market)
    assert (found.state, found.reason) == (SubmissionState.REJECTED, "because")
    assert found.rejected_at == standing.scanned_at


@pytest.mark.parametrize("verdict", [Verdict.WITHDRAWN, Verdict.GONE])
async def test_a_later_pass_on_a_submission_lifts_what_its_owner_can_undo(
    market: Market, verdict: Verdict
) -> None:
    await create_submission(market.env, make_submission())
    await record_scan(market.env, make_scan(verdict))
    later = make_scan(Verdict.PASS, "2026-11-05T09:00:00.000Z")
    assert await record_scan(market.env, later) == later
    assert await record_scan(market.env, make_scan(verdict)) == later
    assert (await status(market)).state is SubmissionState.SCANNED


async def test_the_oldest_pending_is_one_list_call(market: Market) -> None:
    for number in (5, 3, 4):
        submission = make_submission(f"a:{number}", "2026-11-01T08:00:00.000Z")
        scan = make_scan(at=f"2026-11-0{number}T08:00:00.000Z")
        scan = msgspec.structs.replace(scan, submission_id=submission.id)
        await create_submission(market.env, submission)
        await record_scan(market.env, scan)
    oldest = await oldest_pending(market.env)
    assert oldest == PendingSubmission("a:3", "2026-11-03T08:00:00.000Z")
    assert market.kv.operations["list"] == 1


@pytest.mark.parametrize("verdict", [None, *Verdict])
async def test_a_submission_expires_and_its_verdict_stays(
    market: Market, verdict: Verdict | None
) -> None:
    env = replace(market.env, settings=Settings(submission_ttl=60))
    await create_submission(env, make_submission())
    if verdict is not None:
        await record_scan(env, make_scan(verdict))
    await asyncio.sleep(61)
    assert await submission_status(env, "id-1") is None
    assert market.kv.keys("sub:") == market.kv.keys("identity:") == []
    kept = [] if verdict is None else [make_scan(verdict)]
    assert await read_verdicts(env, make_scan().identity) == kept


async def test_a_submission_lives_thirty_days(market: Market) -> None:
    await create_submission(market.env, make_submission())
    await asyncio.sleep(30 * 86_400 - 1)
    assert (await status(market)).state is SubmissionState.RECEIVED
    await asyncio.sleep(2)
    assert market.kv.keys() == []


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize(
    ("key", "kept"),
    [("verdict:", []), ("pending:", ["verdict:"]), ("scan:", ["verdict:", "pending:"])],
)
async def test_a_verdict_that_is_cut_off_leaves_what_it_can_be_taken_up_from(
    market: Market, key: str, kept: list[str], verdict: Verdict
) -> None:
    """No verdict without its mark, no mark without an entry in the log."""
    await create_submission(market.env, make_submission())
    market.kv.faults = fault(Fault.FAIL, "put", key=key)
    with pytest.raises(KvError):
        await record_scan(market.env, make_scan(verdict))
    market.kv.faults = None
    steps = ["verdict:", "pending:", "scan:"]
    assert [step for step in steps if market.kv.keys(step)] == kept


# --- the acceptance log


async def test_the_log_keeps_all_that_a_verdict_says(market: Market) -> None:
    facts = Facts(name="PDF tools", description="Reads.", labels=("x",))
    scan = msgspec.structs.replace(
        make_scan(), skill=facts, path="skills/pdf", commit="a" * 40, owner_id="7"
    )
    await record_scan(market.env, scan)
    await record_scan(market.env, scan)
    assert await read_verdicts(market.env, scan.identity) == [scan]
    page = await market.kv.list(prefix="verdict:")
    (key,) = page.keys
    assert key.metadata == json.dumps([scan.identity, "PASS"], separators=(",", ":"))


async def test_no_entry_of_the_log_replaces_another(market: Market) -> None:
    """Two verdicts of one moment on one submission."""
    passed = make_scan()
    failed = make_scan(Verdict.FAIL, "2026-11-02T09:00:00.000Z")
    for scan in (passed, failed):
        await record_scan(market.env, scan)
    logged = await read_verdicts(market.env, passed.identity)
    assert {scan.verdict for scan in logged} == {Verdict.PASS, Verdict.FAIL}


async def test_the_log_keeps_acts_apart_from_those_of_other_skills(market: Market) -> None:
    act = Act(id="a", kind=ActKind.BLOCK, reason="steals", at=make_scan().scanned_at, by="ops")
    other = msgspec.structs.replace(act, id="b")
    await log_act(market.env, "one#skill", act)
    await log_act(market.env, "other#skill", other)
    assert await read_acts(market.env, "one#skill") == [act]


async def test_a_damaged_entry_of_the_log_is_named_and_hides_no_other(market: Market) -> None:
    scans = [make_scan(at=f"2026-11-0{day}T08:00:00.000Z") for day in (1, 2, 3)]
    for scan in scans:
        await record_scan(market.env, scan)
    damaged = market.kv.keys("verdict:")[1]
    market.kv.damage(damaged, b"no json")
    assert await read_verdicts(market.env, scans[0].identity) == [scans[0], scans[2]]
    (line,) = [line for line in market.log.lines if line["event"] == "log-entry-malformed"]
    assert line["key"] == damaged


async def test_damaged_submissions_are_told_from_missing_ones(market: Market) -> None:
    market.kv.damage("sub:id-1", b'{"id": 7}')
    market.kv.damage("scan:id-1", b"\xff")
    assert isinstance(await get_submission(market.env, "id-1"), Unreadable)
    assert isinstance((await get_scans(market.env, ["id-1"]))["id-1"], Unreadable)
    assert isinstance(await submission_status(market.env, "id-1"), Unreadable)
    assert await get_submission(market.env, "\ud800") is None
