"""The ports that the marketplace stands on: KV, queues and the skill database, as protocols.

``bindings`` makes them from the Workers runtime, tests make them from a real PostgreSQL and a
simulated KV. Nothing here knows HTTP, SQL or JavaScript.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Protocol, Self

import msgspec

from marketplace.listing import ListingQuery, SortKey
from marketplace.models import Skill

KV_BULK_GET_LIMIT: Final = 100  # keys a bulk get, counted as one operation
KV_LIST_LIMIT: Final = 1000  # keys a list page
KV_METADATA_LIMIT: Final = 1024  # bytes of serialised JSON
KV_VALUE_LIMIT: Final = 25 * 1024 * 1024  # bytes
KV_WRITE_INTERVAL: Final = 1.0  # seconds between two writes to one key; KV refuses quicker ones


class Source(StrEnum):
    """Where an answer came from, in order of trust."""

    POSTGRES = "postgres"
    KV_ENUMERATION = "kv-enumeration"
    KV_INDEX = "kv-index"
    SEED = "seed"


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


@dataclass(frozen=True, slots=True)
class KvKey:
    """A key of a list page, with its metadata as decoded JSON (None when there is none)."""

    name: str
    metadata: Any = None


@dataclass(frozen=True, slots=True)
class KvListPage:
    """Up to KV_LIST_LIMIT keys in UTF-8 order; ``cursor`` is None on the last page.

    A page may be empty and still not the last one.
    """

    keys: Sequence[KvKey]
    cursor: str | None


class KvNamespace(Protocol):
    """Workers KV. Reads and lists may be 60 s stale. Every method raises KvError."""

    async def get(self, key: str, *, max_bytes: int = KV_VALUE_LIMIT) -> bytes | None:
        """The value, or None. Raises KvValueTooLarge beyond ``max_bytes``."""

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes | None]:
        """Values of up to KV_BULK_GET_LIMIT keys in one operation; None where there is none."""

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        metadata: str | None = None,
        expiration_ttl: int | None = None,
    ) -> None:
        """Write a value (UTF-8 text). ``metadata`` is stored as a JSON string; ttl in seconds."""

    async def delete(self, key: str) -> None:
        """Remove a key; no error when there is none."""

    async def list(
        self, *, prefix: str, cursor: str | None = None, limit: int = KV_LIST_LIMIT
    ) -> KvListPage:
        """One page of the keys that start with ``prefix``."""


class MessageQueue(Protocol):
    """The producer side of a queue. Raises QueueError."""

    async def send_batch(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        """Enqueue up to 100 messages in one call."""


class Upserted(StrEnum):
    """What an upsert did."""

    INSERTED = "inserted"
    UPDATED = "updated"
    UNCHANGED = "unchanged"  # the stored revision is the same or a newer one


@dataclass(frozen=True, slots=True)
class UpsertResult:
    """``skill`` is the row as it stands afterwards, whoever wrote it."""

    skill: Skill
    outcome: Upserted


@dataclass(frozen=True, slots=True)
class ListingRow:
    """One listed skill: its sort key, its slug and its summary as JSON (camelCase, UTF-8)."""

    key: SortKey
    name: str
    item: bytes


@dataclass(frozen=True, slots=True)
class ListingRows:
    """A page of rows, and how many rows the filters match in all."""

    rows: Sequence[ListingRow]
    total: int


class RecordKey(msgspec.Struct, frozen=True, array_like=True):
    """What a KV key and its metadata tell about a skill without reading its value."""

    name: str
    identity: str
    revision: str


class DifferenceKind(StrEnum):
    """How a slug range differs between KV records and the table."""

    MISSING_IN_DATABASE = "missing-in-database"  # no row with this identity
    NEWER_IN_KV = "newer-in-kv"
    NEWER_IN_DATABASE = "newer-in-database"
    MISSING_IN_KV = "missing-in-kv"  # a row in the range that no record names
    OTHER_SLUG = "other-slug"  # the identity's row has another slug
    TAKEN_SLUG = "taken-slug"  # no row with this identity, and its slug belongs to another's row


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. ``row`` is the database's skill where there is one for this identity.

    ``name`` is the KV record's slug, or the row's where KV has no record.
    """

    kind: DifferenceKind
    name: str
    row: Skill | None = None


class Fingerprint(msgspec.Struct, frozen=True, rename="camel"):
    """The set of skills that a source holds, cheap to compare: count and digest.

    ``digest`` is the sum, modulo 2**64, of the first 8 bytes (big-endian) of
    ``sha256(f"{slug} {revision}")`` over all skills, as 16 hex digits: independent of order and
    addable over pages.
    """

    count: int
    digest: str


NO_SKILLS: Final = Fingerprint(count=0, digest="0" * 16)
"""The fingerprint of an empty source."""


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

    @property
    def last_event(self) -> tuple[str, bool]:
        """Of two states of a letter the one whose last event is later counts.

        Of a failure and a redrive at one moment it is the failure: the message went round within
        that millisecond.
        """
        return max(self.failed_at, self.redriven_at or ""), self.is_open


