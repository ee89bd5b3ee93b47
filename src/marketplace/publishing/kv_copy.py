"""KV's records of the skills: what may be written under ``skill:{slug}``, decided in one place.

`project_rows` brings rows of PostgreSQL into KV, for a publish, the light repair and the rebuild;
`leave_note` lets an old slug lead on. `store_without_row` is for a skill that PostgreSQL could not
take.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from marketplace.basics.concurrency import map_bounded
from marketplace.basics.json_text import InvalidData, Unreadable
from marketplace.catalog.lookup import find_by_identity
from marketplace.kv.access import write_again_if_refused
from marketplace.kv.aliases import mark_moved
from marketplace.kv.outbox import find_identity_in_outbox, write_outbox
from marketplace.kv.records import Records, read_records, write_record
from marketplace.operations.rules import rules_in_log
from marketplace.ports.database import RecordKey
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, KvError
from marketplace.publishing.slug_plan import SlugPlan, certain_slug
from marketplace.skills.change import covers
from marketplace.skills.rules import under_rules
from marketplace.skills.scan import Refusal
from marketplace.skills.skill import Skill

_REWRITES: Final = 3  # of a row that keeps changing, before the light repair takes over

WriteError = KvError | Unreadable


@dataclass(slots=True)
class Projected:
    """What became of rows. A row in none of these has a slug whose record is another skill's."""

    written: list[Skill] = field(default_factory=list)
    newer: list[Skill] = field(default_factory=list)  # records, which PostgreSQL should get
    failed: dict[str, WriteError] = field(default_factory=dict)  # by slug


async def project_rows(
    env: Env, rows: Collection[Skill], records: Records | None = None, *, rewrites: int = _REWRITES
) -> Projected:
    """Write the records of rows where that is allowed, and note in PostgreSQL what KV holds then.

    ``records`` is what KV holds, as far as it was read; records of further slugs are read now.

    Two writers of one record may finish in the wrong order. Each looks at its rows again after
    it has written, so the last one sees the newest row and writes that. What is not done in the
    end stays marked in the table, and the next light repair finds it. Raises nothing.
    """
    projected = Projected()
    allowed = await _allowed(env, rows, records or {}, projected)

    async def write(row: Skill) -> None:
        failure = await _write_failure(env, row, _write_row)
        if failure is None:
            projected.written.append(row)
        else:
            projected.failed[row.name] = failure

    await map_bounded(allowed, write)
    changed = await _note(env, projected.written)
    if changed and rewrites:
        written = {row.name: row for row in projected.written}
        await project_rows(env, changed, written, rewrites=rewrites - 1)
    return projected


def _may_replace(record: Skill, row: Skill, owner: Skill | None) -> bool:
    """Whether a row may be written over a record, which is its own or another skill's.

    PostgreSQL must know all that the record says, in the row ``owner`` of the record's skill, and
    another skill must have another slug there. Otherwise PostgreSQL has lost something, and KV
    alone has it.
    """
    if owner is None or not covers(owner, record):
        return False
    return owner.identity == row.identity or owner.name != row.name


async def _allowed(
    env: Env, rows: Collection[Skill], records: Records, projected: Projected
) -> list[Skill]:
    """The rows that may be written; a slug that cannot be read has failed."""
    unread = [row.name for row in rows if row.name not in records]
    try:
        records = {**records, **await read_records(env, unread)}
    except KvError as error:
        env.log("slugs-not-checked", level="warning", reason=error.reason, source="kv")
        projected.failed |= dict.fromkeys(unread, error)
    held = {slug: record for slug, record in records.items() if isinstance(record, Skill)}
    owners = await _owners(env, rows, [held[row.name] for row in rows if row.name in held])
    allowed: list[Skill] = []
    for row in rows:
        record = held.get(row.name)
        if row.name in projected.failed:
            continue
        if record is None or _may_replace(record, row, owners.get(record.identity)):
            allowed.append(row)
        elif record.identity == row.identity:
            projected.newer.append(record)
        else:
            env.log("slug-taken-in-kv", level="warning", slug=row.name, reason="conflict")
    return allowed


