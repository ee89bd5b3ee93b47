"""Every call to the archive goes through here: bounded in time, and uploads in number.

All functions raise ContentError, and those that they name besides.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from marketplace.ports.content import ContentPage, Span, StoredContent, Stream
from marketplace.ports.env import Env, get_content_store
from marketplace.ports.errors import ContentTimeout
from marketplace.ports.uploads import UPLOAD_SECONDS, Uploads

T = TypeVar("T")


class TooManyUploads(Exception):
    """As many uploads are under way as an isolate takes."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("Other uploads are under way here. Try again later.")
        self.retry_after = retry_after


class Purged(Exception):
    """An operator removed what was stored under a digest, for good."""

    def __init__(self, digest: str, at: str) -> None:
        super().__init__(f"The content {digest} was removed on {at[:10]}.")


async def upload(env: Env, digest: str, stream: Stream, *, media_type: str) -> bool:
    """Store what a stream brings; whether it is new. What is stored already stays as it is.

    Raises TooManyUploads, Purged, WrongDigest.
    """
    store = get_content_store(env)
    uploads = Uploads() if env.fallback_cache is None else env.fallback_cache.uploads
    place = uploads.take()
    if place is None:
        raise TooManyUploads(uploads.seconds_to_wait)
    try:
        put = store.put(digest, stream, media_type=media_type)
        is_new = await _in_time(UPLOAD_SECONDS, "upload", put)
    finally:
        uploads.free(place)
    if not is_new:
        await require_not_purged(env, digest)
    return is_new


async def require_not_purged(env: Env, digest: str) -> None:
    """Raises Purged."""
    stored = await find(env, digest)
    if stored is not None and stored.purged_at is not None:
        raise Purged(digest, stored.purged_at)


async def find(env: Env, digest: str) -> StoredContent | None:
    """What is stored under a digest, which may be that it was purged."""
    store = get_content_store(env)
    return await _in_time(env.settings.content_timeout, "look", store.find(digest))


async def read(
    env: Env, digest: str, span: Span | None = None
) -> tuple[StoredContent, Stream] | None:
    """What is stored, and a stream of all of it or of a span."""
    store = get_content_store(env)
    return await _in_time(env.settings.content_timeout, "read", store.read(digest, span))


async def purge(env: Env, digest: str) -> StoredContent | None:
    """Remove what is stored, and let nothing be stored there again; what was there before."""
    before = await find(env, digest)
    if before is None or before.purged_at is None:
        store = get_content_store(env)
        await _in_time(env.settings.content_timeout, "purge", store.purge(digest, at=env.now()))
    return before


async def list_page(env: Env, *, prefix: str, cursor: str | None = None) -> ContentPage:
    """One list call."""
    listing = get_content_store(env).list_page(prefix=prefix, cursor=cursor)
    return await _in_time(env.settings.content_timeout, "list", listing)


async def _in_time(seconds: float, operation: str, call: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError as error:
        raise ContentTimeout(f"{operation}: no answer within {seconds} s") from error
