"""Dead letters that an earlier version kept in KV while PostgreSQL was away, to be moved.

They are in PostgreSQL alone now. This file goes when no deployment holds ``dead-letter:`` keys.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from marketplace.basics.json_text import Unreadable
from marketplace.kv import access as kv_access
from marketplace.kv.keys import DEAD_LETTER_PREFIX
from marketplace.ports.dead_letter import DeadLetter
from marketplace.ports.env import Env
from marketplace.ports.kv import KV_BULK_GET_LIMIT


@dataclass(frozen=True, slots=True)
class LetterPage:
    letters: Mapping[str, DeadLetter]  # by key
    cursor: str | None  # of the next part


async def list_letters_in_kv(env: Env, *, cursor: str | None) -> LetterPage:
    """A part of the letters, without those that cannot be read: one list call and one bulk get.

    Raises KvError.
    """
    page = await kv_access.list_page(
        env, DEAD_LETTER_PREFIX, cursor=cursor, limit=KV_BULK_GET_LIMIT
    )
    letters: dict[str, DeadLetter] = {}
    async for key, value in kv_access.read_each(env, [key.name for key in page.keys]):
        letter = kv_access.decode_record(value, DeadLetter)
        if isinstance(letter, Unreadable):
            env.log("dead-letter-malformed", level="error", key=key, reason=str(letter))
        elif letter is not None:
            letters[key] = letter
    return LetterPage(letters, page.cursor)


async def clear_letters_in_kv(env: Env, keys: Iterable[str]) -> None:
    """Remove letters that PostgreSQL has, one operation each. Raises KvError."""
    for key in keys:
        await kv_access.delete_key(env, key)
