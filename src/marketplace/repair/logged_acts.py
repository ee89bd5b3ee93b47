"""The acts in the acceptance log and those in the table: what either lacks, it gets.

The table may have been restored from an old copy, or been away together with the outbox; KV may
have been away when an operator acted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from marketplace.kv.acceptance_log import ActPage, list_acts, log_act, read_acts
from marketplace.operations.reports import load_place, save_place
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env, get_db
from marketplace.publishing.publish import Published, publish_skills
from marketplace.skills.change import Acted
from marketplace.skills.skill import Skill

REPLAY_OPERATIONS: Final = 600
"""KV operations that `replay_acts` takes at most, about: six for each of ENTRIES."""

_ENTRIES: Final = 100  # of the log, that one call of `replay_acts` looks at
_PAGES: Final = 10  # of the log, that one check looks at where it finds nothing to do
_ROWS: Final = 50  # with acts, whose entries in the log one check looks at
_PLACE: Final = "logged-acts"


@dataclass(frozen=True, slots=True)
class Replayed:
    skills: int  # that lacked acts
    cursor: str | None  # where the log goes on


class _Place(msgspec.Struct, frozen=True):
    """Where the next check goes on: in the log, and in the rows that have acts."""

    cursor: str | None = None
    after: str = ""


async def reconcile_acts(env: Env) -> int:
    """A part of both, from where the last check stopped; how many skills got acts back.

    Raises DatabaseError, KvError.
    """
    database = await get_db(env)
    place = await load_place(env, database, _PLACE, _Place())
    after = await _log_rows(env, database, place.after)
    cursor, skills = place.cursor, 0
    for _ in range(_PAGES):
        replayed = await replay_acts(env, cursor)
        cursor, skills = replayed.cursor, replayed.skills
        if skills or cursor is None:
            break
    await save_place(database, _PLACE, _Place(cursor, after), before=place)
    return skills


async def replay_acts(env: Env, cursor: str | None = None) -> Replayed:
    """Give skills the acts that a part of the log has and their rows lack.

    Raises DatabaseError, KvError.
    """
    page = await list_acts(env, cursor=cursor, limit=_ENTRIES)
    rows = await (await get_db(env)).get_skills(sorted(page.ids))
    lacking = [identity for identity in sorted(page.ids) if _lacks(page, rows, identity)]
    changes = [Acted(i, tuple(await read_acts(env, i))) for i in lacking]
    outcomes = await publish_skills(env, changes)
    stored = [o for o in outcomes.values() if isinstance(o, Published) and o.in_database]
    return Replayed(len(stored), page.cursor)


def _lacks(page: ActPage, rows: Mapping[str, Skill], identity: str) -> bool:
    row = rows.get(identity)
    return row is None or not page.ids[identity] <= {act.id for act in row.acts}


async def _log_rows(env: Env, database: SkillDatabase, after: str) -> str:
    """Write what the log lacks of some rows' acts; the slug to go on after."""
    rows = await database.list_acted(after=after, limit=_ROWS)
    for row in rows:
        logged = {act.id for act in await read_acts(env, row.identity)}
        for act in row.acts:
            if act.id not in logged:
                await log_act(env, row.identity, act)
    return rows[-1].name if len(rows) == _ROWS else ""
