"""The index ``skills:published-index``: a cache of all listing summaries, never a source of truth.

One manifest names the pages of its generation. Pages are written first, each under a key that no
other generation uses, and the manifest last, so that a reader sees one generation or another and
never half of each. What was published since is in the manifest's bounded ``recent`` list.

Everything in it can be made again from the records (`IndexWriter`), so whatever is wrong with it
is reported in `IndexReading.problems` and not raised: only KV itself failing raises KvError.
"""

import asyncio
import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Final, Literal

import msgspec

from marketplace import json_text, kv_access
from marketplace.env import Env
from marketplace.json_arrays import BrokenArray, iterate_array
from marketplace.kv_keys import INDEX_KEY, INDEX_PAGE_PREFIX, index_page_key
from marketplace.kv_records import decode_summary, encode_summary
from marketplace.models import InvalidRecord, PublishedSummary, Skill, read_skill
from marketplace.storage import KV_VALUE_LIMIT, Fingerprint, KvError, KvRateLimited
from marketplace.summary_blocks import (
    BLOCK_SIZE,
    Block,
    BlockBuilder,
    check,
    entry_of,
    find,
    iterate,
    merge,
    pack,
)
from marketplace.timestamps import EPOCH, format_timestamp, parse_timestamp, seconds_between

RECENT_LIMIT: Final = 500
"""Summaries in the manifest itself; beyond it the oldest are left to the next full write."""
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MIN_WRITE_INTERVAL: Final = 1.0  # seconds: KV refuses more writes to one key
CARRIED_SECONDS: Final = 120.0
"""A full write keeps recent entries this much older than its own beginning, since the
enumeration it is made from may be 60 s behind."""
ABANDONED_SECONDS: Final = 24 * 3600.0
"""Older pages of no known generation are removed. A rebuild takes minutes, but one that stalled is
resumed, perhaps hours later, and must find the pages it has written."""
MAX_SWEPT: Final = 50  # pages removed after one write, an operation each
MAX_PROBLEMS: Final = 20
MAX_UNREADABLE: Final = 10_000
"""Entries of the original shape that may be unreadable; with more it is no list of skills."""
_ENTRIES_A_TURN: Final = 500

_FORMAT: Final = "published-index"
_VERSION: Final = 1


# --- the manifest -----------------------------------------------------------------------------


class PageRef(msgspec.Struct, frozen=True, rename="camel"):
    """One page: its key, how many summaries, from which slug to which, digest of its value."""

    key: str
    count: int
    first: str
    last: str
    digest: str


class _Recent(msgspec.Struct, frozen=True, rename="camel"):
    added_at: str
    entry: msgspec.Raw  # an encoded summary, decoded on its own: one broken entry hides no other


class _Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    format: Literal["published-index"] = _FORMAT
    version: Literal[1] = _VERSION
    generation: str
    written_at: str  # the manifest
    rebuilt_at: str | None  # the pages; None: only `add_to_published_index` has written it
    count: int
    fingerprint: Fingerprint
    pages: list[PageRef]
    recent: list[_Recent] = []
    previous_pages: list[str] = []  # keys of the generation before; readers may still be there


class _Described(msgspec.Struct):
    """Enough of an unknown manifest to say what it is."""

    format: str | None = None
    version: int | str | None = None


@dataclass(frozen=True, slots=True)
class IndexHeader:
    """What the manifest alone tells.

    ``count`` and ``fingerprint`` are of the pages; ``recent`` entries were added since and may be
    new skills or new states of listed ones, so the index has ``count`` to ``count + recent``.
    ``problem`` says why there is no usable manifest (``missing``, ``damaged: …``, ``original
    shape``); everything else is then empty.
    """

    problem: str | None = None
    generation: str | None = None
    count: int = 0
    recent: int = 0
    fingerprint: Fingerprint | None = None
    written_at: str | None = None
    rebuilt_at: str | None = None
    age_seconds: float | None = None


async def index_header(env: Env) -> IndexHeader:
    """Count, age and fingerprint of the index, from one read. Raises KvError."""
    value = await kv_access.get_value(env, INDEX_KEY, max_bytes=KV_VALUE_LIMIT)
    manifest = _read_manifest(value)
    if isinstance(manifest, str):
        return IndexHeader(problem=manifest)
    return IndexHeader(
        generation=manifest.generation,
        count=manifest.count,
        recent=len(manifest.recent),
        fingerprint=manifest.fingerprint,
        written_at=manifest.written_at,
        rebuilt_at=manifest.rebuilt_at,
        age_seconds=_age(env, manifest.rebuilt_at or manifest.written_at),
    )


