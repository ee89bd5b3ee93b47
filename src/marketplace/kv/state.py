"""States and leases of long jobs that KV keeps while PostgreSQL is away.

KV has no compare-and-set. Everything here is best effort where two write at once; the database's
methods of the same names are the exact ones.
"""

from typing import Final

import msgspec

from marketplace.basics.timestamps import parse_timestamp, seconds_between
from marketplace.kv import access as kv_access
from marketplace.kv.keys import lease_key, state_key
from marketplace.ports.env import Env
from marketplace.ports.errors import KvRateLimited
from marketplace.ports.kv import KV_VALUE_LIMIT

_MIN_TTL_SECONDS: Final = 60  # KV's


class _Lease(msgspec.Struct, frozen=True, rename="camel"):
    holder: str
    expires_at: str


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
    except ValueError:
        return False  # damage must not hold a lease for ever


async def release_lease(env: Env, name: str, holder: str) -> None:
    """Give a lease back; nothing happens when another holds it. Raises KvError."""
    value = (await kv_access.read_values(env, [lease_key(name)]))[lease_key(name)]
    lease = kv_access.decode_record(value, _Lease)
    if isinstance(lease, _Lease) and lease.holder == holder:
        await kv_access.delete_key(env, lease_key(name))
