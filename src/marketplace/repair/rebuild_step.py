"""One step of a rebuild: as much of it as one invocation's limits allow.

First a walk over all records settles the differences, then a second one writes the index from
what the sources hold afterwards. A step that is cut off is repeated from where it began.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from typing import Final

from marketplace.kv.access import write_again_if_refused
from marketplace.kv.aliases import unresolved_aliases
from marketplace.kv.counting import CountingKv
from marketplace.kv.index.writing import IndexWriter
from marketplace.kv.outbox import OutboxEntry, list_outbox
from marketplace.kv.records import PublishedPage, enumerate_published_skills
from marketplace.ports.database import Difference, SkillDatabase
from marketplace.ports.env import Env, get_db
from marketplace.publishing.outbox import OUTBOX_BATCH, place_outbox
from marketplace.repair.rebuild_job import Position, RebuildJob
from marketplace.repair.reconciliation import RESTORING_COST, Reconciler, kv_cost
from marketplace.repair.slug_range import find_differences, merge_portion, unmarked_slugs
from marketplace.skills.skill import PublishedSummary, replaces

STEP_SECONDS: Final = 20.0

_PAGE_OPERATIONS: Final = 60  # kept free for reading the next page and its aliases
_OUTBOX_OPERATIONS: Final = 4 * OUTBOX_BATCH


class Step:
    """One invocation's share of a rebuild, entered in ``job``. Raises StorageError."""

    def __init__(self, env: Env, job: RebuildJob, seconds: float) -> None:
        self._kv = CountingKv(env.submissions_kv)
        self._env = replace(env, submissions_kv=self._kv)
        self._job = job
        self._deadline = env.clock() + timedelta(seconds=seconds)
        self._writer = IndexWriter(self._env, job.index)

    async def run(self) -> None:
        """Do as much as the limits allow. The job is a state to go on from afterwards."""
        while not self._job.complete:
            if not await self._run_stage():
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

    # --- the stages

    async def _outbox(self) -> bool:
        """What only KV took comes first, under the slug that it has there."""
        job = self._job
        database = await get_db(self._env)
        job.estimated_total = (await database.fingerprint()).count
        if not job.dry_run:  # its records are found in the walk as well
            while self._has_room(_OUTBOX_OPERATIONS):
                if not await self._drain_outbox(database):
                    break
            else:
                return False
        job.move_to("reconcile")
        return True

    async def _drain_outbox(self, database: SkillDatabase) -> bool:
        """Place a batch of what waits; whether there may be more."""
        job = self._job
        entries = await list_outbox(self._env, limit=OUTBOX_BATCH)
        news = {entry.key for entry in await _news(entries, database)}
        done = await place_outbox(self._env, entries)
        job.prisma_backfilled += len(news.intersection(done))
        return len(done) == OUTBOX_BATCH

    async def _walk_records(self) -> bool:
        job = self._job
        while self._has_room():
            page = await self._page()
            database = await get_db(self._env)
            if not await self._reconcile(page, database):
                return False
            await self._count_page(page, database)
            job.position = Position(page.cursor, page.last_slug or job.position.after)
            if page.cursor is None:
                job.move_to("index")
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
                if job.dry_run:
                    job.rebuilt += job.parted
                else:
                    # Somebody may have written the manifest this very second.
                    await write_again_if_refused(self._writer.finish)
                job.move_to("done")
                return True
        return False

    # --- one page

    async def _page(self) -> PublishedPage:
        pages = enumerate_published_skills(
            self._env, cursor=self._job.position.cursor, page_budget=1
        )
        async for page in pages:
            return page
        raise AssertionError("an enumeration with a budget of one page yields one")

    async def _reconcile(self, page: PublishedPage, database: SkillDatabase) -> bool:
        """Settle the page's differences; whether KV operations sufficed for all of them."""
        position = self._job.position
        reconciler = Reconciler(self._env, self._job, database)
        async for differences, until in find_differences(page, position.after, database):
            unmarked = unmarked_slugs(page, differences, position.after, until)
            cut = self._affordable_until(differences, unmarked)
            await reconciler.settle(
                [found for found in differences if cut is None or found.name <= cut],
                [name for name in unmarked if cut is None or name <= cut],
            )
            if cut is not None:
                position.after = cut
                return False
            if until is not None:
                position.after = until
        return True

    def _affordable_until(
        self, differences: Sequence[Difference], unmarked: Sequence[str]
    ) -> str | None:
        """The slug up to which the KV operations suffice, one slug at least; None: for all."""
        costs = [(found.name, kv_cost(found)) for found in differences]
        costs += [(name, RESTORING_COST) for name in unmarked]
        left = float(self._operations_left - _PAGE_OPERATIONS)
        afforded: str | None = None
        for name, of_one in groupby(sorted(costs), key=lambda cost: cost[0]):
            left -= sum(cost for _, cost in of_one)
            if left < 0 and afforded is not None:
                return afforded
            afforded = name
        return None

    async def _count_page(self, page: PublishedPage, database: SkillDatabase) -> None:
        job = self._job
        job.processed += len(page.summaries)
        job.estimated_total = max(job.estimated_total or 0, job.processed)
        for broken in page.malformed:
            job.add_error(broken.key, broken.reason)
        known = {entry.summary.name for entry in page.summaries} | set(self._env.seed.names)
        aliases = {a.name: a.target or a.name for a in page.aliases if a.target not in known}
        if aliases:
            ended = await unresolved_aliases(self._env, aliases)
            for alias, slug in ended.items():
                found = await database.get_skill(slug) or await database.get_skill(alias)
                job.orphaned_aliases += found is None

    async def _merged(self, page: PublishedPage) -> AsyncIterator[Sequence[PublishedSummary]]:
        """What both sources hold in the page's range, each skill once."""
        after = start = self._job.position.after
        database = await get_db(self._env)
        async for differences, until in find_differences(page, after, database):
            yield merge_portion(page, start, (after, until), differences)
            after = until or after


async def _news(entries: Sequence[OutboxEntry], database: SkillDatabase) -> list[OutboxEntry]:
    """The newest entry of each skill of which PostgreSQL has no state as new."""
    newest: dict[str, OutboxEntry] = {}
    for entry in entries:
        rival = newest.setdefault(entry.skill.identity, entry)
        if entry.rank > rival.rank:
            newest[entry.skill.identity] = entry
    rows = {identity: await database.get_skill_by_identity(identity) for identity in newest}
    return [
        entry
        for identity, entry in newest.items()
        if (row := rows[identity]) is None or replaces(entry.skill, row, trusted=entry.trusted)
    ]
