"""The present version of skills that have none: they were listed before there were versions."""

from typing import Final

import msgspec

from marketplace.operations.reports import load_place, save_place
from marketplace.ports.env import Env, get_db
from marketplace.skills.version_history import version_of

_ROWS: Final = 1000  # that one statement looks at
_STATEMENTS: Final = 5  # of one check, where it finds nothing to do
_PLACE: Final = "missing-versions"


class _Place(msgspec.Struct, frozen=True):
    """The identity after which the next check goes on; empty: from the beginning."""

    after: str = ""


async def fill_versions(env: Env) -> int:
    """Look at a part of the table, from where the last check stopped; how many skills got their
    version. Raises DatabaseError."""
    database = await get_db(env)
    place = await load_place(env, database, _PLACE, _Place())
    after: str | None = place.after
    added = 0
    for _ in range(_STATEMENTS):
        found = await database.without_versions(after=after or "", limit=_ROWS)
        await database.add_first_versions([version_of(None, skill) for skill in found.skills])
        added, after = len(found.skills), found.after
        if added or after is None:
            break
    await save_place(database, _PLACE, _Place(after or ""), before=place)
    return added
