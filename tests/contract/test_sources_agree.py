"""Every source gives the same answer to the same question: listings, counts, single skills."""

import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketplace.catalog import listings, lookup, source_chain
from marketplace.catalog.answer import Answer, Source
from marketplace.catalog.listing_page import Page
from marketplace.kv.aliases import mark_moved, write_alias
from marketplace.kv.index.writing import IndexWriter
from marketplace.kv.outbox import write_outbox
from marketplace.kv.records import encode_skill, write_record
from marketplace.ports.database import DatabaseConnector, DatabaseSession, SkillDatabase
from marketplace.ports.env import Env
from marketplace.ports.errors import DatabaseError, StorageError
from marketplace.postgres.db import postgres_connector
from marketplace.skills.listing_rules import ListingQuery, SortDirection, SortField, decode_cursor
from marketplace.skills.seed import Seed
from marketplace.skills.skill import Skill, SkillSummary
from marketplace.skills.slugs import slug_candidates
from marketplace.skills.stored import storable
from marketplace.skills.tiers import CertTier
from tests.contract.conftest import NOT_EMPTIED, TABLES
from tests.contract.postgres import PostgresServer
from tests.contract.test_listing import AUTHORS, CATEGORIES, SEARCHES, small_bounds
from tests.doubles.database import DatabaseDouble
from tests.doubles.kv import KvOperation, SimulatedKv
from tests.doubles.network import Fault
from tests.examples import random_skills, seed_of

PATIENCE = 60.0  # seconds; here no source is to fail for being slow
_NOTHING: Any = None  # in place of bindings that reads do not use


@dataclass(frozen=True)
class Content:
    """What every source is filled with. ``former`` has the earlier slug of those that moved."""

    seed: Seed
    skills: Sequence[Skill]
    former: dict[str, str]

    @property
    def identities(self) -> list[tuple[str, str]]:
        return [(skill.repo_url, skill.base_slug) for skill in (*self.skills, *self.seed.skills)]

    @property
    def slugs(self) -> list[str]:
        names = [skill.name for skill in (*self.skills, *self.seed.skills)]
        return [*names, *self.former.values(), "circle-a", "dangling", "nothing", "Not A Slug"]


