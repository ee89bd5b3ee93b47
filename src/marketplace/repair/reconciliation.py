"""Repairing the differences of one slug range, both ways: the newer state wins, nothing is removed.

What is to be done is planned from reads alone, and counted when it is done. So a dry run makes the
same decisions from the same reads and leaves out the writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from marketplace.basics.json_text import Unreadable
from marketplace.kv.access import chunks
from marketplace.kv.records import read_records
from marketplace.operations.rules import rules_in_database
from marketplace.ports.database import Difference, DifferenceKind, RecordKey, SkillDatabase
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError, KvRateLimited
from marketplace.ports.kv import KV_BULK_GET_LIMIT
from marketplace.publishing.kv_copy import leave_note, project_rows
from marketplace.publishing.publish import Published, publish_skills
from marketplace.publishing.slug_plan import certain_slug
from marketplace.repair.bulk_upsert import upsert_in_bulk
from marketplace.repair.rebuild_job import RebuildJob
from marketplace.skills.change import State, covers
from marketplace.skills.merging import merge
from marketplace.skills.rules import under_rules
from marketplace.skills.skill import Skill

_BOTH: Final = {DifferenceKind.NEWER_IN_KV, DifferenceKind.NEWER_IN_DATABASE}
_PLACED_AT_ONCE: Final = 50

_FAILURES_OF_SINGLE_KEYS: Final = 3  # of a batch; more of them are KV's

RESTORING_COST: Final = 1.0 + 2 / KV_BULK_GET_LIMIT
"""KV operations that giving a record its metadata takes."""


def kv_cost(difference: Difference) -> float:
    """KV operations that repairing a difference takes, about."""
    match difference.kind:
        case DifferenceKind.MISSING_IN_DATABASE:
            return 1 / KV_BULK_GET_LIMIT
        case DifferenceKind.OTHER_SLUG | DifferenceKind.TAKEN_SLUG:
            return 5.0
        case _:
            return RESTORING_COST


@dataclass(frozen=True, slots=True)
class _Misplaced:
    """A record whose slug is not its skill's, and which stores get a state that they lack."""

    skill: Skill
    into_database: bool = True
    into_kv: bool = False


