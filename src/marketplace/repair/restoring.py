"""Filling a marketplace from a mirror: rows for skills that it does not have.

A skill that there is stays as it is, whatever the mirror says: restoring takes nothing back, and
may be repeated. PostgreSQL takes the rows; a rebuild then gives KV its copies, the log its entries
and everything else that follows from the rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from marketplace.basics.json_text import InvalidData
from marketplace.kv.acknowledged import acknowledge
from marketplace.operations.rules import rules_in_database
from marketplace.ports.env import Env, get_db
from marketplace.repair.bulk_upsert import upsert_in_bulk
from marketplace.skills.mirrored import read_item
from marketplace.skills.rules import under_rules
from marketplace.skills.skill import Skill


class NotRestored(msgspec.Struct, frozen=True):
    """An item that has no row, and why."""

    name: str
    reason: str


class Restored(msgspec.Struct, frozen=True):
    """What became of some items. ``present``: skills that were there, and stay as they are."""

    restored: int
    present: int
    rejected: Sequence[NotRestored]


async def restore_skills(env: Env, items: Sequence[Mapping[str, Any]]) -> Restored:
    """Give each skill of a mirror a row under its slug, and the slugs that it has left.

    Raises DatabaseError, and has restored nothing or some then; it may be repeated.
    """
    database = await get_db(env)
    read, rejected = _read(items)
    rows = await database.get_skills(list(read))
    lacking = [skill for identity, (skill, _) in read.items() if identity not in rows]
    rules = await rules_in_database(database, lacking)
    outcome = await upsert_in_bulk(
        [under_rules(skill, rules) for skill in lacking], database.upsert_skills
    )
    rejected += [NotRestored(s.name, "another skill has its slug") for s in outcome.unplaced]
    rejected += [NotRestored(skill.name, reason) for skill, reason in outcome.rejected]
    there = rows.keys() | {skill.identity for skill in outcome.stored}
    aliases = {
        alias: identity
        for identity, (_, left) in read.items()
        if identity in there
        for alias in left
    }
    if aliases:
        await database.add_aliases(aliases)
    await acknowledge(env)
    return Restored(len(outcome.stored), len(rows), rejected)


def _read(
    items: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, tuple[Skill, tuple[str, ...]]], list[NotRestored]]:
    """The skills by identity, each with the slugs that it has left; and what cannot be read."""
    read: dict[str, tuple[Skill, tuple[str, ...]]] = {}
    rejected = []
    for item in items:
        try:
            skill, aliases = read_item(item)
        except InvalidData as error:
            rejected.append(NotRestored(str(item.get("name"))[:100], str(error)))
        else:
            read[skill.identity] = (skill, aliases)
    return read, rejected
