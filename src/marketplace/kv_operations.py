"""What operators and long jobs keep in KV while PostgreSQL is away: letters, state, leases.

KV has no compare-and-set. Everything here is best effort where two write at once; the database's
methods of the same names are the exact ones.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from marketplace import kv_access
from marketplace.env import Env
from marketplace.kv_keys import DEAD_LETTER_PREFIX, dead_letter_key, lease_key, state_key
from marketplace.models import InvalidRecord
from marketplace.storage import (
    KV_BULK_GET_LIMIT,
    KV_METADATA_LIMIT,
    KV_VALUE_LIMIT,
    DeadLetter,
    KvKey,
    KvRateLimited,
)
from marketplace.timestamps import parse_timestamp, seconds_between

MAX_LETTER_PAGES: Final = 20
"""List pages that one look at the dead letters reads: 20,000 letters."""
_MIN_TTL_SECONDS: Final = 60  # KV's


class _LetterMark(msgspec.Struct, frozen=True, array_like=True, tag="d1"):
    """Metadata of a letter: enough to filter and count without its value."""

    reason: str
    redriven: bool


class _Lease(msgspec.Struct, frozen=True, rename="camel"):
    holder: str
    expires_at: str


# --- dead letters -----------------------------------------------------------------------------


async def store_dead_letter(env: Env, letter: DeadLetter) -> None:
    """Keep a letter under its id, over an earlier state of it. Raises KvError, InvalidRecord."""
    value = msgspec.json.encode(letter)
    if len(value) > kv_access.MAX_RECORD_BYTES:
        raise InvalidRecord(f"a letter of {len(value)} bytes")
    await kv_access.put_value(env, dead_letter_key(letter.id), value, metadata=_mark(letter))


def _mark(letter: DeadLetter) -> str | None:
    mark = _LetterMark(letter.reason, letter.redriven_at is not None)
    text = msgspec.json.encode(mark).decode()
    return text if len(msgspec.json.encode(text)) <= KV_METADATA_LIMIT else None


async def list_dead_letters(
    env: Env, *, reason: str | None, after: str | None, limit: int
) -> list[DeadLetter]:
    """Letters not redriven, ordered by id, after the id ``after``. Raises KvError.

    Reads from the start, as KV cannot begin a list at a key; at most MAX_LETTER_PAGES pages.
    """
    letters: list[DeadLetter] = []
    pages = kv_access.list_all_keys(env, DEAD_LETTER_PREFIX, page_budget=MAX_LETTER_PAGES)
    async for page in pages:
        ids = [_letter_id(key) for key in page.keys if _may_match(key, reason, after)]
        for chunk in kv_access.chunks(ids, min(limit, KV_BULK_GET_LIMIT)):
            found = await get_dead_letters(env, chunk)
            letters += [letter for letter in found if _matches(letter, reason)]
            if len(letters) >= limit:
                return letters[:limit]
    return letters


def _may_match(key: KvKey, reason: str | None, after: str | None) -> bool:
    if after is not None and _letter_id(key) <= after:
        return False
    mark = _read_mark(key)
    return mark is None or (not mark.redriven and reason in (None, mark.reason))


def _matches(letter: DeadLetter, reason: str | None) -> bool:
    return letter.redriven_at is None and reason in (None, letter.reason)


async def get_dead_letters(env: Env, ids: Sequence[str]) -> list[DeadLetter]:
    """The letters of these ids, redriven or not; unknown ids are left out. Raises KvError.

    A letter that cannot be read is logged and left out.
    """
    letters = []
    values = await kv_access.read_all_values(env, [dead_letter_key(i) for i in ids])
    for key, value in values.items():
        letter = kv_access.decode_record(value, DeadLetter)
        if isinstance(letter, InvalidRecord):
            env.log("dead-letter-malformed", level="error", key=key, reason=str(letter))
        elif letter is not None:
            letters.append(letter)
    return letters


async def count_dead_letters(env: Env) -> Mapping[str, int]:
    """Letters not redriven, per reason, from list pages alone. Raises KvError."""
    counts: dict[str, int] = {}
    pages = kv_access.list_all_keys(env, DEAD_LETTER_PREFIX, page_budget=MAX_LETTER_PAGES)
    async for page in pages:
        for key in page.keys:
            mark = _read_mark(key) or _LetterMark("unknown", redriven=False)
            if not mark.redriven:
                counts[mark.reason] = counts.get(mark.reason, 0) + 1
    return counts


async def remove_dead_letter(env: Env, letter_id: str) -> None:
    """Forget a letter, once the database keeps it. Raises KvError."""
    await kv_access.delete_key(env, dead_letter_key(letter_id))


def _letter_id(key: KvKey) -> str:
    return key.name.removeprefix(DEAD_LETTER_PREFIX)


def _read_mark(key: KvKey) -> _LetterMark | None:
    if not isinstance(key.metadata, str):
        return None
    try:
        return msgspec.json.decode(key.metadata, type=_LetterMark)
    except (ValueError, RecursionError):
        return None  # its value decides


# --- state and leases -------------------------------------------------------------------------


async def save_state(env: Env, name: str, value: bytes) -> None:
    """Keep a small JSON document under a name. Raises KvError, KvRateLimited within a second."""
    await kv_access.put_value(env, state_key(name), value)


async def load_state(env: Env, name: str) -> bytes | None:
    """The document kept under a name, perhaps a minute old. Raises KvError."""
    return await kv_access.get_value(env, state_key(name), max_bytes=KV_VALUE_LIMIT)


async def acquire_lease(env: Env, name: str, holder: str, *, expires_at: str) -> bool:
    """Take a lease that is free, expired or already the holder's. Raises KvError.

    Not atomic: two that ask within a minute may both get it, so what runs under it must do no
    harm when it runs twice. It ends by itself, at ``expires_at`` and by KV's own expiry.
    """
    value = (await kv_access.read_values(env, [lease_key(name)]))[lease_key(name)]
    lease = kv_access.decode_record(value, _Lease)
    if isinstance(lease, _Lease) and lease.holder != holder and _holds(env, lease):
        return False
    ttl = max(_MIN_TTL_SECONDS, int(seconds_between(env.now(), expires_at)) + 1)
    taken = msgspec.json.encode(_Lease(holder, expires_at))
    try:
        await kv_access.put_value(env, lease_key(name), taken, expiration_ttl=ttl)
    except KvRateLimited:
        return False  # somebody took it this very second
    return True


def _holds(env: Env, lease: _Lease) -> bool:
    try:
        return parse_timestamp(lease.expires_at) > env.clock()
    except (ValueError, OverflowError):
        return False  # damage must not hold a lease for ever


async def release_lease(env: Env, name: str, holder: str) -> None:
    """Give a lease back; nothing happens when another holds it. Raises KvError."""
    value = (await kv_access.read_values(env, [lease_key(name)]))[lease_key(name)]
    lease = kv_access.decode_record(value, _Lease)
    if isinstance(lease, _Lease) and lease.holder == holder:
        await kv_access.delete_key(env, lease_key(name))
