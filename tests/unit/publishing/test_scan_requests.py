"""What scanners get to read, from the submission to the verdict, with each store away."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from marketplace.basics.timestamps import shifted
from marketplace.kv.keys import submission_key, unqueued_key
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Env, Settings
from marketplace.ports.errors import DatabaseError, KvError
from marketplace.ports.scan_request import ScanReason
from marketplace.publishing.scan_requests import (
    LEASE_SECONDS,
    RESCAN_SECONDS,
    HandedOut,
    hand_out,
    queue_marked,
)
from marketplace.publishing.submissions import Receipt, get_submission_status, submit
from marketplace.repair.light_repair import run_light_repair
from marketplace.skills.acts import ActKind
from marketplace.skills.scan import GONE_SECONDS, READ_AGAIN_SECONDS
from marketplace.skills.skill import Skill
from marketplace.skills.submission import Submission, SubmissionState, SubmissionStatus
from marketplace.skills.tiers import Verdict
from tests.doubles.marketplace import Market, fault, kv_away, postgres_away, without_postgres
from tests.doubles.network import Fault
from tests.unit.publishing.reports import acted, carried_out, deliver, report, reported, row

DAY = 86_400.0
MINUTE = 60.0


def asked(market: Market, id_: str = "first", **fields: Any) -> Submission:
    values: dict[str, Any] = {
        "repo_url": "https://github.com/acme/tools",
        "skill_name": "Reader",
        "base_slug": "reader",
        "created_at": market.env.now(),
    }
    return Submission(id=id_, **(values | fields))


async def take(market: Market, limit: int = 20, env: Env | None = None) -> list[str]:
    return [each.request.submission_id for each in await hand_out(env or market.env, limit)]


async def verified(market: Market) -> Skill:
    """The skill of acme/tools, that passed its scan at this moment."""
    await submit(market.env, asked(market))
    assert await take(market) == ["first"]
    await carried_out(market, report(text="As read."))
    return row(market)


async def state(market: Market, id_: str) -> SubmissionState:
    status = await get_submission_status(market.env, id_)
    assert isinstance(status, SubmissionStatus)
    return status.state


# --- what is handed out


async def test_a_submission_is_handed_out_once_and_its_verdict_closes_it(market: Market) -> None:
    submission = asked(market)
    await submit(market.env, submission)
    (handed,) = await hand_out(market.env, 20)
    assert isinstance(handed, HandedOut)
    assert (handed.request.submission, handed.request.reason) == (submission, ScanReason.NEW)
    assert handed.lease_expires_at == shifted(market.env.now(), LEASE_SECONDS)
    assert await take(market) == []

    await carried_out(market, report(text="As read."))
    await asyncio.sleep(DAY)
    assert await take(market) == []
    assert await state(market, "first") is SubmissionState.PUBLISHED


async def test_a_request_without_a_verdict_is_handed_out_again(market: Market) -> None:
    await submit(market.env, asked(market))
    for _ in range(2):
        assert await take(market) == ["first"]
        await asyncio.sleep(LEASE_SECONDS - 1)
        assert await take(market) == []
        await asyncio.sleep(1)


async def test_pauses_grow_to_a_day_and_the_request_ends_with_its_submission(
    market: Market,
) -> None:
    await submit(market.env, asked(market))
    taken = []
    for number in range(35 * 24):
        taken += [number / 24] * len(await take(market))
        await asyncio.sleep(3600)
    assert 35 < len(taken) < 50
    assert 28.9 < taken[-1] < 30
    assert all(1 <= later - earlier < 1.1 for earlier, later in zip(taken[9:], taken[10:]))  # noqa: B905, RUF007
    await run_light_repair(market.env)
    assert market.tables.scans == {}


async def test_a_repository_that_is_never_scanned_starves_no_other(market: Market) -> None:
    for number in range(50):
        broken = f"https://github.com/broken/{number:02}"
        await submit(market.env, asked(market, f"broken-{number:02}", repo_url=broken))
    for _ in range(10):
        await take(market, 5)
    await asyncio.sleep(LEASE_SECONDS)
    await submit(market.env, asked(market, "works"))
    assert (await take(market, 1)) == ["works"]
    # Nor is one of them in front of the others.
    ids = [id_ for _ in range(10) for id_ in await take(market, 5)]
    assert len(set(ids)) == 50


async def test_new_ones_come_first_then_rescans_then_what_is_due(market: Market) -> None:
    skill = await verified(market)
    other = msgspec.structs.replace(
        skill, repo_url="https://github.com/acme/other", name="other", base_slug="other"
    )
    await market.fill([other])
    await asyncio.sleep(READ_AGAIN_SECONDS)
    await submit(market.env, asked(market, "again"), rescan=True)
    await submit(market.env, asked(market, "new", repo_url="https://github.com/acme/new"))

    handed = await hand_out(market.env, 20)
    assert [each.request.reason for each in handed] == [
        ScanReason.NEW,
        ScanReason.RESCAN,
        ScanReason.DUE,
    ]
    assert [each.request.submission_id for each in handed[:2]] == ["new", "again"]
    assert handed[2].request.identity == other.identity


async def test_a_listed_skill_is_read_again_after_a_week_and_its_verdict_counts(
    market: Market,
) -> None:
    skill = await verified(market)
    await asyncio.sleep(READ_AGAIN_SECONDS - 1)
    assert await take(market) == []
    await asyncio.sleep(1)
    (due,) = await hand_out(market.env, 20)
    assert (due.request.reason, due.request.identity) == (ScanReason.DUE, skill.identity)
    asked_at = market.env.now()

    await asyncio.sleep(MINUTE)
    id_ = due.request.submission_id
    early = shifted(asked_at, -DAY)
    await carried_out(market, report(id_, text="Read again.", scanned_at=early))
    assert row(market).description == "Read again."
    assert row(market).verdict_at == asked_at  # not before the server asked
    await asyncio.sleep(DAY)
    assert await take(market) == []


async def test_a_withdrawn_skill_is_not_due(market: Market) -> None:
    skill = await verified(market)
    await acted(market, skill.identity, ActKind.WITHDRAW)
    await asyncio.sleep(READ_AGAIN_SECONDS)
    assert await take(market) == []


async def test_a_skill_that_is_read_since_it_is_due_answers_as_verified(market: Market) -> None:
    await verified(market)
    await asyncio.sleep(READ_AGAIN_SECONDS)
    assert len(await take(market)) == 1
    receipt = await submit(market.env, asked(market, "again"))
    assert (receipt.already_verified, receipt.duplicate) == (True, False)


async def test_a_repository_that_was_gone_once_is_looked_at_a_day_later(market: Market) -> None:
    await verified(market)
    await asyncio.sleep(READ_AGAIN_SECONDS)
    (id_,) = await take(market)
    receipt = await reported(market, report(id_, Verdict.GONE))
    assert receipt.accepted == [id_]
    await asyncio.sleep(GONE_SECONDS - 1)
    assert await take(market) == []
    await asyncio.sleep(1)
    assert await take(market) == [id_]
    await carried_out(market, report(id_, Verdict.GONE))
    assert row(market).source_gone_at
    await asyncio.sleep(2 * DAY)
    assert await take(market) == []


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.WITHDRAWN])
async def test_every_verdict_closes_its_request(market: Market, verdict: Verdict) -> None:
    await submit(market.env, asked(market))
    await take(market)
    await reported(market, report(verdict=verdict))
    await asyncio.sleep(DAY)
    assert await take(market) == []


async def test_a_verdict_that_is_refused_for_good_closes_its_request(market: Market) -> None:
    await submit(market.env, asked(market))
    await take(market)
    await carried_out(market, report(text="As read.", path="skills/reader"))
    await asyncio.sleep(READ_AGAIN_SECONDS)
    (id_,) = await take(market)
    receipt = await reported(market, report(id_, text="Other.", path="elsewhere"))
    assert [refused.reason for refused in receipt.rejected] == ["other-path"]
    await asyncio.sleep(DAY)
    assert await take(market) == []


async def test_a_verdict_that_could_not_be_kept_leaves_its_request_open(market: Market) -> None:
    await submit(market.env, asked(market))
    await take(market)
    market.kv.faults = fault(Fault.FAIL, "put", key="scan:")
    receipt = await reported(market, report())
    assert [refused.reason for refused in receipt.rejected] == ["storage-unavailable"]
    market.kv.faults = None
    await asyncio.sleep(LEASE_SECONDS)
    assert await take(market) == ["first"]


# --- rescans


async def test_a_rescan_is_asked_for_by_name_or_by_a_newer_version(market: Market) -> None:
    await verified(market)
    for options, fields in (({"rescan": True}, {}), ({}, {"version": "9.0.0"})):
        await asyncio.sleep(RESCAN_SECONDS)
        id_ = f"again-{len(fields)}"
        receipt = await submit(market.env, asked(market, id_, **fields), **options)
        assert receipt == Receipt(id=id_, state=SubmissionState.RECEIVED)
        assert await take(market) == [id_]
        await carried_out(market, report(id_, text="Again."))
    receipt = await submit(market.env, asked(market, "older", version="0.1.0"))
    assert receipt.already_verified


async def test_a_second_rescan_within_the_hour_answers_as_verified(market: Market) -> None:
    skill = await verified(market)
    await submit(market.env, asked(market, "again"), rescan=True)
    await asyncio.sleep(MINUTE)
    duplicate = await submit(market.env, asked(market, "third"), rescan=True)
    assert (duplicate.id, duplicate.duplicate) == ("again", True)
    await take(market)
    await carried_out(market, report("again", text="Again."))
    for fields in ({}, {"version": "9.0.0"}):
        receipt = await submit(market.env, asked(market, "third", **fields), rescan=True)
        assert receipt == Receipt(
            id="again", state=SubmissionState.PUBLISHED, slug=skill.name, already_verified=True
        )
    assert await take(market) == []
    assert market.kv.peek(submission_key("third")) is None
    await asyncio.sleep(RESCAN_SECONDS)
    assert (await submit(market.env, asked(market, "third"), rescan=True)).id == "third"


async def test_a_skill_that_failed_is_scanned_again_once_an_hour(market: Market) -> None:
    await verified(market)
    await submit(market.env, asked(market, "again"), rescan=True)
    await reported(market, report("again", Verdict.FAIL))
    await deliver(market)
    assert row(market).verdict is Verdict.FAIL
    receipt = await submit(market.env, asked(market, "third"))
    assert receipt == Receipt(id="again", state=SubmissionState.REJECTED, duplicate=True)
    await asyncio.sleep(RESCAN_SECONDS)
    assert (await submit(market.env, asked(market, "third"))).id == "third"


async def test_two_that_submit_at_once_get_one_request(market: Market) -> None:
    receipts = await asyncio.gather(
        *[submit(market.env, asked(market, f"{number}")) for number in range(5)]
    )
    assert len({receipt.id for receipt in receipts}) == 1
    assert sum(receipt.duplicate for receipt in receipts) == 4
    assert len(await take(market)) == 1


# --- PostgreSQL away


async def test_with_postgres_away_a_submission_is_taken_and_handed_out_later(
    market: Market,
) -> None:
    away = without_postgres(market)
    submission = asked(market)
    receipt = await submit(away, submission)
    assert receipt == Receipt(id="first", state=SubmissionState.RECEIVED)
    assert await state(market, "first") is SubmissionState.RECEIVED
    assert [line["id"] for line in market.log.lines if line["event"] == "scan-not-queued"] == [
        "first"
    ]
    with pytest.raises(DatabaseError):
        await hand_out(away, 20)
    with pytest.raises(DatabaseError):
        await queue_marked(away)

    assert await take(market) == []
    assert (await run_light_repair(market.env)).scans_queued == 1
    assert market.kv.keys("unqueued:") == []
    (handed,) = await hand_out(market.env, 20)
    assert handed.request.submission == submission
    assert handed.request.requested_at == submission.created_at
    assert (await run_light_repair(market.env)).scans_queued == 0


async def test_a_mark_that_kv_still_shows_asks_for_nothing_twice(market: Market) -> None:
    submission = asked(market)
    await submit(without_postgres(market), submission)
    await queue_marked(market.env)
    await take(market)
    await carried_out(market, report(text="As read."))

    market.kv.damage(unqueued_key(submission.created_at, submission.id), b"1")
    assert await queue_marked(market.env) == 1
    await asyncio.sleep(DAY)
    assert await take(market) == []


async def test_no_mark_hides_those_behind_it(market: Market) -> None:
    """Not one that names no submission, nor one of a submission that is damaged or gone."""
    now = market.env.now()
    for number in range(120):
        market.kv.damage(f"unqueued:0000-nonsense-{number}", b"1")
        market.kv.damage(unqueued_key(now, f"damaged-{number}"), b"1")
        market.kv.damage(submission_key(f"damaged-{number}"), b"{")
        market.kv.damage(unqueued_key(now, f"gone-{number}"), b"1")
    await asyncio.sleep(2 * LEASE_SECONDS)
    await submit(without_postgres(market), asked(market))
    for _ in range(5):
        assert (await run_light_repair(market.env)).errors == []
    assert market.kv.keys("unqueued:") == []
    assert await take(market) == ["first"]
    assert market.log.events().count("unqueued-malformed") == 120
    assert market.log.events().count("unqueued-without-submission") == 240


async def test_a_mark_waits_a_while_for_its_submission(market: Market) -> None:
    key = unqueued_key(market.env.now(), "slow")
    market.kv.damage(key, b"1")
    assert await queue_marked(market.env) == 0
    assert market.kv.keys("unqueued:") == [key]


async def test_one_repair_takes_a_bounded_number_of_marks(market: Market) -> None:
    away = without_postgres(market)
    for number in range(250):
        repository = f"https://github.com/acme/{number}"
        await submit(away, asked(market, f"s{number}", repo_url=repository))
    counts = [(await run_light_repair(market.env)).scans_queued for _ in range(4)]
    assert counts == [100, 100, 50, 0]
    assert len(await take(market, 100)) == 100


async def test_what_postgres_has_lost_is_asked_for_by_the_next_who_submits(
    market: Market,
) -> None:
    await submit(market.env, asked(market))
    market.tables.scans.clear()
    await asyncio.sleep(MINUTE)
    receipt = await submit(market.env, asked(market, "second"))
    assert (receipt.id, receipt.duplicate) == ("first", True)
    assert await take(market) == ["first"]


async def test_a_verdict_that_came_while_postgres_was_away_closes_its_request(
    market: Market,
) -> None:
    await submit(market.env, asked(market))
    await take(market)
    receipt = await reported(market, report(verdict=Verdict.FAIL), env=without_postgres(market))
    assert receipt.accepted == ["first"]
    assert "scan-results-not-noted" in market.log.events()
    await asyncio.sleep(LEASE_SECONDS)
    assert await take(market) == []
    assert [scan.answered_at for scan in market.tables.scans.values()] == [market.env.now()]


# --- KV away


async def test_a_submission_that_kv_lost_is_written_again(market: Market) -> None:
    submission = asked(market)
    await submit(market.env, submission)
    await take(market)
    market.kv.damage(submission_key("first"), None)
    await asyncio.sleep(LEASE_SECONDS)
    assert await take(market) == ["first"]
    await carried_out(market, report(text="As read."))
    assert row(market).description == "As read."


async def test_what_kv_does_not_take_is_handed_out_later(market: Market) -> None:
    await verified(market)
    await asyncio.sleep(READ_AGAIN_SECONDS)
    market.kv.faults = fault(Fault.FAIL, "put", key="sub:")
    assert await take(market) == []
    assert "scan-without-submission" in market.log.events()
    market.kv.faults = None
    await asyncio.sleep(LEASE_SECONDS)
    (id_,) = await take(market)
    await carried_out(market, report(id_, text="Read again."))
    assert row(market).description == "Read again."


async def test_with_kv_away_the_leases_run_out(market: Market) -> None:
    await submit(market.env, asked(market))
    await take(market)
    await asyncio.sleep(LEASE_SECONDS)
    market.kv.faults = kv_away
    with pytest.raises(KvError):
        await hand_out(market.env, 20)
    market.kv.faults = None
    await asyncio.sleep(2 * LEASE_SECONDS)
    assert await take(market) == ["first"]


@pytest.mark.parametrize("away", [False, True])
async def test_after_a_flood_and_its_time_nothing_of_it_is_left(market: Market, away: bool) -> None:
    env = replace(market.env, settings=Settings(submission_ttl=60))
    await submit(env, asked(market, "before"))
    await asyncio.sleep(61)
    for _ in range(2):
        await run_light_repair(env)
    before = market.kv.keys()
    taking = replace(env, database=DatabaseSession(postgres_away)) if away else env
    for number in range(200):
        await submit(taking, asked(market, f"flood-{number}", base_slug=f"reader-{number}"))
    assert len(market.kv.keys()) >= len(before) + 200

    await run_light_repair(env)
    await asyncio.sleep(61)
    for _ in range(2):
        await run_light_repair(env)

    assert market.kv.keys() == before
    assert market.tables.scans == {}
