"""From a queue message to a published skill: the one write path.

PostgreSQL decides and KV follows. Every step can be repeated, and none depends on what an
earlier invocation remembered: a message names a submission, and its records are read again.

With PostgreSQL away, KV alone takes the skill. KV has no compare-and-set, so nothing may be
decided there by whoever writes first, nor be written where another may be by now: a skill new to KV
takes the slug that carries the digest of its identity, which no other skill can be given, and each
revision is kept in an outbox record of its own, which no other can overwrite. The repair brings
both into PostgreSQL.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeGuard

from marketplace import submission_store
from marketplace.concurrency import map_bounded
from marketplace.db import get_db
from marketplace.env import Env
from marketplace.kv_access import write_again_if_refused
from marketplace.models import Skill
from marketplace.slugs import assignable_candidates
from marketplace.storage import (
    DatabaseError,
    KvError,
    RecordKey,
    SkillDatabase,
)

_KV_WRITE_ROUNDS: Final = 3  # how often a row may move on under our hands before repair takes over
_DATABASE_SESSIONS: Final = 2  # a lost connection is replaced once; the queue retries beyond that


@dataclass(frozen=True, slots=True)
class Published:
    """Where a skill was stored. ``skill`` is the stored state, which may be a newer revision."""

    skill: Skill
    in_database: bool
    in_kv: bool


@dataclass(frozen=True, slots=True)
class PublishFailed:
    """Neither PostgreSQL nor KV took the skill."""

    reason: str


PublishOutcome = Published | PublishFailed


def is_in_both(outcome: PublishOutcome) -> TypeGuard[Published]:
    """Whether PostgreSQL and KV have the skill."""
    return isinstance(outcome, Published) and outcome.in_database and outcome.in_kv


async def publish_skill(env: Env, skill: Skill) -> PublishOutcome:
    """Publish one skill. Idempotent; an older revision than the stored one changes nothing.

    The slug is decided here: ``skill.name`` is not looked at.
    """
    outcomes = await publish_skills(env, [skill])
    return outcomes[skill.identity]


async def publish_skills(env: Env, skills: Sequence[Skill]) -> Mapping[str, PublishOutcome]:
    """Publish a batch of skills; the result tells the outcome for each identity.

    Of several revisions of one identity the newest is published.
    """
    newest: dict[str, Skill] = {}
    for skill in skills:
        known = newest.get(skill.identity)
        if known is None or skill.revision > known.revision:
            newest[skill.identity] = skill
    records = await _read_wanted(env, newest.values())
    plans = [_plan_one(env, skill, records) for skill in newest.values()]
    rows = await _store_in_database(env, plans)
    free = await _free_for(env, rows.values(), records)
    outcomes: dict[str, PublishOutcome] = dict(
        await map_bounded(
            plans, lambda plan: _store_in_kv(env, plan, rows.get(plan.skill.identity), free)
        )
    )
    await settle_in_kv(
        env,
        [outcome.skill for outcome in outcomes.values() if is_in_both(outcome)],
    )
    return outcomes


Records = Mapping[str, submission_store.Record]
"""What KV holds under slugs that were looked at; others are absent."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """A skill to publish, with what KV knows about the slugs that it may get."""

    skill: Skill  # the message's, unless KV holds a newer state
    candidates: Sequence[str]  # free or its own, as far as KV and the seed tell; its own first
    own: Skill | None  # what KV holds of this identity
    checked: bool  # whether KV could be asked; without that nothing may be written there


async def _read_wanted(env: Env, skills: Iterable[Skill]) -> Records:
    """The records of all slugs that these skills may get; none of them where KV is away."""
    slugs = sorted({slug for skill in skills for slug in _wanted_slugs(env, skill)})
    try:
        return await submission_store.read_records(env, slugs)
    except KvError as error:
        env.log("kv unavailable: slugs not checked", level="warning", reason=error.reason)
        return {}


def _wanted_slugs(env: Env, skill: Skill) -> Sequence[str]:
    """The slug rule's candidates; a seed skill has its slug already."""
    candidates = assignable_candidates(skill.repo_url, skill.base_slug)
    seeded = env.seed.by_identity.get(skill.identity)
    return candidates if seeded is None else (seeded.name, candidates[-1])