@dataclass(slots=True)
class _Plan:
    into_database: list[Skill] = field(default_factory=list)
    taken: list[_Misplaced] = field(default_factory=list)  # the slug is another skill's
    moved: list[_Misplaced] = field(default_factory=list)  # the row has another slug
    into_kv: list[Skill] = field(default_factory=list)  # rows
    unmarked: list[Skill] = field(default_factory=list)  # records without metadata


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Repairs differences with one database session; counts into the job."""

    env: Env
    job: RebuildJob
    database: SkillDatabase

    async def repair(self, differences: Sequence[Difference], unmarked: Sequence[str]) -> None:
        """Repair differences of whole slugs, and give records the metadata that they lack.

        Raises DatabaseError, KvError.
        """
        job, plan = self.job, await self._plan(differences, unmarked)
        # Records first move out of slugs that belong to others; then those write theirs.
        await self._into_database(plan)
        owned = {row.name for row in plan.into_kv}
        in_the_way = plan.taken + [moved for moved in plan.moved if moved.skill.name in owned]
        left = await self._place(in_the_way)
        job.parted += len({taken.skill.name for taken in plan.taken} & owned - left)
        rows = [row for row in plan.into_kv if row.name not in left]
        job.kv_backfilled += await self._write(rows)
        others = [moved for moved in plan.moved if moved.skill.name not in owned]
        await self._place(others, leave_notes=True)
        job.metadata_restored += await self._write(plan.unmarked)

    async def _plan(self, differences: Sequence[Difference], unmarked: Sequence[str]) -> _Plan:
        plan = _Plan()
        read = [
            found.name for found in differences if found.kind is not DifferenceKind.MISSING_IN_KV
        ]
        skills = await self._read([*read, *unmarked])
        moved: list[tuple[Skill, Skill]] = []
        for found in differences:
            skill = skills.get(found.name)
            if found.kind is DifferenceKind.MISSING_IN_KV:
                if found.row is not None and found.name not in self.job.placed:
                    plan.into_kv.append(found.row)
            elif skill is None:
                continue  # it cannot be read: an error, and no obstacle
            elif found.kind is DifferenceKind.MISSING_IN_DATABASE:
                plan.into_database.append(skill)
            elif found.kind in _BOTH:
                self._plan_both(plan, skill, found.row)
            elif found.kind is DifferenceKind.TAKEN_SLUG:
                plan.taken.append(_Misplaced(skill))
            elif found.row is not None:
                moved.append((skill, found.row))
        written = {row.name for row in plan.into_kv}
        there = await read_records(self.env, [row.name for _, row in moved])
        for skill, row in moved:
            newer = not covers(row, skill)
            record = there[row.name]
            is_current = isinstance(record, Skill) and covers(record, row)
            ahead = row.name > self.job.position.after and row.name not in written
            plan.moved.append(_Misplaced(skill, newer, newer or (ahead and not is_current)))
            if ahead:
                self.job.place(row.name)
        plan.unmarked = [skills[name] for name in unmarked if name in skills]
        return plan

    def _plan_both(self, plan: _Plan, record: Skill, row: Skill | None) -> None:
        """Each may have what the other lacks."""
        both = record if row is None else merge(row, record)
        if row is None or both.revision != row.revision:
            plan.into_database.append(record)
        if both.revision != record.revision:
            plan.into_kv.append(both)

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

    async def _into_database(self, plan: _Plan) -> None:
        if self.job.dry_run:  # counted among what the outbox has of the same skills
            drained = set(self.job.drained)
            plan.into_database = [s for s in plan.into_database if s.identity not in drained]
        upsert = self.database.check_skills if self.job.dry_run else self.database.upsert_skills
        # With the acts of rules that a record was written without; it gets them from its row.
        rules = await rules_in_database(self.database, plan.into_database)
        ruled = [under_rules(record, rules) for record in plan.into_database]
        in_kv = {record.identity: record.revision for record in plan.into_database}
        outcome = await upsert_in_bulk(ruled, upsert)
        self.job.prisma_backfilled += len(outcome.stored)
        if outcome.stored and not self.job.dry_run:
            keys = [RecordKey(s.name, s.identity, in_kv[s.identity]) for s in outcome.stored]
            await self.database.mark_in_kv(keys)
        for skill, reason in outcome.rejected:
            self.job.add_error(f"skill:{skill.name}", reason)
        left = await self._place(list(map(_Misplaced, outcome.unplaced)), leave_notes=True)
        moved = {skill.name for skill in outcome.unplaced} - left
        plan.unmarked = [skill for skill in plan.unmarked if skill.name not in moved]

    async def _place(
        self, misplaced: Sequence[_Misplaced], *, leave_notes: bool = False
    ) -> set[str]:
        """Publish skills under the slugs that PostgreSQL gives or has given them, and count them.

        Returns the slugs that still hold such a record, and must not be overwritten.
        """
        renamed = [found.skill.renamed(certain_slug(found.skill.identity)) for found in misplaced]
        outcome = await upsert_in_bulk(renamed, self.database.check_skills)
        rejected = {skill.identity: reason for skill, reason in outcome.rejected}
        placed: dict[str, Skill] = {}
        for skill in (found.skill for found in misplaced):
            if skill.identity in rejected:
                self.job.add_error(f"skill:{skill.name}", rejected[skill.identity])
            else:
                placed[skill.name] = skill
        if not self.job.dry_run:
            placed = await self._publish(placed, leave_notes=leave_notes)
        done = [found for found in misplaced if found.skill.name in placed]
        self.job.conflicts_resolved += len(done)
        self.job.prisma_backfilled += sum(found.into_database for found in done)
        self.job.kv_backfilled += sum(found.into_kv for found in done)
        return {found.skill.name for found in misplaced} - placed.keys()

    async def _publish(self, skills: Mapping[str, Skill], *, leave_notes: bool) -> dict[str, Skill]:
        """Those that both stores took."""
        placed = {}
        for chunk in chunks(list(skills.values()), _PLACED_AT_ONCE):
            outcomes = await publish_skills(self.env, [State(skill) for skill in chunk])
            for skill in chunk:
                outcome = outcomes.get(skill.identity)
                if not isinstance(outcome, Published) or not outcome.in_both:
                    self.job.add_error(f"skill:{skill.name}", "not stored in both sources")
                    continue
                placed[skill.name] = skill
                try:
                    if leave_notes and outcome.skill.name != skill.name:
                        await leave_note(self.env, skill, outcome.skill)
                except KvError as error:
                    self.job.add_error(f"skill:{skill.name}", f"{error.reason}: {error}")
        return placed

    async def _write(self, skills: Sequence[Skill]) -> int:
        """Write the records of rows, or records again; how many were, or would be, written."""
        if self.job.dry_run:
            return len(skills)
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
        return len(written)
