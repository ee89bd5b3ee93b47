"""Messages that could not be processed: kept in PostgreSQL until they are sent again.

With PostgreSQL away the queue keeps the message: its consumer retries.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

from marketplace.basics.timestamps import format_timestamp, parse_timestamp
from marketplace.kv.old_dead_letters import clear_letters_in_kv, list_letters_in_kv
from marketplace.operations.reports import load_place, save_place
from marketplace.ports.database import SkillDatabase
from marketplace.ports.dead_letter import DeadLetter, DeadLetterReason
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, DatabaseRejected
from marketplace.ports.queue import QueueMessage

_PAGES: Final = 10  # of KV's letters, that one call of `move_letters` reads past damage
_PLACE: Final = "old-dead-letters"
CLOCK_SECONDS: Final = 2.0
"""By which the clocks of two locations may differ."""


async def bury(
    env: Env, message: QueueMessage, *, queue: str, reason: DeadLetterReason, detail: str
) -> None:
    """Keep a message as a dead letter, after all that its letter tells. Raises DatabaseError."""
    database, id_ = await get_db(env), dead_letter_id(queue, message.body)
    letter = DeadLetter(
        id=id_,
        queue=queue,
        body=message.body,
        reason=reason,
        detail=detail,
        attempts=message.attempts,
        failed_at=max([env.now(), *map(_next_moment, await database.get_dead_letters([id_]))]),
    )
    env.log("dead-letter", level="warning", id=letter.id, reason=reason, detail=detail)
    await database.store_dead_letter(letter)


def dead_letter_id(queue: str, body: object) -> str:
    """One id for one content, so that a repeated message stays one dead letter."""
    content = msgspec.json.encode([queue, body], order="deterministic", enc_hook=str)
    return hashlib.sha256(content).hexdigest()[:16]


async def mark_sent_again(env: Env, queue: str, bodies: Sequence[Any], *, at: str) -> None:
    """Close the letters of these messages, if there are any. A failure is logged: a letter that
    stays open is closed the next time, or sent once more."""
    try:
        database = await get_db(env)
        await database.mark_redriven([dead_letter_id(queue, body) for body in bodies], at=at)
    except DatabaseError as error:
        env.log("dead-letters-left-open", level=error.level, reason=error.reason)


def moment_of_sending(env: Env, letter: DeadLetter | None = None) -> str:
    """The moment that closes a letter: after its failure, yet before any failure that follows,
    whatever the clock by which that is told."""
    since = format_timestamp(env.clock() - timedelta(seconds=CLOCK_SECONDS))
    return since if letter is None else max(since, _next_moment(letter))


def _next_moment(letter: DeadLetter) -> str:
    last = parse_timestamp(max(letter.failed_at, letter.redriven_at or ""))
    return format_timestamp(last + timedelta(milliseconds=1))


class _Place(msgspec.Struct, frozen=True):
    cursor: str | None = None  # where the next call of `move_letters` goes on


async def move_letters(env: Env) -> None:
    """Move a part of the letters that KV holds to PostgreSQL, from where the last call stopped.

    Of two states of a letter the later one stays. A letter that PostgreSQL refuses stays in KV,
    and hides none that comes after it. Raises KvError, DatabaseError.
    """
    database = await get_db(env)
    place = await load_place(env, database, _PLACE, _Place())
    cursor = place.cursor
    for _ in range(_PAGES):
        page = await list_letters_in_kv(env, cursor=cursor)
        await clear_letters_in_kv(env, await _store(env, database, page.letters))
        cursor = page.cursor
        if page.letters or cursor is None:
            break
    await save_place(database, _PLACE, _Place(cursor), before=place)


async def _store(env: Env, database: SkillDatabase, letters: Mapping[str, DeadLetter]) -> list[str]:
    """The keys of the letters that PostgreSQL has then. Raises DatabaseError."""
    stored = []
    for key, letter in letters.items():
        try:
            await database.store_dead_letter(letter)
        except DatabaseRejected as error:
            env.log("dead-letter-refused", level="error", key=key, reason=str(error))
        else:
            stored.append(key)
    return stored
