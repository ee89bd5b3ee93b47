"""The index: generations, damage of every kind, the race it loses by design, and the recovery."""

import asyncio
import base64
import hashlib
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace.basics.timestamps import EPOCH
from marketplace.catalog import listings
from marketplace.catalog.answer import Source
from marketplace.catalog.published_skills import PublishedSkills, get_published_skills_list
from marketplace.kv.aliases import mark_moved
from marketplace.kv.index import (
    IndexHeader,
    IndexProgress,
    IndexWriter,
    add_to_published_index,
    index_header,
    read_index,
)
from marketplace.kv.index import blocks as index_blocks
from marketplace.kv.index import original_shape as index_original_shape
from marketplace.kv.index import writing as index_writing
from marketplace.kv.index.original_shape import BrokenArray, iterate_array
from marketplace.kv.index.writing import (
    MAX_REMOVED,
    OLD_SECONDS,
    SUPERSEDED_SECONDS,
    new_generation,
)
from marketplace.kv.keys import INDEX_KEY, INDEX_PAGE_PREFIX, index_page_key
from marketplace.kv.outbox import write_outbox
from marketplace.kv.records import write_record
from marketplace.ports.database import DatabaseSession, SkillDatabase
from marketplace.ports.errors import DatabaseError, KvError
from marketplace.ports.kv import KV_VALUE_LIMIT
from marketplace.skills import fingerprint
from marketplace.skills.fingerprint import Fingerprint
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.skill import PublishedSummary
from tests.doubles.loop import current_loop
from tests.doubles.marketplace import Market, fault, make_skill, names, new_market
from tests.doubles.network import Fault


async def read_names(market: Market) -> list[str]:
    reading = await read_index(market.env)
    return [entry.summary.name for entry in reading.summaries()]


async def listing(market: Market, **options: Any) -> PublishedSkills:
    return await get_published_skills_list(market.env, **options)


async def write_records(market: Market, *slugs: str) -> None:
    for slug in slugs:
        await write_record(market.env, make_skill(slug))


async def write_index(market: Market, generation: str, *slugs: str) -> IndexHeader:
    writer = IndexWriter.begin(market.env, generation)
    await writer.add([make_skill(slug).published_summary() for slug in slugs])
    return await writer.finish()


async def pass_time(seconds: float) -> None:
    loop = current_loop()
    done = loop.create_future()
    loop.call_later(seconds, done.set_result, None)
    await done


# --- writing


async def test_what_is_written_is_read_with_its_count_and_fingerprint(market: Market) -> None:
    header = await write_index(market, "g1", "c", "a", "b")
    assert await read_names(market) == ["a", "b", "c"]
    assert await index_header(market.env) == header
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
    await pass_time(OLD_SECONDS + 10)
    await write()
    await pass_time(5)
    await write()
    # The first one is old, and was the present one until five seconds ago.
    assert market.kv.keys(INDEX_PAGE_PREFIX) == pages(0, 1, 2)
    await pass_time(SUPERSEDED_SECONDS + 10)
    await write()
    assert market.kv.keys(INDEX_PAGE_PREFIX) == pages(1, 2, 3)
    await pass_time(OLD_SECONDS + 10)
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
    await pass_time(2)
    await written[0].finish()  # it was only slow
    assert await read_names(market) == ["a-0"]


# --- adding


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
    await pass_time(OLD_SECONDS / 2)
    under_way = await write_cut_off(market, "a")
    await pass_time(OLD_SECONDS / 2 + 10)
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
        await pass_time(3 * OLD_SECONDS)
    assert len(market.kv.keys(INDEX_PAGE_PREFIX)) == 2  # present and previous
    assert await read_names(market) == ["a"]


async def test_removing_is_bounded_and_its_failure_fails_no_write(market: Market) -> None:
    await write_index(market, "present", "a")
    for number in range(MAX_REMOVED + 5):
        market.kv.damage(index_page_key(f"{EPOCH}-{number:03}", 0, 0), b"x")
    await pass_time(2 * OLD_SECONDS)
    await write_index(market, new_generation(market.env), "a")
    assert market.kv.operations["delete"] == MAX_REMOVED
    assert len(market.kv.keys(INDEX_PAGE_PREFIX)) == 5 + 2
    await pass_time(SUPERSEDED_SECONDS + 10)
    market.kv.faults = fault(Fault.FAIL, "list", "delete")
    await write_index(market, new_generation(market.env), "a", "b")
    assert await read_names(market) == ["a", "b"]


