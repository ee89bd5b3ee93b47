"""The differences of one slug range between KV's records and the table."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from marketplace.kv.records import PublishedPage
from marketplace.ports.database import Difference, DifferenceKind, SkillDatabase
from marketplace.skills.skill import PublishedSummary

_DIFFERENCES_AT_ONCE: Final = 1000

_ROW_WINS: Final = {DifferenceKind.NEWER_IN_DATABASE, DifferenceKind.MISSING_IN_KV}
_OVERWRITTEN: Final = {*_ROW_WINS, DifferenceKind.OTHER_SLUG, DifferenceKind.TAKEN_SLUG}
"""Differences whose repair replaces what KV has under the slug."""


def unmarked_slugs(
    page: PublishedPage, differences: Sequence[Difference], after: str, until: str | None
) -> list[str]:
    """The slugs in a range whose records lack metadata, and are not written anyway."""
    written = {found.name for found in differences if found.kind in _OVERWRITTEN}
    return [
        name
        for name in page.without_metadata
        if _is_within(name, after, until) and name not in written
    ]


async def find_differences(
    page: PublishedPage, after: str, database: SkillDatabase
) -> AsyncIterator[tuple[Sequence[Difference], str | None]]:
    """The differences of a page's range after a slug, in portions, each with its last slug, which
    is None in the last portion."""
    if page.cursor is not None and page.last_slug is None:
        return  # no record, so the range stays open for the next page
    until = None if page.cursor is None else page.last_slug
    keys = page.record_keys()
    while True:
        differences = await database.compare_range(
            [key for key in keys if key.name > after],
            after=after,
            until=until,
            limit=_DIFFERENCES_AT_ONCE,
        )
        if len(differences) < _DIFFERENCES_AT_ONCE:
            yield differences, None
            return
        after = differences[-1].name
        yield differences, after


def merge_portion(
    page: PublishedPage,
    start: str,
    portion: tuple[str, str | None],
    differences: Sequence[Difference],
) -> Sequence[PublishedSummary]:
    """A record, or the row where that is newer or alone; a moved record is listed by its row.

    ``start`` is the slug before the page, ``portion`` the part of its range that the differences
    are of.
    """
    last = None if page.cursor is None else page.last_slug
    merged = {e.summary.name: e for e in page.summaries if _is_within(e.summary.name, *portion)}
    moved = [d for d in differences if d.kind is DifferenceKind.OTHER_SLUG]
    for difference in moved:
        merged.pop(difference.name, None)
    named = {entry.summary.name for entry in page.summaries}
    for difference in moved:
        row = difference.row  # its own difference may be left out, since KV names the skill here
        if row is not None and row.name not in named and _is_within(row.name, start, last):
            merged[row.name] = row.published_summary()
    for difference in differences:
        if difference.kind in _ROW_WINS and difference.row is not None:
            merged[difference.name] = difference.row.published_summary()
    return list(merged.values())


def _is_within(name: str, after: str, until: str | None) -> bool:
    """Whether a slug is in a range, of which ``until`` None has no end."""
    return name > after and (until is None or name <= until)
