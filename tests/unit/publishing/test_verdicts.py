"""What each verdict makes of a skill, through webhook, queue and consumer."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import msgspec
import pytest

from marketplace.kv.acceptance_log import read_verdicts
from marketplace.kv.records import read_record
from marketplace.operations import withdrawals
from marketplace.operations.redrive import redrive_all, redrive_ids
from marketplace.operations.withdrawals import HOUR_SECONDS, WITHDRAWN_AN_HOUR
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Env
from marketplace.publishing.submissions import get_submission_status
from marketplace.repair.light_repair import run_light_repair
from marketplace.skills.acts import ActKind
from marketplace.skills.scan import GONE_SECONDS, Facts
from marketplace.skills.skill import Skill, Status
from marketplace.skills.submission import SubmissionState, SubmissionStatus
from marketplace.skills.tiers import CertTier, Verdict
from tests.doubles.marketplace import Market, make_skills, without_postgres
from tests.unit.publishing.reports import (
    acted,
    carried_out,
    deliver,
    items,
    letters,
    listed,
    repaired,
    report,
    reported,
    row,
    submitted,
    texts_of,
)


async def _status(market: Market, id_: str = "first") -> SubmissionStatus:
    found = await get_submission_status(market.env, id_)
    assert isinstance(found, SubmissionStatus)
    return found


async def _everywhere(market: Market) -> Skill:
    """The row, which the record is equal to."""
    stored = row(market)
    assert await read_record(market.env, stored.name) == stored
    return stored


# --- what is listed


async def test_facts_are_listed_and_nothing_else(market: Market) -> None:
    facts = Facts(
        name="Reader",
        display_name="The reader",
        description="Reads.",
        version="2.1.0",
        license="MIT",
        labels=("books",),
        category="writing",
        extension_points=("format",),
    )
    read: dict[str, Any] = {
        "path": "skills/reader",
        "commit": "c" * 40,
        "ref": "refs/heads/main",
        "repository_id": "1",
        "owner_id": "7",
        "content_digest": "d" * 64,
        "skill_md_digest": "e" * 64,
    }
    await submitted(market, description="Evil.", skill_path="evil", labels=("evil",))
    await carried_out(market, report(skill=facts, **read))
    stored = await _everywhere(market)
    told = {field: getattr(facts, field) for field in Facts.__struct_fields__}
    assert told | {"extensible": True, "name": "Reader", "version": "2.1.0"} == {
        **{field: getattr(stored, field, None) for field in Facts.__struct_fields__},
        "name": "Reader",
        "version": stored.current_version,
    }
    assert {"path": stored.skill_path} | {
        field: getattr(stored, field) for field in read if field != "path"
    } == read
    assert (stored.cert_score, stored.cert_tier, stored.provisional) == (
        80,
        CertTier.VERIFIED,
        False,
    )


async def test_a_pass_without_facts_lists_the_pointer_and_says_so(market: Market) -> None:
    await submitted(market, description="Evil.", labels=("evil",))
    await carried_out(market, report(path="skills/reader"))
    (item,) = await items(market.env)
    assert (item["provisional"], item["description"], item["labels"]) == (True, "", [])
    assert (item["skillPath"], item["displayName"]) == ("skills/reader", "Reader")
    await asyncio.sleep(1)
    await carried_out(market, report(text="Reads.", path="skills/reader"))
    (item,) = await items(market.env)
    assert (item["provisional"], item["description"]) == (False, "Reads.")


async def test_a_pass_without_facts_changes_the_check_alone(market: Market) -> None:
    before = await listed(market)
    await asyncio.sleep(1)
    await carried_out(market, report(score=95, cert_tier=CertTier.CERTIFIED))
    after = await _everywhere(market)
    assert after.content() == before.content()
    assert (after.cert_score, after.cert_tier) == (95, CertTier.CERTIFIED)
    assert after.certified_at == market.env.now()


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("2025-12-31T00:00:00.000Z", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01T00:00:30.000Z", "2026-01-01T00:00:30.000Z"),
        ("2026-01-02T00:00:00.000Z", "2026-01-01T00:01:00.000Z"),
        ("9999-12-31T00:00:00.000Z", "2026-01-01T00:01:00.000Z"),
        (None, "2026-01-01T00:01:00.000Z"),
    ],
)
async def test_the_moment_of_a_verdict_is_between_asking_and_receipt(
    market: Market, told: str | None, kept: str
) -> None:
    """So no clock of a scanner that is wrong lets a verdict win for ever."""
    submission = await submitted(market)
    assert submission.created_at == "2026-01-01T00:00:00.000Z"
    await asyncio.sleep(60)
    await carried_out(market, report(text="Reads.", scanned_at=told))
    stored = await _everywhere(market)
    assert (stored.read_at, stored.verdict_at, stored.certified_at) == (kept, kept, kept)


# --- FAIL


@pytest.mark.parametrize("away", [False, True])
async def test_a_fail_marks_a_skill_and_takes_its_tier_and_a_pass_lifts_it(
    market: Market, away: bool
) -> None:
    before = await listed(market)
    await asyncio.sleep(1)
    failed_at = market.env.now()
    env = without_postgres(market) if away else market.env
    await reported(market, report(verdict=Verdict.FAIL, reason="reads secrets"))
    assert [message.acknowledged for message in await deliver(market, env=env)] == [True]
    for source in (env, market.env):
        (item,) = await items(source)
        assert (item["scanFailedAt"], item["certTier"]) == (failed_at, "SCANNED")
        await repaired(market)
    failed = await _everywhere(market)
    assert (failed.status, failed.verdict_reason) == (Status.LISTED, "reads secrets")
    assert failed.content() == before.content()
    await asyncio.sleep(1)
    await submitted(market, "again")
    await carried_out(market, report("again", text="Better."))
    passed = await _everywhere(market)
    assert (passed.scan_failed_at, passed.cert_tier) == (None, CertTier.VERIFIED)
    assert texts_of(await items(market.env)) == ["Better."]


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.WITHDRAWN])
async def test_before_anything_is_listed_any_other_verdict_rejects_the_submission(
    market: Market, verdict: Verdict
) -> None:
    await submitted(market)
    await carried_out(market, report(verdict=verdict, text="Reads.", reason="why"))
    await repaired(market)
    assert (market.tables.rows, market.kv.keys("skill:"), letters(market)) == ({}, [], [])
    found = await _status(market)
    assert (found.state, found.verdict, found.reason) == (SubmissionState.REJECTED, verdict, "why")
    assert market.kv.keys("pending:") == []


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("at_once", [False, True])
async def test_of_the_verdicts_on_a_submission_fail_wins_in_any_order(
    market: Market, order: Sequence[int], at_once: bool
) -> None:
    await listed(market)
    await submitted(market, "second")
    reports = [
        report("second", Verdict.PASS, "Read first.", scanned_at="2026-01-01T00:00:01.000Z"),
        report("second", Verdict.FAIL, scanned_at="2026-01-01T00:00:02.000Z"),
        report("second", Verdict.PASS, "Read last.", scanned_at="2026-01-01T00:00:03.000Z"),
    ]
    await asyncio.sleep(60)
    for number in order:
        await reported(market, reports[number])
        if not at_once:
            await deliver(market)
    await deliver(market)
    stored = await _everywhere(market)
    assert (stored.verdict, stored.cert_tier) == (Verdict.FAIL, CertTier.SCANNED)
    assert stored.scan_failed_at is not None
    assert (await _status(market, "second")).verdict is Verdict.FAIL


async def test_a_fail_on_what_waits_in_the_outbox_has_that_placed_first(market: Market) -> None:
    await submitted(market)
    await reported(market, report(text="Reads."))
    await deliver(market, env=without_postgres(market))
    assert (market.kv.keys("skill:"), len(market.kv.keys("outbox:"))) == ([], 1)
    await asyncio.sleep(1)
    await reported(market, report(verdict=Verdict.FAIL))
    (message,) = await deliver(market)
    assert message.acknowledged
    assert row(market).verdict is Verdict.FAIL
    await run_light_repair(market.env)
    assert row(market).verdict is Verdict.FAIL
    assert market.kv.keys("outbox:") == []


# --- WITHDRAWN


async def test_a_withdrawal_hides_a_skill_until_a_later_pass(market: Market) -> None:
    before = await listed(market)
    await asyncio.sleep(1)
    await carried_out(market, report(verdict=Verdict.WITHDRAWN, reason="the folder is gone"))
    withdrawn = await _everywhere(market)
    assert (withdrawn.status, withdrawn.verdict_reason) == (Status.WITHDRAWN, "the folder is gone")
    assert (withdrawn.name, withdrawn.content()) == (before.name, before.content())
    for env in (market.env, without_postgres(market)):
        assert await items(env) == []
    await asyncio.sleep(1)
    await carried_out(market, report(text="Back."))
    assert texts_of(await items(market.env)) == ["Back."]
    assert (await _everywhere(market)).status is Status.LISTED


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.WITHDRAWN])
async def test_a_late_pass_lists_a_skill_as_the_newer_verdict_in_the_log_leaves_it(
    market: Market, verdict: Verdict
) -> None:
    await submitted(market)
    await submitted(market, "second")
    await asyncio.sleep(60)
    newer = report("second", verdict, scanned_at="2026-01-01T00:00:40.000Z")
    await carried_out(market, newer)
    assert market.tables.rows == {}
    await carried_out(market, report(text="Reads.", scanned_at="2026-01-01T00:00:20.000Z"))
    stored = await _everywhere(market)
    assert (stored.verdict, stored.description) == (verdict, "Reads.")


async def test_a_skill_that_moved_to_another_folder_is_found_gone_and_then_there(
    market: Market,
) -> None:
    await listed(market, path="old/reader")
    await asyncio.sleep(1)
    await carried_out(market, report(verdict=Verdict.WITHDRAWN, path="old/reader"))
    await asyncio.sleep(1)
    await carried_out(market, report(text="Moved.", path="new/reader"))
    (item,) = await items(market.env)
    assert (item["skillPath"], item["description"]) == ("new/reader", "Moved.")


async def test_a_late_withdrawal_is_older_than_the_pass_that_lifted_it(market: Market) -> None:
    await listed(market)
    withdrawn_at = market.env.now()
    await asyncio.sleep(60)
    await submitted(market, "second")
    await carried_out(market, report("second", text="Still here."))
    await submitted(market, "third", created_at=withdrawn_at)
    await carried_out(market, report("third", Verdict.WITHDRAWN, scanned_at=withdrawn_at))
    assert texts_of(await items(market.env)) == ["Still here."]


async def test_no_scan_lifts_an_act(market: Market) -> None:
    before = await listed(market)
    await acted(market, before.identity, ActKind.WITHDRAW)
    for verdict in (Verdict.WITHDRAWN, Verdict.PASS):
        await asyncio.sleep(1)
        await carried_out(market, report(verdict=verdict, text="Back."))
    assert await items(market.env) == []
    assert (await _everywhere(market)).status is Status.WITHDRAWN


# --- GONE


async def _gone(market: Market, id_: str = "first", **fields: Any) -> bool:
    """Whether a message asks to mark the skill after this report."""
    await asyncio.sleep(1)
    receipt = await reported(market, report(id_, Verdict.GONE, **fields))
    assert (list(receipt.accepted), receipt.rejected) == ([id_], [])
    sent = bool(market.publish.bodies)
    await deliver(market)
    return sent


async def test_a_repository_that_two_scans_a_day_apart_did_not_find_marks_its_skill(
    market: Market,
) -> None:
    before = await listed(market)
    assert not await _gone(market)
    assert await _everywhere(market) == before
    assert (await _status(market)).state is SubmissionState.PUBLISHED
    assert (await _status(market)).verdict is Verdict.PASS
    await asyncio.sleep(GONE_SECONDS - 10)
    assert not await _gone(market)
    assert await _everywhere(market) == before
    await asyncio.sleep(10)
    assert await _gone(market)
    marked = await _everywhere(market)
    assert (marked.status, marked.source_gone_at) == (Status.LISTED, market.env.now())
    assert (marked.cert_tier, marked.content()) == (CertTier.VERIFIED, before.content())
    (item,) = await items(market.env)
    assert item["sourceGoneAt"] == market.env.now()
    logged = await read_verdicts(market.env, before.identity)
    assert [scan.verdict for scan in logged] == [Verdict.PASS, *[Verdict.GONE] * 3]


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.FAIL, Verdict.WITHDRAWN])
async def test_a_repository_that_was_there_in_between_is_not_gone(
    market: Market, verdict: Verdict
) -> None:
    await listed(market)
    assert not await _gone(market)
    await asyncio.sleep(GONE_SECONDS / 2)
    await submitted(market, "second")
    await carried_out(market, report("second", verdict))
    await asyncio.sleep(GONE_SECONDS / 2)
    await submitted(market, "third")
    assert not await _gone(market, "third")
    assert row(market).source_gone_at is None
    await asyncio.sleep(GONE_SECONDS)
    assert await _gone(market, "third")


async def test_a_pass_lifts_the_mark(market: Market) -> None:
    await listed(market)
    await _gone(market)
    await asyncio.sleep(GONE_SECONDS)
    assert await _gone(market)
    await asyncio.sleep(1)
    await carried_out(market, report())
    assert (await _everywhere(market)).source_gone_at is None


async def test_one_scan_of_another_skill_confirms_nothing(market: Market) -> None:
    await listed(market)
    await submitted(market, "other", repo_url="https://github.com/other/tools")
    assert not await _gone(market, "other")
    await asyncio.sleep(GONE_SECONDS)
    assert not await _gone(market)


async def test_a_submission_of_which_the_repository_is_not_there_goes_on_waiting(
    market: Market,
) -> None:
    await submitted(market)
    assert not await _gone(market)
    assert (await _status(market)).state is SubmissionState.RECEIVED
    await asyncio.sleep(GONE_SECONDS)
    assert await _gone(market)
    assert (await _status(market)).state is SubmissionState.REJECTED
    assert market.tables.rows == {}


async def test_an_unconfirmed_scan_in_the_log_marks_no_skill_that_is_listed_later(
    market: Market,
) -> None:
    """A PASS takes what the log has besides."""
    await submitted(market)
    await submitted(market, "second")
    read_at = market.env.now()
    await asyncio.sleep(1)
    await _gone(market, "second")
    await reported(market, report(text="Reads.", scanned_at=read_at))
    await deliver(market)
    assert (row(market).verdict, row(market).source_gone_at) == (Verdict.PASS, None)


# --- how many may leave


async def _withdraw(market: Market, skills: Sequence[Skill], env: Env | None = None) -> None:
    """Let a scanner withdraw skills, each by a submission of its own."""
    for skill in skills:
        id_ = f"withdraw-{skill.name}"
        fields = {"repo_url": skill.repo_url, "base_slug": skill.base_slug}
        await submitted(market, id_, skill_name=skill.name, **fields)
        await asyncio.sleep(0.001)
        await reported(market, report(id_, Verdict.WITHDRAWN))
    await deliver(market, env=env)


async def _shown(market: Market) -> set[str]:
    return {row.name for row in market.tables.rows.values() if row.skill.status is Status.LISTED}


async def _published(market: Market, count: int) -> list[Skill]:
    skills = make_skills(count, updated_at="2025-12-01T08:00:00.000Z")
    await market.fill(skills)
    return skills


async def test_no_more_than_twenty_skills_leave_by_verdicts_in_an_hour(market: Market) -> None:
    skills = await _published(market, 30)
    await _withdraw(market, skills[:15])
    await _withdraw(market, skills[15:25])
    assert len(await _shown(market)) == 30 - WITHDRAWN_AN_HOUR
    assert letters(market) == ["too-many-withdrawn"] * 5
    await repaired(market)
    assert len(await items(market.env)) == 30 - WITHDRAWN_AN_HOUR
    assert market.publish.bodies == [], "nothing but an operator sends them again"
    await asyncio.sleep(HOUR_SECONDS)
    await _withdraw(market, skills[25:])
    assert len(await _shown(market)) == 5


async def test_of_many_skills_a_share_may_leave(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawals, "WITHDRAWN_AN_HOUR", 2)
    monkeypatch.setattr(withdrawals, "SHARE_AN_HOUR", 0.1)
    skills = await _published(market, 40)
    await _withdraw(market, skills[:10])
    assert letters(market) == ["too-many-withdrawn"] * 6
    assert len(await _shown(market)) == 36


async def test_what_takes_nothing_out_of_the_listing_is_not_counted(market: Market) -> None:
    skills = await _published(market, WITHDRAWN_AN_HOUR + 1)
    for _ in range(3):
        await _withdraw(market, skills[:1])
    unlisted = make_skills(WITHDRAWN_AN_HOUR, "unlisted")
    await _withdraw(market, unlisted)
    await _withdraw(market, skills)
    assert len(await _shown(market)) == 1
    assert letters(market) == ["too-many-withdrawn"]


async def test_a_message_that_is_retried_is_counted_once(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawals, "WITHDRAWN_AN_HOUR", 1)
    skills = await _published(market, 2)
    for _ in range(2):
        assert await withdrawals.may_withdraw(market.env, skills[0].identity)
    assert not await withdrawals.may_withdraw(market.env, skills[1].identity)


@pytest.mark.parametrize("by", ["id", "reason"])
async def test_an_operator_lets_a_withdrawal_through(
    market: Market, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawals, "WITHDRAWN_AN_HOUR", 0)
    (skill,) = await _published(market, 1)
    await _withdraw(market, [skill])
    ((id_, letter),) = market.tables.dead_letters.items()
    assert (letter.reason, await _shown(market)) == ("too-many-withdrawn", {skill.name})
    if by == "id":
        await redrive_ids(market.env, [id_])
    else:
        await redrive_all(market.env, reason="too-many-withdrawn")
    await deliver(market)
    assert (await _shown(market), row(market).status) == (set(), Status.WITHDRAWN)


async def test_redriving_everything_approves_of_no_withdrawal(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawals, "WITHDRAWN_AN_HOUR", 0)
    (skill,) = await _published(market, 1)
    await _withdraw(market, [skill])
    await redrive_all(market.env, reason=None)
    await asyncio.sleep(1)
    await deliver(market)
    assert await _shown(market) == {skill.name}
    assert letters(market) == ["too-many-withdrawn"]


async def test_with_postgres_away_nothing_leaves(market: Market) -> None:
    (skill,) = await _published(market, 1)
    env = without_postgres(market)
    await _withdraw(market, [skill], env=env)
    assert [item["name"] for item in await items(env)] == [skill.name]
    (body,) = market.publish.bodies
    assert body["submissionId"] == f"withdraw-{skill.name}"
    await deliver(market)
    assert await _shown(market) == set()


async def test_those_who_count_at_once_count_each(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawals, "WITHDRAWN_AN_HOUR", 3)

    async def yields(_operation: str) -> None:
        await asyncio.sleep(0)

    market.tables.before = yields
    envs = [replace(market.env, database=DatabaseSession(market.tables.connect)) for _ in range(5)]
    allowed = await asyncio.gather(
        *(withdrawals.may_withdraw(env, f"{n}") for n, env in enumerate(envs))
    )
    assert sum(allowed) == 3


async def test_a_damaged_state_counts_as_none(market: Market) -> None:
    market.tables.states["withdrawals"] = b'["no moments"]'
    assert await withdrawals.may_withdraw(market.env, "one")
    assert msgspec.json.decode(market.tables.states["withdrawals"])
    assert "state-malformed" in market.log.events()
