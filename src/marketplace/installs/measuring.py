"""Installs and trends of skills, made of the counts by every check, a part of the table at a time.

They belong to no state of a skill: no revision counts them and no merge touches them. So a row has
what was counted, a publish leaves it as it is, and KV's records get it afterwards, each as often as
it changes, but never more of them in a check than MOST_RECORDS. The index gets it when it is
rewritten at night.
"""

from datetime import timedelta
from typing import Final

import msgspec

from marketplace.basics.timestamps import format_timestamp
from marketplace.installs.counting import day_of
from marketplace.operations.reports import load_place, save_place
from marketplace.ports.env import Env, get_db
from marketplace.publishing.kv_copy import project_rows

WEEK_DAYS: Final = 7
MONTH_DAYS: Final = 30  # each with today

ROWS: Final = 200  # that one statement looks at, and may lock for as long as it takes
STATEMENTS: Final = 100  # of one check: 110,000 skills take six
SECONDS: Final = 10.0  # of one check, where very many rows change
MOST_RECORDS: Final = 200  # that one check writes

_PLACE: Final = "installs-measured"
_WRITTEN: Final = "installs-written"


class _Place(msgspec.Struct, frozen=True):
    """The identity after which the next check goes on; empty: from the beginning."""

    after: str = ""


async def measure_installs(env: Env) -> int:
    """Measure a part of the table, from where the last check stopped; how many rows changed.

    Raises DatabaseError.
    """
    database = await get_db(env)
    place = await load_place(env, database, _PLACE, _Place())
    deadline = env.clock() + timedelta(seconds=SECONDS)
    after, changed = place.after, 0
    for _ in range(STATEMENTS):
        measured = await database.measure_installs(
            after=after,
            limit=ROWS,
            week=_first_day(env, WEEK_DAYS),
            month=_first_day(env, MONTH_DAYS),
        )
        changed, after = changed + measured.changed, measured.after or ""
        if not after or env.clock() > deadline:
            break
    await save_place(database, _PLACE, _Place(after), before=place)
    return changed


async def write_measured(env: Env) -> int:
    """Write records of rows whose installs have changed, from where the last check stopped, so that
    those that change all the time hold up no others; how many. Raises DatabaseError.

    What could not be written gets its turn again.
    """
    database = await get_db(env)
    place = await load_place(env, database, _WRITTEN, _Place())
    rows = await database.list_measured(after=place.after, limit=MOST_RECORDS)
    projected = await project_rows(env, rows)
    await database.note_measured(projected.written)
    after = rows[-1].identity if len(rows) == MOST_RECORDS else ""
    await save_place(database, _WRITTEN, _Place(after), before=place)
    return len(projected.written)


def _first_day(env: Env, days: int) -> str:
    """Of so many days, the last of which is today."""
    return day_of(format_timestamp(env.clock() - timedelta(days=days - 1)))
