"""The fallback listing kept between requests: quick, soon fresh, and never an error as a list."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from marketplace.catalog import listings
from marketplace.catalog.published_skills import PublishedSkills, get_published_skills_list
from marketplace.kv.index.writing import IndexWriter
from marketplace.kv.keys import INDEX_KEY
from marketplace.kv.records import write_record
from marketplace.ports.database import DatabaseSession
from marketplace.ports.errors import KvError
from marketplace.ports.isolate import KEPT_SECONDS, MAKING_SECONDS, MAX_ANSWERS, FallbackCache
from marketplace.skills.listing_rules import ListingQuery, Total
from tests.doubles.loop import current_loop
from tests.doubles.marketplace import Market, fault, make_skill, names, postgres_away
from tests.doubles.network import Fault


@pytest.fixture
def cache() -> FallbackCache:
    return FallbackCache()


@pytest.fixture
def market(market: Market, cache: FallbackCache) -> Market:
    """With the cache of one isolate."""
    market.env = replace(market.env, fallback_cache=cache)
    return market


async def listing(market: Market, **options: Any) -> PublishedSkills:
    return await get_published_skills_list(market.env, **options)


async def write_elsewhere(market: Market, *slugs: str) -> None:
    """As another isolate writes: this one's cache does not hear of it."""
    env = replace(market.env, fallback_cache=None)
    for slug in slugs:
        await write_record(env, make_skill(slug))


async def test_a_request_after_a_listing_was_made_gets_a_new_one(market: Market) -> None:
    await write_elsewhere(market, "a")
    assert names(await listing(market)) == ["a"]
    await write_elsewhere(market, "b")
    assert names(await listing(market)) == ["a", "b"]
    market.kv.damage("skill:a", None)
    market.kv.damage("skill:b", None)
    market.kv.damage(INDEX_KEY, None)
    assert names(await listing(market)) == []


async def test_one_request_makes_the_listing_for_all_that_come_meanwhile(market: Market) -> None:
    await write_elsewhere(market, "a")
    answers = await asyncio.gather(*(listing(market) for _ in range(20)))
    assert {answer.count for answer in answers} == {1}
    assert market.kv.operations["list"] == 2  # records and outbox


async def test_a_request_that_died_holds_nobody_up_for_long(
    market: Market, cache: FallbackCache
) -> None:
    await write_elsewhere(market, "a")
    cache.begin(current_loop().time() + 60)  # and never ends
    started = current_loop().time()
    assert names(await listing(market)) == ["a"]
    assert current_loop().time() - started < MAKING_SECONDS + 0.2


@pytest.mark.parametrize("kind", [Fault.FAIL, Fault.HANG])
async def test_an_error_is_never_kept(market: Market, cache: FallbackCache, kind: Fault) -> None:
    await write_elsewhere(market, "a")
    market.kv.faults = fault(kind, "list", "get", "get_many")
    for _ in range(2):
        with pytest.raises(KvError):
            await listing(market, deadline=0.5)
    assert (cache.good, cache.latest) == (None, None)
    market.kv.faults = None
    assert names(await listing(market)) == ["a"]


async def test_a_thinned_listing_is_never_kept(market: Market, cache: FallbackCache) -> None:
    await write_elsewhere(market, "a")
    market.kv.faults = fault(Fault.FAIL, "get")  # the index
    thinned = await listing(market)
    assert (names(thinned), thinned.thinned, cache.good) == (["a"], True, None)
    market.kv.faults = None
    await asyncio.sleep(0.1)
    assert not (await listing(market)).degraded


async def test_a_broken_record_does_not_keep_the_rest_from_being_kept(
    market: Market, cache: FallbackCache
) -> None:
    await write_elsewhere(market, "a")
    market.kv.damage("skill:broken", b"{")
    skills = await listing(market)
    assert skills.degraded
    assert cache.good is skills


@pytest.mark.parametrize("operations", [("list", "get", "get_many"), ("list",)])
async def test_an_older_listing_stands_in_for_one_that_failed_or_lacks_skills_for_ten_minutes(
    market: Market, operations: tuple[str, ...]
) -> None:
    await write_elsewhere(market, "a", "b")
    assert not (await listing(market)).degraded
    await asyncio.sleep(KEPT_SECONDS - 5)
    await IndexWriter.begin(market.env, "empty").finish()
    market.kv.faults = fault(Fault.FAIL, *operations)
    skills = await listing(market)
    assert names(skills) == ["a", "b"]
    assert skills.degraded
    await asyncio.sleep(6)
    with pytest.raises(KvError):  # an empty index cannot say that there is nothing
        await listing(market)


async def test_finished_answers_are_kept_with_their_listing_and_bounded(
    market: Market, cache: FallbackCache
) -> None:
    await write_elsewhere(market, "a", "b")
    env = replace(market.env, database=DatabaseSession(postgres_away))
    first, again, other, count, categories = await asyncio.gather(
        listings.get_skills(env, ListingQuery()),
        listings.get_skills(env, ListingQuery()),
        listings.get_skills(env, ListingQuery(limit=1)),
        listings.get_skill_count(env, ListingQuery()),
        listings.get_skill_categories(env),
    )
    assert again.value is first.value
    assert again.degraded
    assert len(other.value.items) == 1
    assert count.value == Total(2, is_exact=True)
    assert categories.value == {"development": 2}
    pages = (listings.get_skills(env, ListingQuery(limit=n)) for n in range(1, 3 * MAX_ANSWERS))
    await asyncio.gather(*pages)
    assert len(cache._answers) == MAX_ANSWERS
    await write_elsewhere(market, "c")
    assert (await listings.get_skills(env, ListingQuery())).value.total == 3


async def test_without_a_cache_every_listing_is_made_anew(market: Market) -> None:
    env = replace(market.env, fallback_cache=None)
    for _ in range(2):
        await get_published_skills_list(env)
    assert market.kv.operations["list"] == 4
