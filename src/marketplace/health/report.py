"""The health answer: what it holds, and the calls that it recommends."""

from typing import Any, Final, Literal

import msgspec

from marketplace.health.content import ContentCounts
from marketplace.health.differences import Counts
from marketplace.ports.scan_request import ScanHour

REBUILD_CALL: Final = "POST /api/v1/admin/rebuild-index"
REDRIVE_CALL: Final = "POST /api/v1/admin/dead-letters/redrive"


class SourceState(msgspec.Struct, kw_only=True):
    reachable: bool
    latency_ms: float
    error: str | None = None
    damaged: bool = False
    age_seconds: float | None = None


class Drift(msgspec.Struct, kw_only=True):
    kind: Literal["count"]
    sources: tuple[str, str]
    counts: tuple[int, int]
    difference: int
    message: str


class Recommendation(msgspec.Struct, kw_only=True):
    """What to do about a finding; ``call`` repairs it, where one call can."""

    action: str
    reason: str
    call: str | None = None


class Finding(msgspec.Struct, kw_only=True):
    """A difference that is no delay: it was still there a minute after it was found.

    ``number`` is a floor where it is as large as `differences.MAX_SUSPECTS`.
    """

    kind: str
    sources: tuple[str, ...]
    number: int
    examples: list[str]  # slugs, or keys
    since: str
    recommendation: str


class DeadLetterCounts(msgspec.Struct, kw_only=True):
    total: int | None = None  # None where PostgreSQL could not be read
    by_reason: dict[str, int] = {}


class Scanning(msgspec.Struct, kw_only=True):
    """What waits for scanners, handed out or not, and what they did in the last 24 hours."""

    waiting: dict[str, int]  # by reason
    oldest_age_seconds: float | None = None
    oldest_reason: str | None = None
    handed_out: int = 0
    results: int = 0
    hours: list[ScanHour] = []  # those with hand-outs or results, the oldest first


class Health(msgspec.Struct, kw_only=True):
    """The health answer. Its field names are what dashboards read."""

    status: Literal["ok", "drift", "failing"] = "ok"
    kv_index_count: int | None = None
    kv_enumerated_count: int | None = None
    prisma_count: int | None = None
    seed_count: int = 0
    drift_detected: bool = False
    drifts: list[Drift] = []
    findings: list[Finding] = []
    recommendations: list[Recommendation] = []
    sources: dict[str, SourceState] = {}
    counted_at: dict[str, str | None] = {}  # by source; None: not counted
    last_walk: Counts | None = None
    open_rules: int | None = None  # that are being applied
    last_repair: Any = None
    last_check: Any = None
    dead_letters: DeadLetterCounts = msgspec.field(default_factory=DeadLetterCounts)
    oldest_pending: dict[str, Any] | None = None
    scanning: Scanning | None = None  # None where PostgreSQL could not be read
    content: ContentCounts | None = None  # None where no walk over the archive is complete
    heap: dict[str, Any] | None = None
    kv_operations: dict[str, int] = {}

    @property
    def needs_rebuild(self) -> bool:
        """Whether a rebuild would repair something of this."""
        return any(item.call == REBUILD_CALL for item in self.recommendations)
