"""One step of a rebuild: as much of it as one invocation's limits allow.

First a walk over all records repairs the differences, then a second one writes the index from
what the sources hold afterwards. A step that is cut off is repeated from where it began.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from typing import Final, Literal

from marketplace.health.walk import count_page, save_walk
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
from marketplace.repair.aliases import ALIAS_OPERATIONS, aliases_into_database, aliases_into_kv
from marketplace.repair.foresight import Foresight
from marketplace.repair.logged_acts import REPLAY_OPERATIONS, replay_acts
from marketplace.repair.logged_rules import replay_rules
from marketplace.repair.logged_verdicts import LogPlace, replay_verdicts
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
            case "verdicts":
                return await self._verdicts()
            case "acts":
                return await self._acts()
            case "alias-keys":
                return await self._alias_keys()
            case "reconcile":
                return await self._walk(self._reconcile, then="alias-rows")
            case "alias-rows":
                return await self._alias_rows()
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

    async def _foresight(self) -> Foresight:
        return Foresight(self._env, self._job, await get_db(self._env))

    async def _outbox(self) -> bool:
        """What only KV took comes first, under the slug that it has there."""
        job, position = self._job, self._job.position
        if position.cursor is None:
            job.estimated_total = (await (await get_db(self._env)).fingerprint()).count
        visit = (await self._foresight()).outbox if job.dry_run else self._drain
        while self._has_room(_OUTBOX_OPERATIONS):
            position.cursor = await visit(position.cursor)
            if position.cursor is None:
                job.move_to("verdicts" if job.dry_run else "rules")
                return True
        return False

    async def _drain(self, cursor: str | None) -> str | None:
        drained = await drain_outbox(self._env, cursor)
        self._job.prisma_backfilled += drained.news
        return drained.cursor

    async def _rules(self) -> bool:
        """Rules that the log alone has. The checks apply them."""
        position = self._job.position
        while self._has_room():
            position.cursor = (await replay_rules(self._env, position.cursor)).cursor
            if position.cursor is None:
                self._job.move_to("verdicts")
                return True
        return False

    async def _verdicts(self) -> bool:
        """What both stores lost, and entries for what the log never had."""
        job, position = self._job, self._job.position
        foresight = await self._foresight() if job.dry_run else None
        while self._has_room():
            replayed = await replay_verdicts(
                self._env,
                LogPlace(position.cursor, position.after),
                operations=self._operations_left - _PAGE_OPERATIONS,
                preview=None if foresight is None else foresight.publish,
            )
            job.prisma_backfilled += replayed.news
            if replayed.place is None:
                job.move_to("alias-keys" if job.dry_run else "acts")
                return True
            position.cursor, position.after = replayed.place.cursor, replayed.place.after
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
                self._job.move_to("alias-keys")
                return True
        return False

    async def _alias_keys(self) -> bool:
        """Old slugs come before the walk, which then gives none of them to another skill."""
        job, foresight = self._job, await self._foresight()
        while self._has_room(ALIAS_OPERATIONS):
            repaired = await aliases_into_database(self._env, job.position.cursor, foresight)
            job.aliases_repaired += repaired.aliases
            job.position.cursor = repaired.go_on
            if repaired.go_on is None:
                job.move_to("reconcile")
                return True
        return False

    async def _alias_rows(self) -> bool:
        """These come after the walk, when all skills have their rows."""
        job, foresight = self._job, await self._foresight()
        while self._has_room(ALIAS_OPERATIONS):
            repaired = await aliases_into_kv(self._env, job.position.after, foresight)
            job.aliases_repaired += repaired.aliases
            if repaired.go_on is None:
                job.move_to("index")
                return True
            job.position.after = repaired.go_on
        return False

    async def _walk(
        self,
        visit: Callable[[PublishedPage], Awaitable[bool]],
        *,
        then: Literal["alias-rows", "complete"],
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
        job.walk = await count_page(self._env, job.walk, page, start)
        if page.cursor is not None:
            return True
        if job.dry_run:
            job.rebuilt += job.parted
        else:
            # A publish may have written the manifest within this second.
            await write_again_if_refused(self._writer.finish)
            await save_walk(self._env, job.walk)
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
        aliases = {a.name: a.name for a in page.aliases if a.target not in known}
        if aliases:
            ended = await unresolved_aliases(self._env, aliases)
            claims = await database.find_claims([*ended, *ended.values()])
            rows = await database.get_skills(sorted(set(claims.values())))
            foresight = await self._foresight()
            leading = {*rows, *foresight.first_slugs(claims.values())}
            made = foresight.made([*ended, *ended.values()])
            for alias, slug in ended.items():
                leads = not leading.isdisjoint({claims.get(alias), claims.get(slug)})
                job.orphaned_aliases += not leads and made.isdisjoint({alias, slug})
