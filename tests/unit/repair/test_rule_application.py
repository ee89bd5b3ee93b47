"""Rules on what is stored already: in bounded steps, in every source, and back."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest

from marketplace.catalog.listings import get_skills
from marketplace.catalog.lookup import get_skill_by_name
from marketplace.kv.acceptance_log import log_rule, read_acts
from marketplace.kv.records import read_record
from marketplace.operations.rules import add_rule, lift_rule
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Env
from marketplace.publishing.acts import act_on, new_act
from marketplace.repair.light_repair import run_light_repair
from marketplace.repair.rebuild import MAX_ATTEMPTS, start_rebuild
from marketplace.repair.rule_application import (
    APPLY_RULES,
    OPEN_SECONDS,
    STEP_OPERATIONS,
    STEP_SKILLS,
    Place,
    apply_at_once,
    apply_rules,
    apply_step,
)
from marketplace.skills.acts import ActKind, Severity
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.rules import Matches, Rule, RuleKind, Target
from marketplace.skills.seed import read_seed, seed_of
from marketplace.skills.skill import Skill, Status
from marketplace.worker.consumers import MAINTENANCE_QUEUE, consume
from tests.doubles.database import Held
from tests.doubles.kv import KvOperation
from tests.doubles.marketplace import (
    Delivered,
    Market,
    kv_away,
    make_skill,
    make_skills,
    postgres_away,
    without_postgres,
)
from tests.doubles.network import Fault

EVIL = Target(Matches.OWNER, "github.com/evil")


def evil_skills(count: int) -> list[Skill]:
    return [
        make_skill(f"evil-{number:05d}", author="evil", repo_url="https://github.com/evil/tools")
        for number in range(count)
    ]


async def made(market: Market, target: Target = EVIL, env: Env | None = None) -> Rule:
    kept = await add_rule(
        env or market.env,
        target,
        RuleKind.BLOCK,
        reason="Steals.",
        by="ann",
        threat_type="exfiltration",
        severity=Severity.HIGH,
    )
    return kept.rule


async def lifted(market: Market, rule: Rule, env: Env | None = None) -> Rule:
    kept = await lift_rule(env or market.env, rule.id, reason="A mistake.", by="bob")
    assert kept is not None
    return kept.rule


async def delivered(market: Market) -> int:
    """Deliver what the maintenance queue holds until it is empty; how many messages that were."""
    count = 0
    while market.maintenance.bodies:
        message = Delivered(market.maintenance.bodies.pop(0))
        await consume(market.env, MAINTENANCE_QUEUE, [message])
        assert message.acknowledged
        count += 1
    return count


def statuses(market: Market, skills: Iterable[Skill]) -> set[Status]:
    return {market.tables.rows[skill.identity].skill.status for skill in skills}


async def shown(env: Env, author: str = "evil") -> int:
    answer = await get_skills(env, ListingQuery(author=author))
    return answer.value.total


# --- many skills


def _put_others(market: Market, count: int) -> None:
    """Rows of other owners, straight into the table: what is derived of them is not asked for."""
    template = make_skill("other")
    for number in range(count):
        name = f"other-{number:06d}"
        other = msgspec.structs.replace(
            template, name=name, base_slug=name, repo_url=f"https://github.com/o{number % 997}/r"
        )
        identity = f"https://github.com/o{number % 997}/r#{name}"
        market.tables.rows[identity] = Held(other, identity, "r", other, "r")
        market.tables.identities[name] = identity


async def test_of_110_000_skills_the_500_of_an_owner_are_blocked_in_bounded_steps(
    market: Market,
) -> None:
    evil, others = evil_skills(500), make_skills(100)
    seeded = evil.pop()
    market.env = replace(market.env, seed=seed_of([seeded]))
    await market.fill([*evil, *others])
    await market.index([*evil, *others])
    _put_others(market, 110_000 - 599)
    away = without_postgres(market)
    assert await shown(market.env) == await shown(away) == 500

    rule = await made(market)
    place: Place | None = Place(rule.id, "")
    steps = 0
    while place is not None and place.after is not None:
        before = sum(market.kv.operations.values())
        applied = await apply_step(market.env, place)
        assert sum(market.kv.operations.values()) - before <= STEP_OPERATIONS
        place, steps = applied.place, steps + 1
        assert applied.skills <= STEP_SKILLS
    assert steps <= 500 / STEP_SKILLS + 1

    assert statuses(market, [*evil, seeded]) == {Status.BLOCKED}
    assert statuses(market, others) == {Status.LISTED}
    assert await shown(market.env) == 0
    assert await _fallbacks(market, [*evil, seeded, *others]) == {
        "kv-enumeration": [],
        "kv-index": [],
        "seed": [],
    }

    await lifted(market, rule)
    place = Place(rule.id, "")
    while place is not None and place.after is not None:
        before = sum(market.kv.operations.values())
        place = (await apply_step(market.env, place)).place
        assert sum(market.kv.operations.values()) - before <= STEP_OPERATIONS
    assert statuses(market, [*evil, seeded]) == {Status.LISTED}
    assert await shown(market.env) == await shown(away) == 500


async def _fallbacks(market: Market, before: list[Skill]) -> dict[str, list[bytes]]:
    """What each source lists of the owner with PostgreSQL away, the index being from before."""
    found = {}
    await market.index(before)
    for failing in ((), ("skill:",), ("skill:", "skills:published-index", "outbox:")):
        market.kv.faults = partial(_fails, failing)
        env = replace(market.env, database=DatabaseSession(postgres_away))
        answer = await get_skills(env, ListingQuery(author="evil", limit=100))
        found[str(answer.source)] = list(answer.value.items)
    market.kv.faults = None
    return found


def _fails(prefixes: tuple[str, ...], operation: KvOperation) -> Fault | None:
    return Fault.FAIL if prefixes and operation.key.startswith(prefixes) else None


@pytest.mark.parametrize("target", ["owner", "identity", "digest"])
async def test_the_call_applies_a_small_rule_itself(market: Market, target: str) -> None:
    digest = "d" * 64
    (evil,), other = evil_skills(1), make_skill("other", content_digest="e" * 64)
    evil = msgspec.structs.replace(evil, content_digest=digest)
    await market.fill([evil, other])
    targets = {
        "owner": EVIL,
        "identity": Target(Matches.IDENTITY, evil.identity),
        "digest": Target(Matches.CONTENT_DIGEST, digest),
    }
    rule = await made(market, targets[target])
    applied = await apply_at_once(market.env, rule)
    assert (applied.skills, applied.place, market.maintenance.bodies) == (1, None, [])
    (act,) = market.tables.rows[evil.identity].skill.acts
    assert act.rule == rule.id
    assert await read_acts(market.env, evil.identity) == [act]
    assert statuses(market, [other]) == {Status.LISTED}
    record = await read_record(market.env, evil.name)
    assert isinstance(record, Skill)
    assert record.status is Status.BLOCKED

    back = await apply_at_once(market.env, await lifted(market, rule))
    assert (back.skills, back.place) == (1, None)
    assert statuses(market, [evil]) == {Status.LISTED}
    assert len(await read_acts(market.env, evil.identity)) == 2


async def test_what_the_call_leaves_the_queue_does(market: Market) -> None:
    evil = evil_skills(470)
    await market.fill(evil)
    applied = await apply_at_once(market.env, await made(market))
    assert applied.skills == 2 * STEP_SKILLS
    assert applied.place is not None
    assert market.maintenance.bodies == [{APPLY_RULES: True}]
    assert await delivered(market) > 1
    assert statuses(market, evil) == {Status.BLOCKED}


async def test_where_the_queue_fails_each_check_makes_a_step(market: Market) -> None:
    evil = evil_skills(3 * STEP_SKILLS)
    await market.fill(evil)
    market.maintenance.failing = True
    await apply_at_once(market.env, await made(market))
    assert "rule-put-off" in market.log.events()
    for _ in range(2):
        await run_light_repair(market.env)
    assert statuses(market, evil) == {Status.BLOCKED}
    assert (await run_light_repair(market.env)).rules_applied == 0


async def test_a_message_that_fails_is_retried_and_then_left_to_the_check(market: Market) -> None:
    market.env = without_postgres(market)
    for attempts, settled in ((1, "retry"), (MAX_ATTEMPTS, "ack")):
        message = Delivered({APPLY_RULES: True}, attempts)
        await consume(market.env, MAINTENANCE_QUEUE, [message])
        assert message.settled[0].startswith(settled)


# --- races and failures


async def test_what_a_publish_under_way_has_missed_a_check_finds_within_the_open_time(
    market: Market,
) -> None:
    (evil,) = evil_skills(1)
    await apply_at_once(market.env, await made(market))
    await market.fill([evil])  # by one that had not seen the rule
    assert (await run_light_repair(market.env)).rules_applied == 1
    assert statuses(market, [evil]) == {Status.BLOCKED}


async def test_a_rule_is_looked_at_until_no_publish_can_have_missed_it(market: Market) -> None:
    rule = await made(market)
    await apply_at_once(market.env, rule)
    await asyncio.sleep(OPEN_SECONDS - 1)
    await run_light_repair(market.env)
    assert market.tables.rules[rule.id].applied_at is None
    await asyncio.sleep(1)
    await run_light_repair(market.env)
    assert market.tables.rules[rule.id].applied_at == market.env.now()
    await lifted(market, rule)
    assert market.tables.rules[rule.id].applied_at is None


async def test_a_skill_that_takes_no_act_holds_up_no_others_and_keeps_the_rule_open(
    market: Market,
) -> None:
    evil = evil_skills(2 * STEP_SKILLS)
    await market.fill(evil)
    refused = {skill.name for skill in evil[: STEP_SKILLS + 10]}
    market.tables.refuses = lambda skill: skill.name in refused
    rule = await made(market)
    await asyncio.sleep(OPEN_SECONDS)
    market.maintenance.failing = True
    for _ in range(2):
        await run_light_repair(market.env)
    assert statuses(market, evil[STEP_SKILLS + 10 :]) == {Status.BLOCKED}
    assert market.tables.rules[rule.id].applied_at is None
    assert "rule-not-applied" in market.log.events()
    market.tables.refuses = lambda _: False
    await run_light_repair(market.env)
    await run_light_repair(market.env)
    assert statuses(market, evil) == {Status.BLOCKED}


async def test_steps_stay_within_the_operations_of_an_invocation(market: Market) -> None:
    await market.fill(evil_skills(600))
    await made(market)
    before = sum(market.kv.operations.values())
    applied = await apply_rules(market.env)
    assert applied.place is not None
    assert sum(market.kv.operations.values()) - before <= market.env.settings.kv_operation_budget
    assert applied.skills >= 4 * STEP_SKILLS


# --- what is lifted


async def test_lifting_lifts_the_acts_of_the_rule_alone(market: Market) -> None:
    evil = evil_skills(3)
    await market.fill(evil)
    found = await get_skill_by_name(market.env, evil[0].name)
    assert found is not None
    by_hand = new_act(market.env, ActKind.BLOCK, reason="So.", by="ann")
    await act_on(market.env, found, by_hand)
    rule = await made(market)
    await apply_at_once(market.env, rule)
    other = await made(market, Target(Matches.IDENTITY, evil[1].identity))
    await apply_at_once(market.env, other)
    assert statuses(market, evil) == {Status.BLOCKED}
    await apply_at_once(market.env, await lifted(market, rule))
    assert [market.tables.rows[s.identity].skill.status for s in evil] == [
        Status.BLOCKED,
        Status.BLOCKED,
        Status.LISTED,
    ]
    await apply_at_once(market.env, await lifted(market, other))
    assert statuses(market, evil[1:]) == {Status.LISTED}


async def test_lifting_finds_skills_of_which_the_content_is_another_now(market: Market) -> None:
    (evil,) = evil_skills(1)
    evil = msgspec.structs.replace(evil, content_digest="d" * 64)
    await market.fill([evil])
    rule = await made(market, Target(Matches.CONTENT_DIGEST, "d" * 64))
    await apply_at_once(market.env, rule)
    stored = market.tables.rows[evil.identity].skill
    market.tables.put(Held.of(msgspec.structs.replace(stored, content_digest="e" * 64)))
    assert statuses(market, [evil]) == {Status.BLOCKED}
    await apply_at_once(market.env, await lifted(market, rule))
    assert statuses(market, [evil]) == {Status.LISTED}


async def test_an_exception_that_an_operator_made_stands(market: Market) -> None:
    evil = evil_skills(2)
    await market.fill(evil)
    rule = await made(market)
    await apply_at_once(market.env, rule)
    found = await get_skill_by_name(market.env, evil[0].name)
    assert found is not None
    (act,) = found.value.acts
    fine = new_act(market.env, ActKind.RESTORE, reason="Fine.", by="ann", lifts=(act.id,))
    await act_on(market.env, found, fine)
    await run_light_repair(market.env)
    assert statuses(market, evil[:1]) == {Status.LISTED}
    assert statuses(market, evil[1:]) == {Status.BLOCKED}


# --- PostgreSQL or KV away, and what is lost


async def test_with_postgres_away_a_rule_is_kept_and_applied_when_it_is_back(
    market: Market,
) -> None:
    evil = evil_skills(2)
    await market.fill(evil)
    away = without_postgres(market)
    rule = await made(market, env=away)
    applied = await apply_at_once(away, rule)
    assert applied.place is not None
    assert market.tables.rules == {}
    report = await run_light_repair(market.env)
    assert (report.rules_replayed, report.rules_applied, report.errors) == (1, 2, [])
    assert statuses(market, evil) == {Status.BLOCKED}
    assert await delivered(market) == 1
    await lifted(market, rule, env=without_postgres(market))
    report = await run_light_repair(market.env)
    assert (report.rules_replayed, report.rules_applied, report.errors) == (1, 2, [])
    assert statuses(market, evil) == {Status.LISTED}


async def test_with_postgres_away_a_rule_on_one_skill_hides_it_at_once(market: Market) -> None:
    evil = evil_skills(2)
    await market.fill(evil)
    away = without_postgres(market)
    rule = await made(market, Target(Matches.IDENTITY, evil[0].identity), env=away)
    assert (await apply_at_once(away, rule)).skills == 1
    assert await shown(without_postgres(market)) == 1


async def test_a_rule_that_kv_did_not_take_comes_into_the_log(market: Market) -> None:
    market.kv.faults = kv_away
    rule = await made(market)
    market.kv.faults = None
    assert market.kv.keys("rule:") == []
    await run_light_repair(market.env)
    (key,) = market.kv.keys("rule:")
    assert market.kv.peek_json(key)["id"] == rule.id
    market.kv.faults = kv_away
    await lifted(market, rule)
    market.kv.faults = None
    await run_light_repair(market.env)
    assert len(market.kv.keys("rule:")) == 2


@pytest.mark.parametrize("how", ["check", "rebuild"])
async def test_a_table_restored_from_before_gets_its_rules_back(market: Market, how: str) -> None:
    evil = evil_skills(2)
    await market.fill(evil)
    rule, other = await made(market), await made(market, Target(Matches.OWNER, "github.com/b"))
    await apply_at_once(market.env, rule)
    await lifted(market, other)
    market.tables.rules.clear()
    for skill in evil:
        market.tables.put(Held.of(skill, skill.revision))
    if how == "rebuild":
        assert (await start_rebuild(market.env, wait_seconds=20)).complete
        assert set(market.tables.rules) == {rule.id, other.id}
    await run_light_repair(market.env)
    assert statuses(market, evil) == {Status.BLOCKED}
    assert market.tables.rules[rule.id] == rule
    assert market.tables.rules[other.id].lifted_by == "bob"


async def test_a_rebuild_brings_in_no_skill_that_a_rule_forbids(market: Market) -> None:
    evil = evil_skills(2)
    await made(market)
    await market.fill(evil, table=False)
    statuses_seen: set[Status] = set()

    async def watch(_operation: str) -> None:
        statuses_seen.update(row.skill.status for row in market.tables.rows.values())

    market.tables.after = watch
    assert (await start_rebuild(market.env, wait_seconds=20)).complete
    assert statuses_seen == {Status.BLOCKED}
    await run_light_repair(market.env)
    record = await read_record(market.env, evil[0].name)
    assert isinstance(record, Skill)
    assert record.status is Status.BLOCKED


async def test_many_rules_in_the_log_come_back_in_bounded_parts(market: Market) -> None:
    template = await made(market)
    market.tables.rules.clear()
    for number in range(450):
        owner = f"github.com/o{number}"
        await log_rule(
            market.env, msgspec.structs.replace(template, id=f"{template.at}-{number}", value=owner)
        )
    before = sum(market.kv.operations.values())
    assert (await run_light_repair(market.env)).rules_replayed == 451
    assert sum(market.kv.operations.values()) - before < 100
    market.tables.rules.clear()
    assert (await start_rebuild(market.env, wait_seconds=20)).complete
    assert len(market.tables.rules) == 451
    assert (await run_light_repair(market.env)).rules_replayed == 0


async def test_a_damaged_entry_stops_no_other(market: Market) -> None:
    rule = await made(market)
    other = await made(market, Target(Matches.OWNER, "github.com/b"))
    market.tables.rules.clear()
    (key,) = [k for k in market.kv.keys("rule:") if k.endswith(rule.id)]
    market.kv.damage(key, b"nonsense")
    assert (await run_light_repair(market.env)).errors == []
    assert list(market.tables.rules) == [other.id]


async def test_a_seed_skill_is_blocked_and_comes_back(market: Market) -> None:
    seed = read_seed(
        b'[{"name": "seeded", "displayName": "S", "repoUrl": "https://github.com/evil/tools"}]'
    )
    market.env = replace(market.env, seed=seed)
    rule = await made(market)
    assert (await apply_at_once(market.env, rule)).skills == 1
    assert await shown(market.env) == await shown(without_postgres(market)) == 0
    await apply_at_once(market.env, await lifted(market, rule))
    assert await shown(market.env) == 1


async def test_a_second_repair_changes_nothing(market: Market) -> None:
    await market.fill(evil_skills(3))
    await apply_at_once(market.env, await made(market))
    await run_light_repair(market.env)
    before: dict[str, Any] = {key: market.kv.peek(key) for key in market.kv.keys("")}
    await run_light_repair(market.env)
    assert {key: market.kv.peek(key) for key in market.kv.keys("")} == before
