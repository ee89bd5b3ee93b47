"""Repairing the differences of one slug range, both ways: the newer state wins, nothing is removed.

What is to be done is planned from reads alone, and counted when it is done. So a dry run makes the
same decisions from the same reads and leaves out the writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeGuard

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
from marketplace.repair.foresight import Foresight, How
from marketplace.repair.rebuild_job import RebuildJob
from marketplace.skills.change import State, covers
from marketplace.skills.merging import is_same, merge
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

    @property
    def foresight(self) -> Foresight:
        return Foresight(self.env, self.job, self.database)

    async def repair(self, differences: Sequence[Difference], unmarked: Sequence[str]) -> None:
        """Repair differences of whole slugs, and give records the metadata that they lack.

        Where one skill has several records, the row that the first one changes is compared with
        the next one. Raises DatabaseError, KvError.
        """
        read = [found.name for found in differences if _is_of_record(found)]
        skills = await self._read([*read, *unmarked])
        waiting, later = self._foreseen(differences, skills)
        while True:
            compared = await self._compare(later, skills)
            left = {found.name for found in later}
            left -= {f.name for f in compared if f.kind is DifferenceKind.MISSING_IN_DATABASE}
            unmarked = [name for name in unmarked if name not in left]
            waiting, later = _first_of_each([*waiting, *compared], skills)
            held = {found.name for found in later}
            await self._repair(waiting, [name for name in unmarked if name not in held], skills)
            if not later:
                return
            unmarked = [name for name in unmarked if name in held]
            waiting = []

    def _foreseen(
        self, differences: Sequence[Difference], skills: Mapping[str, Skill]
    ) -> tuple[list[Difference], list[Difference]]:
        """The differences, and those that a rebuild would find changed by now."""
        identities = {found.name: _identity(found, skills) for found in differences}
        known = self.foresight.find({i for i in identities.values() if i is not None})
        changed = [found for found in differences if identities[found.name] in known]
        return [found for found in differences if found not in changed], changed

    async def _compare(
        self, differences: Sequence[Difference], skills: Mapping[str, Skill]
    ) -> list[Difference]:
        """What has become of differences, now that rows have changed."""
        identities = {i for f in differences if (i := _identity(f, skills)) is not None}
        rows = await self.foresight.rows(identities) if identities else {}
        foreseen = self.foresight.find(identities)
        compared = []
        for found in differences:
            skill, made = skills.get(found.name), foreseen.get(_identity(found, skills) or "")
            if not _is_of_record(found):
                compared += [found] if made is None else []
                continue
            row = None if skill is None else rows.get(skill.identity)
            is_new = found.kind is DifferenceKind.MISSING_IN_DATABASE
            if skill is None or row is None:
                compared.append(found)
            elif row.name != skill.name:
                compared.append(Difference(DifferenceKind.OTHER_SLUG, found.name, row))
                self.job.parted -= is_new  # the walk for the index finds it once more
            elif not covers(row, skill):
                compared.append(Difference(DifferenceKind.NEWER_IN_KV, found.name, row))
            else:
                self.job.parted -= is_new and made is not None and made.how is How.PLACED
        return compared

    async def _repair(
        self,
        differences: Sequence[Difference],
        unmarked: Sequence[str],
        skills: Mapping[str, Skill],
    ) -> None:
        job, plan = self.job, await self._plan(differences, unmarked, skills)
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

    async def _plan(
        self,
        differences: Sequence[Difference],
        unmarked: Sequence[str],
        skills: Mapping[str, Skill],
    ) -> _Plan:
        plan = _Plan()
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
        foreseen = self.foresight.find({row.identity for _, row in moved})
        for skill, row in moved:
            newer = not covers(row, skill)
            record = there[row.name]
            made = foreseen.get(row.identity)
            is_current = _is_of(record, row) and covers(record, row)
            is_current |= made is not None and made.how is not How.INSERTED
            ahead = row.name > self.job.position.after and row.name not in written
            # The row is written over its record, which must not know more.
            both = merge(skill, record) if _is_of(record, row) else skill
            plan.moved.append(_Misplaced(both, newer, newer or (ahead and not is_current)))
            if ahead:
                self.job.place(row.name)
        plan.unmarked = [skills[name] for name in unmarked if name in skills]
        return plan

    def _plan_both(self, plan: _Plan, record: Skill, row: Skill | None) -> None:
        """Each may have what the other lacks."""
        both = record if row is None else merge(row, record)
        if row is None or not is_same(both, row):
            plan.into_database.append(record)
        if not is_same(both, record):
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
        upsert = self.database.check_skills if self.job.dry_run else self.database.upsert_skills
        # With the acts of rules that a record was written without; it gets them from its row.
        rules = await rules_in_database(self.database, plan.into_database)
        ruled = [under_rules(record, rules) for record in plan.into_database]
        in_kv = {record.identity: record.revision for record in plan.into_database}
        outcome = await upsert_in_bulk(ruled, upsert)
        self.job.prisma_backfilled += len(outcome.stored)
        written = {row.identity for row in plan.into_kv}
        for skill in outcome.stored:
            how = How.PLACED if skill.identity in written else How.INSERTED
            self.foresight.note(how, skill, [skill.name])
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
        else:
            await self.foresight.place(list(placed.values()))
        done = [found for found in misplaced if found.skill.name in placed]
        self.job.conflicts_resolved += len(done)
        self.job.prisma_backfilled += sum(found.into_database for found in done)
        self.job.kv_backfilled += sum(found.into_kv for found in done)
        return {found.skill.name for found in misplaced} - placed.keys()

    async def _publish(self, skills: Mapping[str, Skill], *, leave_notes: bool) -> dict[str, Skill]:
        """Those that both stores took."""
        placed = {}
        for chunk in chunks(list(skills.values()), _PLACED_AT_ONCE):
            states: dict[str, Skill] = {}
            for skill in chunk:
                earlier = states.get(skill.identity)
                states[skill.identity] = skill if earlier is None else merge(earlier, skill)
            outcomes = await publish_skills(self.env, list(map(State, states.values())))
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


def _is_of_record(found: Difference) -> bool:
    """Whether KV has a record under the slug of a difference."""
    return found.kind is not DifferenceKind.MISSING_IN_KV


def _identity(found: Difference, skills: Mapping[str, Skill]) -> str | None:
    """The skill that a difference is of; None where its record cannot be read."""
    skill = skills.get(found.name) if _is_of_record(found) else found.row
    return None if skill is None else skill.identity


def _is_of(record: object, row: Skill) -> TypeGuard[Skill]:
    return isinstance(record, Skill) and record.identity == row.identity


def _first_of_each(
    differences: Sequence[Difference], skills: Mapping[str, Skill]
) -> tuple[list[Difference], list[Difference]]:
    """The differences to repair now, and those to compare once more after that: a further record
    of a skill, unless its row knows all of it, and what else concerns the slug of that record."""
    now: list[Difference] = []
    later: list[Difference] = []
    seen: set[str | None] = {None}
    held: set[str] = set()
    for found in sorted(differences, key=lambda each: (each.name, not _is_of_record(each))):
        identity, skill = _identity(found, skills), skills.get(found.name)
        told = found.row is not None and skill is not None and covers(found.row, skill)
        if _is_of_record(found) and skill is not None and identity in seen and not told:
            held.add(found.name)
        (later if found.name in held else now).append(found)
        seen.add(identity)
    return now, later
