"""Sending dead letters on their way again, when an operator asks for it."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from marketplace.operations.dead_letters import moment_of_sending
from marketplace.ports.dead_letter import APPROVED, DeadLetter, DeadLetterReason
from marketplace.ports.env import Env, get_db, send_messages
from marketplace.ports.errors import QueueError, StorageError

MAX_REDRIVEN: Final = 100  # letters in one call


class RedriveOutcome(StrEnum):
    REDRIVEN = "redriven"
    ALREADY_REDRIVEN = "already-redriven"
    UNKNOWN = "unknown"
    FAILED = "failed"


class RedriveResult(msgspec.Struct):
    id: str  # of the letter
    outcome: RedriveOutcome
    reason: str | None = None  # why it failed


async def list_letters(
    env: Env, *, reason: str | None, after: str | None, limit: int
) -> Sequence[DeadLetter]:
    """Up to ``limit`` letters that wait, by id, after ``after``. Raises DatabaseError."""
    return await (await get_db(env)).list_dead_letters(reason=reason, after=after, limit=limit)


async def count_letters(env: Env, reason: str | None) -> int:
    """How many letters wait. Raises DatabaseError."""
    counts = await (await get_db(env)).count_dead_letters()
    return sum(number for why, number in counts.items() if reason in (None, why))


async def redrive_ids(env: Env, ids: Sequence[str]) -> list[RedriveResult]:
    """Redrive these letters, each for itself. Raises DatabaseError."""
    wanted = list(dict.fromkeys(ids))
    found = await (await get_db(env)).get_dead_letters(wanted)
    letters = {letter.id: letter for letter in found}
    return [await _redrive(env, id_, letters.get(id_), approved=True) for id_ in wanted]


async def redrive_all(env: Env, *, reason: str | None) -> list[RedriveResult]:
    """Redrive the MAX_REDRIVEN letters that have waited longest. Raises DatabaseError.

    What the bound on withdrawals held back meets it again, unless its reason is the one given.
    """
    database = await get_db(env)
    letters = await database.list_redrivable(reason=reason, limit=MAX_REDRIVEN)
    approved = reason is not None
    return [await _redrive(env, letter.id, letter, approved=approved) for letter in letters]


async def _redrive(
    env: Env, letter_id: str, letter: DeadLetter | None, *, approved: bool
) -> RedriveResult:
    """Send, then note. Cut off in between, the letter is sent twice, and publishing is idempotent.

    A moment before sending is noted, so that a failure after it opens the letter again. What the
    queue does not take has failed again, and waits behind the others.
    """
    if letter is None:
        return RedriveResult(letter_id, RedriveOutcome.UNKNOWN)
    if not letter.is_open:
        return RedriveResult(letter_id, RedriveOutcome.ALREADY_REDRIVEN)
    if not isinstance(letter.body, Mapping):
        return RedriveResult(letter_id, RedriveOutcome.FAILED, "the body is no message")
    held_back = letter.reason == DeadLetterReason.TOO_MANY_WITHDRAWN
    body = {**letter.body, APPROVED: True} if held_back and approved else letter.body
    began = moment_of_sending(env, letter)
    try:
        try:
            await send_messages(env, env.publish_queue, [body])
        except QueueError:
            await (await get_db(env)).note_failed_again(letter_id, at=began)
            raise
        await (await get_db(env)).mark_redriven([letter_id], at=began)
    except StorageError as error:
        env.log("dead-letter-not-redriven", level="error", id=letter_id, reason=error.reason)
        return RedriveResult(letter_id, RedriveOutcome.FAILED, error.reason)
    return RedriveResult(letter_id, RedriveOutcome.REDRIVEN)