def certain_slug(skill: Skill) -> str:
    """The slug that carries the digest of the identity: no other skill can be given it."""
    return assignable_candidates(skill.repo_url, skill.base_slug)[-1]


def _plan_one(env: Env, skill: Skill, records: Records) -> _Plan:
    """Leave out slugs that another identity holds in KV or in the seed.

    PostgreSQL alone decides what is free. But a row that it lost, or never received while it was
    away, still lives in KV under its slug.
    """
    identity, wanted = skill.identity, _wanted_slugs(env, skill)
    holders = {slug: found for slug in wanted if isinstance(found := records.get(slug), Skill)}

    def is_free(slug: str) -> bool:
        claims = (env.seed.by_name.get(slug), holders.get(slug))
        return all(claim is None or claim.identity == identity for claim in claims)

    candidates = [slug for slug in wanted[:-1] if is_free(slug)] + [wanted[-1]]
    owned = [holders[slug] for slug in candidates if slug in holders]
    own = max(owned, key=lambda record: record.revision, default=None)
    checked = wanted[-1] in records
    if own is None:
        return _Plan(skill, candidates, None, checked)
    # A row that PostgreSQL lost comes back as KV has it: under its slug, and not older.
    candidates.sort(key=lambda slug: slug != own.name)
    newest = max(skill, own, key=lambda state: state.revision)
    return _Plan(newest, candidates, own, checked)


async def _store_in_database(env: Env, plans: Sequence[_Plan]) -> Mapping[str, Skill]:
    """The rows as they stand after the upserts, by identity; absent where PostgreSQL failed."""
    rows: dict[str, Skill] = {}
    waiting = list(plans)
    for _ in range(_DATABASE_SESSIONS):
        if not waiting:
            break
        try:
            with await get_db(env) as database:
                while waiting:
                    await _upsert(env, database, waiting[0], rows)
                    waiting.pop(0)
        except DatabaseError as error:
            env.log(
                f"postgres unavailable: {len(waiting)} skills not stored there",
                level="warning",
                reason=error.reason,
                detail=str(error),
            )
            if error.reason == "timeout":
                break  # a second wait as long would only delay what KV can take now
    return rows


async def _upsert(env: Env, database: SkillDatabase, plan: _Plan, rows: dict[str, Skill]) -> None:
    """Upsert one skill. A statement that PostgreSQL rejects concerns this skill alone."""
    try:
        result = await database.upsert_skill(plan.skill, candidates=plan.candidates)
    except DatabaseError as error:
        if error.reason not in ("rejected", "conflict"):
            raise
        env.log(
            f"postgres rejected {plan.skill.identity}",
            level="error",
            identity=plan.skill.identity,
            reason=error.reason,
            detail=str(error),
        )
        return
    rows[plan.skill.identity] = result.skill


async def _free_for(env: Env, rows: Collection[Skill], records: Records) -> Collection[str]:
    """As `free_in_kv`; what the plans did not look at, a slug by a move, is read now."""
    unread = [row.name for row in rows if row.name not in records]
    if unread and records:
        try:
            records = {**records, **await submission_store.read_records(env, unread)}
        except KvError as error:
            env.log("kv unavailable: slugs not checked", level="warning", reason=error.reason)
    return await free_in_kv(env, rows, records)


async def free_in_kv(env: Env, rows: Iterable[Skill], records: Records) -> Collection[str]:
    """The slugs whose record may be written from these rows.

    Not those that KV was not asked about, not those of a newer record, and not those of another
    skill's, unless that skill has got another slug: what PostgreSQL lost is there alone.
    """
    free: set[str] = set()
    held: dict[str, Skill] = {}
    for row in rows:
        record = records.get(row.name)
        if isinstance(record, Skill) and record.identity != row.identity:
            held[row.name] = record
        elif row.name in records and newer_record(record, row) is None:
            free.add(row.name)
    return free | await _left_by_holders(env, held) if held else free


def newer_record(record: submission_store.Record, row: Skill) -> Skill | None:
    """The record, where it is a newer state of the row's skill: PostgreSQL lost the row, and got
    an older state back."""
    if not isinstance(record, Skill) or record.identity != row.identity:
        return None
    return record if record.revision > row.revision else None