@st.composite
def contents(draw: st.DrawFn) -> Content:
    """Some skills, some of them in the seed as well or under a slug of the seed, some moved."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    drawn = random_skills(chance, draw(st.integers(0, 24)))
    skills = [
        storable(skill.renamed(chance.choice(slug_candidates(skill.repo_url, skill.base_slug))))
        for skill in drawn
    ]
    seeded = random_skills(chance, draw(st.integers(0, 4)))
    copies = [
        msgspec.structs.replace(skill, description="From the seed.")
        for skill in skills[: draw(st.integers(0, 3))]
    ]
    under_their_slug = [
        msgspec.structs.replace(skill, repo_url=f"https://github.com/seed/{number}")
        for number, skill in enumerate(skills[4 : 4 + draw(st.integers(0, 2))])
    ]
    others = [
        msgspec.structs.replace(s, name=f"seed-{s.name}", repo_url=f"https://github.com/seed/s{n}")
        for n, s in enumerate(seeded)
    ]
    former = {
        skill.identity: f"former-{number}"
        for number, skill in enumerate(skills)
        if chance.random() < 0.2
    }
    return Content(seed_of(*copies, *under_their_slug, *others), skills, former)


_maybe = st.one_of
queries = st.builds(
    ListingQuery,
    category=_maybe(st.none(), st.sampled_from(CATEGORIES)),
    cert_tier=_maybe(st.none(), st.none(), st.sampled_from(CertTier)),
    author=_maybe(st.none(), st.none(), st.sampled_from(AUTHORS)),
    extensible=_maybe(st.none(), st.none(), st.booleans()),
    search=_maybe(st.none(), st.sampled_from(SEARCHES)),
    sort_by=st.sampled_from(SortField),
    sort_dir=st.sampled_from(SortDirection),
    limit=st.integers(1, 9),
    offset=st.integers(0, 30),
)


# --- the sources


async def _fill_database(connect: DatabaseConnector, content: Content) -> None:
    with await connect() as db:
        assert await db.upsert_skills(content.skills) == []
        for identity, alias in content.former.items():
            await db.add_alias(alias, identity)


async def _write_aliases(env: Env, content: Content) -> None:
    for skill in content.skills:
        if skill.identity in content.former:
            await write_alias(env, content.former[skill.identity], skill.name)
    for alias, slug in (
        *(("circle-a", "circle-b"), ("circle-b", "circle-a")),
        ("dangling", "nowhere"),
    ):
        await write_alias(env, alias, slug)


async def _fill_records(env: Env, kv: SimulatedKv, content: Content) -> None:
    """Some with metadata, some as they were before there was any, some in the outbox alone."""
    await _write_aliases(env, content)
    for number, skill in enumerate(content.skills):
        if number % 3 == 0:
            kv.damage(f"skill:{skill.name}", encode_skill(skill))
        elif number % 3 == 1:
            await write_record(env, skill)
        else:
            await write_outbox(env, skill)
        if skill.identity in content.former:
            await mark_moved(env, content.former[skill.identity], skill.name)


async def _fill_index(env: Env, content: Content) -> None:
    await _write_aliases(env, content)
    writer = IndexWriter.begin(env, "generation")
    await writer.add([skill.published_summary() for skill in content.skills])
    await writer.finish()


async def _no_database() -> SkillDatabase:
    raise DatabaseError("away")


def _all_fails(_operation: KvOperation) -> Fault:
    return Fault.FAIL


def _env(content: Content, connect: DatabaseConnector, kv: SimulatedKv | None) -> Env:
    if kv is None:
        kv = SimulatedKv()
        kv.faults = _all_fails
    return Env(
        submissions_kv=kv,
        database=DatabaseSession(connect),
        publish_queue=_NOTHING,
        maintenance_queue=_NOTHING,
        seed=content.seed,
        log=lambda *_, **__: None,
    )


async def _sources(postgres: DatabaseConnector, content: Content) -> dict[str, Env]:
    """An env for each source, in which that one alone answers."""
    double = DatabaseDouble().connect
    for connect in (postgres, double):
        await _fill_database(connect, content)
    records, index = SimulatedKv(page_limit=7), SimulatedKv()
    envs = {
        "postgres": _env(content, postgres, SimulatedKv()),
        "double": _env(content, double, SimulatedKv()),
        "records": _env(content, _no_database, records),
        "index": _env(content, _no_database, index),
    }
    await _fill_records(envs["records"], records, content)
    await _fill_index(envs["index"], content)
    if not content.skills:
        envs["seed"] = _env(content, _no_database, None)
    return envs


# --- the answers


async def _pages(env: Env, query: ListingQuery) -> list[Page]:
    """The page asked for, then every page from the start by cursor."""
    pages = [(await listings.get_skills(env, query)).value]
    by_cursor = replace(query, offset=0)
    for _ in itertools.count():
        page = (await listings.get_skills(env, by_cursor)).value
        pages.append(page)
        if page.next_cursor is None:
            return pages
        cursor = decode_cursor(page.next_cursor, query.sort_by, query.sort_dir)
        by_cursor = replace(by_cursor, cursor=cursor)
    raise AssertionError


def _comparable(page: Page) -> tuple[list[Any], int, bool, str | None]:
    items = [msgspec.json.decode(item) for item in page.items]
    return items, page.total, page.total_is_exact, page.next_cursor


async def _skill(found: Awaitable[Answer[Skill] | None]) -> SkillSummary | None:
    """The summary, which all sources have; nothing where nothing was found."""
    try:
        answer = await found
    except StorageError:  # it may be elsewhere: PerhapsMissing, or KV is away as well
        return None
    return None if answer is None else answer.value.summary()


async def _answers(env: Env, content: Content, asked: Sequence[ListingQuery]) -> list[Any]:
    """Everything that can be asked, in one order."""
    answers: list[Any] = []
    for query in asked:
        answers += [(query, *_comparable(page)) for page in await _pages(env, query)]
        answers.append((await listings.get_skill_count(env, query)).value)
    answers.append(list((await listings.get_skill_categories(env)).value.items()))
    for slug in content.slugs:
        answers.append((slug, await _skill(lookup.get_skill_by_name(env, slug))))
    for repo_url, base_slug in content.identities:
        owner, repository = repo_url.split("/")[-2:]
        wanted = lookup.get_skill_by_identity(env, owner, repository, base_slug)
        answers.append((repo_url, base_slug, await _skill(wanted)))
    return answers


_SOURCES = {
    "postgres": Source.POSTGRES,
    "double": Source.POSTGRES,
    "records": Source.KV_ENUMERATION,
    "index": Source.KV_INDEX,
    "seed": Source.SEED,
}


async def _check(
    connect: DatabaseConnector, content: Content, asked: Sequence[ListingQuery]
) -> None:
    envs = await _sources(connect, content)
    expected = await _answers(envs["double"], content, asked)
    for name, env in envs.items():
        with closing(env):
            listing = await listings.get_skills(env, ListingQuery())
            if content.skills or name in ("postgres", "double", "seed"):
                assert listing.source is _SOURCES[name]
            found = await _answers(env, content, asked)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == theirs, name


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    bounds=st.sampled_from((nullcontext, small_bounds)),
    content=contents(),
    asked=st.lists(queries, min_size=1, max_size=5),
)
async def test_every_source_gives_the_same_answers(
    postgres_server: PostgresServer,
    database: str,
    bounds: Callable[[], AbstractContextManager[None]],
    content: Content,
    asked: list[ListingQuery],
) -> None:
    with bounds(), mock.patch.object(source_chain, "READ_BUDGET_SECONDS", PATIENCE):
        with await postgres_server.connect(database) as connection:
            await connection.query(f"truncate {TABLES}")
            await connection.query(NOT_EMPTIED)
        connect = postgres_connector(lambda: postgres_server.connect(database))
        await _check(connect, content, asked)
