"""The light repair: what is known to be undone, without enumerating everything.

Outbox records and dead letters that KV alone has go into PostgreSQL; rows that KV is not known to
hold go into KV. What passed its scan and was never published is asked for again. Submissions that
the scanners' list lacks go there, and old requests leave it. These lists are short unless a source
was away.
"""

from typing import Final

import msgspec

from marketplace.operations.dead_letters import move_letters
from marketplace.operations.reports import load_place, save_place
from marketplace.ports.database import ChangePlace
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import StorageError
from marketplace.publishing.kv_copy import project_rows
from marketplace.publishing.outbox import drain_outbox
from marketplace.publishing.publish import Published, publish_skills
from marketplace.publishing.scan_requests import forget_old, queue_marked
from marketplace.publishing.submissions import ask_again
from marketplace.publishing.withheld import refresh_withheld
from marketplace.repair.logged_acts import reconcile_acts
from marketplace.repair.logged_rules import reconcile_rules
from marketplace.repair.missing_versions import fill_versions
from marketplace.repair.rule_application import STEPS_OF_A_CHECK, apply_rules, ask_to_go_on
from marketplace.skills.change import State

_ROW_BATCH: Final = 200
_OUTBOX_PARTS: Final = 2
_OUTBOX: Final = "outbox"
_ROWS: Final = "rows-not-in-kv"


class _OutboxPlace(msgspec.Struct, frozen=True):
    cursor: str | None = None  # where the next check goes on


class _RowPlace(msgspec.Struct, frozen=True):
    after: ChangePlace | None = None  # the row behind which the next check goes on


class LightRepairReport(msgspec.Struct, rename="camel"):
    database_backfilled: int = 0  # skills
    kv_backfilled: int = 0  # skills
    asked_again: int = 0  # submissions
    scans_queued: int = 0  # submissions that the scanners' list lacked
    acts_replayed: int = 0  # skills that got acts back from the log
    versions_added: int = 0  # of skills that had none
    rules_replayed: int = 0  # rules that the table got back from the log, or lifted
    rules_applied: int = 0  # skills that got the acts of rules, or lost them
    totals_mended: int = 0  # groups of skills whose kept total was wrong
    errors: list[str] = msgspec.field(default_factory=list)


async def run_light_repair(env: Env) -> LightRepairReport:
    """Failures are reported, not raised. Each part runs for itself: a lost message must not wait
    for PostgreSQL to come back."""
    report = LightRepairReport()
    parts = (
        _reconcile_rules,  # first, so that what waits comes in under them
        _drain_outbox,
        _write_missing_records,
        _reconcile_acts,
        _apply_rules,
        _write_withheld,
        _fill_versions,
        _mend_totals,
        _move_letters,
        _ask_again,
        _queue_scans,
        _forget_scans,
    )
    for part in parts:
        try:
            await part(env, report)
        except StorageError as error:
            failure = f"{type(error).__name__}: {error.reason}"
            if failure not in report.errors:  # several parts need the source that failed
                report.errors.append(failure)
                env.log(
                    "light-repair-cut-short",
                    level="error",
                    reason=error.reason,
                    detail=str(error),
                )
    return report


async def _reconcile_acts(env: Env, report: LightRepairReport) -> None:
    report.acts_replayed = await reconcile_acts(env)


async def _reconcile_rules(env: Env, report: LightRepairReport) -> None:
    report.rules_replayed = await reconcile_rules(env)


async def _apply_rules(env: Env, report: LightRepairReport) -> None:
    applied = await apply_rules(env, busy_steps=STEPS_OF_A_CHECK)
    report.rules_applied = applied.skills
    if applied.place is not None:
        await ask_to_go_on(env)


async def _write_withheld(env: Env, _report: LightRepairReport) -> None:
    await refresh_withheld(env)


async def _fill_versions(env: Env, report: LightRepairReport) -> None:
    report.versions_added = await fill_versions(env)


async def _mend_totals(env: Env, report: LightRepairReport) -> None:
    report.totals_mended = await (await get_db(env)).mend_counts()
    if report.totals_mended:
        env.log("totals-mended", level="error", groups=report.totals_mended)


async def _move_letters(env: Env, _report: LightRepairReport) -> None:
    await move_letters(env)


async def _ask_again(env: Env, report: LightRepairReport) -> None:
    report.asked_again = await ask_again(env)


async def _queue_scans(env: Env, report: LightRepairReport) -> None:
    report.scans_queued = await queue_marked(env)


async def _forget_scans(env: Env, _report: LightRepairReport) -> None:
    await forget_old(env)


async def _drain_outbox(env: Env, report: LightRepairReport) -> None:
    database = await get_db(env)
    place = await load_place(env, database, _OUTBOX, _OutboxPlace())
    cursor = place.cursor
    for _ in range(_OUTBOX_PARTS):
        drained = await drain_outbox(env, cursor, leave_notes=True)
        report.database_backfilled += drained.news
        cursor = drained.cursor
        if cursor is None:
            break
    await save_place(database, _OUTBOX, _OutboxPlace(cursor), before=place)


async def _write_missing_records(env: Env, report: LightRepairReport) -> None:
    """Write a part of the rows that KV lacks; where two skills have one slug, the full repair acts.

    What cannot be written stays, and hides nothing that comes after it.
    """
    database = await get_db(env)
    place = await load_place(env, database, _ROWS, _RowPlace())
    rows = await database.skills_not_in_kv(after=place.after, limit=_ROW_BATCH)
    projected = await project_rows(env, rows)
    report.kv_backfilled += len(projected.written)
    report.errors += sorted({str(error) for error in projected.failed.values()})
    outcomes = await publish_skills(env, [State(record) for record in projected.newer])
    stored = [outcome for outcome in outcomes.values() if isinstance(outcome, Published)]
    report.database_backfilled += sum(outcome.in_database for outcome in stored)
    last = ChangePlace(rows[-1].updated_at, rows[-1].name) if len(rows) == _ROW_BATCH else None
    await save_place(database, _ROWS, _RowPlace(last), before=place)
