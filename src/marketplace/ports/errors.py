"""How a store or a queue fails."""


class StorageError(Exception):
    """A binding that is missing, away, refusing or too slow. ``reason`` is a stable short code."""

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
    """PostgreSQL is away, refused the statement or did not answer in time."""
