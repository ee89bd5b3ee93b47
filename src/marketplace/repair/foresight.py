"""What a dry run has to remember: the rows that a rebuild would have made by now.

Two records of one skill may be far apart in KV. A rebuild finds the row of the first when it comes
to the second. A dry run finds none, and remembers the slugs instead.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from marketplace.kv.acceptance_log import read_logged
from marketplace.kv.outbox import find_identity_in_outbox, list_outbox
from marketplace.kv.records import read_records
from marketplace.operations.rules import rules_in_database
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env
from marketplace.publishing.outbox import OUTBOX_BATCH, changes_of
from marketplace.publishing.slug_plan import SlugPlan, plan_slug, read_wanted_slugs
from marketplace.repair.bulk_upsert import upsert_in_bulk
from marketplace.repair.rebuild_job import RebuildJob
from marketplace.skills.change import Change, Replayed, Ruled, State, Waiting
from marketplace.skills.merging import is_same
from marketplace.skills.rules import under_rules
from marketplace.skills.skill import Skill

MAX_FORESEEN: Final = 8_000_000
"""Characters that a job remembers, of about 250,000 skills. Further ones may be counted twice."""
_DIGITS: Final = 12


class How(StrEnum):
    """How a rebuild would have made a row."""

    INSERTED = "i"  # from its record, which stays as it is
    PLACED = "p"  # by publishing the skill, which writes its record
    OUTBOX = "o"  # so too, before the walk began: from the outbox or the acceptance log


class Foreseen(NamedTuple):
    """A row that a rebuild would have made: of the records under these slugs, the first of which
    is its own."""

    how: How
    slugs: list[str]


@dataclass(frozen=True, slots=True)
class Foresight:
    """The rows as a rebuild would have them. In a rebuild itself those are the rows."""

    env: Env
    job: RebuildJob
    database: SkillDatabase

    def note(self, how: How, skill: Skill, slugs: Iterable[str]) -> None:
        """Remember that a rebuild would have merged these records into the row of a skill."""
        if not self.job.dry_run or len(self.job.foreseen) > MAX_FORESEEN:
            return
        if how is How.PLACED:
            earlier = self.find([skill.identity]).get(skill.identity, Foreseen(how, []))
            slugs = [*slugs, *earlier.slugs]
            how = How.OUTBOX if earlier.how is How.OUTBOX else how
        entry = [_digest(skill.identity), how, *dict.fromkeys(slugs)]
        self.job.foreseen += " ".join(entry) + ","

    def find(self, identities: Collection[str]) -> dict[str, Foreseen]:
        """What is remembered of these skills."""
        wanted = {_digest(identity): identity for identity in identities}
        found: dict[str, Foreseen] = {}
        for entry in self.job.foreseen.split(",") if wanted else ():
            identity = wanted.get(entry[:_DIGITS])
            if identity is not None:
                _, how, *slugs = entry.split(" ")
                found[identity] = Foreseen(How(how), slugs)
        return found

    def first_slugs(self, identities: Collection[str]) -> dict[str, str]:
        """The slugs of their rows."""
        return {identity: found.slugs[0] for identity, found in self.find(identities).items()}

    def made(self, slugs: Collection[str]) -> set[str]:
        """Those of these slugs that a remembered row has."""
        entries = (entry.split(" ") for entry in self.job.foreseen.split(",") if entry)
        return set(slugs) & {entry[2] for entry in entries} if slugs else set()

    async def rows(self, identities: Collection[str]) -> Mapping[str, Skill]:
        """By identity, as far as there are any. Raises DatabaseError, KvError."""
        rows = dict(await self.database.get_skills(sorted(identities)))
        for identity, found in self.find(identities).items():
            made = await self._made(identity, rows.get(identity), found.slugs)
            rules = await rules_in_database(self.database, [made] if made else [])
            rows |= {identity: under_rules(made, rules)} if made else {}
        return rows

    async def _made(self, identity: str, row: Skill | None, slugs: Sequence[str]) -> Skill | None:
        records = (await read_records(self.env, slugs)).values()
        states = [r for r in records if isinstance(r, Skill) and r.identity == identity]
        waiting = await find_identity_in_outbox(self.env, identity)
        changes: list[Change] = [State(state) for state in states]
        changes += [] if waiting is None else [Waiting(waiting.skill)]
        changes += [] if changes else [Replayed(identity, await read_logged(self.env, identity))]
        for change in changes:
            changed = change.onto(row)
            row = changed if isinstance(changed, Skill) else row
        return None if row is None else row.renamed(slugs[0])

    async def place(self, skills: Sequence[Skill]) -> None:
        """Remember that a rebuild would have published these. Raises DatabaseError."""
        claims = await read_wanted_slugs(self.env, [skill.identity for skill in skills])
        plans = [plan_slug(self.env, State(skill), claims) for skill in skills]
        names = await self._names(plans)
        for skill, plan in zip(skills, plans, strict=True):
            own = [record.name for record in plan.owned]
            self.note(How.PLACED, skill, [names[plan.identity], skill.name, *own])

    async def _names(self, plans: Sequence[SlugPlan]) -> Mapping[str, str]:
        """The slugs that skills have or would get, by identity."""
        rows = await self.rows([plan.identity for plan in plans])
        taken = await self.database.find_claims([slug for p in plans for slug in p.candidates])
        return {
            plan.identity: rows[plan.identity].name
            if plan.identity in rows
            else next(s for s in plan.candidates if taken.get(s, plan.identity) == plan.identity)
            for plan in plans
        }

    async def outbox(self, cursor: str | None) -> str | None:
        """Count what waits in a portion of the outbox as if it were published; where it goes on.

        Raises DatabaseError, KvError.
        """
        page = await list_outbox(self.env, cursor=cursor, limit=OUTBOX_BATCH)
        await self.publish(changes_of(page.entries))
        return page.cursor

    async def publish(self, changes: Sequence[Change]) -> None:
        """Count what publishing would come to, before the walk. Raises DatabaseError, KvError."""
        claims = await read_wanted_slugs(self.env, [change.identity for change in changes])
        plans = {change.identity: plan_slug(self.env, change, claims) for change in changes}
        names = await self._names(list(plans.values()))
        rows = await self.rows(list(plans))
        made = []
        for change in changes:
            row, planned = rows.get(change.identity), plans[change.identity].change
            rules = await rules_in_database(self.database, [planned.onto(row)])
            changed = Ruled(planned, rules).onto(row)
            if isinstance(changed, Skill):
                made.append(changed.renamed(names[change.identity]))
        for skill in (await upsert_in_bulk(made, self.database.check_skills)).stored:
            row = rows.get(skill.identity)
            record = claims.records.get(skill.name, plans[skill.identity].own)
            self.job.prisma_backfilled += row is None or not is_same(row, skill)
            if row is None and not (
                isinstance(record, Skill) and record.identity == skill.identity
            ):
                self.job.parted += 1  # the walk finds neither row nor record
            own = [record.name for record in plans[skill.identity].owned]
            self.note(How.OUTBOX, skill, [skill.name, *own])


def _digest(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:_DIGITS]
