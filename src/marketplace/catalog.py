"""Reading the marketplace. Every answer says where it came from; see ``sources`` for the chain.

The seed is canonical for its slugs: it is merged into every answer, and what a source holds under
those slugs stays out of listings.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping

from marketplace import submission_store
from marketplace.env import Env
from marketplace.listing import ListingQuery, matches
from marketplace.models import Skill, SkillSummary
from marketplace.pages import Page, matching, merge_page, page_of, window
from marketplace.published_skills import PublishedSkills
from marketplace.slugs import identity_of, slug_candidates, slugify
from marketplace.sources import Answer, Reading, read_from_first
from marketplace.storage import DatabaseError, SkillDatabase, Source


async def get_skills(env: Env, query: ListingQuery) -> Answer[Page]:
    """One page of the listing. Never raises."""
    return await read_from_first(
        env,
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
    """How many skills match the filters. Never raises."""
    seeded = _count(env.seed.summaries, query)

    async def from_database(database: SkillDatabase) -> int:
        return seeded + await database.count_skills(query, exclude=env.seed.names)

    return await read_from_first(
        env,
        database=from_database,
        published=lambda skills: seeded + _count(_Unseeded(env, skills), query),
        seed=lambda: seeded,
    )


async def get_skill_categories(env: Env) -> Answer[Mapping[str, int]]:
    """Skills per category, the largest first, then by name. Never raises."""

    async def from_database(database: SkillDatabase) -> Mapping[str, int]:
        rows = await database.count_categories(exclude=env.seed.names)
        return _tally(env.seed.summaries, rows)

    return await read_from_first(
        env,
        database=from_database,
        published=lambda skills: _tally([*env.seed.summaries, *_Unseeded(env, skills)]),
        seed=lambda: _tally(env.seed.summaries),
    )


async def get_skill_by_name(env: Env, name: str) -> Answer[Skill] | None:
    """The skill of a slug, or the one that left it as an alias; its name tells which it was.

    Raises KvError where PostgreSQL does not know it or is away, and KV cannot be asked.
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
    found = await reading.from_kv(lambda: _record(env, name))
    return None if found is None else reading.answer(found, Source.KV_ENUMERATION)


async def get_skill_by_identity(
    env: Env, owner: str, repository: str, skill_name: str
) -> Answer[Skill] | None:
    """The skill that a GitHub repository calls ``skill_name``, whatever slug it was given.

    Raises KvError as ``get_skill_by_name`` does.
    """
    return await find_by_identity(
        env, f"https://github.com/{owner}/{repository}", slugify(skill_name)
    )


async def find_by_identity(env: Env, repo_url: str, base_slug: str) -> Answer[Skill] | None:
    """The listed skill of a repository and base slug. Raises KvError as above."""
    try:
        identity = identity_of(repo_url, base_slug)
    except ValueError:
        return None
    seeded = env.seed.by_identity.get(identity)
    if seeded is not None:
        return Answer(seeded, Source.SEED)
    reading = Reading(env)
    skill = await _row(reading, lambda database: database.get_skill_by_identity(identity))
    if skill is not None:
        return reading.answer(skill, Source.POSTGRES)
    candidates = slug_candidates(repo_url, base_slug)
    records = await reading.from_kv(lambda: submission_store.read_records(env, candidates))
    own = [r for r in records.values() if isinstance(r, Skill) and r.identity == identity]
    if not own:
        return None
    newest = max(own, key=lambda record: record.revision)
    return reading.answer(newest, Source.KV_ENUMERATION)


async def _row(
    reading: Reading, read: Callable[[SkillDatabase], Awaitable[Skill | None]]
) -> Skill | None:
    """PostgreSQL's answer; none also when it is away, which the reading then tells."""
    try:
        return await reading.from_database(read)
    except DatabaseError:  # noted by the reading
        return None


async def _record(env: Env, name: str) -> Skill | None:
    """KV's record of a slug, over its aliases. Raises KvError."""
    slug = await submission_store.resolve_alias(env, name)
    record = await submission_store.read_record(env, slug) if slug is not None else None
    return record if isinstance(record, Skill) else None


class _Unseeded:
    """The published skills without those that the seed stands for, as `pages.WholeSource`."""

    def __init__(self, env: Env, published: PublishedSkills) -> None:
        self._seed = env.seed
        self._published = published

    def __iter__(self) -> Iterator[SkillSummary]:
        for summary in self._published.for_matching():
            if summary.name not in self._seed.by_name:
                yield summary

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
