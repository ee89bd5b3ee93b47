"""Applying new rules to what is stored already, and lifting the acts of lifted ones.

In steps of a few skills. The call of an operator makes the first of them itself; the others go
through the maintenance queue, and each check goes on where the last step stopped. A rule stays
open for OPEN_SECONDS, in which each check looks again: a publish that was under way when the rule
was made may not have seen it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import msgspec

from marketplace.basics.concurrency import map_bounded
from marketplace.basics.timestamps import EPOCH, seconds_since
from marketplace.kv.counting import CountingKv
from marketplace.kv.index.writing import add_to_published_index
from marketplace.operations.reports import load_place, save_place
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env, get_db, send_messages
from marketplace.ports.errors import DatabaseError, StorageError
from marketplace.publishing.acts import keep_in_log
from marketplace.publishing.publish import Published, publish_skills
from marketplace.publishing.withheld import update_withheld
from marketplace.skills.acts import ActKind
from marketplace.skills.change import Acted, Ruled
from marketplace.skills.rules import Matches, Rule, act_due, rules_applied, targets_of_skill
from marketplace.skills.skill import Skill

STEP_SKILLS: Final = 50
STEP_OPERATIONS: Final = 4 * STEP_SKILLS
"""KV operations that a step takes at most, about."""
STEPS_AT_ONCE: Final = 2  # that an operator's call makes
STEPS_OF_A_CHECK: Final = 1  # with something to do
MAX_STEPS: Final = 100  # of one invocation; a step that finds nothing costs no KV
SECONDS: Final = 20.0  # of one invocation
OPEN_SECONDS: Final = 1200.0
"""Longer than an invocation may last: 15 minutes."""
APPLY_RULES: Final = "applyRules"

_PLACE: Final = "rule-application"


class Place(msgspec.Struct, frozen=True):
    """Where the next step begins. ``after``: the last skill that is done with of the rule of the
    id ``rule``; None: that rule is done with. ``begun_at``: when its first step was made."""

    rule: str = ""
    after: str | None = None
    begun_at: str = EPOCH
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """``skills`` were changed. ``place``: None where no rule is left in this round."""

    skills: int
    place: Place | None


async def apply_rules(env: Env, *, busy_steps: int = MAX_STEPS) -> Applied:
    """Make steps from where the last one stopped, as many as the limits allow, and keep the place.

    At most ``busy_steps`` of them change something. Raises DatabaseError.
    """
    kv = CountingKv(env.submissions_kv)
    env = replace(env, submissions_kv=kv)
    database = await get_db(env)
    deadline = env.clock() + timedelta(seconds=SECONDS)
    kept = await load_place(env, database, _PLACE, Place())
    place: Place | None = kept
    skills = busy = 0
    for _ in range(MAX_STEPS):
        left = env.settings.kv_operation_budget - kv.operations
        if place is None or busy >= busy_steps or left < STEP_OPERATIONS or env.clock() > deadline:
            break
        applied = await apply_step(env, place)
        place, skills, busy = applied.place, skills + applied.skills, busy + bool(applied.skills)
    await save_place(database, _PLACE, place or Place(), before=kept)
    return Applied(skills, place)


async def apply_step(env: Env, place: Place) -> Applied:
    """One step: up to STEP_SKILLS skills of one open rule. Raises DatabaseError."""
    database = await get_db(env)
    rule = await _current(database, place)
    if rule is None:
        rule = await database.next_open_rule(after=place.rule)
        if rule is None:
            return Applied(0, None)
        place = Place(rule.id, "", env.now())
    identities = await _unruled(env, database, rule, place.after or "")
    applied = [each.skill for each in await _apply(env, rule, identities) if each.in_database]
    left = sorted(set(identities) - {skill.identity for skill in applied})
    if left:
        env.log("rule-not-applied", level="error", id=rule.id, skills=len(left), first=left[0])
    place = msgspec.structs.replace(place, failed=place.failed or bool(left))
    if len(identities) == STEP_SKILLS:
        return Applied(len(applied), msgspec.structs.replace(place, after=identities[-1]))
    if not place.failed and seconds_since(rule.changed_at, place.begun_at) >= OPEN_SECONDS:
        await database.mark_applied(rule, at=env.now())
    return Applied(len(applied), Place(rule.id))


async def apply_at_once(env: Env, rule: Rule) -> Applied:
    """Make the first steps of a rule, and leave the others to the queue and the checks.

    With PostgreSQL away, that is for a skill that the rule names itself and for the seed alone.
    Raises nothing: whatever is left over is found by the next check.
    """
    skills = 0
    place: Place | None = None if rule.applied_at else Place(rule.id, "", env.now())
    try:
        for _ in range(STEPS_AT_ONCE):
            if place is None or place.after is None:
                break
            applied = await apply_step(env, place)
            place, skills = applied.place, skills + applied.skills
        if place is not None and place.after is not None:
            await ask_to_go_on(env)
    except StorageError as error:
        env.log("rule-put-off", level=error.level, id=rule.id, reason=error.reason)
        if isinstance(error, DatabaseError):
            skills += len(await _apply(env, rule, _named(env, rule)[:STEP_SKILLS]))
    done = place is None or place.after is None
    return Applied(skills, None if done else place)


async def go_on(env: Env) -> None:
    """Go on for a message of the queue, and send another one where something is left.

    Raises StorageError.
    """
    applied = await apply_rules(env)
    if applied.skills:
        env.log("rules-applied", skills=applied.skills, complete=applied.place is None)
    if applied.place is not None:
        await ask_to_go_on(env)


async def ask_to_go_on(env: Env) -> None:
    """Let a message of the maintenance queue make the next steps. Raises QueueError."""
    await send_messages(env, env.maintenance_queue, [{APPLY_RULES: True}])


def asks_for_rules(body: object) -> bool:
    """Whether a message asks to go on."""
    return isinstance(body, Mapping) and body.get(APPLY_RULES) is True


async def _current(database: SkillDatabase, place: Place) -> Rule | None:
    """The rule in the middle of which the last step stopped, if it is open still."""
    if place.after is None:
        return None
    found = await database.find_rules([], [place.rule])
    return next((rule for rule in found if rule.applied_at is None), None)


async def _unruled(env: Env, database: SkillDatabase, rule: Rule, after: str) -> list[str]:
    """The next skills that a rule is yet to be applied to; seed skills may have no row."""
    rows = await database.list_unruled(rule, after=after, limit=STEP_SKILLS)
    named = [i for i in _seeded(env, rule) if i > after] if rule.lifted_at is None else []
    present = await database.get_skills(named)
    return sorted({*rows, *(i for i in named if i not in present)})[:STEP_SKILLS]


def _seeded(env: Env, rule: Rule) -> list[str]:
    return [
        identity
        for identity, skill in env.seed.by_identity.items()
        if rule.target in targets_of_skill(skill)
    ]


def _named(env: Env, rule: Rule) -> list[str]:
    """The skills that a rule matches, as far as it can be told without PostgreSQL."""
    identity = [rule.value] if rule.matches is Matches.IDENTITY else []
    return list(dict.fromkeys([*identity, *_seeded(env, rule)]))


async def _apply(env: Env, rule: Rule, identities: Sequence[str]) -> list[Published]:
    """Give skills the act of a rule, or lift it; those that have it then. Raises nothing."""
    if not identities:
        return []
    changes = [Ruled(Acted(identity, ()), [rule]) for identity in identities]
    outcomes = await publish_skills(env, changes)
    published = [found for found in outcomes.values() if isinstance(found, Published)]
    stored = [found.skill for found in published if found.in_database]
    waiting = [found.skill for found in published if not found.in_database]
    await _log_acts(env, rule, [*stored, *waiting])
    if stored:
        await add_to_published_index(env, stored)
    await update_withheld(env, stored, waiting)
    return [found for found in published if _has(found.skill, rule)]


def _has(skill: Skill, rule: Rule) -> bool:
    return rule.id in rules_applied(skill) and act_due(skill, rule) is None


async def _log_acts(env: Env, rule: Rule, skills: Sequence[Skill]) -> None:
    async def log(skill: Skill) -> None:
        for act in skill.acts:
            lifts = act.kind is ActKind.RESTORE
            if act.rule == rule.id and lifts == (rule.lifted_at is not None):
                await keep_in_log(env, skill, act)

    await map_bounded(skills, log)
