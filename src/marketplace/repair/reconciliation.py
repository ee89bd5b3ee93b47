"""Settling the differences of one slug range, both ways: the newer state wins, nothing is removed.

What is to be done is planned from reads alone, and counted when it is done. So a dry run makes the
same decisions from the same reads and leaves out the writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from marketplace.basics.json_text import Unreadable
from marketplace.kv.access import chunks
from marketplace.kv.aliases import mark_moved
from marketplace.kv.records import read_records
from marketplace.ports.database import Difference, DifferenceKind, RecordKey, SkillDatabase
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError, KvRateLimited
from marketplace.ports.kv import KV_BULK_GET_LIMIT
from marketplace.publishing.kv_copy import project_rows
from marketplace.publishing.publish import publish_skills
from marketplace.publishing.slug_plan import certain_slug
from marketplace.repair.bulk_upsert import upsert_in_bulk
from marketplace.repair.rebuild_job import RebuildJob
from marketplace.skills.skill import Skill

_INTO_DATABASE: Final = {DifferenceKind.MISSING_IN_DATABASE, DifferenceKind.NEWER_IN_KV}
_INTO_KV: Final = {DifferenceKind.NEWER_IN_DATABASE, DifferenceKind.MISSING_IN_KV}
_PLACED_AT_ONCE: Final = 50

_FAILURES_OF_SINGLE_KEYS: Final = 3  # of a batch; more of them are KV's

RESTORING_COST: Final = 1.0 + 2 / KV_BULK_GET_LIMIT
"""KV operations that giving a record its metadata takes."""


def kv_cost(difference: Difference) -> float:
    """KV operations that settling a difference takes, about."""
    if difference.kind in _INTO_DATABASE:
        return 1 / KV_BULK_GET_LIMIT
    return RESTORING_COST if difference.kind in _INTO_KV else 5.0


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Settles differences with one database session; counts into the job."""

    env: Env
    job: RebuildJob
    database: SkillDatabase

    async def settle(self, differences: Sequence[Difference], unmarked: Sequence[str]) -> None:
        """Settle differences of whole slugs, and give records the metadata that they lack.

        Raises DatabaseError, KvError.
        """
        if not differences and not unmarked:
            return
        plan = await self._plan(differences, unmarked)
        # Records first move out of slugs that belong to others; then those write theirs.
        await self._into_database(plan)
        owned = {row.name for row in plan.into_kv}
        kept_out = await self._place_taken(plan)
        kept_out |= await self._merge_moved([m for m in plan.moved if m.skill.name in owned])
        written = await self._write([row for row in plan.into_kv if row.name not in kept_out])
        self.job.kv_backfilled += len(written)
        others = [moved for moved in plan.moved if moved.skill.name not in owned]
        await self._merge_moved(others, note=True)
        self.job.metadata_restored += len(await self._write(plan.unmarked))

    # --- what to do

    async def _plan(self, differences: Sequence[Difference], unmarked: Sequence[str]) -> "_Plan":
        plan = _Plan()
        read = [found.name for found in differences if found.kind not in _INTO_KV]
        skills = await self._read([*read, *unmarked])
        moved = []
        for found in differences:
            skill = skills.get(found.name)
            if found.kind in _INTO_KV:
                if found.row is not None and found.name not in self.job.placed:
                    plan.into_kv.append(found.row)
            elif skill is None:
                continue  # it cannot be read: an error, and no obstacle
            elif found.kind in _INTO_DATABASE:
                plan.into_database.append(skill)
            elif found.kind is DifferenceKind.TAKEN_SLUG:
                plan.taken.append(skill)
            elif found.row is not None:
                moved.append((skill, found.row))
        await self._plan_moved(plan, moved)
        plan.unmarked = [skills[name] for name in unmarked if name in skills]
        return plan

    async def _plan_moved(self, plan: "_Plan", pairs: Sequence[tuple[Skill, Skill]]) -> None:
        """What bringing records together with their rows, which have other slugs, takes."""
        settled = {row.name for row in plan.into_kv}
        names = [row.name for _, row in pairs]
        there = await read_records(self.env, names) if names else {}
        for skill, row in pairs:
            newer = skill.revision > row.revision
            record = there[row.name]
            is_current = isinstance(record, Skill) and record.revision >= row.revision
            ahead = row.name > self.job.position.after and row.name not in settled
            into_kv = newer or (ahead and not is_current)
            plan.moved.append(_MovedRecord(skill, into_database=newer, into_kv=into_kv))
            if ahead:
                self.job.place(row.name)

    async def _read(self, names: Sequence[str]) -> dict[str, Skill]:
        """The records of these slugs; one that cannot be read is an error, and no obstacle."""
        skills = {}
        for chunk in chunks(list(dict.fromkeys(names)), KV_BULK_GET_LIMIT):
            for name, record in (await read_records(self.env, chunk)).items():
                if isinstance(record, Skill):
                    skills[name] = record
                elif isinstance(record, Unreadable):
                    self.job.add_error(f"skill:{name}", str(record))
        return skills

    def _count_conflicts(self, placed: Sequence[Skill]) -> None:
        """Skills that have a slug of their own now."""
        self.job.prisma_backfilled += len(placed)
        self.job.conflicts_resolved += len(placed)

    # --- KV into PostgreSQL

    async def _into_database(self, plan: "_Plan") -> None:
        upsert = self.database.check_skills if self.job.dry_run else self.database.upsert_skills
        outcome = await upsert_in_bulk(plan.into_database, upsert)
        self.job.prisma_backfilled += len(outcome.stored)
        if outcome.stored and not self.job.dry_run:
            await self.database.mark_in_kv(_keys(outcome.stored))
        for skill, reason in outcome.rejected:
            self.job.add_error(f"skill:{skill.name}", reason)
        unplaced = await self._placeable(outcome.unplaced)
        if unplaced:
            self._count_conflicts(await self._place(unplaced, leave_note=True))
            names = {skill.name for skill in unplaced}  # notes are there now, or nothing is
            plan.unmarked = [skill for skill in plan.unmarked if skill.name not in names]

    # --- two skills with one slug, one skill with two

    async def _place_taken(self, plan: "_Plan") -> set[str]:
        """Give slugs of their own to those whose slug belongs to another's row.

        Returns the slugs that still hold such a record, and must not be overwritten.
        """
        placed = await self._place(await self._placeable(plan.taken), leave_note=False)
        self._count_conflicts(placed)
        placed_names = {skill.name for skill in placed}
        self.job.parted += len(placed_names & {row.name for row in plan.into_kv})
        return {skill.name for skill in plan.taken} - placed_names

    async def _merge_moved(
        self, moved: Sequence["_MovedRecord"], *, note: bool = False
    ) -> set[str]:
        """Bring records together with their rows, which have other slugs.

        Returns the slugs that still hold such a record.
        """
        skills = [record.skill for record in moved]
        placed = await self._place(await self._placeable(skills), leave_note=note)
        placed_names = {skill.name for skill in placed}
        done = [record for record in moved if record.skill.name in placed_names]
        self.job.conflicts_resolved += len(done)
        self.job.prisma_backfilled += sum(record.into_database for record in done)
        self.job.kv_backfilled += sum(record.into_kv for record in done)
        return {skill.name for skill in skills} - placed_names

    async def _placeable(self, skills: Sequence[Skill]) -> list[Skill]:
        """Those that PostgreSQL would take under a slug of their own; the others are errors."""
        renamed = [skill.renamed(certain_slug(skill)) for skill in skills]
        outcome = await upsert_in_bulk(renamed, self.database.check_skills)
        rejected = {skill.identity: reason for skill, reason in outcome.rejected}
        for skill in skills:
            if skill.identity in rejected:
                self.job.add_error(f"skill:{skill.name}", rejected[skill.identity])
        return [skill for skill in skills if skill.identity not in rejected]

    async def _place(self, skills: Sequence[Skill], *, leave_note: bool) -> list[Skill]:
        """Publish skills under the slug that PostgreSQL gives or has given them; those placed."""
        if self.job.dry_run:
            return list(skills)
        placed = []
        for chunk in chunks(skills, _PLACED_AT_ONCE):
            outcomes = await publish_skills(self.env, chunk)
            for skill in chunk:
                outcome = outcomes.get(skill.identity)
                if outcome is None or not outcome.in_both:
                    self.job.add_error(f"skill:{skill.name}", "not stored in both sources")
                    continue
                placed.append(skill)
                if leave_note and outcome.skill.name != skill.name:
                    await self._leave_note(skill, outcome.skill.name)
        return placed

    async def _leave_note(self, skill: Skill, new_name: str) -> None:
        """Let the slug that a skill had lead to the one that it has.

        Or to another skill, whose old slug it is as well: the alias in PostgreSQL comes first and
        reserves the slug. Where another skill has it now, its record is in the place of the note,
        and must stay.
        """
        await self.database.add_alias(skill.name, skill.identity)
        owner = await self.database.get_skill(skill.name)
        target = new_name if owner is None else owner.name
        if target == skill.name:
            return
        try:
            await mark_moved(self.env, skill.name, target)
        except KvError as error:
            self.job.add_error(f"skill:{skill.name}", f"{error.reason}: {error}")

    # --- into KV

    async def _write(self, skills: Sequence[Skill]) -> list[Skill]:
        """Write the records of rows, or records again; those that were, or would be, written."""
        if self.job.dry_run:
            return list(skills)
        projected = await project_rows(self.env, skills)
        errors = [e for e in projected.failed.values() if not isinstance(e, KvRateLimited)]
        away = [error for error in errors if isinstance(error, KvError)]
        if len(away) > _FAILURES_OF_SINGLE_KEYS or (away and not projected.written):
            raise away[0]  # KV itself fails: the step is tried again as a whole
        written = {skill.name for skill in projected.written}
        for skill in skills:
            if skill.name not in written:
                reason = projected.failed.get(
                    skill.name, "kv has a newer state, or another skill's"
                )
                self.job.add_error(f"skill:{skill.name}", str(reason))
        return projected.written


@dataclass(frozen=True, slots=True)
class _MovedRecord:
    """A record whose row has another slug, and which stores get a newer state of it."""

    skill: Skill
    into_database: bool
    into_kv: bool


@dataclass(slots=True)
class _Plan:
    """What to do about some differences."""

    into_database: list[Skill] = field(default_factory=list)
    taken: list[Skill] = field(default_factory=list)
    into_kv: list[Skill] = field(default_factory=list)  # rows
    moved: list[_MovedRecord] = field(default_factory=list)
    unmarked: list[Skill] = field(default_factory=list)  # records without metadata


def _keys(skills: Sequence[Skill]) -> list[RecordKey]:
    return [RecordKey(skill.name, skill.identity, skill.revision) for skill in skills]
