"""Reading the marketplace. Every answer says where it came from; see ``sources`` for the chain.

The seed is canonical for its slugs: it is merged into every answer, and what a source holds under
those slugs stays out of listings.
"""

import asyncio
from collections import Counter
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TypeVar

from marketplace import submission_store
from marketplace.env import Env
from marketplace.listing import ListingQuery, matches
from marketplace.models import Skill, SkillSummary
from marketplace.pages import Page, matching, merge_page, page_of, window
from marketplace.published_skills import PublishedSkills
from marketplace.slugs import identity_of, slug_candidates, slugify
from marketplace.sources import Answer, Reading, read_from_first
from marketplace.storage import DatabaseError, KvError, SkillDatabase, Source, StorageError

T = TypeVar("T")


async def get_skills(env: Env, query: ListingQuery) -> Answer[Page]:
    """One page of the listing. Raises TooLate."""
    return await read_from_first(
        env,
        question=("page", query),
        database=lambda database: get_published_skills_from_db(env, database, query),
        published=lambda skills: page_of(query, _Unseeded(env, skills), env.seed.summaries),
        seed=lambda: page_of(query, None, env.seed.summaries),
    )


async def get_published_skills_from_db(
    env: Env, database: SkillDatabase, query: ListingQuery
) -> Page:
    """One page from PostgreSQL, merged with the seed. Raises DatabaseError."""
    seeded = matching(env.seed.summaries, query)
    wanted = window(query, len(seeded))
    rows = await database.list_skills(
        query, exclude=env.seed.names, offset=wanted.offset, limit=wanted.limit
    )
    return merge_page(query, seeded, rows)


async def get_skill_count(env: Env, query: ListingQuery) -> Answer[int]:
    """How many skills match the filters. Raises TooLate."""
    seeded = _count(env.seed.summaries, query)

    async def from_database(database: SkillDatabase) -> int:
        return seeded + await database.count_skills(query, exclude=env.seed.names)

    return await read_from_first(
        env,
        question=("count", query),
        database=from_database,
        published=lambda skills: seeded + _count(_Unseeded(env, skills), query),
        seed=lambda: seeded,
    )


async def get_skill_categories(env: Env) -> Answer[Mapping[str, int]]:
    """Skills per category, the largest first, then by name. Raises TooLate."""

    async def from_database(database: SkillDatabase) -> Mapping[str, int]:
        rows = await database.count_categories(exclude=env.seed.names)
        return _tally(env.seed.summaries, rows)

    return await read_from_first(
        env,
        question="categories",
        database=from_database,
        published=lambda skills: _tally([*env.seed.summaries, *_Unseeded(env, skills)]),
        seed=lambda: _tally(env.seed.summaries),
    )


class PerhapsMissing(StorageError):
    """Nothing was found, but a source that may have it could not be asked."""

    def __init__(self, wanted: str, reasons: Sequence[str]) -> None:
        super().__init__(f"{wanted:.200} not found; {'; '.join(reasons)}", reason="incomplete")


async def get_skill_by_name(env: Env, name: str) -> Answer[Skill] | None:
    """The skill of a slug, or the one that left it as an alias; its name tells which it was.

    With PostgreSQL away every skill is found that a listing shows. None only when no source
    failed: raises PerhapsMissing otherwise.
    """
    seeded = env.seed.by_name.get(name)
    if seeded is not None:
        return Answer(seeded, Source.SEED)
    if not name or slugify(name) != name:
        return None
    reading = Reading(env)
    skill = await _row(reading, lambda database: database.get_skill(name))
    if skill is not None:
        return reading.answer(skill, Source.POSTGRES)
    found = await _kept_in_kv(reading, lambda: _by_name_in_kv(reading, name))
    return _certain(reading, found, name)


async def get_skill_by_identity(
    env: Env, owner: str, repository: str, skill_name: str
) -> Answer[Skill] | None:
    """The skill that a GitHub repository calls ``skill_name``, whatever slug it was given.

    Raises PerhapsMissing as ``get_skill_by_name`` does.
    """
    repo_url = f"https://github.com/{owner}/{repository}"
    reading = Reading(env)
    found = await _find_by_identity(reading, repo_url, slugify(skill_name))
    return _certain(reading, found, f"{owner}/{repository}/{skill_name}")


async def find_by_identity(env: Env, repo_url: str, base_slug: str) -> Answer[Skill] | None:
    """The listed skill of a repository and base slug, as far as the sources can tell.

    Raises KvError where PostgreSQL does not know it or is away, and KV cannot be asked.
    """
    return await _find_by_identity(Reading(env), repo_url, base_slug)


async def _find_by_identity(
    reading: Reading, repo_url: str, base_slug: str
) -> Answer[Skill] | None:
    try:
        identity = identity_of(repo_url, base_slug)
    except ValueError:
        return None
    seeded = reading.env.seed.by_identity.get(identity)
    if seeded is not None:
        return Answer(seeded, Source.SEED)
    skill = await _row(reading, lambda database: database.get_skill_by_identity(identity))
    if skill is not None:
        return reading.answer(skill, Source.POSTGRES)
    candidates = slug_candidates(repo_url, base_slug)
    return await _kept_in_kv(reading, lambda: _by_identity_in_kv(reading, identity, candidates))


