"""The parts of the marketplace's answers that tables are made of; what is unknown is ignored."""

from typing import Any, TypeVar

import msgspec

from cli.errors import NoAnswer

T = TypeVar("T")


class Source(msgspec.Struct, kw_only=True):
    """One source's state in the health answer."""

    reachable: bool | None = None
    latency_ms: float | None = None
    age_seconds: float | None = None
    damaged: bool = False
    error: str | None = None

    @property
    def is_fine(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.reachable is not False and not self.damaged and not self.error


class Drift(msgspec.Struct, kw_only=True):
    """Two sources that disagree."""

    kind: str
    message: str
    sources: list[str] = []
    counts: list[int | None] = []
    difference: int | None = None


class Finding(msgspec.Struct, kw_only=True):
    """A difference of members that lasts."""

    kind: str
    number: int
    sources: list[str] = []
    examples: list[str] = []
    since: str = ""
    recommendation: str = ""


class Recommendation(msgspec.Struct, kw_only=True):
    """What to do about a finding."""

    action: str
    reason: str = ""
    call: str | None = None


class DeadLetterCounts(msgspec.Struct, kw_only=True):
    """Dead letters that wait, by reason."""

    total: int | None = None
    by_reason: dict[str, int] = {}


class Scanning(msgspec.Struct, kw_only=True):
    """What waits for scanners, and what they did in the last 24 hours."""

    waiting: dict[str, int] = {}
    oldest_age_seconds: float | None = None
    oldest_reason: str | None = None
    handed_out: int = 0
    results: int = 0


class Health(msgspec.Struct, kw_only=True):
    """``GET /api/v1/admin/health/skills``. A count that cannot be read is None."""

    status: str
    drift_detected: bool
    kv_index_count: int | None = None
    kv_enumerated_count: int | None = None
    prisma_count: int | None = None
    seed_count: int | None = None
    drifts: list[Drift] = []
    findings: list[Finding] = []
    counted_at: dict[str, str | None] = {}
    open_rules: int | None = None
    recommendations: list[Recommendation] = []
    sources: dict[str, Source] = {}
    last_repair: dict[str, Any] | None = None
    last_check: dict[str, Any] | None = None
    dead_letters: DeadLetterCounts | None = None
    oldest_pending: dict[str, Any] | None = None
    scanning: Scanning | None = None
    heap: dict[str, Any] | None = None
    kv_operations: dict[str, Any] | None = None

    @property
    def is_healthy(self) -> bool:
        """No drift and no finding. Dead letters count only if the marketplace recommends something.

        Otherwise letters that were refused for good would turn every check red.
        """
        return (
            self.status == "ok"
            and not self.drift_detected
            and not self.drifts
            and not self.findings
            and not self.recommendations
            and all(source.is_fine for source in self.sources.values())
        )


class ErrorDetail(msgspec.Struct, kw_only=True):
    """A record that a rebuild could not read or place."""

    key: str
    reason: str


class RebuildProgress(msgspec.Struct, kw_only=True, rename="camel"):
    """How far a rebuild is."""

    processed: int = 0
    estimated_total: int | None = None
    steps: int | None = None


class Rebuild(msgspec.Struct, kw_only=True, rename="camel"):
    """``/api/v1/admin/rebuild-index``: the report, complete or so far."""

    ok: bool
    complete: bool
    job_id: str | None = None
    dry_run: bool = False
    rebuilt: int = 0
    errors: int = 0
    orphaned_aliases: int = 0
    prisma_backfilled: int = 0
    kv_backfilled: int = 0
    conflicts_resolved: int = 0
    metadata_restored: int = 0
    aliases_repaired: int = 0
    error_details: list[ErrorDetail] = []
    resumed: int = 0
    duration_ms: float | None = None
    progress: RebuildProgress = msgspec.field(default_factory=RebuildProgress)


class DeadLetter(msgspec.Struct, kw_only=True, rename="camel"):
    """A message that could not be processed."""

    id: str
    reason: str
    detail: str = ""
    queue: str = ""
    body: Any = None
    attempts: int | None = None
    failed_at: str = ""
    redrives: int = 0


class RedriveResult(msgspec.Struct, kw_only=True):
    """What became of one letter."""

    id: str
    outcome: str
    reason: str | None = None

    @property
    def is_redriven(self) -> bool:
        """Whether it is on its way, by this call or an earlier one."""
        return self.outcome in {"redriven", "already-redriven"}


class AuditEntry(msgspec.Struct, kw_only=True):
    """What a call has changed."""

    at: str
    principal: str
    action: str
    target: str
    before: Any = None
    after: Any = None
    reason: str | None = None


class Report(msgspec.Struct, kw_only=True, rename="camel"):
    """What a visitor reported about a skill."""

    id: str
    at: str
    slug: str
    reason: str
    text: str = ""
    resolved_by: str | None = None
    resolution: str | None = None


class Act(msgspec.Struct, kw_only=True, rename="camel"):
    """What an operator did to a skill."""

    id: str
    kind: str
    reason: str = ""
    at: str = ""
    by: str = ""
    lifts: list[str] = []
    lifted_by: str | None = None

    @property
    def is_in_force(self) -> bool:
        """Whether it can be lifted, and nobody did."""
        return self.lifted_by is None and self.kind != "RESTORE"


class Verdict(msgspec.Struct, kw_only=True, rename="camel"):
    """What a scan found."""

    scanned_at: str
    verdict: str
    submission_id: str = ""
    score: int | None = None
    path: str | None = None
    commit: str | None = None
    repository_id: str | None = None
    owner_id: str | None = None
    reason: str | None = None


class ListedVersion(msgspec.Struct, kw_only=True, rename="camel"):
    """A version as it was listed first."""

    version: str
    created_at: str
    cert_tier: str
    cert_score: int
    diff_summary: str
    commit: str | None = None


class SubmissionState(msgspec.Struct, kw_only=True, rename="camel"):
    """Where a submission stands."""

    id: str
    state: str
    received_at: str | None = None


class ShownSkill(msgspec.Struct, kw_only=True):
    """``GET /api/v1/admin/skills/{slug}``: all that is known of a skill.

    ``record`` is a text where the record cannot be read.
    """

    skill: dict[str, Any]
    row: dict[str, Any] | None = None
    record: dict[str, Any] | str | None = None
    acts: list[Act] = []
    versions: list[ListedVersion] = []
    verdicts: list[Verdict] = []
    submissions: list[SubmissionState] = []
    source: str = ""
    reasons: list[str] = []

    @property
    def in_force(self) -> list[Act]:
        """The acts that a restore can lift."""
        return [act for act in self.acts if act.is_in_force]

    @property
    def different(self) -> list[str]:
        """The fields that row and record have differently, or one of them has alone."""
        if not isinstance(self.row, dict) or not isinstance(self.record, dict):
            return []
        row, record = self.row, self.record
        return sorted(f for f in {*row, *record} if row.get(f) != record.get(f))

    @property
    def lacking(self) -> list[str]:
        """The ids of acts that the row does not have."""
        known = {act.get("id") for act in (self.row or {}).get("acts", [])}
        return [act.id for act in self.acts if act.id not in known]

    @property
    def finding(self) -> str | None:
        """What is wrong with the copies of this skill, as a sentence; None where all is well."""
        if self.reasons:
            return f"Not everything could be read: {'; '.join(self.reasons)}."
        if isinstance(self.record, str):
            return f"The record in KV cannot be read: {self.record}."
        if self.source == "seed" and not self.acts:  # never published: the Worker has it
            return None
        if self.row is None or self.record is None:
            lacking = "PostgreSQL" if self.row is None else "KV"
            return f"{lacking} does not have it. KV may be a minute late; then: rebuild."
        if self.lacking:
            acts = ", ".join(self.lacking)
            return f"PostgreSQL lacks these acts, and answers without them: {acts}. Now: rebuild."
        if self.different:
            fields = ", ".join(self.different)
            return f"PostgreSQL and KV differ: {fields}. KV may be a minute late; then: rebuild."
        return None


class Acted(msgspec.Struct, kw_only=True):
    """What became of an act. ``stores``: whether each has taken it, by name."""

    slug: str
    status: str
    act: Act
    stores: dict[str, bool]

    @property
    def is_everywhere(self) -> bool:
        """Whether no store lacks it."""
        return all(self.stores.values())


class Rule(msgspec.Struct, kw_only=True, rename="camel"):
    """What operators withhold."""

    id: str
    kind: str
    matches: str
    value: str
    reason: str
    by: str
    threat_type: str | None = None
    severity: str | None = None
    lifted_by: str | None = None
    lift_reason: str | None = None
    applied_at: str | None = None


class RuleReceipt(msgspec.Struct, kw_only=True, rename="camel"):
    """What became of a call that makes or lifts a rule."""

    rule: Rule
    applied: int = 0
    complete: bool = True
    stores: dict[str, bool] = {}


def read(answer: object, kind: type[T]) -> T:
    """The answer as a ``kind``. Raises NoAnswer where it has another form than we know."""
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise NoAnswer(
            f"the answer has an unknown form ({error}): do tool and marketplace fit together?"
        ) from None
