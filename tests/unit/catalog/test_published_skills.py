"""Records and index together: what is listed, and what repairs the index."""

import asyncio

import msgspec
import pytest

from marketplace.catalog.answer import Source
from marketplace.kv.aliases import mark_moved
from marketplace.kv.index.writing import add_to_published_index
from marketplace.kv.keys import INDEX_KEY
from marketplace.kv.outbox import write_outbox
from marketplace.kv.records import write_record
from marketplace.ports.env import Settings
from marketplace.ports.errors import KvError
from tests.doubles.loop import current_loop
from tests.doubles.marketplace import LATER, Market, fault, make_skill, names
from tests.doubles.network import Fault
from tests.unit.kv.index.indexes import listing, read_names, write_index, write_records


async def test_concurrent_additions_lose_an_entry_but_no_skill_and_the_next_read_repairs(
    market: Market,
) -> None:
    await write_records(market, "a", "b")
    await asyncio.gather(
        add_to_published_index(market.env, [make_skill("a")]),
        add_to_published_index(market.env, [make_skill("b")]),
    )
    assert len(await read_names(market)) == 1  # the race
    await asyncio.sleep(2)
    assert names(await listing(market)) == ["a", "b"]
    assert await read_names(market) == ["a", "b"]
    assert market.log.events()[-1] == "index-repaired"


async def test_the_larger_side_answers_and_the_other_fills_in(market: Market) -> None:
    await write_index(market, "g1", "a", "b", "c")
    await write_records(market, "c", "d")
    skills = await listing(market)
    assert names(skills) == ["a", "b", "c", "d"]
    assert skills.source is Source.KV_INDEX
    await write_records(market, "e", "f")
    assert (await listing(market)).source is Source.KV_ENUMERATION


@pytest.mark.parametrize("index_is_newer", [True, False])
async def test_of_two_states_the_newer_is_listed(market: Market, *, index_is_newer: bool) -> None:
    states = [make_skill("a"), make_skill("a", current_version="1.10.0", updated_at=LATER)]
    record, indexed = states if index_is_newer else reversed(states)
    await write_record(market.env, record)
    await add_to_published_index(market.env, [indexed])
    (entry,) = await listing(market)
    assert entry.summary.current_version == "1.10.0"


async def test_one_slug_of_two_skills_stays_with_the_record(market: Market) -> None:
    await write_record(market.env, make_skill("a"))
    other = make_skill("a", repo_url="https://github.com/evil/a", updated_at=LATER)
    await add_to_published_index(market.env, [other])
    await write_outbox(market.env, other)
    (entry,) = await listing(market)
    assert entry.summary.repo_url == "https://github.com/octo/a"


async def test_moved_skills_are_listed_once_and_the_outbox_is_part_of_the_listing(
    market: Market,
) -> None:
    await write_index(market, "g1", "old", "x")
    await write_records(market, "new", "x")
    await mark_moved(market.env, "old", "new")
    await write_outbox(market.env, make_skill("waiting"))
    await write_outbox(market.env, make_skill("x", current_version="3.0.0", updated_at=LATER))
    found = {e.summary.name: e.summary.current_version for e in await listing(market)}
    assert found == {"new": "1.0.0", "waiting": "1.0.0", "x": "3.0.0"}
    assert "waiting" not in await read_names(market)  # its slug is not decided yet


async def test_nothing_is_nothing_only_when_a_source_says_so(market: Market) -> None:
    empty = await listing(market)
    assert (list(empty), empty.count, empty.degraded) == ([], 0, ())
    assert market.kv.keys() == []
    market.kv.faults = fault(Fault.FAIL, "list")
    with pytest.raises(KvError):  # no index is no proof
        await listing(market)
    market.kv.faults = fault(Fault.HANG, "list", "get")
    with pytest.raises(KvError):
        await listing(market)
    assert current_loop().time() < 10


@pytest.mark.parametrize("kind", [Fault.FAIL, Fault.HANG])
async def test_one_source_answers_for_the_other_and_says_so_in_time(
    market: Market, kind: Fault
) -> None:
    await write_index(market, "g1", "a", "b")
    await write_records(market, "a", "b")
    for operation, key, source in (("list", "skill:", "enumeration"), ("get", "", "index")):
        market.kv.faults = fault(kind, operation, key=key)
        started = current_loop().time()
        skills = await listing(market, deadline=1.5)
        assert names(skills) == ["a", "b"]
        assert skills.degraded[0].startswith(source)
        assert current_loop().time() - started < 1.6


@pytest.mark.parametrize("kind", [Fault.FAIL, Fault.HANG])
@pytest.mark.market(page_limit=5)
async def test_values_that_do_not_come_hide_nothing_that_metadata_tells(
    market: Market, kind: Fault
) -> None:
    old = msgspec.json.encode(make_skill("a-0-old"))
    market.kv.damage("skill:a-0-old", old)  # without metadata, and before all others
    market.kv.damage("skill:z-old", old)
    slugs = [f"s-{number:02}" for number in range(12)]
    await write_records(market, *slugs)
    market.kv.faults = fault(kind, "get_many", "get", key="skill:")
    skills = await listing(market, deadline=1.5)
    assert names(skills) == slugs
    assert skills.degraded
    market.kv.faults = None
    assert names(await listing(market)) == ["a-0-old", *slugs, "z-old"]


@pytest.mark.market(page_limit=5, settings=Settings(enumeration_page_budget=2))
async def test_beyond_the_budget_the_index_answers_for_the_rest(market: Market) -> None:
    slugs = [f"s-{number:02}" for number in range(30)]
    await write_index(market, "g1", *slugs)
    await write_records(market, *slugs)
    skills = await listing(market)
    assert names(skills) == slugs
    assert skills.truncated
    assert skills.source is Source.KV_INDEX
    assert market.kv.operations["list"] == 2 + 1  # the outbox
    market.kv.damage(INDEX_KEY, None)
    partial = await listing(market)
    assert names(partial) == slugs[:10]
    assert partial.degraded == ("index: missing",)
    assert market.kv.peek(INDEX_KEY) is None  # a part is no index


@pytest.mark.market(page_limit=5, settings=Settings(enumeration_page_budget=2))
async def test_beyond_the_budget_an_index_that_is_smaller_or_damaged_is_told(
    market: Market,
) -> None:
    slugs = [f"s-{number:02}" for number in range(30)]
    await write_records(market, *slugs)
    await write_index(market, "g1", *slugs[:3])
    skills = await listing(market)
    assert (names(skills), skills.short) == (slugs[:10], True)
    assert skills.degraded == ("index: smaller than what was enumerated, which is not all",)
    await write_index(market, "g2", *slugs)
    assert (await listing(market)).short is False
    for page in market.kv.keys(f"{INDEX_KEY}:g2"):
        market.kv.damage(page, None)
    skills = await listing(market)
    assert (names(skills), skills.short) == (slugs[:10], True)
    assert skills.degraded[0].endswith("missing")
