"""Rules at submission and in the consumer: what they forbid is never listed, not for a moment."""

import asyncio
from typing import Any

import pytest

from marketplace.catalog.lookup import get_skill_by_name
from marketplace.kv.records import read_record
from marketplace.operations.rules import add_rule, lift_rule
from marketplace.ports.env import Env
from marketplace.publishing.acts import act_on, new_act
from marketplace.publishing.submissions import submit
from marketplace.repair.light_repair import run_light_repair
from marketplace.repair.rule_application import apply_at_once
from marketplace.skills.acts import ActKind
from marketplace.skills.rules import Matches, Rule, RuleKind, Target
from marketplace.skills.skill import Skill, Status
from marketplace.skills.submission import Submission, SubmissionState
from tests.doubles.marketplace import Market, fault, kv_away, without_postgres
from tests.doubles.network import Fault
from tests.unit.publishing.reports import (
    acted,
    carried_out,
    deliver,
    items,
    listed,
    report,
    reported,
    row,
    submitted,
)

DIGEST = "d" * 64
TARGETS = {
    "identity": Target(Matches.IDENTITY, "https://github.com/acme/tools#reader"),
    "owner": Target(Matches.OWNER, "github.com/acme"),
    "digest": Target(Matches.CONTENT_DIGEST, DIGEST),
}
FACTS: dict[str, Any] = {"text": "Reads.", "content_digest": DIGEST}


async def made(
    market: Market, target: str = "owner", kind: RuleKind = RuleKind.BLOCK, env: Env | None = None
) -> Rule:
    kept = await add_rule(env or market.env, TARGETS[target], kind, reason="Steals.", by="ann")
    return kept.rule


def asked(market: Market) -> Submission:
    return Submission(
        id="new",
        repo_url="https://github.com/Acme/Tools",
        skill_name="Reader",
        base_slug="reader",
        created_at=market.env.now(),
    )


# --- at submission


@pytest.mark.parametrize("kind", RuleKind)
@pytest.mark.parametrize("target", ["identity", "owner"])
@pytest.mark.parametrize("away", [False, True])
async def test_a_submission_that_a_rule_matches_is_answered_as_blocked(
    market: Market, kind: RuleKind, target: str, away: bool
) -> None:
    rule = await made(market, target, kind)
    env = without_postgres(market) if away else market.env
    receipt = await submit(env, asked(market))
    assert (receipt.blocked, receipt.state, receipt.id) == (True, SubmissionState.REJECTED, None)
    assert market.kv.keys("sub:") == []
    await lift_rule(env, rule.id, reason="A mistake.", by="bob")
    assert not (await submit(env, asked(market))).blocked


async def test_what_an_operator_made_an_exception_of_may_be_submitted(market: Market) -> None:
    await listed(market)
    rule = await made(market)
    await apply_at_once(market.env, rule)
    assert (await submit(market.env, asked(market))).blocked
    found = await get_skill_by_name(market.env, "reader")
    assert found is not None
    (act,) = found.value.acts
    fine = new_act(market.env, ActKind.RESTORE, reason="Fine.", by="ann", lifts=(act.id,))
    await act_on(market.env, found, fine)
    assert not (await submit(market.env, asked(market))).blocked


async def test_a_skill_that_an_operator_blocked_is_answered_as_blocked(market: Market) -> None:
    skill = await listed(market)
    await acted(market, skill.identity, ActKind.WITHDRAW)
    assert not (await submit(market.env, asked(market))).blocked
    await acted(market, skill.identity, ActKind.BLOCK)
    assert (await submit(market.env, replace_id(asked(market)))).duplicate
    for key in market.kv.keys("identity:"):
        market.kv.damage(key, None)
    assert (await submit(market.env, asked(market))).blocked


def replace_id(submission: Submission) -> Submission:
    return Submission(
        id="other",
        repo_url=submission.repo_url,
        skill_name=submission.skill_name,
        base_slug=submission.base_slug,
        created_at=submission.created_at,
    )


# --- in the consumer


async def _watched(market: Market) -> set[Status]:
    """Every status that any row or record of the skill ever has from now on."""
    seen: set[Status] = set()

    async def after(_operation: str) -> None:
        seen.update(held.skill.status for held in market.tables.rows.values())

    def written(key: str, _before: bytes | None, value: bytes | None) -> None:
        if key.startswith(("skill:", "outbox:")) and value is not None:
            seen.add(Status.LISTED if b"BLOCKED" not in value else Status.BLOCKED)

    market.tables.after = after
    market.kv.on_write = written
    return seen


@pytest.mark.parametrize("target", TARGETS)
async def test_a_rule_made_before_the_publish_is_in_the_first_state_that_is_written(
    market: Market, target: str
) -> None:
    await submitted(market)
    rule = await made(market, target)
    seen = await _watched(market)
    await carried_out(market, report(**FACTS))
    assert seen == {Status.BLOCKED}
    (act,) = row(market).acts
    assert act.rule == rule.id
    record = await read_record(market.env, "reader")
    assert isinstance(record, Skill)
    assert record.acts == (act,)
    for env in (market.env, without_postgres(market)):
        assert await items(env) == []


