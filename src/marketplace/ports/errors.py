"""How a store or a queue fails; a class for each cause that somebody handles differently."""

from marketplace.basics.logs import Level


class StorageError(Exception):
    """A binding that is missing, away, refusing or too slow. ``reason`` is a stable short code."""

    reason = "unavailable"
    level: Level = "warning"
    """Of the log line that tells what was done without it."""

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or self.reason


class TimedOut(StorageError):
    """No answer in time, so nobody knows what the store holds."""

    reason = "timeout"


class KvError(StorageError):
    """KV failed."""


class KvTimeout(TimedOut, KvError):
    """KV did not answer in time."""


class KvRateLimited(KvError):
    """A second write to one key within a second (HTTP 429)."""

    reason = "rate-limited"


class KvValueTooLarge(KvError):
    """A value, or the sum of a bulk get's values, is larger than the reader allows."""

    reason = "too-large"


class ContentError(StorageError):
    """The archive of content failed."""


class ContentTimeout(TimedOut, ContentError):
    """The archive of content did not answer in time."""


class WrongDigest(ContentError):
    """The bytes have another SHA-256 than the one that was named for them."""

    reason = "wrong-digest"


class QueueError(StorageError):
    """The queue did not take a message."""


class RateLimitError(StorageError):
    """Nobody can say whether a call is within its limit."""


class DatabaseError(StorageError):
    """PostgreSQL is away, rejected the statement or did not answer in time."""


class DatabaseTimeout(TimedOut, DatabaseError):
    """PostgreSQL did not answer in time."""


class DatabaseBusy(DatabaseError):
    """PostgreSQL answers, but has not enough time for this: ask later, and no other source."""

    reason = "overloaded"


class DatabaseRejected(DatabaseError):
    """PostgreSQL rejects the statement for what is in it, and will reject it again."""

    reason = "rejected"


class DatabaseConflict(DatabaseError):
    """The statement lost a race too often, or no slug is free for its skill."""

    reason = "conflict"


class UntrustedDatabase(DatabaseError):
    """PostgreSQL answers, and is not what KV has acknowledged: neither read nor written."""


class OtherDatabase(UntrustedDatabase):
    """Another instance: an empty database, or one of another marketplace."""

    reason = "other-instance"


class OlderDatabase(UntrustedDatabase):
    """The right instance, and changes are missing: a dump, a late replica, or a table emptied."""

    reason = "older-state"


class DatabaseRefused(DatabaseError):
    """PostgreSQL refuses every session until somebody corrects the configuration."""

    reason = "refused"
    level = "error"
