"""Marks of submissions that the scanners' work list lacks: it is in PostgreSQL, which was away.

A mark is a key without a value. It expires with its submission. All functions raise KvError.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from marketplace.kv import access as kv_access
from marketplace.kv.keys import UNQUEUED_PREFIX, parse_mark, unqueued_key
from marketplace.ports.env import Env
from marketplace.ports.errors import KvRateLimited
from marketplace.ports.kv import KV_BULK_GET_LIMIT

MAX_UNQUEUED_PAGES: Final = 10  # of a hundred marks, that one look reads


@dataclass(frozen=True, slots=True)
class Unqueued:
    """A submission by its mark."""

    key: str
    id: str
    created_at: str


async def mark_unqueued(env: Env, submission_id: str, created_at: str) -> None:
    """Idempotent: a mark that KV refuses was written within this second."""
    key, ttl = unqueued_key(created_at, submission_id), env.settings.submission_ttl
    try:
        await kv_access.put_value(env, key, b"1", expiration_ttl=ttl)
    except KvRateLimited as error:
        env.log("unqueued-marked-before", id=submission_id, reason=error.reason)


async def unmark_unqueued(env: Env, mark: Unqueued) -> None:
    await kv_access.delete_key(env, mark.key)


async def list_unqueued(env: Env) -> AsyncIterator[Sequence[Unqueued]]:
    """The marks, the oldest first, up to KV_BULK_GET_LIMIT at a time.

    A key that tells no submission is removed, with an error in the log that names it.
    """
    cursor: str | None = None
    for _ in range(MAX_UNQUEUED_PAGES):
        page = await kv_access.list_page(
            env, UNQUEUED_PREFIX, cursor=cursor, limit=KV_BULK_GET_LIMIT
        )
        marks = []
        for key in page.keys:
            try:
                created_at, submission_id = parse_mark(UNQUEUED_PREFIX, key.name)
            except ValueError as error:
                env.log("unqueued-malformed", level="error", key=key.name, reason=str(error))
                await kv_access.delete_key(env, key.name)
            else:
                marks.append(Unqueued(key.name, submission_id, created_at))
        yield marks
        cursor = page.cursor
        if cursor is None:
            return
