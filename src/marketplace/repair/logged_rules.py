"""The rules in the acceptance log and those in the table: what either lacks, it gets.

The table may have been restored from an old copy, or been away when an operator made or lifted a
rule; KV may have been away then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from marketplace.kv.acceptance_log import (
    RulePage,
    list_rule_keys,
    log_lift,
    log_rule,
    read_rule_entries,
    read_rules,
)
from marketplace.kv.keys import rule_id_in
from marketplace.operations.reports import load_place, save_place
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env, get_db
from marketplace.skills.rules import Rule, RuleLift

_ENTRIES: Final = 200  # of the log, that one call of `replay_rules` looks at
_PAGES: Final = 15  # of the log, that one check looks at
_ROWS: Final = 10  # whose entries in the log one check looks at
_PLACE: Final = "logged-rules"


@dataclass(frozen=True, slots=True)
class ReplayedRules:
    changed: int  # rules that the table lacked, or had in force although they are lifted
    cursor: str | None  # where the log goes on


class _Place(msgspec.Struct, frozen=True):
    """Where the next check goes on: in the log, and in the table."""

    cursor: str | None = None
    before: str | None = None


async def reconcile_rules(env: Env) -> int:
    """A part of both, from where the last check stopped; how many rules the table got or lifted.

    Raises DatabaseError, KvError.
    """
    database = await get_db(env)
    place = await load_place(env, database, _PLACE, _Place())
    before = await _log_rows(env, database, place.before)
    cursor, changed = place.cursor, 0
    for _ in range(_PAGES):
        replayed = await replay_rules(env, cursor)
        cursor, changed = replayed.cursor, changed + replayed.changed
        if cursor is None:
            break
    await save_place(database, _PLACE, _Place(cursor, before), before=place)
    return changed


async def replay_rules(env: Env, cursor: str | None = None) -> ReplayedRules:
    """Give the table what a part of the log has and the table lacks.

    Raises DatabaseError, KvError.
    """
    page = await list_rule_keys(env, cursor=cursor, limit=_ENTRIES)
    database = await get_db(env)
    known = {rule.id: rule for rule in await database.find_rules([], sorted(page.ids))}
    entries = await read_rule_entries(env, _missing(page, known))
    changed = 0
    for rule in entries.rules.values():
        changed += await database.add_rule(rule)
    for lifts in entries.lifts.values():
        changed += await database.lift_rule(min(lifts, key=lambda lift: (lift.at, lift.by)))
    return ReplayedRules(changed, page.cursor)


def _missing(page: RulePage, known: dict[str, Rule]) -> list[str]:
    """The keys of entries that the table lacks, each lift behind its rule."""
    made = [key for key in page.made if rule_id_in(key) not in known]
    in_force = {id_ for id_, rule in known.items() if rule.lifted_at is None}
    new = {rule_id_in(key) for key in made}
    lifted = [key for key in page.lifted if rule_id_in(key) in in_force | new]
    return sorted([*made, *lifted])


async def _log_rows(env: Env, database: SkillDatabase, before: str | None) -> str | None:
    """Write what the log lacks of some rows; the id to go on before."""
    rules = await database.list_rules(before=before, limit=_ROWS)
    logged = {rule.id: rule for rule in await read_rules(env, [rule.target for rule in rules])}
    for rule in rules:
        await _log_what_is_missing(env, rule, logged.get(rule.id))
    return _following(rules)


async def _log_what_is_missing(env: Env, rule: Rule, logged: Rule | None) -> None:
    if logged is None:
        await log_rule(env, rule)
    if rule.lifted_at is not None and (logged is None or logged.lifted_at is None):
        by, reason = rule.lifted_by or "", rule.lift_reason or ""
        lift = RuleLift(rule=rule.id, at=rule.lifted_at, by=by, reason=reason)
        await log_lift(env, rule, lift)


def _following(rules: Sequence[Rule]) -> str | None:
    return rules[-1].id if len(rules) == _ROWS else None
