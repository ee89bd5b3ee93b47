"""The rebuild: reconcile PostgreSQL and KV both ways, then rewrite the index. Deletes nothing.

It runs in steps that stay within one invocation's limits; the job carries everything from one to
the next. First a walk over all records settles the differences, then a second one writes the
index from what the sources hold afterwards. Every piece may be repeated, so a step that is cut
off is simply run again, and two rebuilds at once do no harm.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from marketplace import submission_store
from marketplace.db import get_db
from marketplace.env import Env
from marketplace.health import LAST_REPAIR, save_report
from marketplace.kv_counting import CountingKv
from marketplace.light_repair import OUTBOX_BATCH, LightRepairReport, drain_outbox
from marketplace.messages import QueueMessage, retry_delay
from marketplace.models import PublishedSummary
from marketplace.published_index import MIN_WRITE_INTERVAL, IndexProgress, new_generation
from marketplace.rebuild_job import (
    Position,
    RebuildJob,
    encode_job,
    job_message,
    job_of,
    load_job,
    new_job,
    save_job,
    state_name,
)
from marketplace.reconciliation import Reconciler, kv_cost
from marketplace.storage import (
    DatabaseError,
    Difference,
    DifferenceKind,
    KvRateLimited,
    RecordKey,
    SkillDatabase,
    StorageError,
)
from marketplace.submission_store import IndexWriter, PublishedPage

STEP_SECONDS: Final = 20.0
MAX_ATTEMPTS: Final = 5
_DIFFERENCES_AT_ONCE: Final = 1000
_PAGE_OPERATIONS: Final = 60  # kept free for reading the next page and its aliases
_OUTBOX_OPERATIONS: Final = 4 * OUTBOX_BATCH
_ROW_WINS: Final = {DifferenceKind.NEWER_IN_DATABASE, DifferenceKind.MISSING_IN_KV}


async def start_rebuild(env: Env, *, dry_run: bool = False, wait_seconds: float = 0) -> RebuildJob:
    """Begin a rebuild; with ``wait_seconds`` its first step is done before this returns.

    What is left goes on through the queue. Raises StorageError when it cannot.
    """
    job = new_job(env, dry_run=dry_run)
    if wait_seconds <= 0:
        await _hand_on(env, job)
        return job
    try:
        await advance(env, job, seconds=min(wait_seconds, STEP_SECONDS))
    except StorageError as error:
        env.log("rebuild step failed", level="error", job=job.id, reason=error.reason)
        await fail(env, job, error)
    return job


async def handle_rebuild_messages(env: Env, messages: Sequence[QueueMessage]) -> None:
    """Run the step that each message asks for."""
    for message in messages:
        job = job_of(message.body)
        if job is None:
            env.log("no rebuild in this message", level="error", id=message.id)
            message.ack()
            continue
        try:
            await _resume(env, job)
        except StorageError as error:
            env.log("rebuild step failed", level="error", job=job.id, reason=error.reason)
            if message.attempts < MAX_ATTEMPTS:
                message.retry(delay_seconds=retry_delay(message.attempts))
                continue
            await fail(env, job, error)
        message.ack()


async def _resume(env: Env, job: RebuildJob) -> None:
    """Go on from the furthest state: the message's or, after a crash, the one kept since."""
    kept = await load_job(env, job.id)
    furthest = kept if kept is not None and kept.sequence > job.sequence else job
    if not furthest.complete:
        await advance(env, furthest)


async def fail(env: Env, job: RebuildJob, error: StorageError) -> None:
    """End a rebuild that cannot go on; what it repaired stays repaired."""
    job.failure = error.reason
    job.add_error("rebuild", f"{error.reason}: {error}")
    job.stage = "done"
    await _finish(env, job)


async def advance(env: Env, job: RebuildJob, *, seconds: float = STEP_SECONDS) -> None:
    """Run one step, and hand the rest on. Raises StorageError; repeat it then."""
    began = env.clock()
    step = _Step(env, job, seconds)
    job.steps += 1
    await step.run()
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
        await _hand_on(env, job)


async def _hand_on(env: Env, job: RebuildJob) -> None:
    await save_job(env, job)
    await env.maintenance_queue.send(job_message(job))


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


