"""What the cron triggers run: a light check every few minutes, a full rebuild at night.

A lease keeps runs from overlapping. Each run leaves one log line, and its report where health
reads it.
"""

import secrets
from dataclasses import replace
from typing import Any, Final

import msgspec

from marketplace.basics.timestamps import EPOCH, seconds_since
from marketplace.health.check import check_health
from marketplace.health.content import count_content
from marketplace.health.differences import ADDED_TO_INDEX
from marketplace.health.report import Finding, Health
from marketplace.health.walk import load_suspects, walk_on
from marketplace.kv.counting import CountingKv
from marketplace.kv.index.writing import add_to_published_index
from marketplace.operations.leases import give_lease_back, take_lease
from marketplace.operations.reports import LAST_CHECK, read_state, save_report
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import StorageError
from marketplace.repair.light_repair import run_light_repair
from marketplace.repair.rebuild import resume_stalled, start_rebuild
from marketplace.repair.rebuild_job import RebuildJob

NIGHTLY_CRON: Final = "17 3 * * *"

_HEALTH_OPERATIONS: Final = 250
"""What a step of the walk and a health check take at most. With fewer left the next run does it."""

FIRST_WAIT_SECONDS: Final = 600.0
LONGEST_WAIT_SECONDS: Final = 6 * 3600.0

_PACE: Final = "rebuilds-by-check"

Report = dict[str, Any]


async def run_scheduled(env: Env, cron: str) -> None:
    """Raises StorageError, logged, when the run failed: the platform then counts it as failed."""
    nightly = cron == NIGHTLY_CRON
    name, work = ("scheduled-rebuild", _rebuild) if nightly else ("scheduled-check", _check)
    holder = secrets.token_hex(8)
    try:
        if not await take_lease(env, name, holder):
            env.log("scheduled-run-skipped", level="warning", cron=cron)
            return
        try:
            report = {"cron": cron, "startedAt": env.now()} | await work(env)
            env.log("scheduled-run-finished", cron=cron, report=report)
            await save_report(env, LAST_CHECK, report)
        finally:
            await give_lease_back(env, name, holder)
    except StorageError as error:
        env.log("scheduled-run-failed", level="error", cron=cron, reason=error.reason)
        raise


async def _check(env: Env) -> Report:
    """Resume a stalled rebuild, run the light repair and compare the sources.

    A rebuild itself goes through the queue: the operations of this invocation are not enough
    for the counts and for it.
    """
    kv = CountingKv(env.submissions_kv)
    env = replace(env, submissions_kv=kv)
    budget = env.settings.kv_operation_budget
    unfinished = await resume_stalled(env)
    repair = await run_light_repair(env)
    if budget - kv.operations < _HEALTH_OPERATIONS:
        return {"ok": not repair.errors, "repair": repair, "cutShort": "KV operations"}
    is_counted = await _walk_on(env)
    await _count_content(env)
    health = await check_health(env, live=not is_counted)
    if health.findings:
        found = [
            {"kind": f.kind, "number": f.number, "first": f.examples[:3]} for f in health.findings
        ]
        env.log("sources-differ", level="warning", findings=found)
        await _mend_index(env)
    report: Report = {
        "ok": not repair.errors and health.status != "failing",
        "status": health.status,
        "drifts": [drift.message for drift in health.drifts],
        "findings": len(health.findings),
        "repair": repair,
    }
    return report | await _rebuild_on_drift(env, health, unfinished)


def _in_short(finding: Finding) -> Report:
    return {"kind": finding.kind, "number": finding.number, "first": finding.examples[:3]}


async def _walk_on(env: Env) -> bool:
    """Make a step of the walk over all records; whether it was a whole walk. A failure is logged:
    the next check makes the step then."""
    try:
        return (await walk_on(env)).complete
    except StorageError as error:
        env.log("walk-put-off", level="warning", reason=error.reason)
        return False


async def _count_content(env: Env) -> None:
    """Make a step of the walk over the archive. A failure is logged: the next check makes it."""
    try:
        await count_content(env)
    except StorageError as error:
        env.log("content-not-counted", level="warning", reason=error.reason)


async def _mend_index(env: Env) -> None:
    """Add what the index is found to lack, as a publish would have. Publishes that come at once
    leave each other out, and that alone is worth no rebuild."""
    try:
        lacking = {
            suspect.identity
            for suspect in await load_suspects(env)
            if suspect.confirmed and suspect.kind in ADDED_TO_INDEX
        }
        rows = await (await get_db(env)).get_skills(sorted(lacking)) if lacking else {}
    except StorageError as error:
        env.log("index-not-mended", level="warning", reason=error.reason)
    else:
        await add_to_published_index(env, list(rows.values()))


class _Pace(msgspec.Struct, frozen=True, rename="camel"):
    rebuilds: int = 0  # in a row, that checks began
    begun_at: str = EPOCH  # the last one

    @property
    def wait(self) -> float:
        """Seconds from the last one to the next: twice as long each time."""
        if self.rebuilds == 0:
            return 0.0
        return min(FIRST_WAIT_SECONDS * 2.0 ** min(self.rebuilds - 1, 20), LONGEST_WAIT_SECONDS)


async def _rebuild_on_drift(env: Env, health: Health, unfinished: RebuildJob | None) -> Report:
    """Begin a rebuild where one would help, unless one is under way or has just not helped.

    What a rebuild cannot repair (a record that PostgreSQL refuses, in a small marketplace) must
    not make it run every five minutes for ever.
    """
    if health.prisma_count is None:
        return {"rebuildPutOff": "postgres is away"} if health.needs_rebuild else {}
    database = await get_db(env)
    document = await database.load_state(_PACE)
    pace = read_state(env, _PACE, document, _Pace) or _Pace()
    since = seconds_since(pace.begun_at, env.now())
    if not health.needs_rebuild:
        if pace.rebuilds and since > 2 * pace.wait:
            await database.save_state(_PACE, msgspec.json.encode(_Pace()))
        return {}
    if unfinished is not None:
        return {"rebuildUnderWay": unfinished.id}
    if since < pace.wait:
        return {"rebuildPutOffFor": round(pace.wait - since)}
    next_pace = _Pace(pace.rebuilds + 1, env.now())
    await database.save_state(_PACE, msgspec.json.encode(next_pace))
    return {"rebuildJob": (await start_rebuild(env, follow=False)).id}


async def _rebuild(env: Env) -> Report:
    """The nightly run: it only begins here and goes on in the queue, step by step."""
    job = await start_rebuild(env, follow=False)
    return {"ok": True, "rebuildJob": job.id, "report": job.report(env.now())}
