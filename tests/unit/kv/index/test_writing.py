"""The index is written in generations, and added to between them."""

import asyncio
import hashlib

import msgspec
import pytest

from marketplace.basics.timestamps import EPOCH
from marketplace.kv.index import writing as index_writing
from marketplace.kv.index.blocks import iterate, merge
from marketplace.kv.index.manifest import index_header
from marketplace.kv.index.reading import read_index
from marketplace.kv.index.writing import (
    MAX_REMOVED,
    OLD_SECONDS,
    SUPERSEDED_SECONDS,
    IndexProgress,
    IndexWriter,
    add_to_published_index,
    new_generation,
)
from marketplace.kv.keys import INDEX_PAGE_PREFIX, index_page_key
from marketplace.ports.errors import KvError
from marketplace.skills import fingerprint
from marketplace.skills.fingerprint import Fingerprint
from tests.doubles.marketplace import LATER, Market, fault, make_skill
from tests.doubles.network import Fault
from tests.unit.kv.index.indexes import read_names, write_index, write_records


async def test_what_is_written_is_read_with_its_count_and_fingerprint(market: Market) -> None:
    await write_index(market, "g1", "c", "a", "b")
    assert await read_names(market) == ["a", "b", "c"]
    header = await index_header(market.env)
    assert (header.problem, header.count, header.recent, header.age_seconds) == (None, 3, 0, 0)
    entries = [make_skill(slug).published_summary() for slug in "abc"]
    digest = fingerprint.add_to_digest("0" * 16, entries)
    assert header.fingerprint == Fingerprint(3, digest)
    assert (await read_index(market.env)).complete


def test_the_fingerprint_is_the_documented_one() -> None:
    entry = make_skill("a").published_summary()
    expected = hashlib.sha256(f"a {entry.revision}".encode()).hexdigest()[:16]
    assert fingerprint.add_to_digest("0" * 16, [entry]) == expected


async def test_a_write_goes_on_in_another_invocation_from_plain_data(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_writing, "BLOCK_SIZE", 4)
    entries = [make_skill(f"s-{number:02}").published_summary() for number in range(22)]
    progress = IndexWriter.begin(market.env, "job-1").progress
    for start in range(0, 22, 10):
        writer = IndexWriter(market.env, progress)
        await writer.add(entries[start : start + 10])
        await writer.flush()
        kept = msgspec.json.encode(writer.progress)
        progress = msgspec.json.decode(kept, type=IndexProgress)
        assert (await index_header(market.env)).problem == "missing"
    await IndexWriter(market.env, progress).finish()
    assert len(await read_names(market)) == 22
    assert (await index_header(market.env)).count == 22


async def test_readers_see_one_generation_or_the_other(market: Market) -> None:
    await write_index(market, "g1", "a", "b")
    seen: list[list[str]] = []

    async def look(*_: object) -> None:
        market.kv.faults = None
        seen.append(await read_names(market))

    writer = IndexWriter.begin(market.env, "g2")
    await writer.add([make_skill(slug).published_summary() for slug in "cd"])
    await look()
    await writer.flush()
    await look()
    market.kv.faults = fault(Fault.FAIL, "put")
    with pytest.raises(KvError):
        await writer.finish()
    await look()
    await writer.finish()
    await look()
    assert seen == [["a", "b"]] * 3 + [["c", "d"]]


async def test_a_generation_is_removed_when_it_is_old_and_no_reader_is_in_it(
    market: Market,
) -> None:
    generations = []

    async def write() -> None:
        generations.append(new_generation(market.env))
        await write_index(market, generations[-1], "a")

    def pages(*numbers: int) -> list[str]:
        return [index_page_key(generations[number], 0, 0) for number in numbers]

    await write()
    await asyncio.sleep(OLD_SECONDS + 10)
    await write()
    await asyncio.sleep(5)
    await write()
    # The first one is old, and was the present one until five seconds ago.
    assert market.kv.keys(INDEX_PAGE_PREFIX) == pages(0, 1, 2)
    await asyncio.sleep(SUPERSEDED_SECONDS + 10)
    await write()
    assert market.kv.keys(INDEX_PAGE_PREFIX) == pages(1, 2, 3)
    await asyncio.sleep(OLD_SECONDS + 10)
    await write()
    assert market.kv.keys(INDEX_PAGE_PREFIX) == pages(3, 4)


async def test_a_repeated_step_writes_no_page_of_the_first_attempt_again(market: Market) -> None:
    begun = IndexWriter.begin(market.env, "g1").progress
    written = []
    for attempt in range(2):
        progress = msgspec.structs.replace(begun, attempt=attempt)
        writer = IndexWriter(market.env, progress)
        await writer.add([make_skill(f"a-{attempt}").published_summary()])
        await writer.flush()
        written.append(writer)
    await written[1].finish()
    assert await read_names(market) == ["a-1"]
    await asyncio.sleep(2)
    await written[0].finish()  # it was only slow
    assert await read_names(market) == ["a-0"]


