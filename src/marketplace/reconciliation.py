"""Settling the differences of one slug range, both ways: the newer state wins, nothing is removed.

A dry run makes the same decisions from the same reads, and leaves out the writes alone.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from marketplace import submission_store
from marketplace.concurrency import map_bounded
from marketplace.env import Env
from marketplace.kv_access import chunks
from marketplace.kv_records import encode_skill
from marketplace.models import InvalidRecord, Skill
from marketplace.publishing import Published, publish_skills, settle_in_kv, write_row
from marketplace.rebuild_job import RebuildJob
from marketplace.storage import (
    KV_BULK_GET_LIMIT,
    DatabaseError,
    Difference,
    DifferenceKind,
    KvError,
    KvRateLimited,
    RecordKey,
    SkillDatabase,
)

_INTO_DATABASE: Final = {DifferenceKind.MISSING_IN_DATABASE, DifferenceKind.NEWER_IN_KV}
_INTO_KV: Final = {DifferenceKind.NEWER_IN_DATABASE, DifferenceKind.MISSING_IN_KV}
_PLACED_AT_ONCE: Final = 50
_FAILURES_OF_SINGLE_KEYS: Final = 3  # of a batch; more of them are KV's
_OF_ONE_SKILL: Final = ("rejected", "conflict")  # reasons that concern one skill, not the database


def kv_cost(difference: Difference) -> float:
    """KV operations that settling a difference takes, about."""
    if difference.kind in _INTO_DATABASE:
        return 1 / KV_BULK_GET_LIMIT
    return 1.0 if difference.kind in _INTO_KV else 5.0


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Settles differences with one database session; counts into the job."""

    env: Env
    job: RebuildJob
    database: SkillDatabase

    async def settle(self, differences: Sequence[Difference]) -> None:
        """Settle differences of whole slugs. Raises DatabaseError, KvError."""
        kinds = {d.name: d.kind for d in differences if d.kind is not DifferenceKind.MISSING_IN_KV}
        rows = {d.name: d.row for d in differences if d.kind in _INTO_KV and d.row is not None}
        others = [d for d in differences if d.kind is DifferenceKind.OTHER_SLUG]
        skills = await self._read([name for name, kind in kinds.items() if kind not in _INTO_KV])
        # Records first move out of slugs that belong to others; then those write theirs.
        await self._into_database([s for s in skills if kinds[s.name] in _INTO_DATABASE])
        taken = [s for s in skills if kinds[s.name] is DifferenceKind.TAKEN_SLUG]
        stuck = await self._place_taken(taken)
        writable = rows.keys() - stuck - set(self.job.placed)
        await self._into_kv([row for name, row in rows.items() if name in writable])
        found = {skill.name: skill for skill in skills}
        await self._merge_moved(
            [(found[d.name], d.row) for d in others if d.row is not None and d.name in found],
            settled=set(rows),
        )

    async def _read(self, names: Sequence[str]) -> list[Skill]:
        """The records of these slugs; one that cannot be read is an error, and no obstacle."""
        skills = []
        for chunk in chunks(names, KV_BULK_GET_LIMIT):
            for name, record in (await submission_store.read_records(self.env, chunk)).items():
                if isinstance(record, Skill):
                    skills.append(record)
                elif isinstance(record, InvalidRecord):
                    self.job.add_error(f"skill:{name}", str(record))
        return skills

    # --- KV into PostgreSQL

    async def _into_database(self, skills: Sequence[Skill]) -> None:
        job = self.job
        job.prisma_backfilled += len(skills)
        if skills and not job.dry_run:
            stored, unplaced = await self._upsert(skills)
            await self.database.mark_in_kv(_keys(stored))
            job.conflicts_resolved += len(unplaced)
            await self._place(unplaced)

    async def _upsert(self, skills: Sequence[Skill]) -> tuple[list[Skill], list[Skill]]:
        """Those that have their place now, and those whose slug is taken; the rest are errors."""
        try:
            unplaced = list(await self.database.upsert_skills(skills))
        except DatabaseError as error:
            if error.reason not in _OF_ONE_SKILL:
                raise
            if len(skills) == 1:
                self.job.prisma_backfilled -= 1
                self.job.add_error(f"skill:{skills[0].name}", str(error))
                return [], []
            return await self._upsert_one_by_one(skills)
        waiting = {skill.identity for skill in unplaced}
        return [skill for skill in skills if skill.identity not in waiting], unplaced

    async def _upsert_one_by_one(self, skills: Sequence[Skill]) -> tuple[list[Skill], list[Skill]]:
        stored: list[Skill] = []
        unplaced: list[Skill] = []
        for skill in skills:
            one, other = await self._upsert([skill])
            stored += one
            unplaced += other
        return stored, unplaced

    # --- two skills with one slug, one skill with two

    async def _place_taken(self, skills: Sequence[Skill]) -> set[str]:
        """Give slugs of their own to those whose slug belongs to another's row.

        Returns the slugs whose record must stay, since its skill has no other place yet.
        """
        self.job.prisma_backfilled += len(skills)
        self.job.conflicts_resolved += len(skills)
        if self.job.dry_run:
            return set()
        return await self._place(skills, leave_note=False)  # the slug's owner writes its record

    async def _merge_moved(
        self, pairs: Sequence[tuple[Skill, Skill]], *, settled: set[str]
    ) -> None:
        """Bring records together with their rows, which have other slugs."""
        job = self.job
        names = [row.name for _, row in pairs]
        there = await submission_store.read_records(self.env, names) if names else {}
        for skill, row in pairs:
            newer = skill.revision > row.revision
            record = there[row.name]
            is_current = isinstance(record, Skill) and record.revision >= row.revision
            ahead = row.name > job.position.after and row.name not in settled
            job.conflicts_resolved += 1
            job.prisma_backfilled += newer
            job.kv_backfilled += newer or (ahead and not is_current)
            if ahead:
                job.placed = [*job.placed, row.name]
        if not job.dry_run:
            await self._place([skill for skill, _ in pairs])

    async def _place(self, skills: Sequence[Skill], *, leave_note: bool = True) -> set[str]:
        """Publish skills under the slug that PostgreSQL gives or has given them.

        Returns the slugs of those for which that failed.
        """
        stuck = set()
        for chunk in chunks(skills, _PLACED_AT_ONCE):
            outcomes = await publish_skills(self.env, chunk)
            for skill in chunk:
                outcome = outcomes[skill.identity]
                if not (isinstance(outcome, Published) and outcome.in_database and outcome.in_kv):
                    self.job.add_error(f"skill:{skill.name}", "not stored in both sources")
                    stuck.add(skill.name)
                elif leave_note and outcome.skill.name != skill.name:
                    await self._leave_note(skill, outcome.skill.name)
        return stuck

    async def _leave_note(self, skill: Skill, new_name: str) -> None:
        """Let the slug that a skill had lead to the one that it has.

        The alias in PostgreSQL comes first and reserves the slug. Where another skill has it by
        now, its record is in the place of the note, and must stay.
        """
        await self.database.add_alias(skill.name, skill.identity)
        owner = await self.database.get_skill(skill.name)
        if owner is None or owner.identity != skill.identity:
            return
        try:
            await submission_store.mark_moved(self.env, skill.name, new_name)
        except KvError as error:
            self.job.add_error(f"skill:{skill.name}", f"{error.reason}: {error}")

    # --- PostgreSQL into KV

    async def _into_kv(self, rows: Sequence[Skill]) -> None:
        write = _check_only if self.job.dry_run else write_row
        failures = await map_bounded(rows, lambda row: self._attempt(row, write))
        written = [row for row, failure in zip(rows, failures, strict=True) if failure is None]
        for row, failure in zip(rows, failures, strict=True):
            if failure is not None:
                self.job.add_error(f"skill:{row.name}", str(failure))
        self.job.kv_backfilled += len(written)
        if written and not self.job.dry_run:
            await settle_in_kv(self.env, written)
        away = [f for f in failures if isinstance(f, KvError) and not isinstance(f, KvRateLimited)]
        if len(away) > _FAILURES_OF_SINGLE_KEYS or (away and not written):
            raise away[0]  # KV itself fails: the step is tried again as a whole

    async def _attempt(
        self, row: Skill, write: Callable[[Env, Skill], Awaitable[None]]
    ) -> KvError | InvalidRecord | None:
        try:
            await write(self.env, row)
        except (KvError, InvalidRecord) as error:
            return error
        return None


async def _check_only(_env: Env, skill: Skill) -> None:
    """What writing would refuse."""
    encode_skill(skill)


def _keys(skills: Sequence[Skill]) -> list[RecordKey]:
    return [RecordKey(skill.name, skill.identity, skill.revision) for skill in skills]
