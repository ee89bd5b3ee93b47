"""Dead letters from both stores as one list, and sending them on their way again.

A letter may be in PostgreSQL, in KV, or in both where one was away; the later failure counts.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from marketplace.basics.timestamps import format_timestamp
from marketplace.kv.dead_letters import (
    count_dead_letters,
    get_dead_letters,
    list_dead_letters,
    list_redrivable,
)
from marketplace.operations.dead_letters import move_letters, store_dead_letter
from marketplace.ports.database import SkillDatabase
from marketplace.ports.dead_letter import PASSING_REASONS, DeadLetter
from marketplace.ports.env import Env, get_db, send_messages
from marketplace.ports.errors import DatabaseError, KvError, StorageError

MAX_REDRIVEN: Final = 100  # letters in one call
MAX_AUTOMATIC_REDRIVES: Final = 5
AUTOMATIC_AFTER_SECONDS: Final = 90.0  # KV's 60 s, and some

T = TypeVar("T")


class RedriveOutcome(StrEnum):
    """What became of a letter."""

    REDRIVEN = "redriven"
    ALREADY_REDRIVEN = "already-redriven"
    UNKNOWN = "unknown"
    FAILED = "failed"


class RedriveResult(msgspec.Struct):
    """The outcome for one letter; ``reason`` where it failed."""

    id: str
    outcome: RedriveOutcome
    reason: str | None = None


async def _from_both(
    env: Env,
    from_database: Callable[[SkillDatabase], Awaitable[T]],
    from_kv: Callable[[], Awaitable[T]],
) -> list[T]:
    """What the stores answer that do. Raises StorageError when neither does."""
    answers: list[T] = []
    failure: StorageError | None = None
    try:
        database = await get_db(env)
        answers.append(await from_database(database))
    except DatabaseError as error:
        failure = error
        env.log("dead letters of postgres not read", level="warning", reason=error.reason)
    try:
        answers.append(await from_kv())
    except KvError as error:
        failure = error
        env.log("dead letters of kv not read", level="warning", reason=error.reason)
    if failure is not None and not answers:
        raise failure
    return answers


def _merged(lists: Sequence[Sequence[DeadLetter]]) -> list[DeadLetter]:
    """Each letter once, in its latest state, by id."""
    letters: dict[str, DeadLetter] = {}
    for letter in (letter for letters_ in lists for letter in letters_):
        known = letters.get(letter.id)
        if known is None or letter.last_event > known.last_event:
            letters[letter.id] = letter
    return [letters[key] for key in sorted(letters)]


async def list_letters(
    env: Env, *, reason: str | None, after: str | None, limit: int
) -> list[DeadLetter]:
    """Up to ``limit`` letters that wait, by id, after ``after``. Raises StorageError."""
    found = await _from_both(
        env,
        lambda database: database.list_dead_letters(reason=reason, after=after, limit=limit),
        lambda: list_dead_letters(env, reason=reason, after=after, limit=limit),
    )
    return _merged(found)[:limit]


async def get_letters(env: Env, ids: Sequence[str]) -> Mapping[str, DeadLetter]:
    """Letters by id, redriven or not. Raises StorageError."""
    found = await _from_both(
        env,
        lambda database: database.get_dead_letters(ids),
        lambda: get_dead_letters(env, ids),
    )
    return {letter.id: letter for letter in _merged(found)}


async def count_letters(env: Env, reason: str | None) -> int:
    """How many letters wait. Raises StorageError."""
    found = await _from_both(
        env,
        lambda database: database.count_dead_letters(),
        lambda: count_dead_letters(env),
    )
    return sum(
        number for counts in found for why, number in counts.items() if reason in (None, why)
    )


async def redrive_ids(env: Env, ids: Sequence[str]) -> list[RedriveResult]:
    """Redrive these letters, each for itself. Raises StorageError when none can be read."""
    wanted = list(dict.fromkeys(ids))
    letters = await get_letters(env, wanted)
    results = [await _redrive(env, id_, letters.get(id_)) for id_ in wanted]
    try:
        await move_letters(env)
    except StorageError as error:  # they are counted twice until the light repair moves them
        env.log("dead letters left in kv", level="warning", reason=error.reason)
    return results


async def redrive_all(env: Env, *, reason: str | None) -> list[RedriveResult]:
    """Redrive the MAX_REDRIVEN letters that have waited longest. Raises StorageError."""
    reasons = None if reason is None else [reason]
    return await _redrive_first(env, reasons=reasons, failed_until=None, max_redrives=None)


async def redrive_passing(env: Env) -> list[RedriveResult]:
    """Redrive what failed for a passing reason a while ago and not too often. Raises
    StorageError."""
    return await _redrive_first(
        env,
        reasons=sorted(PASSING_REASONS),
        failed_until=format_timestamp(env.clock() - timedelta(seconds=AUTOMATIC_AFTER_SECONDS)),
        max_redrives=MAX_AUTOMATIC_REDRIVES - 1,
    )


async def _redrive_first(
    env: Env, *, reasons: Sequence[str] | None, failed_until: str | None, max_redrives: int | None
) -> list[RedriveResult]:
    """Redrive the first MAX_REDRIVEN of the letters that fit, however many others wait."""
    found = await _from_both(
        env,
        lambda database: database.list_redrivable(
            reasons=reasons,
            failed_until=failed_until,
            max_redrives=max_redrives,
            limit=MAX_REDRIVEN,
        ),
        lambda: list_redrivable(
            env,
            reasons=reasons,
            failed_until=failed_until,
            max_redrives=max_redrives,
            limit=MAX_REDRIVEN,
        ),
    )
    letters = sorted(_merged(found), key=lambda letter: letter.failed_at)
    return await redrive_ids(env, [letter.id for letter in letters[:MAX_REDRIVEN]])


async def _redrive(env: Env, letter_id: str, letter: DeadLetter | None) -> RedriveResult:
    """Send, then note: cut off in between it is sent twice, and publishing bears that.

    Noted is the moment before sending: whatever fails after that is a letter of its own.
    """
    if letter is None:
        return RedriveResult(letter_id, RedriveOutcome.UNKNOWN)
    if not letter.is_open:
        return RedriveResult(letter_id, RedriveOutcome.ALREADY_REDRIVEN)
    if not isinstance(letter.body, Mapping):
        return RedriveResult(letter_id, RedriveOutcome.FAILED, "the body is no message")
    marked = msgspec.structs.replace(letter, redrives=letter.redrives + 1, redriven_at=env.now())
    try:
        await send_messages(env, env.publish_queue, [letter.body])
        await store_dead_letter(env, marked)
    except StorageError as error:
        env.log("dead letter not redriven", level="error", id=letter_id, reason=error.reason)
        return RedriveResult(letter_id, RedriveOutcome.FAILED, error.reason)
    return RedriveResult(letter_id, RedriveOutcome.REDRIVEN)