async def _left_by_holders(env: Env, held: Mapping[str, Skill]) -> set[str]:
    """The slugs whose record is only what a skill left behind, and not newer than its row."""
    left: set[str] = set()
    try:
        with await get_db(env) as database:
            for slug, record in held.items():
                row = await database.get_skill_by_identity(record.identity)
                if row is not None and row.name != slug and row.revision >= record.revision:
                    left.add(slug)
    except DatabaseError as error:
        env.log("postgres unavailable: slugs not checked", level="warning", reason=error.reason)
    for slug in held.keys() - left:
        env.log(
            f"{slug} not written to kv: another skill has it there",
            level="warning",
            slug=slug,
            reason="conflict",
        )
    return left


async def _store_in_kv(
    env: Env, plan: _Plan, row: Skill | None, free: Collection[str]
) -> tuple[str, PublishOutcome]:
    """Write the KV record from the row or, without one, from the skill itself.

    A row whose slug is not free stays marked in the table, and the repair finds it.
    """
    identity = plan.skill.identity
    if row is None:
        return identity, await _store_in_kv_alone(env, plan)
    in_kv = row.name in free and await _try_kv(env, row, write_row)
    return identity, Published(row, in_database=True, in_kv=in_kv)


async def _store_in_kv_alone(env: Env, plan: _Plan) -> PublishOutcome:
    if not plan.checked:
        return PublishFailed("storage-unavailable")
    own = plan.own
    certain = certain_slug(plan.skill)
    name = own.name if own is not None else certain
    published_at = plan.skill.published_at
    if own is not None:
        published_at = min(own.published_at, published_at)
    skill = plan.skill.renamed(name, published_at=published_at)
    if not await _try_kv(env, skill, submission_store.write_outbox):
        return PublishFailed("storage-unavailable")
    # Any other slug may be another skill's since what was read, a minute ago at most. An outbox
    # entry is shown in place of an older record until the repair gives PostgreSQL the word.
    if name == certain and (own is None or own.revision < skill.revision):
        await _try_kv(env, skill, submission_store.write_record)
    return Published(skill, in_database=False, in_kv=True)


async def _try_kv(env: Env, skill: Skill, write: Callable[[Env, Skill], Awaitable[object]]) -> bool:
    try:
        await write(env, skill)
    except KvError as error:
        env.log(
            f"kv unavailable: {skill.name} not stored there",
            level="warning",
            slug=skill.name,
            reason=error.reason,
            detail=str(error),
        )
        return False
    return True


async def settle_in_kv(env: Env, written: Sequence[Skill]) -> None:
    """Note in PostgreSQL what KV holds now; where the row has moved on meanwhile, write it again.

    Two writers of one record may finish in the wrong order. Both look here afterwards, so the last
    of them sees the newer row and writes it. A row that has another slug by now is left alone, as
    that may be another's in KV. What is left undone stays marked in the table and is found by the
    next light repair.
    """
    names = {skill.name for skill in written}
    for _ in range(_KV_WRITE_ROUNDS):
        if not written:
            return
        try:
            moved_on = await _moved_on(env, written)
        except DatabaseError as error:
            env.log(
                "postgres unavailable: kv state not noted", level="warning", reason=error.reason
            )
            return
        written = await write_rows(env, [row for row in moved_on if row.name in names])


async def _moved_on(env: Env, written: Sequence[Skill]) -> list[Skill]:
    """Mark what was written; return the present rows of those that are newer than that."""
    with await get_db(env) as database:
        names = await database.mark_in_kv(
            [RecordKey(skill.name, skill.identity, skill.revision) for skill in written]
        )
        rows = [await database.get_skill(name) for name in names]
    return [row for row in rows if row is not None]


async def write_rows(env: Env, rows: Sequence[Skill]) -> list[Skill]:
    """Write the KV records of rows; those that were written. What fails is logged."""
    written = await map_bounded(rows, lambda row: _try_kv(env, row, write_row))
    return [row for row, is_written in zip(rows, written, strict=True) if is_written]


async def write_row(env: Env, row: Skill) -> None:
    """Write a row's record; where another writer was there within the second, once more after it.

    If what that one wrote is newer, `settle_in_kv` finds the row moved on and writes it again.
    """
    await write_again_if_refused(lambda: submission_store.write_record(env, row))
