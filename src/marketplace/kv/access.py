"""Every call to KV goes through here: bounded in time, in bytes and in number.

All functions raise KvError and nothing else; KvTimeout after ``settings.kv_timeout`` seconds.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from itertools import count, islice
from typing import Final, TypeAlias, TypeVar

from marketplace.basics import json_text
from marketplace.basics.concurrency import map_bounded
from marketplace.basics.json_text import Unreadable
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError, KvRateLimited, KvTimeout, KvValueTooLarge
from marketplace.ports.kv import KV_BULK_GET_LIMIT, KV_LIST_LIMIT, KV_WRITE_INTERVAL, KvListPage

MAX_RECORD_BYTES: Final = 256 * 1024
"""Of one record. A hundred of them just fill what one bulk get may bring; a skill within the
limits of its fields is under 20 KiB."""

_PARTS: Final = 10  # of a bulk get that was too large
_AT_ONCE: Final = 4  # bulk gets of `read_many_values`, whose answers are in memory together

MAX_KEY_BYTES: Final = 512  # KV's limit

T = TypeVar("T")

Stored: TypeAlias = T | Unreadable | None
"""What was found under a key; None: nothing."""

Value: TypeAlias = Stored[bytes]  # Unreadable when it is too large to be a record


async def in_time(env: Env, operation: str, call: Awaitable[T]) -> T:
    """Await a KV call, at most ``settings.kv_timeout`` seconds."""
    limit = env.settings.kv_timeout
    try:
        async with asyncio.timeout(limit):
            return await call
    except TimeoutError as error:
        raise KvTimeout(f"KV {operation} took longer than {limit} s") from error


async def get_value(env: Env, key: str, *, max_bytes: int = MAX_RECORD_BYTES) -> bytes | None:
    """Raises KvValueTooLarge beyond ``max_bytes``."""
    return await in_time(env, "get", env.submissions_kv.get(key, max_bytes=max_bytes))


async def put_value(
    env: Env,
    key: str,
    value: bytes,
    *,
    metadata: str | None = None,
    expiration_ttl: int | None = None,
) -> None:
    """Raises KvRateLimited on a second write to the key within a second."""
    put = env.submissions_kv.put(key, value, metadata=metadata, expiration_ttl=expiration_ttl)
    await in_time(env, "put", put)


async def write_again_if_refused(write: Callable[[], Awaitable[object]]) -> None:
    """Write; where KV refuses a second write to the key within a second, once more after that."""
    try:
        await write()
    except KvRateLimited:
        await asyncio.sleep(1.1 * KV_WRITE_INTERVAL)
        await write()


async def delete_key(env: Env, key: str) -> None:
    await in_time(env, "delete", env.submissions_kv.delete(key))


async def list_page(
    env: Env, prefix: str, *, cursor: str | None = None, limit: int = KV_LIST_LIMIT
) -> KvListPage:
    """One page of keys. Raises KvError when KV hands back the cursor it was given."""
    listing = env.submissions_kv.list(prefix=prefix, cursor=cursor, limit=limit)
    page = await in_time(env, "list", listing)
    if page.cursor is not None and page.cursor == cursor:
        raise KvError("KV list does not move on", reason="stuck-cursor")
    return page


async def list_all_keys(
    env: Env, prefix: str, *, cursor: str | None = None, page_budget: int | None = None
) -> AsyncIterator[KvListPage]:
    """Every page of keys under ``prefix`` in UTF-8 order, empty ones included.

    Goes on from ``cursor``, up to ``page_budget`` list calls (None: to the end). The last page
    yielded has the cursor None when all keys were seen; otherwise it tells where to go on.
    """
    for _ in count() if page_budget is None else range(page_budget):
        page = await list_page(env, prefix, cursor=cursor)
        yield page
        cursor = page.cursor
        if cursor is None:
            return


async def read_values(env: Env, keys: Sequence[str]) -> Mapping[str, Value]:
    """The values of up to KV_BULK_GET_LIMIT keys, each of at most MAX_RECORD_BYTES.

    One operation, unless the values are too large together: then the keys are cut in tenths until
    each value that is too large is alone, which takes up to 20 operations for each.
    Tenths and not halves, because each try has KV read the large value once more, a quarter of a
    second of a listing's two. A key that KV cannot have (too long, no text) has no value.
    """
    values = await _read_possible(env, [key for key in keys if _is_possible(key)])
    return {key: values.get(key) for key in keys}


async def _read_possible(env: Env, keys: Sequence[str]) -> dict[str, Value]:
    too_large = Unreadable(f"larger than {MAX_RECORD_BYTES} bytes")
    if not keys:
        return {}
    try:
        if len(keys) == 1:
            return {keys[0]: await get_value(env, keys[0])}
        values = await in_time(env, "bulk get", env.submissions_kv.get_many(keys))
    except KvValueTooLarge:
        if len(keys) == 1:
            return {keys[0]: too_large}
        found: dict[str, Value] = {}
        for part in chunks(keys, -(-len(keys) // _PARTS)):
            found |= await _read_possible(env, part)
        return found
    return {
        key: too_large if value is not None and len(value) > MAX_RECORD_BYTES else value
        for key, value in values.items()
    }


async def read_each(env: Env, keys: Sequence[str]) -> AsyncIterator[tuple[str, Value]]:
    """As `read_values`, for any number of keys, a hundred at a time."""
    for chunk in chunks(list(dict.fromkeys(keys)), KV_BULK_GET_LIMIT):
        for found in (await read_values(env, chunk)).items():
            yield found


async def read_all_values(env: Env, keys: Sequence[str]) -> dict[str, Value]:
    """As `read_each`, all at once: for short lists only."""
    return {key: value async for key, value in read_each(env, keys)}


async def read_many_values(env: Env, keys: Sequence[str]) -> dict[str, Value]:
    """As `read_all_values`, with a few operations under way at a time."""
    parts = chunks(list(dict.fromkeys(keys)), KV_BULK_GET_LIMIT)
    values: dict[str, Value] = {}
    for part in await map_bounded(parts, lambda keys: read_values(env, keys), at_once=_AT_ONCE):
        values |= part
    return values


def chunks(items: Sequence[T], size: int) -> list[list[T]]:
    """Cut a sequence into lists of ``size``, the last one shorter."""
    iterator = iter(items)
    return list(iter(lambda: list(islice(iterator, size)), []))


def _is_possible(key: str) -> bool:
    """Whether there can be such a key: ids and slugs in keys may come from an address bar."""
    try:
        return len(key.encode()) <= MAX_KEY_BYTES
    except UnicodeEncodeError:
        return False


def decode_value(value: Value, decode: Callable[[bytes], T]) -> Stored[T]:
    """What ``decode`` makes of a value, or what is wrong with it."""
    if value is None or isinstance(value, Unreadable):
        return value
    try:
        return decode(value)
    except (ValueError, ArithmeticError, RecursionError) as error:
        return Unreadable(str(error)[:200])


def decode_record(value: Value, kind: type[T]) -> Stored[T]:
    """A value as a record of type ``kind``."""
    return decode_value(value, lambda text: json_text.decode(text, kind))
