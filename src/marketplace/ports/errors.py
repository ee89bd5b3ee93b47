"""How a store or a queue fails."""

from marketplace.basics.logs import Level


class StorageError(Exception):
    """A binding that is missing, away, refusing or too slow. ``reason`` is a stable short code."""

    level: Level = "warning"
    """Of the log line that tells what was done without it."""

    def __init__(self, message: str, *, reason: str = "unavailable") -> None:
        super().__init__(message)
        self.reason = reason


class KvError(StorageError):
    """KV failed."""


class KvRateLimited(KvError):
    """A second write to one key within a second (HTTP 429)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="rate-limited")


class KvValueTooLarge(KvError):
    """A value, or the sum of a bulk get's values, is larger than the reader allows."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="too-large")


class QueueError(StorageError):
    """The queue did not take a message."""


class DatabaseError(StorageError):
    """PostgreSQL is away, rejected the statement or did not answer in time."""


class DatabaseRefused(DatabaseError):
    """PostgreSQL is there and refuses every session: a wrong password, an unknown database, …

    That does not pass until somebody corrects what is configured.
    """

    level = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="refused")
