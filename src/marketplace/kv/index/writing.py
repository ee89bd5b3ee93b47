"""Writing the index: whole generations, and what was published since the last one."""

import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Final

import msgspec

from marketplace.basics.json_text import InvalidData
from marketplace.basics.timestamps import EPOCH, age_in_seconds, format_timestamp, parse_timestamp
from marketplace.kv import access as kv_access
from marketplace.kv.index.blocks import BLOCK_SIZE, entry_of, pack
from marketplace.kv.index.manifest import (
    MISSING,
    Manifest,
    PageRef,
    Recent,
    encode_page,
    page_digest,
    read_manifest,
)
from marketplace.kv.keys import INDEX_KEY, INDEX_PAGE_PREFIX, index_page_key
from marketplace.kv.summaries import decode_summary, encode_summary
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError, KvRateLimited
from marketplace.ports.kv import KV_VALUE_LIMIT, KV_WRITE_INTERVAL
from marketplace.skills.fingerprint import NO_SKILLS, Fingerprint, add_to_digest
from marketplace.skills.skill import PublishedSummary, Skill

RECENT_LIMIT: Final = 500  # in the manifest; beyond it the oldest wait for the next full write
CARRIED_SECONDS: Final = 120.0
"""A full write keeps recent entries this much older than its own beginning, since the
enumeration it is made from may be 60 s behind."""
SUPERSEDED_SECONDS: Final = 600.0
"""For so long a reader may still be in a generation that is no longer the present one: its manifest
is cached for 60 s and more, and a reader may take its time."""
OLD_SECONDS: Final = 24 * 3600.0
"""Pages of generations begun longer ago are removed. A rebuild takes minutes, but one that stalled
is resumed, perhaps hours later, and must find the pages it has written."""
MAX_REMOVED: Final = 50  # pages after one write, an operation each


class IndexProgress(msgspec.Struct, kw_only=True, rename="camel"):
    """How far a full write has come: plain data, to be kept between invocations.

    A repeated step is another ``attempt``: it writes under keys of its own, as the first may still
    be under way, or its pages be cached.
    """

    generation: str
    begun_at: str
    attempt: int = 0
    pages: list[PageRef] = []
    count: int = 0
    digest: str = NO_SKILLS.digest


class IndexWriter:
    """Writes a new generation of the index, over one or more invocations.

    ``add`` summaries in any order, each skill once, ``flush`` before keeping ``progress``, and
    ``finish`` at the end: only then do readers see it. Cut off earlier, nothing has changed.
    All raise KvError.
    """

    def __init__(self, env: Env, progress: IndexProgress) -> None:
        self.progress = progress
        self._env = env
        self._open: list[PublishedSummary] = []

    @classmethod
    def begin(cls, env: Env, generation: str) -> "IndexWriter":
        """``generation`` must be new and fit in a key."""
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
        key = index_page_key(progress.generation, progress.attempt, len(progress.pages))
        value = encode_page(block)
        await kv_access.put_value(self._env, key, value)
        page = PageRef(key, block.size, block.first, block.last, page_digest(value))
        progress.pages = [*progress.pages, page]
        progress.count += block.size
        progress.digest = add_to_digest(progress.digest, self._open)
        self._open = []

    async def finish(self, *, sweep: bool = True) -> None:
        """Show the generation to readers and, with ``sweep``, remove old ones.

        Raises KvRateLimited when the manifest was written within the last second: finish again.
        """
        await self.flush()
        env, progress = self._env, self.progress
        value = await kv_access.get_value(env, INDEX_KEY, max_bytes=KV_VALUE_LIMIT)
        old = read_manifest(value)
        now = env.now()
        manifest = Manifest(
            generation=progress.generation,
            written_at=now,
            rebuilt_at=now,
            count=progress.count,
            fingerprint=Fingerprint(progress.count, progress.digest),
            pages=progress.pages,
            recent=_recent_since(old, progress.begun_at) if isinstance(old, Manifest) else [],
        )
        await kv_access.put_value(env, INDEX_KEY, msgspec.json.encode(manifest))
        if not sweep or not isinstance(old, Manifest):
            return
        # Afterwards no reader is in a generation from before the old one any more.
        if _is_older(env, old.rebuilt_at or "", SUPERSEDED_SECONDS):
            await _remove_old(env, {page.key for page in [*old.pages, *manifest.pages]})


def _recent_since(manifest: Manifest, moment: str) -> list[Recent]:
    oldest = format_timestamp(parse_timestamp(moment) - timedelta(seconds=CARRIED_SECONDS))
    return [_recent(at, entry) for at, entry in _readable(manifest.recent) if at >= oldest]


def _readable(entries: Iterable[Recent]) -> Iterator[tuple[str, PublishedSummary]]:
    """Those that can be read, to be encoded anew: the next manifest gets no damage from this."""
    for recent in entries:
        try:
            entry = decode_summary(bytes(recent.entry))
        except InvalidData:
            continue  # whatever it was, its record is in KV; the readers report it
        yield recent.added_at, entry


def _recent(added_at: str, entry: PublishedSummary) -> Recent:
    return Recent(added_at, msgspec.Raw(encode_summary(entry)))


def _is_older(env: Env, moment: str, seconds: float) -> bool:
    """A damaged moment is not older than anything."""
    age = age_in_seconds(moment, env.now())
    return age is not None and age > seconds


async def _remove_old(env: Env, in_use: Collection[str]) -> None:
    """Remove pages of old generations. Best effort, bounded: one list call and MAX_REMOVED
    deletes; what is beyond them waits for the next write, and costs a little space until then."""
    try:
        listed = await kv_access.list_page(env, INDEX_PAGE_PREFIX)
        unused = [key.name for key in listed.keys if key.name not in in_use]
        # The name of a generation begins with its time; any other name is left alone.
        begun = [name.removeprefix(INDEX_PAGE_PREFIX)[: len(EPOCH)] for name in unused]
        old = [n for n, at in zip(unused, begun, strict=True) if _is_older(env, at, OLD_SECONDS)]
        for name in old[:MAX_REMOVED]:
            await kv_access.delete_key(env, name)
    except KvError as error:
        env.log("index-pages-not-removed", level="warning", reason=error.reason)


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
        manifest = read_manifest(value)
        if manifest == MISSING:
            manifest = Manifest(
                generation="",
                written_at="",
                rebuilt_at=None,
                count=0,
                fingerprint=NO_SKILLS,
                pages=[],
            )
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
    age = age_in_seconds(written_at, env.now())
    return age is not None and 0 <= age < KV_WRITE_INTERVAL


def _with_recent(env: Env, manifest: Manifest, skills: Sequence[Skill]) -> Manifest:
    now = env.now()
    entries = [skill.published_summary() for skill in skills]
    newer = {entry.summary.name: entry.revision for entry in entries}
    recent = [
        _recent(at, entry)
        for at, entry in _readable(manifest.recent)
        if newer.get(entry.summary.name, "") < entry.revision
    ]
    recent += [_recent(now, entry) for entry in entries]
    left_out = len(recent) - RECENT_LIMIT
    if left_out > 0:
        env.log("index-recent-full", level="warning", left_out=left_out)
    return msgspec.structs.replace(manifest, written_at=now, recent=recent[-RECENT_LIMIT:])


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
