"""The rules of operators, as PostgreSQL and the acceptance log have them.

Both have all of them: each is written to both, and the repair brings into either what it lacks.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from marketplace.kv.acceptance_log import find_logged_rule, log_lift, log_rule, read_rules
from marketplace.operations import audit
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, KvError, StorageError
from marketplace.skills.acts import Severity
from marketplace.skills.rules import (
    Rule,
    RuleKind,
    RuleLift,
    Target,
    rules_applied,
    targets_of_skill,
)
from marketplace.skills.scan import Refusal
from marketplace.skills.skill import Skill


class RuleNotKept(StorageError):
    """Neither PostgreSQL nor the log took a rule, or what lifts it."""

    def __init__(self) -> None:
        super().__init__("the rule was kept nowhere")


@dataclass(frozen=True, slots=True)
class KeptRule:
    """A rule as it stands. ``stores``: what has taken the call, by name; empty where there was
    nothing to do."""

    rule: Rule
    stores: Mapping[str, bool]


async def add_rule(
    env: Env,
    target: Target,
    kind: RuleKind,
    *,
    reason: str,
    by: str,
    threat_type: str | None = None,
    severity: Severity | None = None,
    evidence_urls: tuple[str, ...] = (),
) -> KeptRule:
    """Keep a new rule, or answer the one of this kind that is in force on the target.

    One store is enough. Raises RuleNotKept where none took it.
    """
    for rule in await _rules_on(env, target):
        if rule.kind is kind and rule.lifted_at is None:
            return KeptRule(rule, {})
    now = env.now()
    rule = Rule(
        id=audit.new_id(now),
        kind=kind,
        matches=target.matches,
        value=target.value,
        reason=reason,
        at=now,
        by=by,
        threat_type=threat_type,
        severity=severity,
        evidence_urls=evidence_urls,
    )
    in_log = await _note(env, rule, lambda: log_rule(env, rule))
    in_database = await _note(env, rule, lambda: _insert(env, rule))
    return _kept(rule, in_log=in_log, in_database=in_database)


async def lift_rule(env: Env, rule_id: str, *, reason: str, by: str) -> KeptRule | None:
    """Lift a rule; None where there is none of this id. One that is lifted stays as it is.

    Raises RuleNotKept; KvError where PostgreSQL does not know the rule and the log cannot be read.
    """
    rule = await _find(env, rule_id)
    if rule is None:
        return None
    if rule.lifted_at is not None:
        return KeptRule(rule, {})
    lift = RuleLift(rule=rule.id, at=env.now(), by=by, reason=reason)
    in_log = await _note(env, rule, lambda: log_lift(env, rule, lift))
    in_database = await _note(env, rule, lambda: _lift(env, rule, lift))
    return _kept(rule.lifted(lift), in_log=in_log, in_database=in_database)


async def list_rules(env: Env, *, before: str | None, limit: int) -> Sequence[Rule]:
    """The newest first. Raises DatabaseError."""
    return await (await get_db(env)).list_rules(before=before, limit=limit)


async def rules_in_database(
    database: SkillDatabase, outcomes: Iterable[Skill | Refusal]
) -> Sequence[Rule]:
    """What PostgreSQL says of the rules on these skills: those in force, and those that were
    applied to them. Raises DatabaseError."""
    skills = [skill for skill in outcomes if isinstance(skill, Skill)]
    targets = dict.fromkeys(t for skill in skills for t in targets_of_skill(skill))
    ids = sorted({id_ for skill in skills for id_ in rules_applied(skill)})
    return await database.find_rules(list(targets), ids)


async def rules_in_log(env: Env, skill: Skill) -> Sequence[Rule]:
    """What the log says of the rules on a skill. Raises KvError."""
    return await read_rules(env, targets_of_skill(skill))


async def _rules_on(env: Env, target: Target) -> Collection[Rule]:
    try:
        return await (await get_db(env)).find_rules([target], [])
    except DatabaseError as error:
        env.log("rules-read-from-log", level=error.level, reason=error.reason)
    try:
        return await read_rules(env, [target])
    except KvError as error:  # a second rule on a target does no harm
        env.log("rules-not-read", level="warning", reason=error.reason)
        return ()


async def _find(env: Env, rule_id: str) -> Rule | None:
    try:
        found = await (await get_db(env)).find_rules([], [rule_id])
    except DatabaseError as error:
        env.log("rules-read-from-log", level=error.level, reason=error.reason)
        found = []
    return found[0] if found else await find_logged_rule(env, rule_id)


async def _note(env: Env, rule: Rule, write: Callable[[], Awaitable[None]]) -> bool:
    try:
        await write()
    except StorageError as error:
        kind = type(error).__name__
        env.log("rule-not-noted", level="error", id=rule.id, reason=error.reason, detail=kind)
        return False
    return True


def _kept(rule: Rule, *, in_log: bool, in_database: bool) -> KeptRule:
    if not in_log and not in_database:
        raise RuleNotKept
    return KeptRule(rule, {"log": in_log, "postgres": in_database})


async def _insert(env: Env, rule: Rule) -> None:
    await (await get_db(env)).add_rule(rule)


async def _lift(env: Env, rule: Rule, lift: RuleLift) -> None:
    database = await get_db(env)
    await database.add_rule(rule)  # the log alone may have it
    await database.lift_rule(lift)
