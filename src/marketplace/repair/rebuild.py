"""The rebuild: reconcile PostgreSQL and KV both ways, then rewrite the index. Deletes nothing.

It runs in steps that stay within one invocation's limits (`rebuild_step`); the job carries
everything from one to the next. Every piece may be repeated, so a step that is cut off is simply
run again, and two rebuilds at once do no harm. A step that gets lost is found by `resume_stalled`.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from marketplace.basics.timestamps import seconds_since
from marketplace.operations.reports import LAST_REPAIR, save_report
from marketplace.ports.env import Env, get_db, send_messages
from marketplace.ports.errors import DatabaseError, KvError, StorageError
from marketplace.ports.queue import QueueMessage, retry_delay
from marketplace.repair.index_from_kv import write_index_from_kv
from marketplace.repair.rebuild_job import (
    RebuildJob,
    copy_of,
    job_message,
    job_of,
    load_job,
    load_unfinished,
    new_job,
    save_job,
    save_unfinished,
)
from marketplace.repair.rebuild_step import STEP_SECONDS, Step

MAX_ATTEMPTS: Final = 5
STALLED_SECONDS: Final = 180.0
"""Longer than a step and the longest wait between two attempts at it together."""
MAX_RESUMED: Final = 3  # times in a row without a step that came to its end

ONLY_THE_INDEX: Final = "PostgreSQL is away; the index was written from KV, and nothing else done."
BRING_IT_BACK: Final = "Bring PostgreSQL back, then rebuild."


class DatabaseNeeded(DatabaseError):
    """A rebuild that cannot begin while PostgreSQL is away; its message is for the operator."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"{detail} {BRING_IT_BACK}")


async def start_rebuild(env: Env, *, dry_run: bool = False, wait_seconds: float = 0) -> RebuildJob:
    """Begin a rebuild; with ``wait_seconds`` its first step is tried before this returns.

    What is left goes on through the queue. With PostgreSQL away the index alone is written, at
    once, and the report says so. Raises DatabaseNeeded when not even that is possible, and
    StorageError when the rebuild cannot go on.
    """
    job = new_job(env, dry_run=dry_run)
    try:
        await get_db(env)
    except DatabaseError as error:
        return await _write_index_alone(env, job, error)
    await _list_as_unfinished(env, job)
    if wait_seconds > 0:
        await save_job(env, job)
        try:
            return await advance(env, job, seconds=min(wait_seconds, STEP_SECONDS))
        except StorageError as error:
            _log_failure(env, job, error)
            job = await _furthest(env, job)
    await hand_on(env, job)
    return job


async def _write_index_alone(env: Env, job: RebuildJob, away: DatabaseError) -> RebuildJob:
    env.log("rebuild writes the index alone", level="error", job=job.id, reason=away.reason)
    if job.dry_run:
        raise DatabaseNeeded("A dry run needs PostgreSQL, which is away.") from away
    try:
        written = await write_index_from_kv(env)
    except KvError as error:
        detail = "PostgreSQL is away, and KV is not enough to write the index."
        raise DatabaseNeeded(f"{detail} KV: {error.reason}.") from error
    job.failure = away.reason
    job.rebuilt, job.steps = written.skills, 1
    job.add_error("postgres", f"{away.reason}: {ONLY_THE_INDEX} {BRING_IT_BACK}")
    for broken in written.malformed:
        job.add_error(broken.key, broken.reason)
    if not written.complete:
        job.add_error("kv", "not all records were read; the index lists the rest as before")
    job.stage = "done"
    await _finish(env, job)
    return job


async def handle_rebuild_messages(env: Env, messages: Sequence[QueueMessage]) -> None:
    """Run the step that each message asks for."""
    for message in messages:
        job = job_of(message.body)
        if job is None:
            env.log("no rebuild in this message", level="error", id=message.id)
            message.ack()
            continue
        is_last = message.attempts >= MAX_ATTEMPTS
        try:
            job = await _furthest(env, job)
            if not job.complete:
                await advance(env, job)
        except StorageError as error:
            _log_failure(env, job, error)
            if not is_last:
                message.retry(delay_seconds=retry_delay(message.attempts))
                continue
            await fail(env, job, error)
        message.ack()


