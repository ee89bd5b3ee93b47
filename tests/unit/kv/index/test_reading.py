"""A damaged index is reported, hides nothing, and is repaired."""

import asyncio
import base64
import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace.basics.timestamps import EPOCH
from marketplace.catalog import listings
from marketplace.catalog.answer import Source
from marketplace.kv.index import writing as index_writing
from marketplace.kv.index.blocks import iterate, merge
from marketplace.kv.index.manifest import index_header
from marketplace.kv.index.reading import read_index
from marketplace.kv.index.writing import add_to_published_index
from marketplace.kv.keys import INDEX_KEY, INDEX_PAGE_PREFIX, index_page_key
from marketplace.ports.database import DatabaseSession
from marketplace.ports.kv import KV_VALUE_LIMIT
from marketplace.skills.listing_rules import ListingQuery
from tests.doubles.loop import current_loop
from tests.doubles.marketplace import Market, fault, make_skill, names, new_market, postgres_away
from tests.doubles.network import Fault
from tests.unit.kv.index.indexes import SUMMARY, listing, read_names, write_index, write_records


async def healthy(market: Market) -> None:
    await write_records(market, "a", "b", "c")
    await write_index(market, "g1", "a", "b", "c")
    await asyncio.sleep(2)
    await add_to_published_index(market.env, [make_skill("c", current_version="1.0.1")])
    await asyncio.sleep(2)


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
    assert [e.summary.name for e in iterate(merge(reading.layers()))] == ["a", "b", "e"]
    assert (len(reading.problems), reading.complete) == (1, False)
    market.kv.faults = fault(Fault.FAIL, "list")
    skills = await listing(market)
    assert names(skills) == ["a", "b", "e"]
    assert any("g1:0:1" in reason for reason in skills.degraded)


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
    env = replace(market.env, database=DatabaseSession(postgres_away))
    answer = await listings.get_skills(env, ListingQuery())
    assert (answer.value.total, answer.source) == (3, Source.KV_ENUMERATION)
    assert "kv-index: damaged" in answer.reasons
