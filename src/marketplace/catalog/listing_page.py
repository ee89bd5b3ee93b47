"""Making one page of a listing: the source's skills and the seed's, in one order."""

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from marketplace.ports.database import ListingRows
from marketplace.skills.listing_rules import (
    ListingQuery,
    Rank,
    SortDirection,
    SortKey,
    cursor_rank,
    encode_cursor,
    matches,
    rank,
    sort_key,
    total_of,
)
from marketplace.skills.skill import SkillSummary


@dataclass(frozen=True, slots=True)
class Page:
    """``items`` are JSON objects (UTF-8); ``total`` counts all pages, or is a floor; the cursor
    leads on."""

    items: Sequence[bytes]
    total: int
    next_cursor: str | None
    total_is_exact: bool = True

    def summaries(self) -> list[SkillSummary]:
        """The items, read."""
        return [_read_summary(item) for item in self.items]


class Window(NamedTuple):
    """Which of the source's rows a page can need, when some seed skills are merged in."""

    offset: int
    limit: int


Entry = tuple[Rank, bytes]
"""A place in the order, and the JSON object (UTF-8) that belongs there."""

_read_summary: Final = msgspec.json.Decoder(SkillSummary).decode
_first_of: Final[Any] = itemgetter(0)  # of one type within a listing, so that they compare


def window(query: ListingQuery, seeded: int) -> Window:
    """At most ``seeded`` skills before the page come from the seed, so begin that much earlier.

    One row more than the page, to know whether there is a next one.
    """
    if query.cursor is not None:
        return Window(0, query.limit + 1)
    offset = max(0, query.offset - seeded)
    return Window(offset, query.offset + query.limit - offset + 1)


def merge_page(
    query: ListingQuery, seeded: Sequence[Entry], rows: ListingRows, asked: Window
) -> Page:
    """The page made of the seed's entries, by ``matching``, and of the rows of a window."""
    descending = query.sort_dir is SortDirection.DESC
    listed = [(Rank(row.key, row.name, descending), row.item) for row in rows.rows]
    total = rows.total + len(seeded)
    after = cursor_rank(query)
    if after is not None:
        seeded = [entry for entry in seeded if after < entry[0]]
    merged = list(heapq.merge(seeded, listed, key=_first_of))
    skip = 0 if after is not None else query.offset - asked.offset
    return _cut(query, merged[skip:], total)


def matching(skills: Iterable[SkillSummary], query: ListingQuery) -> list[Entry]:
    entries = [
        (rank(skill, query), msgspec.json.encode(skill))
        for skill in skills
        if matches(skill, query)
    ]
    return sorted(entries, key=_first_of)


class WholeSource(Protocol):
    """A source that has no order of its own: its skills in slug order, none of the seed's."""

    def __iter__(self) -> Iterator[SkillSummary]:
        """Every skill, for filters and sort keys."""

    @property
    def most(self) -> int:
        """An upper bound for the number of skills."""

    def pick(self, names: Collection[str]) -> Iterable[SkillSummary]:
        """The skills of some slugs, whole."""


def page_of(query: ListingQuery, source: WholeSource | None, seed: Iterable[SkillSummary]) -> Page:
    """The page out of a whole source, if there is one, and the seed.

    The source is gone through for sort keys alone, and those are held from the nearer end to the
    page: of 110,000 skills no more than half, however deep the page.
    """
    after = cursor_rank(query)
    seeded = matching(seed, query)
    total = len(seeded)
    descending = query.sort_dir is SortDirection.DESC

    def keys() -> Iterator[_Key]:
        nonlocal total
        for skill in source or ():
            if matches(skill, query):
                total += 1
                key = sort_key(skill, query)
                if after is None or after < Rank(key, skill.name, descending):
                    yield key, skill.name

    first = 0 if query.cursor is not None else query.offset
    from_start = first + query.limit + 1
    # What is left out has to come before the page, however many of the seed's do.
    most = 0 if source is None else source.most
    from_end = max(most + len(seeded) - first, 1)  # choosing none would count none
    if after is not None or from_start <= from_end:
        chosen, left_out = _first(from_start, keys(), descending), 0
    else:
        chosen = _last(from_end, keys(), descending)
        left_out = total - len(seeded) - len(chosen)
    surplus = max(first - left_out - len(seeded), 0)
    left_out += surplus
    chosen = chosen[surplus : surplus + len(seeded) + query.limit + 1]
    positions = [Rank(key, name, descending) for key, name in chosen]
    items = {p.name: item for p, item in seeded if after is None or after < p}
    seeded_positions = [position for position, _ in seeded if position.name in items]
    begin = first - left_out
    wanted = list(heapq.merge(seeded_positions, positions))[begin : begin + query.limit + 1]
    if source is not None:
        names = {position.name for position in wanted} - items.keys()
        items |= {skill.name: msgspec.json.encode(skill) for skill in source.pick(names)}
    return _cut(query, [(position, items[position.name]) for position in wanted], total)


_Key = tuple[SortKey, str]
"""A sort key and the slug that it belongs to."""


def _first(number: int, keys: Iterable[_Key], descending: bool) -> list[_Key]:
    # Both keep equal keys in the order they come in, which is by slug.
    choose = heapq.nlargest if descending else heapq.nsmallest
    return choose(number, keys, key=_first_of)


def _last(number: int, keys: Iterable[_Key], descending: bool) -> list[_Key]:
    """The last so many in the listing's order: of equal keys those that come in last."""
    sign = -1 if descending else 1
    numbered = ((key, sign * n, name) for n, (key, name) in enumerate(keys))
    choose = heapq.nsmallest if descending else heapq.nlargest
    return [(key, name) for key, _, name in reversed(choose(number, numbered))]


def _cut(query: ListingQuery, entries: Sequence[Entry], total: int) -> Page:
    page = entries[: query.limit]
    more = len(entries) > query.limit and bool(page)
    next_cursor = encode_cursor(query, page[-1][0]) if more else None
    told = total_of(query, total)
    return Page([item for _, item in page], told.count, next_cursor, told.is_exact)