class SkillDatabase(Protocol):
    """The connection to the source of truth, one a request. Methods raise DatabaseError.

    The order of trust between two states of a skill is ``Skill.revision``; identity is unique and
    so is the slug. Every method is one statement or one transaction.
    """

    async def list_skills(
        self, query: ListingQuery, *, exclude: Sequence[str], offset: int, limit: int
    ) -> ListingRows:
        """Rows ``offset`` to ``offset + limit`` in the query's order, ``exclude`` (slugs) left out.

        With ``query.cursor`` the rows after it (``offset`` is 0 then). ``total`` ignores the page.
        """

    async def get_skill(self, name: str) -> Skill | None:
        """The skill of this slug or, if none has it, of the skill that left it as an alias."""

    async def get_skill_by_identity(self, identity: str) -> Skill | None:
        """The skill of a repository and base slug."""

    async def count_skills(self, query: ListingQuery, *, exclude: Sequence[str]) -> int:
        """How many rows match."""

    async def count_categories(self, *, exclude: Sequence[str]) -> Mapping[str, int]:
        """Rows per category."""

    async def upsert_skill(self, skill: Skill, *, candidates: Sequence[str]) -> UpsertResult:
        """Insert under the first free candidate slug, or update the identity's row if newer.

        Atomic: the slug is chosen and taken by the statement itself, a row keeps the slug it has,
        ``published_at`` only ever moves back, an older revision changes nothing. Trending scores
        are of the first insert: they are measured, and a publication brings none.
        A slug is free when neither a row nor an alias of another identity has it.
        """

    async def upsert_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        """Upsert up to 1,000 skills under their own names, in bulk; older revisions change nothing.

        A row keeps the slug it has. Of several states of one identity the newest counts, of
        several new identities with one name a single one. Returns those it could not place since
        their slug belongs to another identity. All or nothing: when one is rejected
        (``DatabaseError.reason``), none is written.
        """

    async def check_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        """Answer and raise as ``upsert_skills`` would, and change nothing."""

    async def move_skill(self, identity: str, *, candidates: Sequence[str]) -> Skill | None:
        """Give the identity's row the first free candidate slug and leave its old one as alias.

        The slug it has is free for it. KV counts as not holding the moved skill. None: no row.
        """

    async def add_alias(self, alias: str, identity: str) -> None:
        """Let an old slug lead to the skill of this identity. Idempotent.

        An alias that leads to another identity stays: it is that skill's link.
        """

    async def mark_in_kv(self, versions: Sequence[RecordKey]) -> Sequence[str]:
        """Note that KV holds these revisions. Returns the slugs whose row has moved on since.

        That is: whose identity's row has another revision or another slug by now.
        """

    async def skills_not_in_kv(self, *, limit: int) -> Sequence[Skill]:
        """Rows whose newest revision is not known to be in KV, oldest first."""

    async def compare_range(
        self,
        records: Sequence[RecordKey],
        *,
        after: str,
        until: str | None,
        limit: int | None = None,
    ) -> Sequence[Difference]:
        """Compare KV records with the rows whose slug is in (after, until]; None: no upper end.

        Records may be up to 1,000; only differences come back, in slug order. A slug has two when
        its record and its row are of different identities: TAKEN_SLUG, MISSING_IN_DATABASE or
        OTHER_SLUG for the record, then MISSING_IN_KV for the row, unless KV names it elsewhere.

        ``limit`` bounds the answer, which is as large as the range when KV is empty; the two of
        one slug are never torn apart, so there may be one more. With as many as ``limit`` there
        may be further ones: go on with ``after`` the last one's name and the records after it.
        """

    async def fingerprint(self) -> Fingerprint:
        """Count and digest over all rows."""

    async def store_dead_letter(self, letter: DeadLetter) -> None:
        """Insert or, for the same id, replace a state whose ``last_event`` is not later."""

    async def list_dead_letters(
        self, *, reason: str | None, after: str | None, limit: int
    ) -> Sequence[DeadLetter]:
        """Letters not redriven, ordered by id, after the id ``after``."""

    async def get_dead_letters(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        """The letters of these ids, redriven or not; unknown ids are left out."""

    async def count_dead_letters(self) -> Mapping[str, int]:
        """Letters not redriven, per reason."""

    async def acquire_lease(self, name: str, holder: str, *, now: str, expires_at: str) -> bool:
        """Take a lease that is free, expired or already the holder's. Atomic."""

    async def release_lease(self, name: str, holder: str) -> None:
        """Give a lease back; nothing happens when another holds it."""

    async def save_state(self, name: str, value: bytes) -> None:
        """Keep a small JSON document (a report, the progress of a job) under a name."""

    async def load_state(self, name: str) -> bytes | None:
        """The document kept under a name."""

    def close(self) -> None:
        """End the session. Never blocks; also ends a transaction left open, by rolling it back."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class DatabaseConnector(Protocol):
    """Opens one session with the skill database. Raises DatabaseError."""

    async def __call__(self) -> SkillDatabase: ...
