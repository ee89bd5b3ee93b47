"""What rows and records lost comes back from the acceptance log; and what it lacks, it gets."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from marketplace.basics.timestamps import EPOCH
from marketplace.kv.acceptance_log import log_act
from marketplace.ports.env import Settings
from marketplace.repair.logged_verdicts import replay_verdicts
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.logged import Logged, fold, that_stand, verdicts_of
from marketplace.skills.merging import as_listed
from marketplace.skills.skill import Skill, Status
from marketplace.skills.tiers import CertTier, Verdict
from tests.doubles.database import Held
from tests.doubles.marketplace import Market, make_skill, make_skills, without_postgres
from tests.unit.publishing.reports import (
    carried_out,
    deliver,
    items,
    letters,
    listed,
    report,
    reported,
    row,
    submitted,
)
from tests.unit.repair.rebuilds import changes, numbers, rebuild

_LISTED: dict[str, Any] = {"path": "skills/reader", "owner_id": "7"}


async def _verdict(market: Market, id_: str, verdict: Verdict, **fields: Any) -> None:
    await asyncio.sleep(60)
    await submitted(market, id_)
    await carried_out(market, report(id_, verdict, **fields))


def _lose(market: Market, *skills: Skill) -> None:
    market.lose_rows(skills)
    market.lose_records(skills)


async def test_a_skill_that_both_stores_lost_is_made_of_every_verdict_on_it(
    market: Market,
) -> None:
    await listed(market, **_LISTED)
    await _verdict(market, "second", Verdict.PASS, text="Read again.", **_LISTED)
    await _verdict(market, "third", Verdict.FAIL)
    before = row(market)
    _lose(market, before)
    dry = await rebuild(market, dry_run=True)
    real = await rebuild(market)
    assert numbers(dry) == numbers(real)
    assert row(market).revision == before.revision
    assert (row(market).description, row(market).status) == ("Read again.", Status.LISTED)
    assert row(market).scan_failed_at is not None
    assert not any(changes(await rebuild(market)))


async def test_its_acts_come_back_with_it(market: Market) -> None:
    before = await listed(market, **_LISTED)
    act = Act(id="block", kind=ActKind.BLOCK, reason="evil", at=market.env.now(), by="ops")
    await log_act(market.env, before.identity, act)
    _lose(market, before)
    await rebuild(market)
    assert row(market).status is Status.BLOCKED
    assert await items(market.env) == []


async def test_another_skill_that_took_its_slug_keeps_it(market: Market) -> None:
    """A failover lost the row, a location that cached the miss gave the slug away, and the only
    record was written over."""
    lost = await listed(market, **_LISTED)
    _lose(market, lost)
    taker = make_skill("reader", repo_url="https://github.com/other/tools")
    await market.fill([taker])
    await rebuild(market)
    rows = {held.skill.identity: held.skill for held in market.tables.rows.values()}
    assert rows[taker.identity].name == "reader"
    assert rows[lost.identity].name == "acme-reader"
    assert rows[lost.identity].description == lost.description
    assert {item["name"] for item in await items(market.env)} == {"reader", "acme-reader"}


async def test_a_row_from_an_old_dump_gets_the_verdicts_since(market: Market) -> None:
    old = await listed(market, **_LISTED)
    await _verdict(market, "second", Verdict.PASS, text="Read again.", **_LISTED)
    newest = row(market)
    market.lose_records([newest])
    market.tables.put(Held.of(old, None))
    await rebuild(market)
    assert row(market).revision == newest.revision


async def test_a_withdrawal_that_an_old_dump_lacks_is_counted_by_the_consumer(
    market: Market,
) -> None:
    old = await listed(market, **_LISTED)
    await _verdict(market, "second", Verdict.WITHDRAWN)
    market.lose_records([old])
    market.tables.put(Held.of(old, None))
    await rebuild(market)
    assert row(market).status is Status.LISTED
    await deliver(market)
    assert row(market).status is Status.WITHDRAWN


async def test_a_withdrawal_that_waits_for_an_operator_is_left_to_him(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketplace.operations.withdrawals.WITHDRAWN_AN_HOUR", 0)
    await listed(market, **_LISTED)
    await asyncio.sleep(60)
    await submitted(market, "second")
    await reported(market, report("second", Verdict.WITHDRAWN))
    await deliver(market)
    assert letters(market) == ["too-many-withdrawn"]
    await asyncio.sleep(1)
    await rebuild(market)
    assert market.publish.bodies == []
    assert row(market).status is Status.LISTED


async def test_facts_before_a_withdrawal_that_is_held_back_are_listed(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both came for one submission, and the consumer saw the later one alone."""
    monkeypatch.setattr("marketplace.operations.withdrawals.WITHDRAWN_AN_HOUR", 0)
    await listed(market, **_LISTED)
    await asyncio.sleep(60)
    await submitted(market, "second")
    await reported(market, report("second", text="Read again.", **_LISTED))
    await asyncio.sleep(1)
    await reported(market, report("second", Verdict.WITHDRAWN))
    await deliver(market)
    assert row(market).description == "As listed."
    await rebuild(market)
    assert (row(market).description, row(market).status) == ("Read again.", Status.LISTED)
    assert set(letters(market)) == {"too-many-withdrawn"}


