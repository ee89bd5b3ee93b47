"""Messages that could not be processed: kept with their reason until somebody redrives them.

PostgreSQL holds them when it is there, KV otherwise.
"""

import hashlib
from typing import Final

import msgspec

from marketplace.kv import dead_letters as kv_dead_letters
from marketplace.ports.dead_letter import DeadLetter, DeadLetterReason
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError
from marketplace.ports.queue import QueueMessage

MOVED_AT_ONCE: Final = 100


async def bury(
    env: Env, message: QueueMessage, *, queue: str, reason: DeadLetterReason, detail: str
) -> None:
    """Keep a message as a dead letter. Raises StorageError when nothing can keep it."""
    letter = DeadLetter(
        id=dead_letter_id(queue, message.body),
        queue=queue,
        body=message.body,
        reason=reason,
        detail=detail,
        attempts=message.attempts,
        failed_at=env.now(),
        redrives=await _redrives(env, dead_letter_id(queue, message.body)),
    )
    env.log(f"dead letter {letter.id}", level="warning", id=letter.id, reason=reason, detail=detail)
    await store_dead_letter(env, letter)


async def _redrives(env: Env, letter_id: str) -> int:
    """How often this content was redriven before: what counts against trying it for ever."""
    known: list[DeadLetter] = []
    try:
        database = await get_db(env)
        known += await database.get_dead_letters([letter_id])
    except DatabaseError as error:
        env.log("earlier redrives not read", level="warning", reason=error.reason)
        known += await kv_dead_letters.get_dead_letters(env, [letter_id])
    return max((letter.redrives for letter in known), default=0)


def dead_letter_id(queue: str, body: object) -> str:
    """One id for one content, so that a repeated message stays one dead letter."""
    content = msgspec.json.encode([queue, body], order="deterministic", enc_hook=str)
    return hashlib.sha256(content).hexdigest()[:16]


async def store_dead_letter(env: Env, letter: DeadLetter) -> None:
    """Store in PostgreSQL or, with that away, in KV. Raises KvError when both are away."""
    try:
        database = await get_db(env)
        await database.store_dead_letter(letter)
    except DatabaseError as error:
        env.log(
            "postgres unavailable: dead letter kept in kv", level="warning", reason=error.reason
        )
        await kv_dead_letters.store_dead_letter(env, letter)


async def move_letters(env: Env) -> None:
    """Give PostgreSQL a batch of the letters that KV kept while it was away.

    Of each, whichever state is the later one stays. One that PostgreSQL refuses stays in KV.
    Raises KvError, DatabaseError.
    """
    letters = await kv_dead_letters.list_letter_records(env, limit=MOVED_AT_ONCE)
    if not letters:
        return
    moved = []
    database = await get_db(env)
    for key, letter in letters.items():
        try:
            await database.store_dead_letter(letter)
        except DatabaseError as error:
            if error.reason != "rejected":
                raise
            env.log("dead-letter-refused", level="error", key=key, reason=str(error))
        else:
            moved.append(key)
    await kv_dead_letters.clear_letter_records(env, moved)