async def _furthest(env: Env, job: RebuildJob) -> RebuildJob:
    """The state to go on from: the one kept or, where there is none as far, the message's."""
    kept = await load_job(env, job.id)
    return kept if kept is not None and kept.sequence >= job.sequence else job


def _log_failure(env: Env, job: RebuildJob, error: StorageError) -> None:
    env.log(
        "rebuild step failed", level="error", job=job.id, reason=error.reason, detail=str(error)
    )


async def fail(env: Env, job: RebuildJob, error: StorageError) -> None:
    """End a rebuild that cannot go on; what it repaired stays repaired."""
    job.failure = error.reason
    job.add_error("rebuild", f"{error.reason}: {error}")
    job.stage = "done"
    await _finish(env, job)


async def advance(env: Env, job: RebuildJob, *, seconds: float = STEP_SECONDS) -> RebuildJob:
    """Run one step, and hand the rest on. The state after it; ``job`` stays as it was.

    Raises StorageError; the step can be repeated then.
    """
    job = copy_of(job)
    began = env.clock()
    step = Step(env, job, seconds)
    job.steps += 1
    await step.run()
    job.resumed = 0
    job.max_kv_operations = max(job.max_kv_operations, step.kv_operations)
    env.log(
        "rebuild step finished",
        job=job.id,
        step=job.steps,
        stage=job.stage,
        processed=job.processed,
        kvOperations=step.kv_operations,
        durationMs=(env.clock() - began) / timedelta(milliseconds=1),
        heapBytes=env.heap_bytes(),
    )
    if job.complete:
        await _finish(env, job)
    else:
        await hand_on(env, job)
    return job


async def hand_on(env: Env, job: RebuildJob) -> None:
    """Keep the state and ask for the next step. Raises StorageError."""
    await save_job(env, job)
    await send_messages(env, env.maintenance_queue, [job_message(job)])


async def _finish(env: Env, job: RebuildJob) -> None:
    job.finished_at = env.now()
    report = job.report(job.finished_at)
    env.log("rebuild finished", report=report)
    try:
        await save_job(env, job)
    except StorageError as error:
        env.log("rebuild report not kept", level="error", job=job.id, reason=error.reason)
    if not job.dry_run:
        await save_report(env, LAST_REPAIR, report)


# --- rebuilds that nobody works on any more ---------------------------------------------------


async def _list_as_unfinished(env: Env, job: RebuildJob) -> None:
    """Let the light check know of it. Not listed, it runs all the same, and may get lost."""
    try:
        await save_unfinished(env, [*await load_unfinished(env), job.id])
    except StorageError as error:
        env.log("rebuild not listed", level="warning", job=job.id, reason=error.reason)


async def resume_stalled(env: Env) -> list[str]:
    """Send the next step of rebuilds that have not moved for STALLED_SECONDS; end those that
    were resumed MAX_RESUMED times in vain. The ids of all that are unfinished. Raises
    StorageError.

    A message is lost when its retries are used up by invocations that die, or with its queue.
    """
    ended = set()
    for job_id in await load_unfinished(env):
        job = await load_job(env, job_id)
        if job is not None and not job.complete and _is_stalled(env, job):
            await _resume(env, job)
        if job is None or job.complete:
            ended.add(job_id)
    listed = await load_unfinished(env)  # again: one may have begun meanwhile
    unfinished = [job_id for job_id in listed if job_id not in ended]
    if unfinished != listed:
        await save_unfinished(env, unfinished)
    return unfinished


def _is_stalled(env: Env, job: RebuildJob) -> bool:
    return seconds_since(job.saved_at or job.started_at, env.now()) > STALLED_SECONDS


async def _resume(env: Env, job: RebuildJob) -> None:
    if job.resumed >= MAX_RESUMED:
        detail = f"no step came to its end, resumed {job.resumed} times"
        await fail(env, job, StorageError(detail, reason="stalled"))
        return
    job.resumed += 1
    env.log("rebuild resumed", level="warning", job=job.id, resumed=job.resumed, stage=job.stage)
    await hand_on(env, job)


async def get_rebuild(env: Env, job_id: str) -> RebuildJob | None:
    """A rebuild as far as it has come. Raises KvError."""
    return await load_job(env, job_id)


def describe(env: Env, job: RebuildJob) -> Mapping[str, Any]:
    """A rebuild's report."""
    return job.report(env.now())
