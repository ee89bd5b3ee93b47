"""States of long jobs that KV keeps: those of walks over KV, and with PostgreSQL away any. Of two
writers the last one wins."""

from marketplace.kv import access as kv_access
from marketplace.kv.keys import state_key
from marketplace.ports.env import Env
from marketplace.ports.kv import KV_VALUE_LIMIT


async def save_state(env: Env, name: str, value: bytes) -> None:
    """Keep a small JSON document under a name. Raises KvError, KvRateLimited within a second."""
    await kv_access.put_value(env, state_key(name), value)


async def load_state(env: Env, name: str) -> bytes | None:
    """The document kept under a name, perhaps a minute old. Raises KvError."""
    return await kv_access.get_value(env, state_key(name), max_bytes=KV_VALUE_LIMIT)
