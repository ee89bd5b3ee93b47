"""The index's original shape is still read, in bounded memory and time."""

import asyncio
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.kv.index import blocks as index_blocks
from marketplace.kv.index import original_shape as index_original_shape
from marketplace.kv.index.blocks import iterate, merge
from marketplace.kv.index.manifest import index_header
from marketplace.kv.index.original_shape import BrokenArray, iterate_array
from marketplace.kv.index.reading import read_index
from marketplace.kv.index.writing import add_to_published_index
from marketplace.kv.keys import INDEX_KEY
from marketplace.kv.records import write_record
from marketplace.ports.kv import KV_VALUE_LIMIT
from marketplace.skills.skill import PublishedSummary
from tests.doubles.marketplace import Market, make_skill
from tests.unit.kv.index.indexes import SUMMARY, listing


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
    found = {e.summary.name: e.summary.current_version for e in iterate(merge(reading.layers()))}
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
