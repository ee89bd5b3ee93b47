"""From a queue message to a published skill: the one write path.

PostgreSQL decides and KV follows. Every step can be repeated, and none depends on what an
earlier invocation remembered: a message names a submission, and its records are read again.

With PostgreSQL away, KV alone takes the skill. KV has no compare-and-set, so the first writer
decides nothing there, and a slug that another skill may have by now is not written. A skill that is
new to KV takes the slug that carries the digest of its identity, which no other skill can get. Each
revision is kept in an outbox record of its own, which no other can overwrite. The repair brings
both into PostgreSQL.

Each store takes a skill with the acts of the rules that it has itself, in the same write. So what
KV does not show yet lets nothing past PostgreSQL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from marketplace.basics.concurrency import map_bounded
from marketplace.kv.acknowledged import acknowledge, note_distrust
from marketplace.operations.rules import rules_in_database
from marketplace.ports.database import SkillDatabase, Upserted, UpsertResult
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import (
    DatabaseBusy,
    DatabaseConflict,
    DatabaseError,
    DatabaseRejected,
    DatabaseTimeout,
)
from marketplace.publishing.kv_copy import project_rows, store_without_row
from marketplace.publishing.slug_plan import SlugPlan, plan_slug, read_wanted_slugs
from marketplace.skills.change import Change, Ruled, State
from marketplace.skills.rules import Rule
from marketplace.skills.scan import Refusal
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


async def publish_skill(env: Env, skill: Skill) -> Published | Refusal | None:
    """Publish one skill, as `publish_skills` does.

    The slug is decided here: ``skill.name`` only tells which candidate it has had so far.
    """
    return (await publish_skills(env, [State(skill)])).get(skill.identity)


async def publish_skills(env: Env, changes: Sequence[Change]) -> Mapping[str, Published | Refusal]:
    """Make changes, each of another identity; by identity what became of it.

    Absent: neither PostgreSQL nor KV took it. Idempotent. What a store knows already stays.
    """
    claims = await read_wanted_slugs(env, [change.identity for change in changes])
    plans = [plan_slug(env, change, claims) for change in changes]
    rows, refused = await _store_in_database(env, plans)
    projected = await project_rows(env, [row.skill for row in rows.values()], claims.records)
    if rows:
        await acknowledge(env)
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
    without_row = [p for p in plans if p.identity not in rows and p.identity not in refused]
    waiting = await map_bounded(without_row, lambda plan: store_without_row(env, plan))
    outcomes: dict[str, Published | Refusal] = {**stored, **refused}
    for plan, kept in zip(without_row, waiting, strict=True):
        if isinstance(kept, Refusal):
            outcomes[plan.identity] = kept
        elif kept is not None:
            outcomes[plan.identity] = Published(kept, in_database=False, in_kv=True)
    return outcomes


async def _store_in_database(
    env: Env, plans: Sequence[SlugPlan]
) -> tuple[Mapping[str, UpsertResult], Mapping[str, Refusal]]:
    """By identity the rows as they stand after the upserts, and what was refused; a skill is in
    neither where PostgreSQL failed."""
    outcomes: dict[str, UpsertResult | Refusal] = {}
    waiting = list(plans)
    for _ in range(_DATABASE_SESSIONS):
        if not waiting:
            break
        try:
            database = await get_db(env)
            rows = await database.get_skills([plan.identity for plan in waiting])
            made = [plan.change.onto(rows.get(plan.identity)) for plan in waiting]
            rules = await rules_in_database(database, made)
            while waiting:
                plan = waiting[0]
                await _upsert(env, database, plan, rules, rows.get(plan.identity), outcomes)
                waiting.pop(0)
        except DatabaseError as error:
            env.log(
                "skills-not-stored-in-postgres",
                level=error.level,
                reason=error.reason,
                detail=str(error),
                skills=len(waiting),
            )
            await note_distrust(env, error)
            if isinstance(error, DatabaseTimeout | DatabaseBusy):
                break  # a second wait as long would only delay what KV can take now
    stored = {i: found for i, found in outcomes.items() if isinstance(found, UpsertResult)}
    return stored, {i: found for i, found in outcomes.items() if isinstance(found, Refusal)}


async def _upsert(
    env: Env,
    database: SkillDatabase,
    plan: SlugPlan,
    rules: Sequence[Rule],
    row: Skill | None,
    outcomes: dict[str, UpsertResult | Refusal],
) -> None:
    """Upsert one skill. A statement that PostgreSQL rejects concerns this skill alone."""
    try:
        outcomes[plan.identity] = await database.upsert_skill(
            Ruled(plan.change, rules), candidates=plan.candidates, row=row
        )
    except (DatabaseRejected, DatabaseConflict) as error:
        env.log(
            "skill-rejected-by-postgres",
            level="error",
            identity=plan.identity,
            reason=error.reason,
            detail=str(error),
        )
