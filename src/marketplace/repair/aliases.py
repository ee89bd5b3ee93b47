"""Old slugs, in the table and in KV: what either lacks, it gets.

Each direction is a walk in portions. Where the two say different things, the table counts: it has
let each old slug lead to one skill. An old slug that is a skill's slug now is left alone.
"""

from dataclasses import dataclass
from typing import Final

from marketplace.basics.concurrency import map_bounded
from marketplace.kv.access import write_again_if_refused
from marketplace.kv.aliases import Claims, list_aliases, mark_moved, read_claims, write_alias
from marketplace.kv.summaries import Moved
from marketplace.ports.database import AliasRow
from marketplace.ports.env import Env, get_db
from marketplace.repair.foresight import Foresight

ALIAS_OPERATIONS: Final = 400
"""KV operations that a portion takes at most, about."""

_PORTION: Final = 150  # aliases


@dataclass(frozen=True, slots=True)
class RepairedAliases:
    """``aliases``: that one of the sources lacked. ``go_on``: where the next portion begins; None:
    there is none."""

    aliases: int
    go_on: str | None


async def aliases_into_database(
    env: Env, cursor: str | None, foresight: Foresight
) -> RepairedAliases:
    """Give the table the aliases of a portion of KV's that it lacks; those that lead to no skill
    stay in KV alone. A dry run only counts them. Raises DatabaseError, KvError."""
    page = await list_aliases(env, cursor=cursor, limit=_PORTION)
    database = await get_db(env)
    known = await database.find_claims(page.aliases)
    claims = await read_claims(env, [alias for alias in page.aliases if alias not in known])
    missing = {alias: s.identity for alias, s in claims.old.items() if s is not None}
    ends = {alias: claims.targets[alias] for alias in claims.old if alias not in missing}
    rows = await database.find_claims(sorted(set(ends.values())))
    missing |= {alias: rows[slug] for alias, slug in ends.items() if slug in rows}
    if missing and not foresight.job.dry_run:
        await database.add_aliases(missing)
    made = foresight.made(set(ends.values()) - rows.keys())
    number = len(missing) + sum(slug in made for slug in ends.values())
    return RepairedAliases(number, page.cursor)


async def aliases_into_kv(env: Env, after: str, foresight: Foresight) -> RepairedAliases:
    """Let the aliases of a portion of the table lead to the same skills in KV. A dry run only
    counts them. Raises DatabaseError, KvError."""
    rows = await (await get_db(env)).list_aliases(after=after, limit=_PORTION)
    claims = await read_claims(env, [row.alias for row in rows])
    made = foresight.first_slugs([row.identity for row in rows if row.name is None])
    names = {row.alias: row.name or made.get(row.identity, row.alias) for row in rows}
    lost = {
        row.alias: names[row.alias]
        for row in rows
        if not row.is_taken
        and names[row.alias] != row.alias
        and _lacks(claims, row, names[row.alias])
    }

    async def write(alias: str) -> None:
        note = isinstance(claims.records[alias], Moved)
        leave = mark_moved if note else write_alias
        await write_again_if_refused(lambda: leave(env, alias, lost[alias]))

    if not foresight.job.dry_run:
        await map_bounded(list(lost), write)
    return RepairedAliases(len(lost), rows[-1].alias if len(rows) == _PORTION else None)


def _lacks(claims: Claims, row: AliasRow, name: str) -> bool:
    """Whether KV leads from an old slug to nothing, or to another skill."""
    if row.alias not in claims.targets:
        # A record there is moved out of the way by the walk over the records.
        return claims.records[row.alias] is None
    skill = claims.old[row.alias]
    leads_there = skill is not None and skill.identity == row.identity
    return not leads_there and claims.targets[row.alias] != name
