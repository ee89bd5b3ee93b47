"""Dead letters that an earlier version kept in KV while PostgreSQL was away, to be moved.

They are in PostgreSQL alone now. This file goes when no deployment holds ``dead-letter:`` keys.
"""

from collections.abc import Iterable, Mapping

from marketplace.basics.json_text import Unreadable
from marketplace.kv import access as kv_access
from marketplace.kv.keys import DEAD_LETTER_PREFIX
from marketplace.ports.dead_letter import DeadLetter
from marketplace.ports.env import Env

_MAX_PAGES = 20


async def list_letters_in_kv(env: Env, *, limit: int) -> Mapping[str, DeadLetter]:
    """Up to ``limit`` letters by key, past those that cannot be read. Raises KvError."""
    letters: dict[str, DeadLetter] = {}
    async for page in kv_access.list_all_keys(env, DEAD_LETTER_PREFIX, page_budget=_MAX_PAGES):
        async for key, value in kv_access.read_each(env, [key.name for key in page.keys]):
            letter = kv_access.decode_record(value, DeadLetter)
            if isinstance(letter, Unreadable):
                env.log("dead-letter-malformed", level="error", key=key, reason=str(letter))
            elif letter is not None:
                letters[key] = letter
            if len(letters) >= limit:
                return letters
    return letters


async def clear_letters_in_kv(env: Env, keys: Iterable[str]) -> None:
    """Remove letters that PostgreSQL has, one operation each. Raises KvError."""
    for key in keys:
        await kv_access.delete_key(env, key)