async def test_adding_takes_one_read_and_one_write_for_a_batch(market: Market) -> None:
    await write_index(market, "g1", "a", "b")
    await pass_time(2)
    before = market.kv.operations.total()
    newer = make_skill("b", current_version="2.0.0")
    assert await add_to_published_index(market.env, [newer, make_skill("c")])
    assert market.kv.operations.total() - before == 2
    reading = await read_index(market.env)
    versions = {e.summary.name: e.summary.current_version for e in reading.summaries()}
    assert versions == {"a": "1.0.0", "b": "2.0.0", "c": "1.0.0"}
    header = await index_header(market.env)
    assert (header.count, header.recent) == (2, 2)


@pytest.mark.market(rate_limited=True)
async def test_adding_is_at_most_once_a_second_and_never_raises(market: Market) -> None:
    assert await add_to_published_index(market.env, [make_skill("a")])
    assert not await add_to_published_index(market.env, [make_skill("b")])
    await pass_time(1.1)
    assert await add_to_published_index(market.env, [make_skill("c")])
    await pass_time(1.1)
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
        await pass_time(1.1)
    assert await read_names(market) == ["c", "d", "e"]
    assert market.log.events() == ["index-recent-full"] * 2


async def test_a_full_write_keeps_what_came_while_it_ran_and_drops_what_it_contains(
    market: Market,
) -> None:
    await add_to_published_index(market.env, [make_skill("old")])
    await pass_time(index_writing.CARRIED_SECONDS + 10)
    writer = IndexWriter.begin(market.env, "g1")
    await writer.add([make_skill("old").published_summary()])
    await add_to_published_index(market.env, [make_skill("new")])
    header = await writer.finish()
    assert (header.count, header.recent) == (1, 1)
    assert await read_names(market) == ["new", "old"]


async def test_concurrent_additions_lose_an_entry_but_no_skill_and_the_next_read_repairs(
    market: Market,
) -> None:
    await write_records(market, "a", "b")
    await asyncio.gather(
        add_to_published_index(market.env, [make_skill("a")]),
        add_to_published_index(market.env, [make_skill("b")]),
    )
    assert len(await read_names(market)) == 1  # the race
    await pass_time(2)
    assert names(await listing(market)) == ["a", "b"]
    assert await read_names(market) == ["a", "b"]
    assert market.log.events()[-1] == "index-repaired"


# --- the listing


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
    states = [make_skill("a"), make_skill("a", current_version="1.10.0")]
    record, indexed = states if index_is_newer else reversed(states)
    await write_record(market.env, record)
    await add_to_published_index(market.env, [indexed])
    (entry,) = await listing(market)
    assert entry.summary.current_version == "1.10.0"


async def test_one_slug_of_two_skills_stays_with_the_record(market: Market) -> None:
    await write_record(market.env, make_skill("a"))
    other = make_skill("a", repo_url="https://github.com/evil/a", current_version="9.0.0")
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
    await write_outbox(market.env, make_skill("x", current_version="3.0.0"))
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


@pytest.mark.market(page_limit=5)
async def test_beyond_the_budget_the_index_answers_for_the_rest(market: Market) -> None:
    slugs = [f"s-{number:02}" for number in range(30)]
    await write_index(market, "g1", *slugs)
    await write_records(market, *slugs)
    skills = await listing(market, page_budget=2)
    assert names(skills) == slugs
    assert skills.truncated
    assert skills.source is Source.KV_INDEX
    assert market.kv.operations["list"] == 2 + 1  # the outbox
    market.kv.damage(INDEX_KEY, None)
    partial = await listing(market, page_budget=2)
    assert names(partial) == slugs[:10]
    assert partial.degraded == ("index: missing",)
    assert market.kv.peek(INDEX_KEY) is None  # a part is no index


