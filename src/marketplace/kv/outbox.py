"""Skills accepted while PostgreSQL was away, waiting for their place in it.

Each has a key of its own, made of identity and revision, so that no two ever overwrite each other.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from marketplace.basics import json_text
from marketplace.basics.json_text import InvalidData
from marketplace.kv import access as kv_access
from marketplace.kv import records as kv_records
from marketplace.kv import summaries as kv_summaries
from marketplace.kv.keys import OUTBOX_PREFIX, outbox_key, outbox_prefix
from marketplace.ports.env import Env
from marketplace.ports.kv import KV_BULK_GET_LIMIT, KvKey, KvListPage
from marketplace.skills.skill import PublishedSummary, Skill
from marketplace.skills.stored import read_skill

MAX_OUTBOX_PAGES: Final = 5  # that one look at the outbox reads: 5,000 waiting skills


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """A waiting skill and the key to clear once it is placed."""

    key: str
    skill: Skill


@dataclass(frozen=True, slots=True)
class OutboxPage:
    """Waiting skills in no particular order; ``cursor`` of the next part, if there is one."""

    entries: Sequence[OutboxEntry]
    cursor: str | None


async def write_outbox(env: Env, skill: Skill) -> str:
    """Keep a skill until the database takes it; returns its key. Idempotent.

    Raises KvError, InvalidData. A second write of the same state within a second is the same
    write, so KV's refusal of it is no error, but it is raised: only the caller knows the first.
    """
    value = kv_records.encode_skill(skill)
    key = outbox_key(skill.identity, skill.revision)
    await kv_access.put_value(env, key, value, metadata=kv_summaries.encode_metadata(skill))
    return key


async def list_outbox(
    env: Env, *, cursor: str | None = None, limit: int = KV_BULK_GET_LIMIT
) -> OutboxPage:
    """A part of the outbox: one list call and one bulk get. Raises KvError.

    Entries that cannot be read are logged, stay where they are and hide no others.
    """
    page = await kv_access.list_page(env, OUTBOX_PREFIX, cursor=cursor, limit=limit)
    entries = [entry async for entry in _read_entries(env, [key.name for key in page.keys])]
    return OutboxPage(entries, page.cursor)


async def list_outbox_summaries(env: Env) -> list[PublishedSummary]:
    """What the outbox adds to a fallback listing: one list call when there is little in it.

    Two revisions of one skill may both be there. Raises KvError.
    """
    summaries: list[PublishedSummary] = []
    async for page in _pages(env):
        told = {key.name: _summary(key) for key in page.keys}
        summaries += [summary for summary in told.values() if summary is not None]
        by_value = [name for name, summary in told.items() if summary is None]
        async for entry in _read_entries(env, by_value):
            summaries.append(entry.skill.published_summary())
    return summaries


async def list_waiting(env: Env) -> tuple[list[PublishedSummary], bool]:
    """What one list call tells of the outbox, and whether that is all. Raises KvError.

    Entries without usable metadata are read, up to a bulk get of them.
    """
    page = await kv_access.list_page(env, OUTBOX_PREFIX)
    told = {key.name: _summary(key) for key in page.keys}
    summaries = [summary for summary in told.values() if summary is not None]
    by_value = [name for name, summary in told.items() if summary is None]
    read = [entry async for entry in _read_entries(env, by_value[:KV_BULK_GET_LIMIT])]
    summaries += [entry.skill.published_summary() for entry in read]
    return summaries, page.cursor is None and len(by_value) <= KV_BULK_GET_LIMIT


async def find_in_outbox(env: Env, slugs: Collection[str]) -> OutboxEntry | None:
    """The entry of the greatest revision that has one of these slugs, or None. Raises KvError."""
    found: list[OutboxEntry] = []
    async for page in _pages(env):
        told = {key.name: _summary(key) for key in page.keys}
        likely = [name for name, s in told.items() if s is None or s.summary.name in slugs]
        found += [e async for e in _read_entries(env, likely) if e.skill.name in slugs]
    return max(found, key=_rank, default=None)


async def find_identity_in_outbox(env: Env, identity: str) -> OutboxEntry | None:
    """The entry of the greatest revision of an identity, or None. Raises KvError."""
    page = await kv_access.list_page(env, outbox_prefix(identity))
    keys = [key.name for key in page.keys]  # in no order of revisions
    found = [e async for e in _read_entries(env, keys) if e.skill.identity == identity]
    return max(found, key=_rank, default=None)


def _rank(entry: OutboxEntry) -> str:
    return entry.skill.revision


def _pages(env: Env) -> AsyncIterator[KvListPage]:
    return kv_access.list_all_keys(env, OUTBOX_PREFIX, page_budget=MAX_OUTBOX_PAGES)


async def clear_outbox(env: Env, keys: Iterable[str]) -> None:
    """Remove entries that are placed, one operation each. Raises KvError; ValueError for others."""
    for key in keys:
        if not key.startswith(OUTBOX_PREFIX):
            raise ValueError(f"not a key of the outbox: {key!r:.80}")
        await kv_access.delete_key(env, key)


def _summary(key: KvKey) -> PublishedSummary | None:
    """What the metadata tells; None: the value decides."""
    if not isinstance(key.metadata, str):
        return None
    try:
        return kv_summaries.decode_summary(key.metadata)
    except InvalidData:
        return None


async def _read_entries(env: Env, keys: Sequence[str]) -> AsyncIterator[OutboxEntry]:
    async for key, value in kv_access.read_each(env, keys):
        skill = kv_access.decode_value(value, lambda text: read_skill(json_text.decode(text)))
        if isinstance(skill, Skill):
            yield OutboxEntry(key, skill)
        elif skill is not None:  # None: placed and cleared since the list page was made
            env.log("outbox-malformed", level="error", key=key, reason=str(skill))