async def test_a_rejected_submission_lists_nothing(market: Market) -> None:
    """Its PASS and its FAIL are both in the log; it failed before anything was listed."""
    await submitted(market)
    await reported(market, report(text="Reads."))
    market.publish.bodies.clear()
    await asyncio.sleep(1)
    await reported(market, report(verdict=Verdict.FAIL))
    await deliver(market)
    assert market.tables.rows == {}
    await rebuild(market)
    assert market.tables.rows == {}


async def test_a_skill_that_was_listed_when_its_submission_failed_comes_back(
    market: Market,
) -> None:
    before = await listed(market, **_LISTED)
    await asyncio.sleep(60)
    await carried_out(market, report(verdict=Verdict.FAIL))
    failed = row(market)
    assert failed.scan_failed_at is not None
    _lose(market, before)
    await rebuild(market)
    assert row(market).revision == failed.revision


_JUNE = "2025-06-01T00:00:00.000Z"
_PROVISIONAL: dict[str, Any] = {
    "provisional": True,
    "description": "",
    "labels": (),
    "license": None,
    "repository_id": None,
    "content_digest": None,
    "read_at": None,
}


def _imported(**fields: Any) -> Skill:
    values: dict[str, Any] = {
        "description": "Imported.",
        "labels": ("a", "b"),
        "license": "MIT",
        "skill_path": "skills/x",
        "cert_score": 77,
        "cert_tier": CertTier.VERIFIED,
        "published_at": "2025-01-01T00:00:00.000Z",
        "updated_at": "2025-02-01T00:00:00.000Z",
        "read_at": "2025-02-01T00:00:00.000Z",
        "certified_at": "2025-03-01T00:00:00.000Z",
        "repository_id": "1",
        "content_digest": "d" * 64,
        **fields,
    }
    return make_skill("imported", **values)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        _PROVISIONAL,
        {
            "verdict": Verdict.FAIL,
            "verdict_at": _JUNE,
            "verdict_reason": "bad",
        },
        {"verdict": Verdict.WITHDRAWN, "verdict_at": _JUNE},
        {"certified_at": "2025-02-01T00:00:00.000Z"},
        {"certified_at": "2025-01-15T00:00:00.000Z"},  # before the facts
        {"published_at": "2025-02-01T00:00:00.000Z"},
        {"extensible": True, "extension_points": ("format",), "category": "writing"},
    ],
)
async def test_rows_from_before_the_log_get_entries_that_they_can_be_made_of(
    market: Market, fields: dict[str, Any]
) -> None:
    skill = _imported(**fields)
    await market.fill([as_listed(skill)])
    before = row(market)
    await rebuild(market)
    _lose(market, before)
    await rebuild(market)
    after = row(market)
    assert after.content()[1] == before.content()[1]
    assert (after.status, after.verdict, after.published_at) == (
        before.status,
        before.verdict,
        before.published_at,
    )
    assert (after.cert_score, after.cert_tier) == (before.cert_score, before.cert_tier)
    entries = len(market.kv.keys("verdict:"))
    assert not any(changes(await rebuild(market)))
    assert len(market.kv.keys("verdict:")) == entries


