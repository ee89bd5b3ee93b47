"""Making one page of a listing: the source's skills and the seed's, in one order."""

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import msgspec

from marketplace.listing import (
    ListingQuery,
    Rank,
    SortDirection,
    cursor_rank,
    encode_cursor,
    matches,
    rank,
)
from marketplace.models import SkillSummary
from marketplace.storage import ListingRows


@dataclass(frozen=True, slots=True)
class Page:
    """``items`` are JSON objects (UTF-8); ``total`` counts all pages; the cursor leads on."""

    items: Sequence[bytes]
    total: int
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Window:
    """Which of the source's rows a page can need, when some seed skills are merged in."""

    offset: int
    limit: int


Entry = tuple[Rank, bytes]
"""A place in the order, and the JSON object (UTF-8) that belongs there."""


def window(query: ListingQuery, seeded: int) -> Window:
    """At most ``seeded`` entries before the page come from the seed, so begin that much earlier.

    One row more than the page, to know whether there is a next one.
    """
    if query.cursor is not None:
        return Window(0, query.limit + 1)
    offset = max(0, query.offset - seeded)
    return Window(offset, query.offset + query.limit - offset + 1)


def merge_page(query: ListingQuery, seeded: Sequence[Entry], rows: ListingRows) -> Page:
    """The page made of the seed's entries, by ``matching``, and of the rows of ``window``."""
    descending = query.sort_dir is SortDirection.DESC
    listed = [(Rank(row.key, row.name, descending), row.item) for row in rows.rows]
    total = rows.total + len(seeded)
    after = cursor_rank(query)
    if after is not None:
        merged = heapq.merge([e for e in seeded if after < e[0]], listed, key=_by_rank)
        return _cut(query, list(merged), total)
    skip = query.offset - window(query, len(seeded)).offset
    merged_entries = list(heapq.merge(seeded, listed, key=_by_rank))
    return _cut(query, merged_entries[skip:], total)


def matching(skills: Iterable[SkillSummary], query: ListingQuery) -> list[Entry]:
    """The skills that belong in the listing, in its order."""
    entries = [
        (rank(skill, query), encode_item(skill)) for skill in skills if matches(skill, query)
    ]
    return sorted(entries, key=_by_rank)


class SkillSet(Protocol):
    """Many skills without an order of their own; can be gone through again."""

    def __iter__(self) -> Iterator[SkillSummary]: ...

    def pick(self, names: Collection[str]) -> Iterable[SkillSummary]:
        """Those of these slugs, without going through all if that can be avoided."""


def page_of(
    query: ListingQuery, seed: Iterable[SkillSummary], skills: SkillSet | None = None
) -> Page:
    """The page out of the seed and a whole source.

    All are gone through for positions, then the page's entries alone are picked, so that no more
    than positions are ever held, however deep the page.
    """
    after = cursor_rank(query)
    total = 0

    def positions() -> Iterator[Rank]:
        nonlocal total
        for skill in chain(seed, () if skills is None else skills):
            if matches(skill, query):
                total += 1
                position = rank(skill, query)
                if after is None or after < position:
                    yield position

    first = 0 if query.cursor is not None else query.offset
    wanted = heapq.nsmallest(first + query.limit + 1, positions())[first:]
    names = {position.name for position in wanted}
    of_seed = (skill for skill in seed if skill.name in names)
    picked = chain(of_seed, () if skills is None else skills.pick(names))
    found = {skill.name: encode_item(skill) for skill in picked}
    return _cut(query, [(position, found[position.name]) for position in wanted], total)


def encode_item(skill: SkillSummary) -> bytes:
    """A summary as the JSON object that listings carry."""
    return msgspec.json.encode(skill)


def _by_rank(entry: Entry) -> Rank:
    return entry[0]


def _cut(query: ListingQuery, entries: Sequence[Entry], total: int) -> Page:
    page = entries[: query.limit]
    more = len(entries) > query.limit and bool(page)
    next_cursor = encode_cursor(query, page[-1][0]) if more else None
    return Page([item for _, item in page], total, next_cursor)
