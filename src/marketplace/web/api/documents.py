"""The shapes of answers, for ``/openapi.json``."""

from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.alias_generators import to_camel

from marketplace.catalog.answer import Source
from marketplace.ports.audit import AuditEntry
from marketplace.ports.scan_request import ScanReason
from marketplace.ports.skill_report import SkillReport
from marketplace.skills.listing_rules import MOST_COUNTED
from marketplace.skills.rules import Rule
from marketplace.skills.skill import INTERNAL, Skill, SkillSummary
from marketplace.skills.submission import SubmissionState, SubmissionStatus
from marketplace.skills.tiers import CertTier
from marketplace.skills.updates import Update

_TOTAL = "Exact, or at least so many."
_IS_EXACT = (
    f"False where more than {MOST_COUNTED:,} skills match a search, or an author and another"
    " filter: they are not counted further."
)


class Document(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=False)


class _Answered(Document):
    source: Source
    degraded: bool
    reasons: list[str]


def _fields_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        field.name: (field.type, Field(alias=field.encode_name))
        for field in msgspec.structs.fields(kind)
        if field.name not in INTERNAL
    }


SummaryDocument = create_model(
    "SummaryDocument",
    __base__=Document,
    __doc__="A skill as listings show it; ``name`` is the slug, ``description`` may be shortened.",
    **_fields_of(SkillSummary),
)


class _Trusted(Document):
    """What installers judge a skill by. ``sha``: the commit; ``provenanceVerified``: a scanner has
    told commit and digest of what is listed."""

    sha: str | None
    provenance_verified: bool
    trust_tier: str
    trust_score: int


SkillDocument = create_model(
    "SkillDocument",
    __base__=(SummaryDocument, _Trusted, _Answered),
    __doc__="A skill, whole.",
    **_fields_of(Skill),
)


class ListingDocument(_Answered):
    """One page of a listing."""

    skills: list[SummaryDocument]  # type: ignore[valid-type]  # a variable, for mypy
    total: int = Field(description=_TOTAL)
    total_is_exact: bool = Field(description=_IS_EXACT)
    limit: int
    offset: int | None
    next_cursor: str | None


class SearchDocument(ListingDocument):
    """The best matches; ``results`` and ``pagination`` for the program `vskill`."""

    results: list[dict[str, Any]]
    pagination: dict[str, bool]


class CountDocument(_Answered):
    """How many skills match."""

    count: int = Field(description=_TOTAL)
    count_is_exact: bool = Field(description=_IS_EXACT)


class CategoryDocument(Document):
    """A category and its skills."""

    name: str
    count: int


class CategoriesDocument(_Answered):
    """The categories, the largest first."""

    categories: list[CategoryDocument]


class ReceiptDocument(Document):
    """What became of a request to be listed. ``submissionId`` is ``id`` once more."""

    id: str | None
    submission_id: str | None
    state: SubmissionState
    skill_name: str
    slug: str | None = None
    duplicate: bool = False
    already_verified: bool = False
    blocked: bool = False


StatusDocument = create_model(
    "StatusDocument",
    __base__=Document,
    __doc__="Where a submission stands. ``status`` is ``state`` once more.",
    status=(SubmissionState, ...),
    **_fields_of(SubmissionStatus),
)


class RefusedDocument(Document):
    """A verdict that changed nothing, and why."""

    submission_id: str
    reason: str


class ResultsReceiptDocument(Document):
    """What became of the verdicts of a call."""

    accepted: list[str]
    rejected: list[RefusedDocument]


class HandedOutScan(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A request as a scanner gets it. ``skill_path`` and ``skill_name`` are hints."""

    submission_id: str
    repo_url: str
    skill_path: str
    skill_name: str
    reason: ScanReason
    requested_at: str
    lease_expires_at: str
    attempt: int  # 1 at its first hand-out
    identity: str


ScanRequestDocument = create_model(
    "ScanRequestDocument",
    __base__=Document,
    __doc__="What to read next. ``skillPath`` and ``skillName`` are hints.",
    **_fields_of(HandedOutScan),
)


class ScanRequestsDocument(Document):
    """What a scanner is to read, the most urgent first."""

    requests: list[ScanRequestDocument]  # type: ignore[valid-type]  # a variable, for mypy


AuditEntryDocument = create_model(
    "AuditEntryDocument",
    __base__=Document,
    __doc__="What a call has changed.",
    **_fields_of(AuditEntry),
)


class AuditDocument(Document):
    """A page of the audit, the newest entry first."""

    entries: list[AuditEntryDocument]  # type: ignore[valid-type]  # a variable, for mypy
    next_cursor: str | None


class ReportReceiptDocument(Document):
    """A report that was taken. ``slug`` is the skill's own, if another one was asked for."""

    id: str
    slug: str


SkillReportDocument = create_model(
    "SkillReportDocument",
    __base__=Document,
    __doc__="What a visitor reported about a skill.",
    **_fields_of(SkillReport),
)


class ReportsDocument(Document):
    """A page of reports, the open ones first, each kind by age."""

    reports: list[SkillReportDocument]  # type: ignore[valid-type]  # a variable, for mypy
    next_cursor: str | None


class VersionDocument(Document):
    """A version as it was listed first. ``createdAt``: when a scanner read it; ``contentHash``:
    SHA-256 of its archive."""

    version: str
    cert_tier: CertTier
    created_at: str
    content_hash: str | None
    skill_md_digest: str | None
    license: str | None
    cert_score: int
    diff_summary: str
    commit: str | None


class VersionsDocument(_Answered):
    """The versions of a skill, the newest first."""

    versions: list[VersionDocument]
    next_cursor: str | None


class FileDocument(Document):
    """A file of a skill's folder; ``size`` in bytes."""

    path: str
    size: int
    sha256: str


class FilesDocument(_Answered):
    """The files of a skill. ``filesDigest``: SHA-256 of the lines ``path NUL size NUL sha256``,
    sorted."""

    files_digest: str
    content_digest: str | None
    files: list[FileDocument]


UpdateDocument = create_model(
    "UpdateDocument",
    __base__=Document,
    __doc__=Update.__doc__,
    **_fields_of(Update),
)


class UpdatesDocument(_Answered):
    """What is told of installed skills, in the order asked."""

    results: list[UpdateDocument]  # type: ignore[valid-type]  # a variable, for mypy


RuleDocument = create_model(
    "RuleDocument",
    __base__=Document,
    __doc__="A rule of operators. ``appliedAt``: when checks ended to apply it, or its lift.",
    **_fields_of(Rule),
)


class RulesDocument(Document):
    """A page of rules, the newest first."""

    rules: list[RuleDocument]  # type: ignore[valid-type]  # a variable, for mypy
    next_cursor: str | None


class RuleReceiptDocument(Document):
    """A rule as it stands. ``applied``: how many skills this call has changed; ``complete``:
    whether none is left, else the marketplace goes on. ``stores``: what has taken the call."""

    rule: RuleDocument  # type: ignore[valid-type]  # a variable, for mypy
    stores: dict[str, bool]
    applied: int
    complete: bool


class ProblemDocument(BaseModel):
    """Problem details, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = None


def documented(model: type[BaseModel], status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The responses of a route for the OpenAPI document; the route encodes them itself."""
    problem: dict[str, Any] = {
        "model": ProblemDocument,
        "content": {"application/problem+json": {}},
    }
    return {status: {"model": model}, "4XX": problem, "5XX": problem}