async def _owners(env: Env, rows: Iterable[Skill], records: Iterable[Skill]) -> Mapping[str, Skill]:
    """The rows of these rows' and records' skills by identity, as far as PostgreSQL tells."""
    owners = {row.identity: row for row in rows}
    try:
        for identity in sorted({record.identity for record in records} - owners.keys()):
            found = await (await get_db(env)).get_skill_by_identity(identity)
            if found is not None:
                owners[identity] = found
    except DatabaseError as error:
        env.log("slugs-not-checked", level="warning", reason=error.reason, source="postgres")
    return owners


async def _write_row(env: Env, row: Skill) -> None:
    """KV refuses a second write within a second, so this one may come late and be the older
    state. `_note` notices, and the newer row is written again."""
    await write_again_if_refused(lambda: write_record(env, row))


async def _write_failure(
    env: Env, skill: Skill, write: Callable[[Env, Skill], Awaitable[object]]
) -> WriteError | None:
    """Write; why that failed, which is logged."""
    failure: WriteError
    try:
        await write(env, skill)
    except KvError as error:
        failure, reason = error, error.reason
    except InvalidData as error:
        failure, reason = Unreadable(str(error)), "invalid-record"
    else:
        return None
    slug, detail = skill.name, str(failure)
    env.log("skill-not-stored-in-kv", level="warning", slug=slug, reason=reason, detail=detail)
    return failure


async def _note(env: Env, written: Sequence[Skill]) -> list[Skill]:
    """Note in PostgreSQL what KV holds; the present rows of the slugs that have changed since."""
    if not written:
        return []
    keys = [RecordKey(skill.name, skill.identity, skill.revision) for skill in written]
    try:
        database = await get_db(env)
        rows = [await database.get_skill(name) for name in await database.mark_in_kv(keys)]
    except DatabaseError as error:
        env.log("kv-state-not-noted", level="warning", reason=error.reason)
        return []
    return [row for row in rows if row is not None]


async def leave_note(env: Env, record: Skill, row: Skill) -> None:
    """Let the slug that a record had lead to the slug of its row.

    It may lead to another skill whose old slug it is as well. The alias in PostgreSQL comes first
    and reserves the slug. Where another skill has the slug now, its record is in the place of the
    note, and must stay. Raises DatabaseError, KvError.
    """
    database = await get_db(env)
    await database.add_alias(record.name, record.identity)
    owner = await database.get_skill(record.name) or await _without_row(env, record.name) or row
    if owner.name != record.name:
        await mark_moved(env, record.name, owner.name)


async def _without_row(env: Env, alias: str) -> Skill | None:
    """The skill that left an old slug, where its row is lost and KV still has it."""
    identity = (await (await get_db(env)).find_claims([alias])).get(alias, "")
    repo_url, _, base_slug = identity.rpartition("#")
    found = await find_by_identity(env, repo_url, base_slug) if repo_url else None
    return None if found is None else found.value


# --- with PostgreSQL away


async def store_without_row(env: Env, plan: SlugPlan) -> Skill | Refusal | None:
    """Keep a skill in KV alone, in the outbox, until PostgreSQL takes it. The skill as it waits
    there; None: KV failed, or cannot say whether there is anything to change, or a rule against it.

    It gets no record: a record tells what PostgreSQL has decided, and is taken for that. The outbox
    is shown in place of a record that stays older.
    """
    if not plan.checked:
        return None
    try:
        waiting = await find_identity_in_outbox(env, plan.identity)
    except KvError as error:
        env.log("outbox-not-read", level="warning", reason=error.reason)
        return None
    changed = plan.change.onto(None if waiting is None else waiting.skill)
    if isinstance(changed, Refusal):
        return None if changed is Refusal.NOT_LISTED else changed
    try:
        ruled = under_rules(changed, await rules_in_log(env, changed))
    except KvError as error:
        env.log("rules-not-read", level="warning", reason=error.reason)
        return None
    own = plan.own
    skill = ruled.renamed(certain_slug(plan.identity) if own is None else own.name)
    if waiting is not None and covers(waiting.skill, skill):
        return waiting.skill
    return None if await _write_failure(env, skill, write_outbox) is not None else skill