@pytest.mark.parametrize("target", TARGETS)
async def test_with_postgres_away_the_log_tells_the_rules(market: Market, target: str) -> None:
    await submitted(market)
    await made(market, target)
    seen = await _watched(market)
    await reported(market, report(**FACTS))
    (message,) = await deliver(market, env=without_postgres(market))
    assert message.acknowledged
    assert await items(without_postgres(market)) == []
    await run_light_repair(market.env)
    assert seen == {Status.BLOCKED}
    assert row(market).status is Status.BLOCKED


async def test_where_neither_tells_the_rules_the_message_is_retried(market: Market) -> None:
    await submitted(market)
    await reported(market, report(**FACTS))
    market.kv.faults = fault(Fault.FAIL, "list", key="rule:")
    (message,) = await deliver(market, env=without_postgres(market))
    assert message.retried
    assert market.kv.keys("outbox:") == market.kv.keys("skill:") == []
    market.kv.faults = None
    (message,) = await deliver(market, env=without_postgres(market))
    assert message.acknowledged


async def test_a_rule_in_the_log_that_cannot_be_read_lets_nothing_be_listed(
    market: Market,
) -> None:
    await made(market)
    (key,) = market.kv.keys("rule:")
    market.kv.damage(key, b"nonsense")
    await submitted(market)
    await reported(market, report(**FACTS))
    (message,) = await deliver(market, env=without_postgres(market))
    assert message.retried


async def test_a_read_of_the_log_from_before_lets_nothing_past_postgres(market: Market) -> None:
    await made(market)
    for key in market.kv.keys("rule:"):
        market.kv.damage(key, None)  # as it looks for a minute elsewhere
    await submitted(market)
    await reported(market, report(**FACTS))
    await deliver(market, env=without_postgres(market))
    assert len(market.kv.keys("outbox:")) == 1
    statuses: set[Status] = set()

    async def after(_operation: str) -> None:
        statuses.update(held.skill.status for held in market.tables.rows.values())

    market.tables.after = after
    await run_light_repair(market.env)
    assert statuses == {Status.BLOCKED}


async def test_a_rule_that_waits_in_the_log_comes_before_what_waits_in_the_outbox(
    market: Market,
) -> None:
    away = without_postgres(market)
    await submitted(market)
    await reported(market, report(**FACTS))
    await deliver(market, env=away)
    await made(market, env=away)
    seen: set[Status] = set()

    async def after(_operation: str) -> None:
        seen.update(held.skill.status for held in market.tables.rows.values())

    market.tables.after = after
    await run_light_repair(market.env)
    assert seen == {Status.BLOCKED}


async def test_what_changes_into_a_forbidden_content_is_withheld_with_it(market: Market) -> None:
    await listed(market, content_digest="e" * 64)
    await made(market, "digest")
    assert row(market).status is Status.LISTED
    await asyncio.sleep(1)
    await submitted(market, "second")
    await carried_out(market, report("second", **FACTS))
    assert row(market).status is Status.BLOCKED
    await asyncio.sleep(1)
    await submitted(market, "third")
    await carried_out(market, report("third", text="Reads.", content_digest="f" * 64))
    assert row(market).status is Status.BLOCKED, "until an operator has looked"


async def test_a_lifted_rule_forbids_nothing_and_its_act_is_lifted_by_the_next_write(
    market: Market,
) -> None:
    rule = await made(market)
    await submitted(market)
    await carried_out(market, report(**FACTS))
    await asyncio.sleep(1)
    await lift_rule(market.env, rule.id, reason="A mistake.", by="bob")
    await asyncio.sleep(1)
    await submitted(market, "second")
    await carried_out(market, report("second", **FACTS))
    assert row(market).status is Status.LISTED
    assert [act.kind for act in row(market).acts] == [ActKind.BLOCK, ActKind.RESTORE]


async def test_reading_the_rules_costs_no_more_with_many_rules(market: Market) -> None:
    async def cost() -> int:
        await submitted(market, "first")
        await reported(market, report(**FACTS))
        before = sum(market.kv.operations.values())
        await deliver(market, env=without_postgres(market))
        for key in (*market.kv.keys("outbox:"), *market.kv.keys("skill:")):
            market.kv.damage(key, None)
        return sum(market.kv.operations.values()) - before

    alone = await cost()
    await asyncio.sleep(1)
    for number in range(300):
        target = Target(Matches.OWNER, f"github.com/o{number}")
        await add_rule(market.env, target, RuleKind.BLOCK, reason="So.", by="ann")
    assert await cost() <= alone + 1


async def test_a_rule_that_nothing_took_is_refused(market: Market) -> None:
    market.kv.faults = kv_away
    with pytest.raises(Exception, match="kept nowhere"):
        await made(market, env=without_postgres(market))


async def test_of_one_kind_a_target_has_one_rule(market: Market) -> None:
    rule = await made(market)
    for env in (market.env, without_postgres(market)):
        assert await made(market, env=env) == rule
    other = await made(market, kind=RuleKind.WITHDRAW)
    assert other.id != rule.id
    await lift_rule(market.env, rule.id, reason="A mistake.", by="bob")
    assert await made(market) != rule
