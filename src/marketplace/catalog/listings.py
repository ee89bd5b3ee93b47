"""Listings, counts and categories. Every answer says where it came from; see ``source_chain``.

The seed is merged into every answer, and gives way to what is published (`Seed.beside`); so is what
waits for PostgreSQL.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from marketplace.catalog.answer import Answer
from marketplace.catalog.listing_page import Page, matching, merge_page, page_of, window
from marketplace.catalog.published_skills import PublishedSkills
from marketplace.catalog.source_chain import read_from_first
from marketplace.catalog.waiting import stand_ins
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env
from marketplace.skills.listing_rules import ListingQuery, Total, matches, total_of
from marketplace.skills.seed import Claim
from marketplace.skills.skill import PublishedSummary, Skill, SkillSummary, Status


async def get_skills(env: Env, query: ListingQuery) -> Answer[Page]:
    """One page of the listing. Raises TooLate."""
    return await read_from_first(
        env,
        question=("page", query),
        database=lambda session, waiting: get_published_skills_from_db(
            env, session, query, waiting
        ),
        published=lambda skills: page_of(query, _Published(skills), _seed_beside(env, skills)),
        seed=lambda skills: page_of(query, None, _summaries(skills)),
    )


async def get_published_skills_from_db(
    env: Env,
    database: SkillDatabase,
    query: ListingQuery,
    waiting: Sequence[PublishedSummary] = (),
) -> Page:
    """One page from PostgreSQL, merged with the seed and with what waits. Raises DatabaseError."""
    wanted = window(query, len(env.seed.skills) + len(waiting))
    rows = await database.list_skills(
        query, seed=env.seed, offset=wanted.offset, limit=wanted.limit, waiting=waiting
    )
    instead = stand_ins(waiting, rows.of_waiting)
    seeded = _summaries(env.seed.beside([*rows.claims, *instead.claims]))
    merged = matching([*seeded, *instead.states], query)
    total = rows.total - sum(matches(row, query) for row in instead.outdone)
    return merge_page(query, merged, replace(rows, total=total), wanted)


async def get_skill_count(env: Env, query: ListingQuery) -> Answer[Total]:
    """How many skills match the filters. Raises TooLate."""

    async def from_database(database: SkillDatabase, waiting: Sequence[PublishedSummary]) -> Total:
        rows = await database.count_skills(query, seed=env.seed, waiting=waiting)
        instead = stand_ins(waiting, rows.of_waiting)
        seeded = _summaries(env.seed.beside([*rows.claims, *instead.claims]))
        more = sum(matches(skill, query) for skill in (*seeded, *instead.states))
        less = sum(matches(row, query) for row in instead.outdone)
        return total_of(query, rows.value + more - less)

    return await read_from_first(
        env,
        question=("count", query),
        database=from_database,
        published=lambda skills: _count(_all(env, skills), query),
        seed=lambda skills: _count(_summaries(skills), query),
    )


async def get_skill_categories(env: Env) -> Answer[Mapping[str, int]]:
    """Skills per category, the largest first, then by name. Raises TooLate."""

    async def from_database(
        database: SkillDatabase, waiting: Sequence[PublishedSummary]
    ) -> Mapping[str, int]:
        rows = await database.count_categories(seed=env.seed, waiting=waiting)
        instead = stand_ins(waiting, rows.of_waiting)
        seeded = _summaries(env.seed.beside([*rows.claims, *instead.claims]))
        counted = Counter(rows.value)
        counted.subtract(row.category for row in instead.outdone)
        return _tally([*seeded, *instead.states], +counted)

    return await read_from_first(
        env,
        question="categories",
        database=from_database,
        published=lambda skills: _tally(_all(env, skills)),
        seed=lambda skills: _tally(_summaries(skills)),
    )


class _Published:
    """The published skills, as `listing_page.WholeSource`."""

    def __init__(self, published: PublishedSkills) -> None:
        self._published = published

    def __iter__(self) -> Iterator[SkillSummary]:
        return self._published.for_matching()

    @property
    def most(self) -> int:
        return self._published.count

    def pick(self, names: Collection[str]) -> Iterator[SkillSummary]:
        for entry in self._published.pick(names):
            yield entry.summary


def _seed_beside(env: Env, published: PublishedSkills) -> list[SkillSummary]:
    """The seed's part of a listing out of KV."""
    picked = (entry.summary for entry in published.pick(env.seed.claimable))
    claims = [Claim(summary.name, summary.identity) for summary in picked]
    claims += [Claim(*withheld) for withheld in published.withheld.items()]
    ends = [entry.summary for entry in published.pick(set(published.left.values()))]
    claims += [Claim(summary.name, summary.identity) for summary in ends]
    named = {claim.name: claim.identity for claim in claims}
    claims += [
        Claim(slug, named[target]) for slug, target in published.left.items() if target in named
    ]
    return _summaries(env.seed.beside(claims))


def _all(env: Env, published: PublishedSkills) -> Iterator[SkillSummary]:
    yield from _seed_beside(env, published)
    yield from published.for_matching()


def _summaries(skills: Iterable[Skill]) -> list[SkillSummary]:
    return [skill.summary() for skill in skills]


def _count(skills: Iterable[SkillSummary], query: ListingQuery) -> Total:
    return total_of(query, sum(1 for skill in skills if matches(skill, query)))


def _tally(
    skills: Iterable[SkillSummary], counted: Mapping[str, int] | None = None
) -> Mapping[str, int]:
    counts = Counter(counted or {})
    counts.update(skill.category for skill in skills if skill.status is Status.LISTED)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