async def test_what_waits_in_the_outbox_keeps_the_slug_that_it_has_there(market: Market) -> None:
    await submitted(market)
    await reported(market, report(text="New."))
    await deliver(market, env=without_postgres(market))
    (shown,) = await items(without_postgres(market))
    replayed = await replay_verdicts(market.env, operations=100)
    assert (replayed.news, market.tables.rows) == (0, {})
    await rebuild(market)
    assert row(market).name == shown["name"]


async def test_what_the_log_may_not_show_yet_gets_no_entries(market: Market) -> None:
    await listed(market, **_LISTED)
    hidden = {key: market.kv.peek(key) for key in market.kv.keys("verdict:")}
    for key in hidden:
        market.kv.damage(key, None)
    await rebuild(market)
    assert market.kv.keys("verdict:") == []
    await asyncio.sleep(3 * market.env.settings.kv_lateness)
    await rebuild(market)
    assert market.kv.keys("verdict:") != []


async def test_the_walk_goes_on_where_a_step_ended(market: Market) -> None:
    """Many skills lost, many without entries, and a budget for a few of each at a time."""
    skills = make_skills(90, certified_at=_JUNE)
    await market.fill(skills)
    market = replace(market, env=replace(market.env, settings=Settings(kv_operation_budget=130)))
    await rebuild(market)
    assert len({key.split(":")[1] for key in market.kv.keys("verdict:")}) == 90
    assert not any(changes(await rebuild(market)))
    _lose(market, *skills[:60])
    report_ = await rebuild(market)
    assert report_["prismaBackfilled"] == 60
    assert len(market.tables.rows) == 90
    assert report_["progress"]["maxKvOperations"] <= 130
    assert not any(changes(await rebuild(market)))


def test_a_fold_of_verdicts_made_of_a_state_is_that_state() -> None:
    skill = _imported()
    folded = fold(None, Logged(tuple(that_stand(verdicts_of(skill))))).skill
    assert folded is not None
    assert folded.published_at == skill.published_at
    assert folded.content() == skill.content()
    assert msgspec.json.encode(folded.cert_score) == b"77"


async def test_a_row_that_was_published_anew_gets_its_first_date_back(market: Market) -> None:
    """By a later verdict, where neither store showed the row of the first one."""
    await listed(market, **_LISTED)
    first = row(market).published_at
    await _verdict(market, "second", Verdict.PASS, text="Read again.", **_LISTED)
    stored = row(market)
    late = msgspec.structs.replace(stored, published_at=stored.decided_at)
    assert late.published_at > first
    _lose(market, stored)
    market.tables.put(Held.of(late))
    assert any(changes(await rebuild(market)))
    assert row(market).published_at == first
    assert not any(changes(await rebuild(market)))


async def test_a_row_without_the_moment_of_a_verdict_keeps_its_first_date(market: Market) -> None:
    """The log gets an entry for it, whose moment says nothing of when it was published."""
    told = make_skill("pdf-tools", published_at="2026-01-05T00:00:00.000Z", updated_at=EPOCH)
    told = msgspec.structs.replace(told, certified_at=None, verdict_at=None, read_at=None)
    assert told.decided_at == EPOCH
    market.tables.put(Held.of(told))
    for _ in range(3):
        await rebuild(market)
        await asyncio.sleep(3 * market.env.settings.kv_lateness)
        assert row(market).published_at == told.published_at
