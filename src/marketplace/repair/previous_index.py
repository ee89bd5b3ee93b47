"""The index as it was, for a rewrite while PostgreSQL is away: nothing that it lists is dropped.

A row that only PostgreSQL has is known to the old index alone then.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from marketplace.kv.index import read_index
from marketplace.kv.index.blocks import Block, merge, unpack
from marketplace.kv.records import PublishedPage
from marketplace.kv.summaries import decode_summary
from marketplace.ports.env import Env
from marketplace.skills.skill import PublishedSummary


@dataclass(frozen=True, slots=True)
class KeptIndex:
    """All summaries of an index, compressed."""

    blocks: Sequence[Block]

    @classmethod
    async def read(cls, env: Env) -> Self:
        """As much of the present index as can be read. Raises KvError."""
        reading = await read_index(env)
        return cls(merge(reading.layers()))

    def merged_with(self, page: PublishedPage, after: str) -> list[PublishedSummary]:
        """The skills after the slug ``after`` in a page's range: its records, and what only the
        index lists; of two states of one skill the newer one."""
        until = None if page.cursor is None else page.last_slug
        if until is None and page.cursor is not None:
            return []  # no record, so the range stays open for the next page
        merged = {entry.summary.name: entry for entry in page.summaries}
        moved = {note.name for note in page.moved}
        for old in self._between(after, until):
            name = old.summary.name
            record = merged.get(name)
            if name not in moved and (record is None or _is_newer(old, record)):
                merged[name] = old
        return list(merged.values())

    def _between(self, after: str, until: str | None) -> Iterator[PublishedSummary]:
        for block in self.blocks:
            if block.last <= after or (until is not None and block.first > until):
                continue
            for name, line in unpack(block):
                if name > after and (until is None or name <= until):
                    yield decode_summary(line)


def _is_newer(old: PublishedSummary, record: PublishedSummary) -> bool:
    same = old.summary.identity == record.summary.identity
    return same and old.revision > record.revision
