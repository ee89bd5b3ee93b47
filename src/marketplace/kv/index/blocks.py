"""Large sets of listing summaries in little memory: sorted, encoded and compressed in blocks.

A block is the compressed lines of some thousand summaries in slug order, each slug once. 110,000
summaries take about a quarter of their JSON; merging sets opens only blocks that overlap.
"""

import heapq
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import reduce
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple, TypeVar

import msgspec

from marketplace.basics.json_text import InvalidData
from marketplace.kv.summaries import (
    SummaryHead,
    decode_for_matching,
    decode_summary,
    encode_summary,
)
from marketplace.skills.skill import PublishedSummary, SkillSummary

BLOCK_SIZE: Final = 5_000  # summaries: 2 to 5 MB of JSON, about 1 MB compressed
MAX_BLOCK_BYTES: Final = 16 * 1024 * 1024  # unpacked: three times what the longest summaries make
_COMPRESSION_LEVEL: Final = 1
"""Measured (bench/published_index.py): 28 % of the JSON; level 6: 24 % in four times the time."""

Entry = tuple[str, bytes]
"""A slug and its encoded summary."""

_slug: Callable[[Entry], str] = itemgetter(0)


T = TypeVar("T")

_head_decoder = msgspec.json.Decoder(SummaryHead)


class Block(NamedTuple):
    """``size`` summaries with slugs from ``first`` to ``last``; ``data`` is zlib's format."""

    first: str
    last: str
    size: int
    data: bytes


def entry_of(published: PublishedSummary) -> Entry:
    return published.summary.name, encode_summary(published)


def pack(entries: Iterable[Entry]) -> Block:
    """Make a block of at least one entry, keeping the newest for each slug."""
    ordered = list(_one_each(sorted(entries, key=_slug)))
    lines = b"\n".join(line for _, line in ordered)
    data = zlib.compress(lines, _COMPRESSION_LEVEL)
    return Block(ordered[0][0], ordered[-1][0], len(ordered), data)


def unpack(block: Block) -> Iterator[Entry]:
    """The entries of a block, in slug order. Raises InvalidData for damaged data."""
    return _decode(block, lambda line: (_head_decoder.decode(line).name, line))


def versions(block: Block) -> Iterator[tuple[str, str]]:
    """Slug and revision of each entry. Raises InvalidData for damaged data."""
    heads = _decode(block, _head_decoder.decode)
    return ((head.name, head.revision) for head in heads)


def _decode(block: Block, decode: Callable[[bytes], T]) -> Iterator[T]:
    try:
        for line in zlib.decompress(block.data).split(b"\n"):
            yield decode(line)
    except (zlib.error, ValueError) as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> InvalidData:
    return InvalidData(f"damaged block: {str(error)[:100]}")


def check(block: Block) -> Block:
    """The block, if its data has the number of lines and the first and the last slug that it says.

    Lines in between are not looked at. Raises InvalidData.
    """
    try:
        unpacker = zlib.decompressobj()
        lines = unpacker.decompress(block.data, MAX_BLOCK_BYTES)
        if not unpacker.eof or lines.count(b"\n") + 1 != block.size:
            raise InvalidData("not the summaries that it should be")
        ends = (lines.split(b"\n", 1)[0], lines.rsplit(b"\n", 1)[-1])
        if [_head_decoder.decode(line).name for line in ends] != [block.first, block.last]:
            raise InvalidData("not from and to the slugs that it should be")
    except (zlib.error, msgspec.DecodeError) as error:
        raise _damaged(error) from error
    return block


def iterate(blocks: Iterable[Block]) -> Iterator[PublishedSummary]:
    """Decode the summaries of blocks, one block in the open at a time. Raises InvalidData."""
    for block in blocks:
        yield from _decode(block, decode_summary)


def iterate_for_matching(blocks: Iterable[Block]) -> Iterator[SkillSummary]:
    """As `iterate`, by `decode_for_matching`."""
    for block in blocks:
        yield from _decode(block, decode_for_matching)


def pick(blocks: Iterable[Block], names: Collection[str]) -> Iterator[PublishedSummary]:
    """The summaries of some slugs; opens only blocks that may hold one."""
    for block in blocks:
        wanted = {name for name in names if block.first <= name <= block.last}
        if wanted:
            for name, line in unpack(block):
                if name in wanted:
                    yield decode_summary(line)


