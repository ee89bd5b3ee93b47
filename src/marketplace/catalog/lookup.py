"""One skill, by its slug or by its repository. Every answer says where it came from.

The seed is looked into last: it is the oldest state of its skills.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

import msgspec

from marketplace.catalog.answer import Answer, Source
from marketplace.catalog.source_chain import Reading
from marketplace.catalog.waiting import look_at_outbox
from marketplace.kv.aliases import follow_aliases, read_claims
from marketplace.kv.index.reading import find_in_index
from marketplace.kv.outbox import OutboxEntry, find_identity_in_outbox, find_in_outbox
from marketplace.kv.records import read_records
from marketplace.kv.withheld import read_withheld
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env
from marketplace.ports.errors import DatabaseBusy, DatabaseError, KvError, KvTimeout, StorageError
from marketplace.skills.change import Waiting
from marketplace.skills.seed import Claim, slugs_of_seed
from marketplace.skills.skill import Skill, Status
from marketplace.skills.slugs import identity_of, is_slug, known_slugs, slugify

T = TypeVar("T")


class PerhapsMissing(StorageError):
    """Nothing was found, but a source that may have it could not be asked."""

    def __init__(self, wanted: str, reasons: Sequence[str]) -> None:
        super().__init__(f"{wanted:.200} not found; {'; '.join(reasons)}", reason="incomplete")


async def get_skill_by_name(env: Env, name: str) -> Answer[Skill] | None:
    """The skill of a slug, or the one that left it as an alias; its name tells which it was.

    With PostgreSQL away every skill is found that a listing shows. None only when no source
    failed: raises PerhapsMissing otherwise. Raises DatabaseBusy.
    """
    if not is_slug(name):
        return None
    reading = Reading(env)
    skill = await _row(reading, lambda database: database.get_skill(name))
    if skill is not None:
        return await _with_what_waits(reading, skill)
    seeded = env.seed.claimable.get(name)
    try:
        found = await _kept_in_kv(reading, lambda: _by_name_in_kv(reading, name))
        if found is None and seeded is not None:
            found = await _seeded(reading, seeded, name)
    except KvError as error:  # noted by the reading
        # A KV that is late may have another skill under this slug.
        if seeded is None or seeded.name != name or isinstance(error, KvTimeout):
            raise
        found = reading.answer(seeded, Source.SEED)
    return _certain(reading, await _unless_withheld(reading, found), name)


async def _seeded(reading: Reading, seeded: Skill, name: str) -> Answer[Skill] | None:
    """A seed skill, as it is published; or as it is listed, if that is under this slug."""
    published = await _find_by_identity(reading, seeded.repo_url, seeded.base_slug)
    if published is not None and published.source is not Source.SEED:
        return published
    listed = reading.env.seed.find(name, await _claims(reading, seeded))
    return None if listed is None else reading.answer(listed, Source.SEED)


async def _claims(reading: Reading, seeded: Skill) -> Sequence[Claim]:
    """What a skill of the seed gives way to. Raises KvError."""
    env = reading.env
    try:
        return await reading.from_database(lambda database: database.seed_claims(env.seed))
    except DatabaseBusy:
        raise
    except DatabaseError:  # noted by the reading
        return await reading.from_kv(lambda: _claims_in_kv(reading, seeded))


async def _claims_in_kv(reading: Reading, seeded: Skill) -> list[Claim]:
    """By records and aliases or, for its slug in the file, by outbox and index too."""
    env, own = reading.env, [seeded.name]
    found = await read_claims(env, slugs_of_seed(seeded))
    holders = {slug: r for slug, r in found.records.items() if isinstance(r, Skill)}
    holders |= {slug: skill for slug, skill in found.old.items() if skill is not None}
    if seeded.name not in holders:
        held = await _newest_in_kv(reading, None, lambda: find_in_outbox(env, own), own, None)
        holders |= {} if held is None else {seeded.name: held[0]}
    return [Claim(slug, skill.identity) for slug, skill in holders.items()]


async def _under_listed_slug(reading: Reading, found: Answer[Skill] | None) -> Answer[Skill] | None:
    """A skill of the seed under the slug that it has beside published skills."""
    if found is None or found.source is not Source.SEED:
        return found
    try:
        listed = reading.env.seed.beside(await _claims(reading, found.value))
    except KvError:  # noted by the reading: the file is all that there is
        return reading.answer(found.value, Source.SEED)
    skill = next((s for s in listed if s.identity == found.value.identity), found.value)
    return reading.answer(skill, Source.SEED)


async def get_skill_by_identity(
    env: Env, owner: str, repository: str, skill_name: str
) -> Answer[Skill] | None:
    """The skill that a GitHub repository calls ``skill_name``, whatever slug it was given.

    Raises PerhapsMissing as ``get_skill_by_name`` does.
    """
    repo_url = f"https://github.com/{owner}/{repository}"
    reading = Reading(env)
    found = await _find_by_identity(reading, repo_url, slugify(skill_name))
    found = await _under_listed_slug(reading, found)
    found = await _unless_withheld(reading, found)
    return _certain(reading, found, f"{owner}/{repository}/{skill_name}")


async def find_by_identity(env: Env, repo_url: str, base_slug: str) -> Answer[Skill] | None:
    """The listed skill of a repository and base slug, as far as the sources can tell.

    Raises KvError where PostgreSQL does not know it or is away, and KV cannot be asked.
    """
    reading = Reading(env)
    found = await _find_by_identity(reading, repo_url, base_slug)
    return await _unless_withheld(reading, await _under_listed_slug(reading, found))


async def _find_by_identity(
    reading: Reading, repo_url: str, base_slug: str
) -> Answer[Skill] | None:
    try:
        identity = identity_of(repo_url, base_slug)
    except ValueError:
        return None
    skill = await _row(reading, lambda database: database.get_skill_by_identity(identity))
    if skill is not None:
        return await _with_what_waits(reading, skill)
    candidates = known_slugs(repo_url, base_slug)
    seeded = reading.env.seed.by_identity.get(identity)
    try:
        found = await _kept_in_kv(
            reading, lambda: _by_identity_in_kv(reading, identity, candidates)
        )
    except KvError:  # noted by the reading
        if seeded is None:
            raise
        found = None
    return reading.answer(seeded, Source.SEED) if found is None and seeded is not None else found


async def _with_what_waits(reading: Reading, row: Skill) -> Answer[Skill]:
    """A row, or what it becomes of a newer state of its skill in the outbox."""
    outbox, identity = await look_at_outbox(reading.env), row.identity
    newest = {state.summary.identity: state.revision for state in outbox.states}
    if outbox.lacks is not None and not outbox.truncated:
        reading.reasons.append(outbox.lacks)
    if outbox.truncated or newest.get(identity, "") > row.revision:
        entry = await _attempt(reading, lambda: find_identity_in_outbox(reading.env, identity))
        changed = None if entry is None else Waiting(entry.skill).onto(row)
        # As listings have it: beside acts only what hides the skill counts.
        if isinstance(changed, Skill) and not (row.acts and changed.status is Status.LISTED):
            row = changed
    return reading.answer(row, Source.POSTGRES)


async def _unless_withheld(reading: Reading, found: Answer[Skill] | None) -> Answer[Skill] | None:
    """The skill, withheld where KV's list says so: what was found without PostgreSQL may be a
    state from before."""
    if found is None or not reading.reasons or found.value.status is not Status.LISTED:
        return found
    withheld = await _attempt(reading, lambda: read_withheld(reading.env))
    key = None if withheld is None else withheld.get(found.value.identity)
    if key is None:
        return reading.answer(found.value, found.source)
    return reading.answer(msgspec.structs.replace(found.value, status=key.status), found.source)


def _certain(reading: Reading, found: Answer[Skill] | None, wanted: str) -> Answer[Skill] | None:
    if found is None and reading.reasons:
        raise PerhapsMissing(wanted, reading.reasons)
    return found


async def _row(
    reading: Reading, read: Callable[[SkillDatabase], Awaitable[Skill | None]]
) -> Skill | None:
    """PostgreSQL's answer; none also when it is away, which the reading then tells. Raises
    DatabaseBusy."""
    try:
        return await reading.from_database(read)
    except DatabaseBusy:
        raise
    except DatabaseError:  # noted by the reading
        return None


_Found = tuple[Skill, Source]


async def _kept_in_kv(
    reading: Reading, read: Callable[[], Awaitable[_Found | None]]
) -> Answer[Skill] | None:
    found = await reading.from_kv(read)
    return None if found is None else reading.answer(*found)


async def _by_name_in_kv(reading: Reading, name: str) -> _Found | None:
    """KV's newest state of a slug's skill, over its aliases. Raises KvError."""
    env = reading.env
    chain = await follow_aliases(env, name)
    own = chain.record if isinstance(chain.record, Skill) else None
    return await _newest_in_kv(
        reading, own, lambda: find_in_outbox(env, chain.slugs), chain.slugs, None
    )


async def _by_identity_in_kv(
    reading: Reading, identity: str, candidates: Sequence[str]
) -> _Found | None:
    """As `_by_name_in_kv`, for an identity and the slugs that it may have. Raises KvError."""
    env = reading.env
    records = await read_records(env, candidates)
    own = [r for r in records.values() if isinstance(r, Skill) and r.identity == identity]
    newest = max(own, key=lambda record: record.revision, default=None)
    return await _newest_in_kv(
        reading, newest, lambda: find_identity_in_outbox(env, identity), candidates, identity
    )


async def _attempt(reading: Reading, read: Callable[[], Awaitable[T]]) -> T | None:
    """Read what KV may hold besides. A failure is noted, so that nothing known is lost."""
    try:
        async with asyncio.timeout(reading.seconds_left):
            return await read()
    except TimeoutError:
        reading.note(Source.KV_ENUMERATION, KvTimeout("no answer in time"))
        return None
    except KvError as error:
        reading.note(Source.KV_ENUMERATION, error)
        return None


async def _newest_in_kv(
    reading: Reading,
    record: Skill | None,
    find_waiting: Callable[[], Awaitable[OutboxEntry | None]],
    slugs: Collection[str],
    identity: str | None,
) -> _Found | None:
    """The record, a newer state of its skill in the outbox or, without either, the summary in the
    index.

    Where PostgreSQL answered, what is left in the index is in no listing; nor is what waits in the
    outbox, unless it is seen there.
    """
    kept = None if record is None else (record, Source.KV_ENUMERATION)
    if reading.reasons:
        waiting, indexed = await asyncio.gather(
            _attempt(reading, find_waiting),
            _summary_in_index(reading, slugs, identity, needed=record is None),
        )
    elif await _is_waiting(reading, slugs, identity):
        waiting, indexed = await _attempt(reading, find_waiting), None
    else:
        return kept
    if waiting is not None and (
        record is None
        or (waiting.skill.identity == record.identity and waiting.skill.revision > record.revision)
    ):
        return waiting.skill, Source.KV_ENUMERATION
    return kept or indexed


async def _is_waiting(reading: Reading, slugs: Collection[str], identity: str | None) -> bool:
    """Whether a skill is seen in the outbox, by its identity or by slugs that it may have."""
    outbox = await look_at_outbox(reading.env)
    if outbox.lacks is not None:  # whoever looks for this one skill finds out
        return True
    if identity is not None:
        return any(state.summary.identity == identity for state in outbox.states)
    return any(state.summary.name in slugs for state in outbox.states)


async def _summary_in_index(
    reading: Reading, slugs: Collection[str], identity: str | None, *, needed: bool
) -> _Found | None:
    if not needed:
        return None
    entry = await _attempt(reading, lambda: find_in_index(reading.env, slugs, identity))
    return None if entry is None else (Skill.from_summary(entry.summary), Source.KV_INDEX)