async def write_cut_off(market: Market, *slugs: str) -> list[str]:
    """Begin a generation that is never finished; the keys of its pages."""
    writer = IndexWriter.begin(market.env, new_generation(market.env))
    await writer.add([make_skill(slug).published_summary() for slug in slugs])
    await writer.flush()
    return [page.key for page in writer.progress.pages]


async def test_pages_of_a_write_that_was_cut_off_for_good_go_with_a_later_write(
    market: Market,
) -> None:
    await write_index(market, "present", "a")
    left = await write_cut_off(market, "a")
    await asyncio.sleep(OLD_SECONDS / 2)
    under_way = await write_cut_off(market, "a")
    await asyncio.sleep(OLD_SECONDS / 2 + 10)
    await write_records(market, "a")
    market.kv.damage(f"{INDEX_PAGE_PREFIX}something-else", b"x")
    generation = new_generation(market.env)
    await write_index(market, generation, "a")
    assert market.kv.keys(INDEX_PAGE_PREFIX) == [
        *under_way,
        index_page_key(generation, 0, 0),
        index_page_key("present", 0, 0),
        f"{INDEX_PAGE_PREFIX}something-else",
    ]
    assert market.kv.peek(left[0]) is None
    assert market.kv.keys("skill:") == ["skill:a"]


async def test_generations_in_use_stay_however_old_they_are(market: Market) -> None:
    for _ in range(3):
        await write_index(market, new_generation(market.env), "a")
        await asyncio.sleep(3 * OLD_SECONDS)
    assert len(market.kv.keys(INDEX_PAGE_PREFIX)) == 2  # present and previous
    assert await read_names(market) == ["a"]


async def test_removing_is_bounded_and_its_failure_fails_no_write(market: Market) -> None:
    await write_index(market, "present", "a")
    for number in range(MAX_REMOVED + 5):
        market.kv.damage(index_page_key(f"{EPOCH}-{number:03}", 0, 0), b"x")
    await asyncio.sleep(2 * OLD_SECONDS)
    await write_index(market, new_generation(market.env), "a")
    assert market.kv.operations["delete"] == MAX_REMOVED
    assert len(market.kv.keys(INDEX_PAGE_PREFIX)) == 5 + 2
    await asyncio.sleep(SUPERSEDED_SECONDS + 10)
    market.kv.faults = fault(Fault.FAIL, "list", "delete")
    await write_index(market, new_generation(market.env), "a", "b")
    assert await read_names(market) == ["a", "b"]


async def test_adding_takes_one_read_and_one_write_for_a_batch(market: Market) -> None:
    await write_index(market, "g1", "a", "b")
    await asyncio.sleep(2)
    before = market.kv.operations.total()
    newer = make_skill("b", current_version="2.0.0", updated_at=LATER)
    assert await add_to_published_index(market.env, [newer, make_skill("c")])
    assert market.kv.operations.total() - before == 2
    reading = await read_index(market.env)
    versions = {e.summary.name: e.summary.current_version for e in iterate(merge(reading.layers()))}
    assert versions == {"a": "1.0.0", "b": "2.0.0", "c": "1.0.0"}
    header = await index_header(market.env)
    assert (header.count, header.recent) == (2, 2)


@pytest.mark.market(rate_limited=True)
async def test_adding_is_at_most_once_a_second_and_never_raises(market: Market) -> None:
    assert await add_to_published_index(market.env, [make_skill("a")])
    assert not await add_to_published_index(market.env, [make_skill("b")])
    await asyncio.sleep(1.1)
    assert await add_to_published_index(market.env, [make_skill("c")])
    await asyncio.sleep(1.1)
    for kind in (Fault.FAIL, Fault.HANG):
        market.kv.faults = fault(kind, "put")
        assert not await add_to_published_index(market.env, [make_skill("d")])
    market.kv.faults = None
    assert await read_names(market) == ["a", "c"]
    assert market.log.events() == ["index-not-extended"] * 3


async def test_recent_entries_are_bounded_and_the_oldest_go_first(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_writing, "RECENT_LIMIT", 3)
    for slug in "abcde":
        await add_to_published_index(market.env, [make_skill(slug)])
        await asyncio.sleep(1.1)
    assert await read_names(market) == ["c", "d", "e"]
    assert market.log.events() == ["index-recent-full"] * 2


async def test_a_full_write_keeps_what_came_while_it_ran_and_drops_what_it_contains(
    market: Market,
) -> None:
    await add_to_published_index(market.env, [make_skill("old")])
    await asyncio.sleep(index_writing.CARRIED_SECONDS + 10)
    writer = IndexWriter.begin(market.env, "g1")
    await writer.add([make_skill("old").published_summary()])
    await add_to_published_index(market.env, [make_skill("new")])
    await writer.finish()
    header = await index_header(market.env)
    assert (header.count, header.recent) == (1, 1)
    assert await read_names(market) == ["new", "old"]
