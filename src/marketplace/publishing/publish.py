"""From a queue message to a published skill: the one write path.

PostgreSQL decides and KV follows. Every step can be repeated, and none depends on what an
earlier invocation remembered: a message names a submission, and its records are read again.

With PostgreSQL away, KV alone takes the skill. KV has no compare-and-set, so the first writer
decides nothing there, and a slug that another skill may have by now is not written. A skill that is
new to KV takes the slug that carries the digest of its identity, which no other skill can get. Each
revision is kept in an outbox record of its own, which no other can overwrite. The repair brings
both into PostgreSQL.

A stranger's submission may make a new skill and changes none: a state that a store already has of
the identity stays (`skills.skill.replaces`), as the statement in PostgreSQL decides. So it is
stored nowhere while KV cannot say what it has. Without PostgreSQL it goes into the outbox alone,
under a key that says so: a record would count as listed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from marketplace.basics.concurrency import map_bounded
from marketplace.ports.database import SkillDatabase, Upserted, UpsertResult
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import (
    DatabaseConflict,
    DatabaseError,
    DatabaseRejected,
    DatabaseTimeout,
)
from marketplace.publishing.kv_copy import project_rows, store_without_row
from marketplace.publishing.slug_plan import SlugPlan, plan_slug, read_wanted_records
from marketplace.skills.skill import Skill

_DATABASE_SESSIONS: Final = 2  # a lost connection is replaced once; the queue retries beyond that


@dataclass(frozen=True, slots=True)
class Published:
    skill: Skill  # the stored state, which may be a newer revision
    in_database: bool
    in_kv: bool
    changed_database: bool = False  # PostgreSQL had an older state or none

    @property
    def in_both(self) -> bool:
        return self.in_database and self.in_kv


async def publish_skill(env: Env, skill: Skill) -> Published | None:
    """Publish one skill; None: neither PostgreSQL nor KV took it. Idempotent; an older revision
    than the stored one changes nothing.

    The slug is decided here: ``skill.name`` only tells which candidate it has had so far.
    """
    return (await publish_skills(env, [skill])).get(skill.identity)


async def publish_skills(
    env: Env, skills: Sequence[Skill], *, untrusted: Sequence[Skill] = ()
) -> Mapping[str, Published]:
    """Publish a batch of skills; by identity those that PostgreSQL or KV took.

    Of several revisions of one identity the newest is published. ``untrusted``: what strangers
    submitted; published where no store and none of ``skills`` has another state of the identity.
    """
    states = _by_identity(skills)
    strange = {i: found for i, found in _by_identity(untrusted).items() if i not in states}
    records = await read_wanted_records(env, [found[0] for found in (states | strange).values()])
    plans = [plan_slug(env, found, records) for found in states.values()]
    plans += [plan_slug(env, found, records, trusted=False) for found in strange.values()]
    rows = await _store_in_database(env, [plan for plan in plans if plan.trusted or plan.checked])
    projected = await project_rows(env, [row.skill for row in rows.values()], records)
    in_kv = {row.identity for row in projected.written}
    stored = {
        identity: Published(
            row.skill,
            in_database=True,
            in_kv=identity in in_kv,
            changed_database=row.outcome is not Upserted.UNCHANGED,
        )
        for identity, row in rows.items()
    }
    without_row = [plan for plan in plans if plan.skill.identity not in rows]
    waiting = await map_bounded(without_row, lambda plan: store_without_row(env, plan))
    return stored | {
        skill.identity: Published(skill, in_database=False, in_kv=True)
        for skill in waiting
        if skill is not None
    }


def _by_identity(skills: Iterable[Skill]) -> dict[str, list[Skill]]:
    states: dict[str, list[Skill]] = {}
    for skill in skills:
        states.setdefault(skill.identity, []).append(skill)
    return states


async def _store_in_database(env: Env, plans: Sequence[SlugPlan]) -> Mapping[str, UpsertResult]:
    """The rows as they stand after the upserts, by identity; absent where PostgreSQL failed."""
    rows: dict[str, UpsertResult] = {}
    waiting = list(plans)
    for _ in range(_DATABASE_SESSIONS):
        if not waiting:
            break
        try:
            database = await get_db(env)
            while waiting:
                await _upsert(env, database, waiting[0], rows)
                waiting.pop(0)
        except DatabaseError as error:
            env.log(
                "skills-not-stored-in-postgres",
                level=error.level,
                reason=error.reason,
                detail=str(error),
                skills=len(waiting),
            )
            if isinstance(error, DatabaseTimeout):
                break  # a second wait as long would only delay what KV can take now
    return rows


async def _upsert(
    env: Env, database: SkillDatabase, plan: SlugPlan, rows: dict[str, UpsertResult]
) -> None:
    """Upsert one skill. A statement that PostgreSQL rejects concerns this skill alone."""
    try:
        rows[plan.skill.identity] = await database.upsert_skill(
            plan.skill, candidates=plan.candidates, trusted=plan.trusted
        )
    except (DatabaseRejected, DatabaseConflict) as error:
        env.log(
            "skill-rejected-by-postgres",
            level="error",
            identity=plan.skill.identity,
            reason=error.reason,
            detail=str(error),
        )