class _Step:
    """One invocation's share of a rebuild."""

    def __init__(self, env: Env, job: RebuildJob, seconds: float) -> None:
        self._kv = CountingKv(env.submissions_kv)
        self._env = replace(env, submissions_kv=self._kv)
        self._job = job
        self._deadline = env.clock() + timedelta(seconds=seconds)
        self._writer = IndexWriter(self._env, job.index)

    async def run(self) -> None:
        """Do as much as the limits allow. The job is a state to go on from afterwards."""
        while not self._job.complete:
            try:
                is_through = await self._run_stage()
            except DatabaseError as error:
                self._go_on_without_database(error)
                continue
            if not is_through:
                await self._writer.flush()
                return

    async def _run_stage(self) -> bool:
        """Run the present stage; whether it came to its end."""
        match self._job.stage:
            case "outbox":
                return await self._outbox()
            case "reconcile":
                return await self._walk_records()
            case "index":
                return await self._write_index()
            case _:
                return True

    @property
    def kv_operations(self) -> int:
        """How many this step has used."""
        return self._kv.operations

    @property
    def _operations_left(self) -> int:
        return self._env.settings.kv_operation_budget - self._kv.operations

    def _has_room(self, operations: int = _PAGE_OPERATIONS) -> bool:
        """Whether there is time and KV left; a step always does something."""
        if self._kv.operations == 0:
            return True
        return self._operations_left >= operations and self._env.clock() < self._deadline

    def _go_on_without_database(self, error: DatabaseError) -> None:
        """With PostgreSQL away the index is repaired from KV alone, and the report says so."""
        job = self._job
        if job.database_away:
            raise error  # nothing asks it any more
        self._env.log("rebuild goes on without postgres", level="error", reason=error.reason)
        job.database_away = True
        job.add_error("postgres", f"{error.reason}: {error}")
        job.move_to("index")
        job.rebuilt = 0
        job.index = IndexProgress(generation=new_generation(self._env), begun_at=self._env.now())
        self._writer = IndexWriter(self._env, job.index)

    # --- the stages

    async def _outbox(self) -> bool:
        """What only KV took comes first, under the slug that it has there."""
        job = self._job
        with await get_db(self._env) as database:
            job.estimated_total = (await database.fingerprint()).count
        if not job.dry_run:  # its records are found in the walk as well
            while self._has_room(_OUTBOX_OPERATIONS):
                report = LightRepairReport()
                await drain_outbox(self._env, report)
                job.prisma_backfilled += report.database_backfilled
                if report.database_backfilled < OUTBOX_BATCH:
                    break
            else:
                return False
        job.move_to("reconcile")
        return True

    async def _walk_records(self) -> bool:
        job = self._job
        while self._has_room():
            page = await self._page()
            with await get_db(self._env) as database:
                if not await self._reconcile(page, database):
                    return False
                await self._count_page(page, database)
                job.position = Position(page.cursor, page.last_slug or job.position.after)
                if page.cursor is None:
                    job.move_to("index")
                await database.save_state(state_name(job.id), encode_job(job))
            if page.cursor is None:
                return True
        return False

    async def _write_index(self) -> bool:
        job = self._job
        while self._has_room():
            page = await self._page()
            async for entries in self._merged(page):
                job.rebuilt += len(entries)
                if not job.dry_run:
                    await self._writer.add(entries)
            job.position = Position(page.cursor, page.last_slug or job.position.after)
            if page.cursor is None:
                if not job.dry_run:
                    await self._show_index()
                job.move_to("done")
                return True
        return False

    async def _show_index(self) -> None:
        try:
            await self._writer.finish()
        except KvRateLimited:  # somebody wrote the manifest this very second
            await asyncio.sleep(2 * MIN_WRITE_INTERVAL)
            await self._writer.finish()

    # --- one page

    async def _page(self) -> PublishedPage:
        pages = submission_store.enumerate_published_skills(
            self._env, cursor=self._job.position.cursor, page_budget=1
        )
        async for page in pages:
            return page
        raise AssertionError("an enumeration with a budget of one page yields one")

    async def _reconcile(self, page: PublishedPage, database: SkillDatabase) -> bool:
        """Settle the page's differences; whether KV operations sufficed for all of them."""
        job = self._job
        reconciler = Reconciler(self._env, job, database)
        async for differences, is_last in _differences(page, job.position.after, database):
            affordable = self._affordable(differences)
            await reconciler.settle(affordable)
            if len(affordable) < len(differences):
                job.position.after = affordable[-1].name
                return False
            if not is_last:
                job.position.after = differences[-1].name
        return True

    def _affordable(self, differences: Sequence[Difference]) -> Sequence[Difference]:
        """As many as the KV operations suffice for, one slug at least, no slug torn apart."""
        left = float(self._operations_left - _PAGE_OPERATIONS)
        for number, difference in enumerate(differences):
            left -= kv_cost(difference)
            if left < 0 and number > 0 and difference.name != differences[number - 1].name:
                return differences[:number]
        return differences

    async def _count_page(self, page: PublishedPage, database: SkillDatabase) -> None:
        job = self._job
        job.processed += len(page.summaries)
        job.estimated_total = max(job.estimated_total or 0, job.processed)
        for broken in page.malformed:
            job.add_error(broken.key, broken.reason)
        known = {entry.summary.name for entry in page.summaries} | set(self._env.seed.names)
        aliases = {a.name: a.target or a.name for a in page.aliases if a.target not in known}
        if aliases:
            ended = await submission_store.unresolved_aliases(self._env, aliases)
            for alias, slug in ended.items():
                found = await database.get_skill(slug) or await database.get_skill(alias)
                job.orphaned_aliases += found is None

    async def _merged(self, page: PublishedPage) -> AsyncIterator[Sequence[PublishedSummary]]:
        """What both sources hold in the page's range, each skill once."""
        if self._job.database_away:
            self._count_without_database(page)
            yield page.summaries
            return
        after = self._job.position.after
        with await get_db(self._env) as database:
            async for differences, is_last in _differences(page, after, database):
                until = None if is_last else differences[-1].name
                if self._job.dry_run:
                    self._job.rebuilt += _two_of_one_slug(differences)
                yield _merge(page, after, until, differences)
                after = until or after

    def _count_without_database(self, page: PublishedPage) -> None:
        self._job.processed += len(page.summaries)
        for broken in page.malformed:
            self._job.add_error(broken.key, broken.reason)


