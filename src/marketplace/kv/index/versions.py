"""The slugs and revisions that the index has, range by range: to compare it with other sources."""

from typing import Final

from marketplace.basics.concurrency import map_bounded
from marketplace.basics.json_text import InvalidData
from marketplace.kv import access as kv_access
from marketplace.kv.index.blocks import versions
from marketplace.kv.index.manifest import Manifest, PageRef, decode_page
from marketplace.kv.index.reading import IndexReading, read_recent
from marketplace.ports.env import Env
from marketplace.ports.kv import KV_VALUE_LIMIT

PAGES_AT_ONCE: Final = 3


class IndexVersions:
    """Reads each page of one manifest when its range comes, and forgets it behind the range.

    Memory: the slugs and revisions of the pages that overlap one range.
    """

    def __init__(self, env: Env, manifest: Manifest) -> None:
        self._env = env
        self._manifest = manifest
        self._open: dict[str, dict[str, str] | None] = {}  # by key; None: not readable
        self._recent = recent_versions(manifest)

    async def within(self, after: str, until: str | None) -> "FoundInIndex":
        """What the index has of the range (after, until]. Raises KvError."""
        pages = [page for page in self._manifest.pages if _overlaps(page, after, until)]
        self._open = {p.key: self._open[p.key] for p in pages if p.key in self._open}
        unread = [page for page in pages if page.key not in self._open]
        read = await map_bounded(unread, lambda p: read_page(self._env, p), at_once=PAGES_AT_ONCE)
        self._open |= {page.key: found for page, found in zip(unread, read, strict=True)}
        entries: dict[str, str] = {}
        for found in (*self._open.values(), self._recent):
            for slug, revision in (found or {}).items():
                if after < slug and (until is None or slug <= until):
                    entries[slug] = max(entries.get(slug, ""), revision)
        return FoundInIndex(entries, [page for page in pages if self._open[page.key] is None])


class FoundInIndex:
    """Revisions by slug, and the pages that cannot be read."""

    def __init__(self, entries: dict[str, str], unreadable: list[PageRef]) -> None:
        self.entries = entries
        self.unreadable = unreadable

    def may_have(self, slug: str) -> bool:
        """Whether a page that cannot be read may have an entry."""
        return any(page.first <= slug <= page.last for page in self.unreadable)


def recent_versions(manifest: Manifest) -> dict[str, str]:
    """Revisions by slug of what was published since the pages were written."""
    reading = IndexReading()
    read_recent(reading, manifest)
    return {slug: rev for block in reading.recent.blocks() for slug, rev in versions(block)}


async def read_page(env: Env, page: PageRef) -> dict[str, str] | None:
    """Revisions by slug; None for a page that is not there, or is damaged. Raises KvError."""
    value = await kv_access.get_value(env, page.key, max_bytes=KV_VALUE_LIMIT)
    try:
        return dict(versions(decode_page(page, value)))
    except InvalidData:
        return None


def _overlaps(page: PageRef, after: str, until: str | None) -> bool:
    return page.last > after and (until is None or page.first <= until)