def _age(env: Env, moment: str) -> float | None:
    try:
        return seconds_between(moment, env.now())
    except (ValueError, OverflowError):
        return None  # a damaged time: no age


_MISSING: Final = "missing"
_ORIGINAL_SHAPE: Final = "original shape"


def _read_manifest(value: bytes | None) -> _Manifest | str:
    """The manifest, or what is there instead of one."""
    if value is None:
        return _MISSING
    if _array_start(value) is not None:
        return _ORIGINAL_SHAPE
    if len(value) > MAX_MANIFEST_BYTES:
        return f"damaged: a manifest of {len(value)} bytes"
    try:
        manifest = json_text.decode(value, _Manifest)
    except json_text.UnreadableJson as error:
        return f"damaged: {_describe(value) or str(error)[:100]}"
    if manifest.count != sum(page.count for page in manifest.pages):
        return "damaged: the pages do not add up to the count"
    return manifest


def _describe(value: bytes) -> str | None:
    try:
        found = json_text.decode(value, _Described)
    except json_text.UnreadableJson:
        return None
    if found.format == _FORMAT and found.version != _VERSION:
        return f"version {found.version!r:.20}, not {_VERSION}"
    return None


_LIST = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[")
_NAMED_LIST = re.compile(
    rb'(?:\xef\xbb\xbf)?\s*\{(?:(?!"format").)*?"(?:skills|items)"\s*:\s*\[', re.DOTALL
)
_NAMED_LIST_WITHIN: Final = 4096  # bytes from the start


def _array_start(value: bytes) -> int | None:
    """Where the list begins, in a value of the original shape or of one with a named list."""
    match = _LIST.match(value) or _NAMED_LIST.match(value[:_NAMED_LIST_WITHIN])
    return match.end() - 1 if match else None


# --- reading ----------------------------------------------------------------------------------


@dataclass(slots=True)
class IndexReading:
    """What could be read of the index so far; it fills while `read_index` runs.

    ``problems`` says what could not (at most MAX_PROBLEMS); ``complete`` whether there was
    nothing wrong and all was read; ``problem`` why it is no index of ours at all.
    """

    problem: str | None = None
    written_at: str | None = None
    rebuilt_at: str | None = None
    problems: list[str] = field(default_factory=list)
    complete: bool = False
    pages: BlockBuilder = field(default_factory=BlockBuilder)
    recent: BlockBuilder = field(default_factory=BlockBuilder)

    def layers(self) -> list[list[Block]]:
        """The summaries read, for `summary_blocks.merge`; recent ones may repeat others."""
        return [self.pages.blocks(), self.recent.blocks()]

    def summaries(self) -> Iterator[PublishedSummary]:
        """Every skill once, in slug order."""
        return iterate(merge(self.layers()))

    def note(self, problem: str) -> None:
        """Remember something that is wrong."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


async def read_index(env: Env, into: IndexReading | None = None) -> IndexReading:
    """Read the index, of any shape and in any condition. Raises KvError when KV fails.

    ``into`` is filled on the way, for callers that want what was read before a timeout.
    Memory: all summaries, compressed, and one page or the value of the original shape.
    """
    reading = into if into is not None else IndexReading()
    value = await kv_access.get_value(env, INDEX_KEY, max_bytes=KV_VALUE_LIMIT)
    manifest = _read_manifest(value)
    if isinstance(manifest, _Manifest):
        reading.written_at, reading.rebuilt_at = manifest.written_at, manifest.rebuilt_at
        _read_recent(reading, manifest)
        for page in manifest.pages:
            await _read_page(env, reading, page)
        reading.complete = not reading.problems
    else:
        reading.problem = manifest
        reading.note(manifest)
        if value is not None and manifest == _ORIGINAL_SHAPE:
            await _read_original(reading, value)
    return reading


async def find_in_index(
    env: Env, slugs: Collection[str], identity: str | None = None
) -> PublishedSummary | None:
    """The newest summary that the index has under one of these slugs (of this identity, if one is
    given), as far as it can be read.

    Reads the manifest and the pages that may hold them. Raises KvError when KV fails.
    """
    reading = IndexReading()
    value = await kv_access.get_value(env, INDEX_KEY, max_bytes=KV_VALUE_LIMIT)
    manifest = _read_manifest(value)
    if isinstance(manifest, _Manifest):
        _read_recent(reading, manifest)
        for page in manifest.pages:
            if any(page.first <= slug <= page.last for slug in slugs):
                await _read_page(env, reading, page)
    elif value is not None and manifest == _ORIGINAL_SHAPE:
        await _read_original(reading, value)
    try:
        return find([block for layer in reading.layers() for block in layer], slugs, identity)
    except InvalidRecord as error:
        env.log("index-page-damaged", level="warning", reason=str(error))
        return None


def _read_recent(reading: IndexReading, manifest: _Manifest) -> None:
    for recent in manifest.recent:
        try:
            reading.recent.add([entry_of(decode_summary(bytes(recent.entry)))])
        except InvalidRecord as error:
            reading.note(f"recent entry: {error}")


async def _read_page(env: Env, reading: IndexReading, page: PageRef) -> None:
    try:
        value = await kv_access.get_value(env, page.key, max_bytes=KV_VALUE_LIMIT)
        reading.pages.add_block(_decode_page(page, value))
    except InvalidRecord as error:
        reading.note(f"page {page.key}: {error}")


def _decode_page(page: PageRef, value: bytes | None) -> Block:
    if value is None:
        raise InvalidRecord("missing")
    if _digest(value) != page.digest:
        raise InvalidRecord("damaged")
    try:
        data = base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise InvalidRecord("damaged") from error
    return check(Block(page.first, page.last, page.count, data))


def _encode_page(block: Block) -> bytes:
    """KV values are text, so the compressed lines travel as base64."""
    return base64.b64encode(block.data)


def _digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()[:16]


async def _read_original(reading: IndexReading, value: bytes) -> None:
    entries = _original_entries(reading, value)
    while some := list(islice(entries, _ENTRIES_A_TURN)):
        reading.pages.add([entry_of(entry) for entry in some if entry is not None])
        await asyncio.sleep(0)  # long work without I/O: let a deadline pass


def _original_entries(reading: IndexReading, value: bytes) -> Iterator[PublishedSummary | None]:
    """The summaries or whole records in a plain list, one at a time; None for an unreadable one,
    so that a list of nothing but those is long work like any other."""
    unreadable = 0
    try:
        for number, element in enumerate(iterate_array(value, _array_start(value) or 0)):
            try:
                entry = _original_entry(element)
            except (ValueError, ArithmeticError, RecursionError) as error:
                reading.note(f"entry {number}: {str(error)[:100]}")
                unreadable += 1
                entry = None
            if unreadable > MAX_UNREADABLE:
                reading.note(f"damaged: more than {MAX_UNREADABLE} unreadable entries")
                return
            yield entry
    except BrokenArray as error:
        reading.note(f"damaged: {error}")


def _original_entry(element: bytes) -> PublishedSummary:
    """An entry without its own revision: older than any record of the same version and time."""
    published = read_skill(kv_access.decode_json(element)).published_summary()
    return PublishedSummary(published.summary, published.revision.rpartition("|")[0] + "|")


# --- writing ----------------------------------------------------------------------------------


class IndexProgress(msgspec.Struct, kw_only=True, rename="camel"):
    """How far a full write has come: plain data, to be kept between invocations."""

    generation: str
    begun_at: str
    pages: list[PageRef] = []
    count: int = 0
    digest: str = "0" * 16


class IndexWriter:
    """Writes a new generation of the index, over one or more invocations.

    ``add`` summaries in any order, each skill once, ``flush`` before keeping ``progress``, and
    ``finish`` at the end: only then do readers see it. Cut off earlier, nothing has changed.
    Repeating a step from kept progress writes the same keys again. All raise KvError.
    """

    def __init__(self, env: Env, progress: IndexProgress) -> None:
        self.progress = progress
        self._env = env
        self._open: list[PublishedSummary] = []

    @classmethod
    def begin(cls, env: Env, generation: str) -> "IndexWriter":
        """Start a generation; ``generation`` must be new and fit in a key."""
        return cls(env, IndexProgress(generation=generation, begun_at=env.now()))

    async def add(self, summaries: Iterable[PublishedSummary]) -> None:
        """Take more summaries; writes a page for every BLOCK_SIZE of them."""
        for entry in summaries:
            self._open.append(entry)
            if len(self._open) == BLOCK_SIZE:
                await self.flush()

    async def flush(self) -> None:
        """Write what is waiting as a page, however few. ``progress`` is complete afterwards."""
        if not self._open:
            return
        block = pack(map(entry_of, self._open))
        progress = self.progress
        key = index_page_key(progress.generation, len(progress.pages))
        value = _encode_page(block)
        await kv_access.put_value(self._env, key, value)
        page = PageRef(key, block.size, block.first, block.last, _digest(value))
        progress.pages = [*progress.pages, page]
        progress.count += block.size
        progress.digest = add_to_digest(progress.digest, self._open)
        self._open = []

    async def finish(self, *, sweep: bool = True) -> IndexHeader:
        """Show the generation to readers, and remove the one before the previous.

        With ``sweep`` also what earlier writes left behind that were cut off for good.
        Raises KvRateLimited when the manifest was written within the last second: finish again.
        """
        await self.flush()
        env, progress = self._env, self.progress
        value = await kv_access.get_value(env, INDEX_KEY, max_bytes=KV_VALUE_LIMIT)
        old = _read_manifest(value)
        outdated: list[str] = []
        previous: list[str] = []
        recent: list[_Recent] = []
        if isinstance(old, _Manifest):
            recent = _recent_since(old, progress.begun_at)
            if old.generation == progress.generation:  # finished before, and asked to again
                previous = old.previous_pages
            else:
                previous, outdated = [page.key for page in old.pages], old.previous_pages
        now = env.now()
        manifest = _Manifest(
            generation=progress.generation,
            written_at=now,
            rebuilt_at=now,
            count=progress.count,
            fingerprint=Fingerprint(progress.count, progress.digest),
            pages=progress.pages,
            recent=recent,
            previous_pages=previous,
        )
        await kv_access.put_value(env, INDEX_KEY, msgspec.json.encode(manifest))
        await _remove_pages(env, outdated)
        if sweep:
            await _sweep(env, {page.key for page in manifest.pages} | set(previous))
        return IndexHeader(
            generation=manifest.generation,
            count=manifest.count,
            recent=len(recent),
            fingerprint=manifest.fingerprint,
            written_at=now,
            rebuilt_at=now,
            age_seconds=0.0,
        )


def add_to_digest(digest: str, summaries: Iterable[PublishedSummary]) -> str:
    """Add skills to the digest of a `Fingerprint`."""
    versions = ((entry.summary.name, entry.revision) for entry in summaries)
    return add_versions_to_digest(digest, versions)


def add_versions_to_digest(digest: str, versions: Iterable[tuple[str, str]]) -> str:
    """Add skills, given by slug and revision, to the digest of a `Fingerprint`."""
    total = int(digest, 16)
    for name, revision in versions:
        text = f"{name} {revision}"
        total += int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return f"{total % 2**64:016x}"


def _recent_since(manifest: _Manifest, moment: str) -> list[_Recent]:
    oldest = format_timestamp(parse_timestamp(moment) - timedelta(seconds=CARRIED_SECONDS))
    return [recent for recent in _readable(manifest.recent) if recent.added_at >= oldest]


def _readable(entries: Iterable[_Recent]) -> Iterator[_Recent]:
    """Those that can be read, encoded anew: no damage is handed on to the next manifest."""
    for recent in entries:
        try:
            entry = encode_summary(decode_summary(bytes(recent.entry)))
        except InvalidRecord:
            continue  # whatever it was, its record is in KV; the readers report it
        yield _Recent(recent.added_at, msgspec.Raw(entry))


async def _remove_pages(env: Env, keys: Sequence[str]) -> None:
    """Best effort: a page that stays costs a little space and is never read again."""
    for key in keys:
        if not key.startswith(INDEX_PAGE_PREFIX):
            continue  # damage: never delete anything but pages
        try:
            await kv_access.delete_key(env, key)
        except KvError as error:
            env.log("index-page-not-removed", level="warning", key=key, reason=error.reason)
            return


async def _sweep(env: Env, referenced: Collection[str]) -> None:
    """Remove pages that a write left behind which was cut off for good. Best effort, bounded: one
    list call and MAX_SWEPT deletes; what is beyond them waits for the next write."""
    try:
        listed = await kv_access.list_page(env, INDEX_PAGE_PREFIX)
    except KvError as error:
        env.log("index-not-swept", level="warning", reason=error.reason)
        return
    left = [
        key.name
        for key in listed.keys
        if key.name not in referenced and _is_abandoned(env, key.name)
    ]
    if left:
        env.log("index-pages-left-behind", pages=len(left))
        await _remove_pages(env, left[:MAX_SWEPT])


def _is_abandoned(env: Env, page_key: str) -> bool:
    """Whether a page's generation was begun too long ago to be still under way.

    The name of a generation begins with its time; any other name is left alone.
    """
    begun_at = page_key.removeprefix(INDEX_PAGE_PREFIX)[: len(EPOCH)]
    age = _age(env, begun_at)
    return age is not None and age > ABANDONED_SECONDS


async def add_to_published_index(env: Env, skills: Sequence[Skill]) -> bool:
    """Add skills to the index: one read and one write for a whole batch. True when written.

    Best effort, and never raises: another writer at the same moment may undo it, and it does
    nothing within a second of the last write or when there is no usable manifest. The skills
    are in the records; the next repair of the index brings them in. Each refusal is logged.
    """
    if not skills:
        return False
    try:
        value = await kv_access.get_value(env, INDEX_KEY, max_bytes=KV_VALUE_LIMIT)
        manifest = _read_manifest(value)
        if manifest == _MISSING:
            manifest = _empty_manifest(env)
        elif isinstance(manifest, str):
            return _not_added(env, skills, manifest)
        elif _written_just_now(env, manifest.written_at):
            return _not_added(env, skills, "rate-limited")
        extended = _with_recent(env, manifest, skills)
        await kv_access.put_value(env, INDEX_KEY, msgspec.json.encode(extended))
    except KvError as error:
        return _not_added(env, skills, error.reason)
    return True


def _not_added(env: Env, skills: Sequence[Skill], reason: str) -> bool:
    env.log("index-not-extended", level="warning", skills=len(skills), reason=reason)
    return False


def _written_just_now(env: Env, written_at: str) -> bool:
    age = _age(env, written_at)
    return age is not None and 0 <= age < MIN_WRITE_INTERVAL


def _empty_manifest(env: Env) -> _Manifest:
    return _Manifest(
        generation="",
        written_at=env.now(),
        rebuilt_at=None,
        count=0,
        fingerprint=Fingerprint(0, "0" * 16),
        pages=[],
    )


def _with_recent(env: Env, manifest: _Manifest, skills: Sequence[Skill]) -> _Manifest:
    now = env.now()
    entries = [skill.published_summary() for skill in skills]
    names = {entry.summary.name: entry.revision for entry in entries}
    kept = [recent for recent in _readable(manifest.recent) if not _outdated(recent, names)]
    added = [_Recent(now, msgspec.Raw(encode_summary(entry))) for entry in entries]
    recent = [*kept, *added]
    if len(recent) > RECENT_LIMIT:
        left_out = len(recent) - RECENT_LIMIT
        env.log("index-recent-full", level="warning", left_out=left_out)
        recent = recent[-RECENT_LIMIT:]
    return msgspec.structs.replace(manifest, written_at=now, recent=recent)


def _outdated(recent: _Recent, revisions: dict[str, str]) -> bool:
    entry = decode_summary(bytes(recent.entry))
    return revisions.get(entry.summary.name, "") >= entry.revision


def new_generation(env: Env) -> str:
    """A name for a generation that no other has, beginning with its time."""
    return f"{env.now()}-{secrets.token_hex(4)}"


async def rewrite_index(
    env: Env, summaries: Iterable[PublishedSummary], *, written_at: str | None
) -> bool:
    """Write the whole index anew in one go, unless its manifest is a second old or less.

    True when written. KvRateLimited is logged, other KvErrors are raised.
    """
    if written_at is not None and _written_just_now(env, written_at):
        env.log("index-not-rewritten", level="warning", reason="rate-limited")
        return False
    writer = IndexWriter.begin(env, new_generation(env))
    try:
        await writer.add(summaries)
        await writer.finish(sweep=False)  # a visitor is waiting
    except KvRateLimited as error:
        env.log("index-not-rewritten", level="warning", reason=error.reason)
        return False
    return True
