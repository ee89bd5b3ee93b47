"""The rebuild: reconcile PostgreSQL and KV both ways, then rewrite the index. Deletes nothing.

There is one at a time. It runs in steps that stay within one invocation's limits
(`rebuild_step`); a message asks for the next step of the rebuild that it names. Everything may be
repeated, so a step that is cut off is run again. `resume_stalled` finds out that a message was
lost.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final, TypeGuard

import msgspec

from marketplace.basics.timestamps import seconds_between, seconds_since, shifted
from marketplace.kv.acknowledged import REPAIR_DATABASE, note_missing, repairing
from marketplace.operations.reports import LAST_REPAIR, save_report
from marketplace.ports.env import Env, get_db, send_messages
from marketplace.ports.errors import DatabaseError, KvError, OtherDatabase, StorageError
from marketplace.ports.queue import QueueMessage, retry_delay
from marketplace.repair.index_from_kv import write_index_from_kv
from marketplace.repair.rebuild_job import (
    RebuildJob,
    Rebuilds,
    asks_to_adopt,
    change_rebuilds,
    job_id_of,
    load_rebuilds,
    message_of,
    new_job,
)
from marketplace.repair.rebuild_step import STEP_SECONDS, Step
from marketplace.repair.rule_application import asks_for_rules, go_on

MAX_ATTEMPTS: Final = 5
STALLED_SECONDS: Final = 180.0
"""Longer than a step and the longest wait between two attempts at it together."""
MAX_RESUMED: Final = 3  # times in a row without a step that came to its end

ONLY_THE_INDEX: Final = "PostgreSQL is away; the index was written from KV, and nothing else done."
ADOPT_IT: Final = "It is another database: bind the right one, or adopt this one (adopt=true)."
BRING_IT_BACK: Final = "Bring PostgreSQL back, then rebuild."
REPAIR_PAUSE_SECONDS: Final = 600.0  # after a repair of the database that failed


class DatabaseNeeded(DatabaseError):
    """A rebuild that cannot begin while PostgreSQL is away; its message is for the operator."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"{detail} {BRING_IT_BACK}")