async def _differences(
    page: PublishedPage, after: str, database: SkillDatabase
) -> AsyncIterator[tuple[Sequence[Difference], bool]]:
    """The differences of a page's range after a slug, in portions; and whether it is the last."""
    until = page.last_slug
    if page.cursor is None:
        until = None
    elif until is None:
        return  # no record, so the range stays open for the next page
    is_last = False
    while not is_last:
        records = [key for key in page.record_keys() if key.name > after]
        differences = await _compare(database, records, after, until)
        is_last = len(differences) < _DIFFERENCES_AT_ONCE
        yield differences, is_last
        if not is_last:
            after = differences[-1].name


async def _compare(
    database: SkillDatabase, records: Sequence[RecordKey], after: str, until: str | None
) -> Sequence[Difference]:
    return await database.compare_range(
        records, after=after, until=until, limit=_DIFFERENCES_AT_ONCE
    )


def _merge(
    page: PublishedPage, after: str, until: str | None, differences: Sequence[Difference]
) -> Sequence[PublishedSummary]:
    """A record, or the row where that is newer or alone; a moved record is listed by its row."""

    def in_range(name: str) -> bool:
        return name > after and (until is None or name <= until)

    merged = {e.summary.name: e for e in page.summaries if in_range(e.summary.name)}
    moved = [d for d in differences if d.kind is DifferenceKind.OTHER_SLUG]
    for difference in moved:
        merged.pop(difference.name, None)
    named = {entry.summary.name for entry in page.summaries}
    for difference in moved:
        row = difference.row  # its own difference may be left out, since KV names the skill here
        if row is not None and row.name not in named and _in_page(page, row.name):
            merged[row.name] = row.published_summary()
    for difference in differences:
        if difference.kind in _ROW_WINS and difference.row is not None:
            merged[difference.name] = difference.row.published_summary()
    return list(merged.values())


def _two_of_one_slug(differences: Sequence[Difference]) -> int:
    """How many skills would get another slug, and have none of their own before."""
    kinds = (DifferenceKind.TAKEN_SLUG, DifferenceKind.MISSING_IN_KV)
    taken, owned = ({d.name for d in differences if d.kind is kind} for kind in kinds)
    return len(taken & owned)


def _in_page(page: PublishedPage, name: str) -> bool:
    """Whether a slug is in the range that a page speaks for, its lower end apart."""
    first = min((entry.summary.name for entry in page.summaries), default="")
    last = page.last_slug
    return name >= first and (page.cursor is None or (last is not None and name <= last))


async def get_rebuild(env: Env, job_id: str) -> RebuildJob | None:
    """A rebuild as far as it has come. Raises KvError."""
    return await load_job(env, job_id)


def describe(env: Env, job: RebuildJob) -> Mapping[str, Any]:
    """A rebuild's report."""
    return job.report(env.now())