def find(
    blocks: Iterable[Block], slugs: Collection[str], identity: str | None = None
) -> PublishedSummary | None:
    """The newest summary of one of these slugs and, if given, this identity. Raises InvalidData."""
    entries = pick(blocks, slugs)
    wanted = (entry for entry in entries if identity in (None, entry.summary.identity))
    return max(wanted, key=lambda entry: entry.revision, default=None)


class BlockBuilder:
    """Collects summaries in any order into blocks. At most one block is held uncompressed."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._open: list[Entry] = []

    def add(self, entries: Iterable[Entry]) -> None:
        """Take more entries; repeats over several blocks are sorted out by `merge`."""
        for entry in entries:
            self._open.append(entry)
            if len(self._open) == BLOCK_SIZE:
                self._close()

    def add_block(self, block: Block) -> None:
        self._blocks.append(block)

    def blocks(self) -> list[Block]:
        self._close()
        return list(self._blocks)

    def _close(self) -> None:
        if self._open:
            self._blocks.append(pack(self._open))
            self._open = []


def count(blocks: Iterable[Block]) -> int:
    """Of summaries."""
    return sum(block.size for block in blocks)


def merge(
    layers: Sequence[Sequence[Block]], *, without: Collection[str] = frozenset()
) -> list[Block]:
    """Blocks that hold each slug of any layer once, in slug order, those in ``without`` left out.

    Of several states of one skill the one with the greatest revision is taken. Where layers give
    one slug to different skills, the skill of the earlier layer keeps it. Blocks that overlap no
    other pass through unopened. Raises InvalidData.
    """
    merged: list[Block] = []
    for cluster in _overlapping(layers):
        (_, block), *others = cluster
        if others or any(block.first <= slug <= block.last for slug in without):
            builder = BlockBuilder()
            entries = _one_each(_in_order(cluster))
            builder.add(entry for entry in entries if entry[0] not in without)
            merged += builder.blocks()
        else:
            merged.append(block)
    return merged


_Layered = tuple[int, Block]


def _overlapping(layers: Sequence[Sequence[Block]]) -> Iterator[list[_Layered]]:
    """The blocks of all layers, in groups such that no slug can be in two groups."""
    numbered = [(layer, block) for layer, blocks in enumerate(layers) for block in blocks]
    group: list[_Layered] = []
    last = ""
    for layer, block in sorted(numbered, key=lambda layered: layered[1].first):
        if group and block.first > last:
            yield group
            group = []
        last = max(last, block.last) if group else block.last
        group.append((layer, block))
    if group:
        yield group


_Open = tuple[str, int, int, bytes, Iterator[Entry]]
"""The next entry of an open block: slug, layer, number (unlike any other's), line, the rest."""


def _in_order(blocks: Sequence[_Layered]) -> Iterator[Entry]:
    """Entries by slug, then layer. ``blocks`` come by first slug and open when their turn comes."""
    waiting = deque(blocks)
    heap: list[_Open] = []
    opened = 0
    while heap or waiting:
        while waiting and (not heap or waiting[0][1].first <= heap[0][0]):
            layer, block = waiting.popleft()
            opened += 1
            _push(heap, layer, opened, unpack(block))
        slug, layer, number, line, entries = heapq.heappop(heap)
        yield slug, line
        _push(heap, layer, number, entries)


def _push(heap: list[_Open], layer: int, number: int, entries: Iterator[Entry]) -> None:
    for slug, line in entries:
        heapq.heappush(heap, (slug, layer, number, line, entries))
        return


def _one_each(ordered: Iterable[Entry]) -> Iterator[Entry]:
    for slug, entries in groupby(ordered, key=_slug):
        yield slug, reduce(_newer, (line for _, line in entries))


def _newer(standing: bytes, line: bytes) -> bytes:
    if line == standing:  # as in nearly all of the index; the rest takes longer
        return standing
    if _head_decoder.decode(line).revision <= _head_decoder.decode(standing).revision:
        return standing
    is_same = decode_summary(line).summary.identity == decode_summary(standing).summary.identity
    return line if is_same else standing
