"""Listings, counts and categories. Every answer says where it came from; see ``source_chain``.

The seed is canonical for its slugs: it is merged into every answer, and what a source holds under
those slugs stays out of listings.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from marketplace.catalog.answer import Answer
from marketplace.catalog.listing_page import Page, matching, merge_page, page_of, window
from marketplace.catalog.published_skills import PublishedSkills
from marketplace.catalog.source_chain import read_from_first
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env
from marketplace.skills.listing_rules import ListingQuery, matches
from marketplace.skills.skill import SkillSummary


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


class _Unseeded:
    """The published skills without those that the seed stands for, as
    `listing_page.WholeSource`."""

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
