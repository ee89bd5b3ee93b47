"""Reading the index, of any shape and in any condition."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from marketplace.basics.concurrency import SIMULTANEOUS_CONNECTIONS, map_bounded
from marketplace.basics.json_text import InvalidData
from marketplace.kv import access as kv_access
from marketplace.kv.index.blocks import Block, BlockBuilder, entry_of, find
from marketplace.kv.index.manifest import Manifest, PageRef, decode_page, read_manifest
from marketplace.kv.index.original_shape import read_original_shape
from marketplace.kv.keys import INDEX_KEY
from marketplace.kv.summaries import decode_summary
from marketplace.ports.env import Env
from marketplace.ports.kv import KV_VALUE_LIMIT
from marketplace.skills.skill import PublishedSummary

MAX_PROBLEMS: Final = 20
# Two are left to the enumeration and the outbox, which are read at the same time.
PAGES_AT_ONCE: Final = SIMULTANEOUS_CONNECTIONS - 2


@dataclass(slots=True)
class IndexReading:
    """What could be read of the index so far; it fills while `read_index` runs.

    ``problems`` says what could not (at most MAX_PROBLEMS); ``complete`` whether there was
    nothing wrong and all was read; ``problem`` why it is no index of ours at all.
    """

    problem: str | None = None
    written_at: str | None = None
    problems: list[str] = field(default_factory=list)
    complete: bool = False
    pages: BlockBuilder = field(default_factory=BlockBuilder)
    recent: BlockBuilder = field(default_factory=BlockBuilder)

    def layers(self) -> list[list[Block]]:
        """The summaries read, for `blocks.merge`; recent ones may repeat others."""
        return [self.pages.blocks(), self.recent.blocks()]

    def note(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


async def read_index(env: Env, into: IndexReading | None = None) -> IndexReading:
    """Read the index, of any shape and in any condition. Raises KvError when KV fails.

    ``into`` is filled on the way, for callers that want what was read before a timeout.
    Memory: all summaries, compressed, and one page or the value of the original shape.
    """
    reading = into if into is not None else IndexReading()
    await _read(env, reading, lambda _: True)
    return reading


async def find_in_index(
    env: Env, slugs: Collection[str], identity: str | None = None
) -> PublishedSummary | None:
    """As `blocks.find`, in the pages that may hold it and can be read. Raises KvError."""
    reading = IndexReading()
    await _read(env, reading, lambda page: any(page.first <= slug <= page.last for slug in slugs))
    try:
        return find([block for layer in reading.layers() for block in layer], slugs, identity)
    except InvalidData as error:
        env.log("index-page-damaged", level="warning", reason=str(error))
        return None


async def _read(env: Env, reading: IndexReading, is_wanted: Callable[[PageRef], bool]) -> None:
    value = await kv_access.get_value(env, INDEX_KEY, max_bytes=KV_VALUE_LIMIT)
    manifest = read_manifest(value)
    if isinstance(manifest, Manifest):
        reading.written_at = manifest.written_at
        read_recent(reading, manifest)
        pages = filter(is_wanted, manifest.pages)
        # All at once, so that one that is late holds up no other.
        await map_bounded(pages, lambda p: _read_page(env, reading, p), at_once=PAGES_AT_ONCE)
        reading.complete = not reading.problems
        return
    reading.problem = manifest
    reading.note(manifest)
    if value is not None:
        await read_original_shape(value, reading.pages.add, reading.note)


def read_recent(reading: IndexReading, manifest: Manifest) -> None:
    for recent in manifest.recent:
        try:
            reading.recent.add([entry_of(decode_summary(bytes(recent.entry)))])
        except InvalidData as error:
            reading.note(f"recent entry: {error}")


async def _read_page(env: Env, reading: IndexReading, page: PageRef) -> None:
    try:
        value = await kv_access.get_value(env, page.key, max_bytes=KV_VALUE_LIMIT)
        reading.pages.add_block(decode_page(page, value))
    except InvalidData as error:
        reading.note(f"page {page.key}: {error}")
