"""The light repair: what is known to be undone, without enumerating everything.

Outbox records and dead letters, which KV alone took, go into PostgreSQL; rows that KV is not known
to hold go into KV. What passed its scan and was never published is asked for again. These lists are
short unless a source was away.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from marketplace import submission_store
from marketplace.db import get_db
from marketplace.dead_letters import move_letters
from marketplace.env import Env
from marketplace.publishing import (
    Published,
    free_in_kv,
    is_in_both,
    newer_record,
    publish_skills,
    settle_in_kv,
    write_rows,
)
from marketplace.storage import DatabaseError, KvError
from marketplace.submission_store import OutboxEntry
from marketplace.submissions import ask_again

OUTBOX_BATCH: Final = 100
_ROW_BATCH: Final = 200


class LightRepairReport(msgspec.Struct, rename="camel"):
    """What one light repair did, in skills; ``asked_again`` in submissions."""

    database_backfilled: int = 0
    kv_backfilled: int = 0
    asked_again: int = 0
    errors: list[str] = msgspec.field(default_factory=list)


async def run_light_repair(env: Env) -> LightRepairReport:
    """Carry over what one source has and the other lacks. Failures are reported, not raised."""
    report = LightRepairReport()
    try:
        await _drain_outbox(env, report)
        await _write_missing_records(env, report)
        await move_letters(env)
        report.asked_again = await ask_again(env)
    except (DatabaseError, KvError) as error:
        report.errors.append(f"{type(error).__name__}: {error.reason}")
        env.log("light repair cut short", level="error", reason=error.reason, detail=str(error))
    return report


async def _drain_outbox(env: Env, report: LightRepairReport) -> None:
    """Give a batch of waiting skills their place in both stores. Raises KvError."""
    entries = await submission_store.list_outbox(env, limit=OUTBOX_BATCH)
    report.database_backfilled += len(await place_outbox(env, entries))


async def place_outbox(env: Env, entries: Sequence[OutboxEntry]) -> list[str]:
    """Publish waiting skills and clear those that both stores took. Their keys. Raises KvError."""
    outcomes = await publish_skills(env, [entry.skill for entry in entries])
    done = [entry.key for entry in entries if is_in_both(outcomes[entry.skill.identity])]
    await submission_store.clear_outbox(env, done)
    return done


async def _write_missing_records(env: Env, report: LightRepairReport) -> None:
    """Write the rows that KV lacks; where two skills have one slug, the full repair acts."""
    with await get_db(env) as database:
        rows = await database.skills_not_in_kv(limit=_ROW_BATCH)
    if not rows:
        return
    records = await submission_store.read_records(env, [row.name for row in rows])
    free = await free_in_kv(env, rows, records)
    written = await write_rows(env, [row for row in rows if row.name in free])
    await settle_in_kv(env, written)
    report.kv_backfilled += len(written)
    newer = [found for row in rows if (found := newer_record(records[row.name], row))]
    outcomes = await publish_skills(env, newer)
    report.database_backfilled += sum(
        isinstance(outcome, Published) and outcome.in_database for outcome in outcomes.values()
    )
