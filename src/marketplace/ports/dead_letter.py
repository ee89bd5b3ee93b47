"""A message that could not be processed, and the reasons for that."""

from enum import StrEnum
from typing import Any, Final

import msgspec


class DeadLetterReason(StrEnum):
    INVALID_MESSAGE = "invalid-message"
    NOT_SCANNED = "not-scanned"
    OTHER_PATH = "other-path"
    CHANGED_HANDS = "changed-hands"
    TOO_MANY_WITHDRAWN = "too-many-withdrawn"
    INVALID_RECORD = "invalid-record"
    RETRIES_EXHAUSTED = "retries-exhausted"


APPROVED: Final = "approved"
"""The field of a message's body that tells that an operator let it pass a bound."""

# KV may be 60 s behind, and an outage ends: these go away by themselves.
PASSING_REASONS: Final = frozenset(
    {
        DeadLetterReason.NOT_SCANNED,
        DeadLetterReason.RETRIES_EXHAUSTED,
    }
)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A message that could not be processed, kept until an operator or cron redrives it."""

    id: str
    queue: str
    body: Any
    reason: str
    detail: str
    attempts: int
    failed_at: str
    redrives: int = 0
    redriven_at: str | None = None  # the moment before its message was sent again

    @property
    def is_open(self) -> bool:
        """Whether it still waits to be redriven."""
        return self.redriven_at is None
