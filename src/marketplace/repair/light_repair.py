"""The light repair: what is known to be undone, without enumerating everything.

Outbox records and dead letters that KV alone has go into PostgreSQL; rows that KV is not known to
hold go into KV. What passed its scan and was never published is asked for again. These lists are
short unless a source was away.
"""

from typing import Final

import msgspec

from marketplace.operations.dead_letters import move_letters
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, KvError
from marketplace.publishing.kv_copy import project_rows
from marketplace.publishing.outbox import drain_outbox
from marketplace.publishing.publish import Published, publish_skills
from marketplace.publishing.submissions import ask_again
from marketplace.skills.change import State

_ROW_BATCH: Final = 200


class LightRepairReport(msgspec.Struct, rename="camel"):
    database_backfilled: int = 0  # skills
    kv_backfilled: int = 0  # skills
    asked_again: int = 0  # submissions
    errors: list[str] = msgspec.field(default_factory=list)


async def run_light_repair(env: Env) -> LightRepairReport:
    """Failures are reported, not raised. Each part runs for itself: a lost message must not wait
    for PostgreSQL to come back."""
    report = LightRepairReport()
    for part in (_drain_outbox, _write_missing_records, _move_letters, _ask_again):
        try:
            await part(env, report)
        except (DatabaseError, KvError) as error:
            report.errors.append(f"{type(error).__name__}: {error.reason}")
            env.log("light-repair-cut-short", level="error", reason=error.reason, detail=str(error))
    return report


async def _move_letters(env: Env, _report: LightRepairReport) -> None:
    await move_letters(env)


async def _ask_again(env: Env, report: LightRepairReport) -> None:
    report.asked_again = await ask_again(env)


async def _drain_outbox(env: Env, report: LightRepairReport) -> None:
    report.database_backfilled += (await drain_outbox(env)).entries


async def _write_missing_records(env: Env, report: LightRepairReport) -> None:
    """Write the rows that KV lacks; where two skills have one slug, the full repair acts."""
    database = await get_db(env)
    rows = await database.skills_not_in_kv(limit=_ROW_BATCH)
    projected = await project_rows(env, rows)
    report.kv_backfilled += len(projected.written)
    report.errors += sorted({str(error) for error in projected.failed.values()})
    outcomes = await publish_skills(env, [State(record) for record in projected.newer])
    stored = [outcome for outcome in outcomes.values() if isinstance(outcome, Published)]
    report.database_backfilled += sum(outcome.in_database for outcome in stored)