def _certain(reading: Reading, found: Answer[Skill] | None, wanted: str) -> Answer[Skill] | None:
    """What was found. Raises PerhapsMissing for nothing, when a source failed."""
    if found is None and reading.reasons:
        raise PerhapsMissing(wanted, reading.reasons)
    return found


async def _row(
    reading: Reading, read: Callable[[SkillDatabase], Awaitable[Skill | None]]
) -> Skill | None:
    """PostgreSQL's answer; none also when it is away, which the reading then tells."""
    try:
        return await reading.from_database(read)
    except DatabaseError:  # noted by the reading
        return None


_Found = tuple[Skill, Source]


async def _kept_in_kv(
    reading: Reading, read: Callable[[], Awaitable[_Found | None]]
) -> Answer[Skill] | None:
    found = await reading.from_kv(read)
    return None if found is None else reading.answer(*found)


async def _by_name_in_kv(reading: Reading, name: str) -> _Found | None:
    """KV's newest state of a slug's skill, over its aliases. Raises KvError.

    Where PostgreSQL answered, the record alone counts: what waits in the outbox or is left in the
    index is in no listing then.
    """
    env = reading.env
    chain = await submission_store.follow_aliases(env, name)
    record = await submission_store.read_record(env, chain.slugs[-1]) if chain.is_live else None
    own = record if isinstance(record, Skill) else None
    if not reading.reasons:
        return None if own is None else (own, Source.KV_ENUMERATION)
    waiting, indexed = await asyncio.gather(
        _attempt(reading, lambda: submission_store.find_in_outbox(env, chain.slugs)),
        _summary_in_index(reading, chain.slugs, None, needed=own is None),
    )
    return _newest(own, waiting) or indexed


async def _by_identity_in_kv(
    reading: Reading, identity: str, candidates: Sequence[str]
) -> _Found | None:
    """As `_by_name_in_kv`, for an identity and the slugs that it may have. Raises KvError."""
    env = reading.env
    records = await submission_store.read_records(env, candidates)
    own = [r for r in records.values() if isinstance(r, Skill) and r.identity == identity]
    newest = max(own, key=lambda record: record.revision, default=None)
    if not reading.reasons:
        return None if newest is None else (newest, Source.KV_ENUMERATION)
    waiting, indexed = await asyncio.gather(
        _attempt(reading, lambda: submission_store.find_identity_in_outbox(env, identity)),
        _summary_in_index(reading, candidates, identity, needed=newest is None),
    )
    return _newest(newest, waiting) or indexed


async def _attempt(reading: Reading, read: Callable[[], Awaitable[T]]) -> T | None:
    """A part of KV that may hold more; when it fails, what is known already must not be lost."""
    try:
        async with asyncio.timeout(reading.seconds_left):
            return await read()
    except TimeoutError:
        reading.note(Source.KV_ENUMERATION, KvError("no answer in time", reason="timeout"))
        return None
    except KvError as error:
        reading.note(Source.KV_ENUMERATION, error)
        return None


def _newest(record: Skill | None, waiting: Skill | None) -> _Found | None:
    """The record, unless a newer state of the same skill waits for PostgreSQL."""
    if record is None:
        return None if waiting is None else (waiting, Source.KV_ENUMERATION)
    is_newer = (
        waiting is not None
        and waiting.identity == record.identity
        and waiting.revision > record.revision
    )
    return (waiting if waiting is not None and is_newer else record), Source.KV_ENUMERATION


async def _summary_in_index(
    reading: Reading, slugs: Collection[str], identity: str | None, *, needed: bool
) -> _Found | None:
    if not needed:
        return None
    entry = await _attempt(
        reading, lambda: submission_store.find_in_index(reading.env, slugs, identity)
    )
    return None if entry is None else (Skill.from_summary(entry.summary), Source.KV_INDEX)


class _Unseeded:
    """The published skills without those that the seed stands for, as `pages.WholeSource`."""

    def __init__(self, env: Env, published: PublishedSkills) -> None:
        self._seed = env.seed
        self._published = published

    def __iter__(self) -> Iterator[SkillSummary]:
        for summary in self._published.for_matching():
            if summary.name not in self._seed.by_name:
                yield summary

    @property
    def most(self) -> int:
        return self._published.count

    def pick(self, names: Collection[str]) -> Iterator[SkillSummary]:
        for entry in self._published.pick(names):
            yield entry.summary


def _count(skills: Iterable[SkillSummary], query: ListingQuery) -> int:
    return sum(1 for skill in skills if matches(skill, query))


def _tally(
    skills: Iterable[SkillSummary], counted: Mapping[str, int] | None = None
) -> Mapping[str, int]:
    counts = Counter(counted or {})
    counts.update(skill.category for skill in skills)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