class TooEarly(StorageError):
    """KV may not show yet all that the database lacks."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"KV may be late for another {seconds:.1f} s", reason="too-early")
        self.seconds = seconds


async def start_rebuild(
    env: Env,
    *,
    dry_run: bool = False,
    wait_seconds: float = 0,
    follow: bool = True,
    adopt: bool = False,
) -> RebuildJob:
    """Begin a rebuild; with ``wait_seconds`` its first step is tried before this returns.

    Its further steps go through the queue. While a rebuild is under way, this returns the one that
    will follow it or, without ``follow``, the current one; but a real rebuild ends a dry run. With
    PostgreSQL away the index alone is written, at once, and the report says so. Raises
    DatabaseNeeded when not even that is possible, and StorageError when the rebuild cannot go on.

    A database that lacks changes is used by nothing else until this rebuild has brought them back.
    It begins when KV shows them all. ``adopt``: another database is taken over at the end.
    """
    env = repairing(env, adopt=adopt)
    job = new_job(env, dry_run=dry_run, adopt=adopt)
    try:
        if not dry_run and await note_missing(env, await get_db(env)):
            job.waits_until = shifted(env.now(), env.settings.kv_lateness)
        rebuilds = await change_rebuilds(env, lambda kept: _ask(env, kept, job, follow=follow))
    except DatabaseError as error:
        return await _write_index_alone(env, job, error)
    if rebuilds is not None and rebuilds.current.id != job.id:
        await resume_stalled(env)
        return (rebuilds.following if follow else None) or rebuilds.current
    if wait_seconds > 0 and not job.fills:
        try:
            return await advance(env, job.id, seconds=min(wait_seconds, STEP_SECONDS)) or job
        except StorageError as error:
            _log_failure(env, job.id, error)
    await send_messages(env, env.maintenance_queue, [message_of(job)])
    return job


async def repair_database(env: Env, known_changes: int) -> None:
    """Begin the rebuild of a database that lacks changes, unless that was done. One is enough,
    however many ask for it; after one that failed the next waits. Raises StorageError.

    ``known_changes``: the number of the last change, as who asks knows it.
    """
    env = repairing(env)
    database = await get_db(env)
    expectation = env.database.known.expectation
    expectation.least = max(expectation.least, known_changes)
    if not await note_missing(env, database):
        return
    rebuilds = await load_rebuilds(env)
    latest = None if rebuilds is None else rebuilds.current
    if latest is not None and latest.fills and latest.failure is not None:
        ended_at = latest.finished_at or latest.started_at
        if seconds_since(ended_at, env.now()) < REPAIR_PAUSE_SECONDS:
            return
    await start_rebuild(env, follow=False)


def _ask(env: Env, kept: Rebuilds | None, job: RebuildJob, *, follow: bool) -> Rebuilds:
    """Make what was asked for the current rebuild where that is possible, else the next one."""
    if kept is None:
        return Rebuilds(job)
    if kept.current.dry_run and not job.dry_run and not kept.current.complete:
        _supersede(env, kept.current, "a real rebuild was asked for meanwhile")
    if job.fills and not kept.current.fills and not kept.current.complete:
        _supersede(env, kept.current, "it began before the database lacked changes")
    if kept.current.complete:
        return kept.followed_by(env, job)
    if not follow:
        return kept
    if kept.following is None:
        kept.following = job
    elif not job.dry_run:
        kept.following.dry_run = False
    return kept


def _supersede(env: Env, job: RebuildJob, detail: str) -> None:
    job.end(StorageError(detail, reason="superseded"))
    job.finished_at = env.now()


async def _write_index_alone(env: Env, job: RebuildJob, away: DatabaseError) -> RebuildJob:
    env.log("rebuild-of-index-alone", level="error", job=job.id, reason=away.reason)
    if job.dry_run:
        raise DatabaseNeeded("A dry run needs PostgreSQL, which is away.") from away
    next_step = ADOPT_IT if isinstance(away, OtherDatabase) else BRING_IT_BACK
    try:
        written = await write_index_from_kv(env)
    except KvError as error:
        detail = "PostgreSQL is away, and KV is not enough to write the index."
        raise DatabaseNeeded(f"{detail} KV: {error.reason}.") from error
    job.failure = away.reason
    job.rebuilt, job.steps = written.skills, 1
    job.add_error("postgres", f"{away.reason}: {ONLY_THE_INDEX} {next_step}")
    for broken in written.malformed:
        job.add_error(broken.key, broken.reason)
    if not written.complete:
        job.add_error("kv", "not all records were read; the index lists the rest as before")
    job.stage = "done"
    job.finished_at = env.now()
    await _report(env, job)
    return job


async def handle_rebuild_messages(env: Env, messages: Sequence[QueueMessage]) -> None:
    """Run the step that each message asks for; one of another rebuild asks for nothing."""
    for message in messages:
        job_id = job_id_of(message.body)
        if job_id is None and asks_for_rules(message.body):
            await _apply_rules(env, message)
            continue
        known_changes = _asks_for_repair(message.body)
        if known_changes is not None:
            await _repair_database(env, message, known_changes)
            continue
        if job_id is None:
            env.log("rebuild-message-malformed", level="error", id=message.id)
            message.ack()
            continue
        rebuild_env = repairing(env, adopt=asks_to_adopt(message.body))
        try:
            await advance(rebuild_env, job_id)
        except TooEarly as early:
            message.retry(delay_seconds=math.ceil(early.seconds))
            continue
        except StorageError as error:
            _log_failure(env, job_id, error)
            if message.attempts < MAX_ATTEMPTS:
                message.retry(delay_seconds=retry_delay(message.attempts))
                continue
            await _give_up(rebuild_env, job_id, error)
        message.ack()


def _asks_for_repair(body: object) -> int | None:
    """The number of the last change that is known, if a message asks for the missing ones."""
    changes = body.get(REPAIR_DATABASE) if isinstance(body, Mapping) else None
    return changes if isinstance(changes, int) else None


async def _repair_database(env: Env, message: QueueMessage, known_changes: int) -> None:
    """What a message leaves undone the next one asks for that finds the database lacking."""
    try:
        await repair_database(env, known_changes)
    except StorageError as error:
        env.log("repair-not-begun", level="error", reason=error.reason, detail=str(error))
        if message.attempts < MAX_ATTEMPTS:
            message.retry(delay_seconds=retry_delay(message.attempts))
            return
    message.ack()


async def _apply_rules(env: Env, message: QueueMessage) -> None:
    """What a message leaves undone the next check goes on with."""
    try:
        await go_on(env)
    except StorageError as error:
        env.log("rules-not-applied", level="error", reason=error.reason, detail=str(error))
        if message.attempts < MAX_ATTEMPTS:
            message.retry(delay_seconds=retry_delay(message.attempts))
            return
    message.ack()


def _log_failure(env: Env, job_id: str, error: StorageError) -> None:
    env.log(
        "rebuild-step-failed", level="error", job=job_id, reason=error.reason, detail=str(error)
    )


async def _give_up(env: Env, job_id: str, error: StorageError) -> None:
    """End a rebuild that cannot go on. With PostgreSQL away it stands still until that is back."""
    if isinstance(error, DatabaseError):
        return

    def end(kept: Rebuilds | None) -> Rebuilds | None:
        if not _is_unfinished(kept, job_id):
            return None
        kept.current.end(error)
        return _saved(env, kept)

    try:
        await _follow_up(env, await change_rebuilds(env, end), job_id)
    except StorageError as failure:
        _log_failure(env, job_id, failure)


async def advance(env: Env, job_id: str, *, seconds: float = STEP_SECONDS) -> RebuildJob | None:
    """Run one step of the current rebuild, and ask for the next one. The state after it.

    None: this is not the current rebuild, or it is complete, or another invocation has begun the
    same step. Raises StorageError; the step can be repeated then.
    """

    def begin(kept: Rebuilds | None) -> Rebuilds | None:
        if not _is_unfinished(kept, job_id):
            return None
        waits_until = kept.current.waits_until
        if waits_until is not None and waits_until > env.now():
            raise TooEarly(seconds_between(env.now(), waits_until))
        if kept.current.under_way:
            kept.current.resumed += 1
            kept.current.index.attempt += 1
        kept.current.under_way = True
        return _saved(env, kept)

    rebuilds = await change_rebuilds(env, begin)
    if rebuilds is None:
        return None
    job, begun_at = rebuilds.current, env.clock()
    token = job.sequence
    step = Step(env, job, seconds)
    await step.run()
    job.steps += 1
    job.under_way, job.abandoned = False, 0
    job.max_kv_operations = max(job.max_kv_operations, step.kv.operations)
    env.log(
        "rebuild-step-finished",
        job=job.id,
        step=job.steps,
        stage=job.stage,
        processed=job.processed,
        kv_operations=step.kv.operations,
        duration_ms=(env.clock() - begun_at) / timedelta(milliseconds=1),
        heap_bytes=env.heap_bytes(),
    )

    def save(kept: Rebuilds | None) -> Rebuilds | None:
        if kept is None or (kept.current.id, kept.current.sequence) != (job_id, token):
            return None
        return _saved(env, msgspec.structs.replace(kept, current=job))

    saved = await change_rebuilds(env, save)
    await _follow_up(env, saved, job_id)
    return saved.find(job_id) if saved is not None else None


def _is_unfinished(kept: Rebuilds | None, job_id: str) -> TypeGuard[Rebuilds]:
    return kept is not None and kept.current.id == job_id and not kept.current.complete


def _saved(env: Env, kept: Rebuilds) -> Rebuilds:
    """A new state; after the end of the current rebuild the one that was asked for is current."""
    job = kept.current
    job.sequence += 1
    job.saved_at = env.now()
    if not job.complete:
        return kept
    job.finished_at = job.saved_at
    return kept if kept.following is None else kept.followed_by(env, kept.following)


async def _follow_up(env: Env, saved: Rebuilds | None, job_id: str) -> None:
    """Report a rebuild that has come to its end, and ask for the next step. Raises StorageError."""
    if saved is None:
        return
    job = saved.find(job_id)
    if job is not None and job.complete:
        await _report(env, job)
    if not saved.current.complete:
        await send_messages(env, env.maintenance_queue, [message_of(saved.current)])


async def _report(env: Env, job: RebuildJob) -> None:
    report = job.report(env.now())
    env.log("rebuild-finished", report=report)
    if not job.dry_run:
        await save_report(env, LAST_REPAIR, report)


async def resume_stalled(env: Env) -> RebuildJob | None:
    """Ask again for the next step of a rebuild that has not moved for STALLED_SECONDS; end it
    after MAX_RESUMED times in a row. Returns the unfinished rebuild, if there is one.

    A message is lost when its retries are used up by invocations that die, or with its queue.
    With PostgreSQL away no rebuild can go on. Raises StorageError.
    """

    def resume(kept: Rebuilds | None) -> Rebuilds | None:
        if kept is None or kept.current.complete:
            return None
        job = kept.current
        if seconds_since(job.saved_at or job.started_at, env.now()) <= STALLED_SECONDS:
            return None
        if job.abandoned == MAX_RESUMED:
            detail = f"no step came to its end, resumed {MAX_RESUMED} times"
            job.end(StorageError(detail, reason="stalled"))
        job.abandoned += 1
        return _saved(env, kept)

    try:
        before = await load_rebuilds(repairing(env, adopt=True))
        env = repairing(env, adopt=before is not None and before.current.adopt)
        resumed = await change_rebuilds(env, resume)
    except DatabaseError as error:
        env.log("rebuild-state-not-read", level="warning", reason=error.reason)
        return None
    if before is None or resumed is None:
        return None if before is None or before.current.complete else before.current
    await _follow_up(env, resumed, before.current.id)
    job = resumed.current
    if job.complete:
        return None
    env.log("rebuild-resumed", level="warning", job=job.id, resumed=job.abandoned, stage=job.stage)
    return job


async def get_rebuild(env: Env, job_id: str) -> RebuildJob | None:
    """A rebuild as far as it has come: the current one, the one before, or the next one."""
    try:
        rebuilds = await load_rebuilds(repairing(env, adopt=True))
    except DatabaseError as error:
        detail = "The state of a rebuild is in PostgreSQL, which is away."
        raise DatabaseNeeded(detail) from error
    return None if rebuilds is None else rebuilds.find(job_id)