# --- damage


async def healthy(market: Market) -> None:
    await write_records(market, "a", "b", "c")
    await write_index(market, "g1", "a", "b", "c")
    await pass_time(2)
    await add_to_published_index(market.env, [make_skill("c", current_version="1.0.1")])
    await pass_time(2)


SUMMARY = {"name": "z", "repoUrl": "https://github.com/o/z"}
DAMAGE: dict[str, bytes] = {
    "empty": b"",
    "spaces": b"   ",
    "null": b"null",
    "number": b"7" * 5000,
    "string": b'"skills"',
    "random": bytes(range(256)) * 10,
    "open list": b"[",
    "deep": b"[" * 300_000,
    "deep objects": b'{"a":' * 300_000,
    "cut list": json.dumps([SUMMARY, SUMMARY]).encode()[:-5],
    "other version": b'{"format": "published-index", "version": 2, "pages": []}',
    "other format": b'{"format": "something", "skills": [1]}',
    "empty object": b"{}",
    "count that lies": b'{"format":"published-index","version":1,"generation":"g","writtenAt":"x",'
    b'"rebuiltAt":null,"count":9,"fingerprint":{"count":9,"digest":"0"},"pages":[]}',
    "time that is none": b'{"format":"published-index","version":1,"generation":"g",'
    b'"writtenAt":"x","rebuiltAt":null,"count":0,"fingerprint":{"count":0,"digest":"0"},"pages":[],'
    b'"recent":[{"addedAt":"","entry":[[["x"]]]},{"addedAt":"","entry":null}]}',
    "list of strings": b'["a", "b", "\xff", "\\ud800"]',
    "list of everything": b'[null, 1e999, NaN, {"name": "\\ud800"}, [[]], {}, "x", -0.0, tru]',
    "25 MiB of nothing": b" " * KV_VALUE_LIMIT,
    "25 MiB of brackets": b"[" * KV_VALUE_LIMIT,
    "25 MiB of one string": b'["' + b"\\" * (KV_VALUE_LIMIT - 2),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_index_is_reported_hides_nothing_and_is_repaired(
    market: Market, damage: str
) -> None:
    await write_records(market, "a", "b", "c")
    market.kv.damage(INDEX_KEY, DAMAGE[damage])
    reading = await read_index(market.env)
    assert reading.problems
    assert not reading.complete
    skills = await listing(market)
    assert set("abc") <= set(names(skills))
    assert not set(names(skills)) - set("abcz")
    assert set(await read_names(market)) == set(names(skills))
    assert (await read_index(market.env)).complete
    market.kv.faults = fault(Fault.FAIL, "list")
    assert names(await listing(market)) == names(skills)


async def test_a_broken_recent_entry_is_reported_once_and_not_handed_on(market: Market) -> None:
    await healthy(market)
    value = market.kv.peek(INDEX_KEY) or b""
    market.kv.damage(INDEX_KEY, value.replace(b"What c does", b"What \x80 does"))
    assert [p.split(":")[0] for p in (await read_index(market.env)).problems] == ["recent entry"]
    await listing(market)  # repairs
    assert (await read_index(market.env)).complete


@settings(max_examples=300, deadline=None)
@given(st.data())
async def test_no_flipped_or_missing_byte_makes_the_listing_smaller(data: st.DataObject) -> None:
    market = new_market(current_loop().clock)
    await healthy(market)
    key = data.draw(st.sampled_from([INDEX_KEY, *market.kv.keys(f"{INDEX_KEY}:")]))
    value = market.kv.peek(key) or b""
    at = data.draw(st.integers(0, len(value) - 1))
    end = data.draw(st.sampled_from([b"", value[at + 1 :], value[at + 2 :]]))
    middle = data.draw(st.binary(max_size=3))
    market.kv.damage(key, value[:at] + middle + end)
    header = await index_header(market.env)
    assert header.problem is None or header.count == 0
    assert set("abc") <= set(names(await listing(market)))
    await add_to_published_index(market.env, [make_skill("d")])
    await read_index(market.env)


def remove(_: bytes) -> None:
    return None


def halve(value: bytes) -> bytes:
    return value[: len(value) // 2]


def garble(value: bytes) -> bytes:
    return b"\x00" + value[1:]


@pytest.mark.parametrize("harm", [remove, halve, garble])
async def test_a_damaged_page_costs_its_own_part_only(
    market: Market, harm: Callable[[bytes], bytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_writing, "BLOCK_SIZE", 2)
    await write_index(market, "g1", "a", "b", "c", "d", "e")
    key = index_page_key("g1", 0, 1)
    market.kv.damage(key, harm(market.kv.peek(key) or b""))
    reading = await read_index(market.env)
    assert [e.summary.name for e in reading.summaries()] == ["a", "b", "e"]
    assert (len(reading.problems), reading.complete) == (1, False)
    market.kv.faults = fault(Fault.FAIL, "list")
    skills = await listing(market)
    assert names(skills) == ["a", "b", "e"]
    assert any("g1:0:1" in reason for reason in skills.degraded)


# --- the original shape


def signed_page(market: Market, content: bytes, size: int, first: str, last: str) -> None:
    """An index of one page that is what its manifest says, whatever that is."""
    value = base64.b64encode(content)
    page = {
        "key": f"{INDEX_PAGE_PREFIX}g:0",
        "count": size,
        "first": first,
        "last": last,
        "digest": hashlib.sha256(value).hexdigest()[:16],
    }
    manifest = {
        "format": "published-index",
        "version": 1,
        "generation": "g",
        "writtenAt": EPOCH,
        "rebuiltAt": EPOCH,
        "count": size,
        "fingerprint": {"count": size, "digest": "0" * 16},
        "pages": [page],
    }
    market.kv.damage(INDEX_KEY, json.dumps(manifest).encode())
    market.kv.damage(f"{INDEX_PAGE_PREFIX}g:0", value)


LINES = b'["s1","r","b"]\n["s1","r","c"]'


@pytest.mark.parametrize(
    ("content", "size", "first", "last"),
    [
        (b"no zlib", 2, "b", "c"),
        (zlib.compress(LINES)[:-6], 2, "b", "c"),
        (zlib.compress(LINES), 3, "b", "c"),
        (zlib.compress(LINES), 2, "a", "c"),
        (zlib.compress(LINES), 2, "b", "z"),
        (zlib.compress(b"["), 1, "b", "b"),
        (zlib.compress(b"x" * (64 * 1024 * 1024)), 1, "b", "b"),
    ],
)
async def test_a_page_that_is_not_what_its_manifest_says_hides_nothing(
    market: Market, content: bytes, size: int, first: str, last: str
) -> None:
    await write_records(market, "a", "b", "z")
    signed_page(market, content, size, first, last)
    assert names(await listing(market)) == ["a", "b", "z"]
    assert await read_names(market) == ["a", "b", "z"]  # repaired


async def test_lines_that_are_no_summaries_hide_no_record(market: Market) -> None:
    await write_records(market, "a", "b", "z")
    signed_page(market, zlib.compress(LINES), 2, "b", "c")
    env = replace(market.env, database=DatabaseSession(no_database))
    answer = await listings.get_skills(env, ListingQuery())
    assert (answer.value.total, answer.source) == (3, Source.KV_ENUMERATION)
    assert "kv-index: damaged" in answer.reasons


async def no_database() -> SkillDatabase:
    raise DatabaseError("away")


@pytest.mark.parametrize("wrap", ["%s", "\ufeff %s", '{"total": 3, "skills": %s}', '{"items":%s}'])
async def test_the_original_shape_is_read(market: Market, wrap: str) -> None:
    entries = [
        {
            "slug": "b",
            "repository": "https://github.com/o/b",
            "version": "2.0.0",
            "x": ']},{\\"',
        },
        msgspec.to_builtins(make_skill("a")),
        {"name": "broken"},
    ]
    market.kv.damage(INDEX_KEY, (wrap % json.dumps(entries)).encode())
    reading = await read_index(market.env)
    found = {e.summary.name: e.summary.current_version for e in reading.summaries()}
    assert found == {"a": "1.0.0", "b": "2.0.0"}
    assert reading.problems == ["original shape", "entry 2: no repoUrl"]
    assert (await index_header(market.env)).problem == "original shape"
    assert not await add_to_published_index(market.env, [make_skill("c")])
    await write_record(market.env, make_skill("a"))
    (a, b) = await listing(market)
    assert a == make_skill("a").published_summary()  # of equal age the record counts
    assert b.summary.name == "b"


async def test_the_original_shape_at_its_largest_is_read_in_bounded_memory(market: Market) -> None:
    entry = json.dumps({**SUMMARY, "name": "s-000000", "description": "d" * 4000}).encode()
    amount = KV_VALUE_LIMIT // (len(entry) + 1) - 1
    parts = (entry.replace(b"000000", b"%06d" % number) for number in range(amount))
    market.kv.damage(INDEX_KEY, b"[" + b",".join(parts) + b"]")
    tracemalloc.start()
    reading = await read_index(market.env)
    layers = reading.layers()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(index_blocks.count(blocks) for blocks in layers) == amount
    assert peak < 20_000_000


async def test_reading_a_list_of_garbage_ends_early(market: Market) -> None:
    market.kv.damage(INDEX_KEY, b"[" + b"7," * 2_000_000 + b"7]")
    with read_entries() as entries:
        reading = await read_index(market.env)
    assert len(entries) == index_original_shape.MAX_UNREADABLE + 1
    assert not reading.complete


async def test_a_list_of_garbage_lets_a_deadline_pass(market: Market) -> None:
    market.kv.damage(INDEX_KEY, b"[" + b"7," * 9_000 + b"7]")
    with read_entries() as entries:
        reading = asyncio.ensure_future(read_index(market.env))
        while not entries:  # noqa: ASYNC110 - until it is in the middle of it
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert len(entries) < 9_000


def test_an_element_without_end_is_not_walked_to_its_end() -> None:
    nested = b'[{"name": "good"}, {"a": [' + b"1," * 2_000_000 + b"1]}]"
    elements = iterate_array(nested)
    assert next(elements) == b'{"name": "good"}'
    with pytest.raises(BrokenArray, match="more than"):
        next(elements)


@contextmanager
def read_entries() -> Iterator[list[bytes]]:
    """The elements of the original shape that are looked at meanwhile."""
    seen: list[bytes] = []
    original = index_original_shape._original_entry

    def observed(element: bytes) -> PublishedSummary:
        seen.append(element)
        return original(element)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_original_shape, "_original_entry", observed)
        yield seen


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('ab"\\[]{},', max_size=4), inner),
    max_leaves=20,
)


