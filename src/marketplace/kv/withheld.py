"""Which skills are withheld, in one value beside the index, so that no fallback lists one.

PostgreSQL's list, written anew after what changes it.
"""

from collections.abc import Iterable, Mapping

import msgspec

from marketplace.basics.json_text import Unreadable
from marketplace.kv import access as kv_access
from marketplace.kv.keys import WITHHELD_KEY
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError
from marketplace.ports.kv import KV_VALUE_LIMIT
from marketplace.skills.withholding import WithheldKey

WithheldKeys = Mapping[str, WithheldKey]
"""By identity."""


async def read_withheld(env: Env) -> WithheldKeys:
    """Raises KvError, also where the value is damaged. Without a value nothing is withheld."""
    value = await kv_access.get_value(env, WITHHELD_KEY, max_bytes=KV_VALUE_LIMIT)
    keys = kv_access.decode_record(value, list[WithheldKey])
    if isinstance(keys, Unreadable):
        raise KvError(f"{WITHHELD_KEY}: {keys}", reason="damaged")
    return {key.identity: key for key in keys or ()}


async def write_withheld(env: Env, keys: Iterable[WithheldKey]) -> None:
    """Raises KvError."""
    value = encode_withheld(keys)
    put = kv_access.write_again_if_refused
    await put(lambda: kv_access.put_value(env, WITHHELD_KEY, value))


def encode_withheld(keys: Iterable[WithheldKey]) -> bytes:
    """The value of these keys, the same in whatever order they come."""
    return msgspec.json.encode(sorted(keys, key=lambda key: key.name))
