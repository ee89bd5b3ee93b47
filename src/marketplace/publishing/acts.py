"""What operators do to a skill: written to the acceptance log and, as a change, to both stores."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from marketplace.catalog.answer import Answer, Source
from marketplace.kv.acceptance_log import log_act, read_acts
from marketplace.kv.index.writing import add_to_published_index
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError, StorageError
from marketplace.publishing.publish import Published, publish_skills
from marketplace.publishing.withheld import update_withheld
from marketplace.skills.acts import MAX_ACTS, Act, ActKind, Acts, lifted_by, union
from marketplace.skills.change import Acted, Change, Knowing
from marketplace.skills.skill import Skill

MAX_ACTS_BYTES: Final = 128 * 1024
"""Of one skill's acts. A record has room for twice as much."""
KEPT_FOR_RULES: Final = 99
"""Of MAX_ACTS, so that rules can always be applied."""


class NotKept(StorageError):
    """Neither the log nor PostgreSQL nor KV took an act."""

    def __init__(self, slug: str) -> None:
        super().__init__(f"the act on {slug} was kept nowhere")


class TooManyActs(ValueError):
    """A skill has no room for a further act."""


class NotInForce(ValueError):
    """Acts that a restore names and that cannot be lifted: unknown ones, or lifted already."""

    def __init__(self, unknown: Sequence[str], lifted: Sequence[str]) -> None:
        parts = [f"unknown: {', '.join(unknown)}"] if unknown else []
        parts += [f"already lifted: {', '.join(lifted)}"] if lifted else []
        super().__init__("; ".join(parts))


@dataclass(frozen=True, slots=True)
class Recorded:
    """An act, and the skill with it. ``stores``: what has taken it, by name."""

    act: Act
    skill: Skill
    stores: Mapping[str, bool]


def new_act(env: Env, kind: ActKind, *, reason: str, by: str, **fields: Any) -> Act:
    return Act(id=secrets.token_hex(8), kind=kind, reason=reason, at=env.now(), by=by, **fields)


async def acts_on(env: Env, skill: Skill) -> Acts:
    """The acts on a skill, as its stored state has them and as the log has them."""
    try:
        return union(skill.acts, await read_acts(env, skill.identity))
    except KvError as error:
        env.log("log-not-read", level="warning", slug=skill.name, reason=error.reason)
        return skill.acts


async def act_on(env: Env, found: Answer[Skill], act: Act) -> Recorded:
    """Record an act on a skill that was looked up.

    One durable store is enough; the repair brings the act into the others. Raises NotKept where
    none took it, NotInForce and TooManyActs where it may not be.
    """
    skill = msgspec.structs.replace(found.value, acts=await acts_on(env, found.value))
    _check(skill.acts, act)
    identity = skill.identity
    in_log = await keep_in_log(env, skill, act)
    change: Change = Acted(identity, union(skill.acts, [act]))
    if found.source is not Source.KV_INDEX:  # which has summaries alone
        change = Knowing(change, found.value)
    outcome = (await publish_skills(env, [change])).get(identity)
    published = outcome if isinstance(outcome, Published) else None
    stores = {
        "log": in_log,
        "postgres": published is not None and published.in_database,
        "kv": published is not None and published.in_kv,
    }
    if not any(stores.values()):
        raise NotKept(skill.name)
    if published is None:
        changed = Acted(identity, (act,)).onto(skill)
        acted = changed if isinstance(changed, Skill) else skill
        await update_withheld(env, waiting=[acted])
        return Recorded(act, acted, stores)
    if published.in_database:
        await add_to_published_index(env, [published.skill])
        await update_withheld(env, [published.skill])
    else:
        await update_withheld(env, waiting=[published.skill])
    return Recorded(act, published.skill, stores)


def _check(acts: Acts, act: Act) -> None:
    lifted = lifted_by(acts)
    known = {each.id for each in acts if each.kind is not ActKind.RESTORE}
    unknown = [id_ for id_ in act.lifts if id_ not in known]
    if unknown or any(id_ in lifted for id_ in act.lifts):
        raise NotInForce(unknown, [id_ for id_ in act.lifts if id_ in lifted])
    size = len(msgspec.json.encode([*acts, act]))
    if len(acts) >= MAX_ACTS - KEPT_FOR_RULES or size > MAX_ACTS_BYTES:
        raise TooManyActs(f"{len(acts)} acts of {size} bytes")


async def keep_in_log(env: Env, skill: Skill, act: Act) -> bool:
    """Whether the log took an act; if not, the check writes the entry later."""
    try:
        await log_act(env, skill.identity, act)
    except KvError as error:
        env.log("act-not-logged", level="error", slug=skill.name, reason=error.reason, id=act.id)
        return False
    return True