@given(st.lists(json_values), st.sampled_from([None, 1]))
def test_arrays_fall_apart_into_their_elements(values: list[object], indent: int | None) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=False).encode()
    assert [json.loads(element) for element in iterate_array(text)] == values


@given(st.lists(json_values, min_size=1), st.data())
def test_a_cut_array_gives_what_is_whole(values: list[object], data: st.DataObject) -> None:
    text = json.dumps(values).encode()
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    found = iterate_array(cut)
    elements: list[object] = []
    with pytest.raises(BrokenArray):
        elements.extend(json.loads(element) for element in found)
    assert elements == values[: len(elements)]


# --- blocks


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=40), max_size=4)
)
def test_merging_blocks_keeps_the_newest_of_each_slug(layers: list[list[tuple[int, int]]]) -> None:
    expected: dict[str, str] = {}
    packed = []
    for layer in layers:
        entries = [
            make_skill(f"s-{slug:02}", current_version=f"1.{minor}.0").published_summary()
            for slug, minor in layer
        ]
        for entry in entries:
            name = entry.summary.name
            expected[name] = max(expected.get(name, ""), entry.revision)
        size = 3
        packed.append(
            [
                index_blocks.pack(map(index_blocks.entry_of, entries[start : start + size]))
                for start in range(0, len(entries), size)
            ]
        )
    merged = list(index_blocks.iterate(index_blocks.merge(packed, without={"s-07"})))
    expected.pop("s-07", None)
    assert [(e.summary.name, e.revision) for e in merged] == sorted(expected.items())
