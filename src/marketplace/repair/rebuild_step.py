"""One step of a rebuild: as much of it as one invocation's limits allow.

First a walk over all records repairs the differences, then a second one writes the index from
what the sources hold afterwards. A step that is cut off is repeated from where it began.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from typing import Final, Literal

from marketplace.kv.access import write_again_if_refused
from marketplace.kv.acknowledged import acknowledge_repaired, note_missing
from marketplace.kv.aliases import unresolved_aliases
from marketplace.kv.counting import CountingKv
from marketplace.kv.index.writing import IndexWriter
from marketplace.kv.records import PublishedPage, enumerate_published_skills
from marketplace.ports.database import Difference, SkillDatabase
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import StorageError
from marketplace.publishing.outbox import OUTBOX_BATCH, drain_outbox
from marketplace.publishing.withheld import refresh_withheld
from marketplace.repair.logged_acts import REPLAY_OPERATIONS, replay_acts
from marketplace.repair.logged_rules import replay_rules
from marketplace.repair.rebuild_job import Position, RebuildJob
from marketplace.repair.reconciliation import RESTORING_COST, Reconciler, kv_cost
from marketplace.repair.slug_range import find_differences, merge_portion, unmarked_slugs

STEP_SECONDS: Final = 20.0

_PAGE_OPERATIONS: Final = 60  # kept free for reading the next page and its aliases
_OUTBOX_OPERATIONS: Final = 4 * OUTBOX_BATCH


class Step:
    """What one invocation does of a rebuild; ``job`` counts it. Raises StorageError."""

    def __init__(self, env: Env, job: RebuildJob, seconds: float) -> None:
        self.kv = CountingKv(env.submissions_kv)
        self._env = replace(env, submissions_kv=self.kv)
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
        """Whether the current stage came to its end."""
        match self._job.stage:
            case "outbox":
                return await self._outbox()
            case "rules":
                return await self._rules()
            case "acts":
                return await self._acts()
            case "reconcile":
                return await self._walk(self._reconcile, then="index")
            case "index":
                return await self._walk(self._list, then="complete")
            case _:
                return await self._complete()

    @property
    def _operations_left(self) -> int:
        return self._env.settings.kv_operation_budget - self.kv.operations

    def _has_room(self, operations: int = _PAGE_OPERATIONS) -> bool:
        """Whether there is time and KV left; a step always does something."""
        if self.kv.operations == 0:
            return True
        return self._operations_left >= operations and self._env.clock() < self._deadline

    async def _outbox(self) -> bool:
        """What only KV took comes first, under the slug that it has there."""
        job = self._job
        job.estimated_total = (await (await get_db(self._env)).fingerprint()).count
        more = not job.dry_run  # for which the walk finds the outbox's records
        while more:
            if not self._has_room(_OUTBOX_OPERATIONS):
                return False
            drained = await drain_outbox(self._env)
            job.prisma_backfilled += drained.news
            more = drained.entries == OUTBOX_BATCH
        job.move_to("reconcile" if job.dry_run else "rules")
        return True

    async def _rules(self) -> bool:
        """Rules that the log alone has. The checks apply them."""
        position = self._job.position
        while self._has_room():
            position.cursor = (await replay_rules(self._env, position.cursor)).cursor
            if position.cursor is None:
                self._job.move_to("acts")
                return True
        return False

    async def _acts(self) -> bool:
        """Acts that the log alone has, so that the walk brings them to the records too."""
        position = self._job.position
        while self._has_room(REPLAY_OPERATIONS):
            replayed = await replay_acts(self._env, position.cursor)
            self._job.prisma_backfilled += replayed.skills
            position.cursor = replayed.cursor
            if replayed.cursor is None:
                await refresh_withheld(self._env)
                self._job.move_to("reconcile")
                return True
        return False

    async def _walk(
        self,
        visit: Callable[[PublishedPage], Awaitable[bool]],
        *,
        then: Literal["index", "complete"],
    ) -> bool:
        """Visit the pages that are left; a visit tells whether the page is done with."""
        env, job = self._env, self._job
        while self._has_room():
            page = await anext(enumerate_published_skills(env, cursor=job.position.cursor))
            if not await visit(page):
                return False
            job.position = Position(page.cursor, page.last_slug or job.position.after)
            if page.cursor is None:
                job.move_to(then)
                return True
        return False

    async def _list(self, page: PublishedPage) -> bool:
        """Write into the index what both sources hold in the page's range, each skill once."""
        job = self._job
        after = start = job.position.after
        database = await get_db(self._env)
        async for differences, until in find_differences(page, after, database):
            summaries = merge_portion(page, start, (after, until), differences)
            job.rebuilt += len(summaries)
            if not job.dry_run:
                await self._writer.add(summaries)
            after = until or after
        if page.cursor is not None:
            return True
        if job.dry_run:
            job.rebuilt += job.parted
        else:
            # A publish may have written the manifest within this second.
            await write_again_if_refused(self._writer.finish)
        return True

    async def _reconcile(self, page: PublishedPage) -> bool:
        """Repair the page's differences; whether KV operations sufficed for all of them."""
        position, database = self._job.position, await get_db(self._env)
        reconciler = Reconciler(self._env, self._job, database)
        async for differences, until in find_differences(page, position.after, database):
            unmarked = unmarked_slugs(page, differences, position.after, until)
            cut = self._affordable_until(differences, unmarked)
            await reconciler.repair(
                [found for found in differences if cut is None or found.name <= cut],
                [name for name in unmarked if cut is None or name <= cut],
            )
            if cut is not None:
                position.after = cut
                return False
            if until is not None:
                position.after = until
        await self._count_page(page, database)
        return True

    async def _complete(self) -> bool:
        """A loss that was noted before the walk is made good now, and none that came since."""
        job = self._job
        if job.dry_run:
            job.move_to("done")
            return True
        database = await get_db(self._env)
        was_noted = job.fills and await database.note_missing(None)
        if await note_missing(self._env, database) and not was_noted:
            job.end(StorageError("the database was replaced meanwhile", reason="replaced"))
        else:
            await acknowledge_repaired(self._env, database)
            job.move_to("done")
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
        known = {entry.summary.name for entry in page.summaries} | set(self._env.seed.by_name)
        aliases = {a.name: a.target or a.name for a in page.aliases if a.target not in known}
        if aliases:
            ended = await unresolved_aliases(self._env, aliases)
            for alias, slug in ended.items():
                found = await database.get_skill(slug) or await database.get_skill(alias)
                job.orphaned_aliases += found is None
