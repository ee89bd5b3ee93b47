"""The shapes of request bodies, for validation and for ``/openapi.json``."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Self

import msgspec
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from marketplace.basics.timestamps import normalize_timestamp
from marketplace.ports.skill_report import ReportReason
from marketplace.publishing.submissions import MAX_RESULTS_A_CALL
from marketplace.skills.forges import repository_address
from marketplace.skills.scan import MAX_FILES, ScanReport
from marketplace.skills.skill import (
    DEFAULT_CATEGORY,
    DEFAULT_LABELS,
    DEFAULT_VERSION,
    MAX_CATEGORY_LENGTH,
    MAX_DESCRIPTION_LENGTH,
    MAX_DISPLAY_NAME_LENGTH,
    MAX_EXTENSION_POINT_LENGTH,
    MAX_EXTENSION_POINTS,
    MAX_FORGE_ID_LENGTH,
    MAX_LABEL_LENGTH,
    MAX_LABELS,
    MAX_LICENSE_LENGTH,
    MAX_PATH_LENGTH,
    MAX_REF_LENGTH,
    MAX_REPO_URL_LENGTH,
    MAX_SCORE,
    MAX_SKILL_NAME_LENGTH,
)
from marketplace.skills.slugs import NAME_PATTERN, is_name, is_slug, repository_name, slugify
from marketplace.skills.submission import Submission
from marketplace.skills.tiers import CertMethod, CertTier, Verdict
from marketplace.skills.versions import MAX_VERSION_LENGTH, is_version
from marketplace.web.api.documents import Document
from marketplace.web.characters import ONE_LINE, PROSE

MAX_REASON_LENGTH: Final = 500
MAX_REPORT_LENGTH: Final = 1000
MAX_THREAT_LENGTH: Final = 64
MAX_URL_LENGTH: Final = 500


def _must(message: str, condition: Callable[[str], bool]) -> AfterValidator:
    def check(text: str) -> str:
        if not condition(text):
            raise ValueError(f"must {message}")
        return text

    return AfterValidator(check)


def _relative_path(text: str) -> str:
    path = text.strip("/")
    if ".." in path.split("/"):
        raise ValueError("must not contain '..'")
    return path


def _forge_id(value: object) -> object:
    """Forges number their repositories and owners; a number is taken as its digits."""
    return str(value) if type(value) is int else value


def moment(text: str) -> str:
    try:
        return normalize_timestamp(text)
    except ValueError as error:
        raise ValueError("must be a time as in 2026-11-24T08:15:30Z (RFC 3339)") from error


Label = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_LENGTH), ONE_LINE]
_ExtensionPoint = Annotated[
    str, Field(min_length=1, max_length=MAX_EXTENSION_POINT_LENGTH), ONE_LINE
]
_Version = Annotated[
    str,
    Field(max_length=MAX_VERSION_LENGTH),
    _must("be a version like 1.2.3 (Semantic Versioning)", is_version),
]
Category = Annotated[
    str,
    Field(min_length=1, max_length=MAX_CATEGORY_LENGTH),
    _must("be lower case letters, digits and single hyphens", is_slug),
]


_SkillName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_SKILL_NAME_LENGTH,
        json_schema_extra={"pattern": NAME_PATTERN},
    ),
    ONE_LINE,
    _must("have only letters a-z, digits, spaces, '.', '_' and '-'", is_name),
    _must("contain a letter a-z or a digit", lambda text: bool(slugify(text))),
]
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
ForgeId = Annotated[
    str, BeforeValidator(_forge_id), Field(min_length=1, max_length=MAX_FORGE_ID_LENGTH), ONE_LINE
]


ThreatType = Annotated[str, ONE_LINE, Field(min_length=1, max_length=MAX_THREAT_LENGTH)]
EvidenceUrl = Annotated[str, Field(max_length=MAX_URL_LENGTH, pattern="^https?://[^ ]+$"), ONE_LINE]


class SubmissionRequest(Document):
    """A request to be listed. Fields not named here are ignored; without ``skillName`` the
    repository's name is the skill's."""

    model_config = ConfigDict(strict=True)

    repo_url: Annotated[
        str, Field(max_length=MAX_REPO_URL_LENGTH), ONE_LINE, AfterValidator(repository_address)
    ]
    skill_name: _SkillName = ""
    display_name: (
        Annotated[str, Field(min_length=1, max_length=MAX_DISPLAY_NAME_LENGTH), ONE_LINE] | None
    ) = None
    skill_path: Annotated[
        str, Field(max_length=MAX_PATH_LENGTH), ONE_LINE, AfterValidator(_relative_path)
    ] = ""
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION_LENGTH), PROSE] = ""
    category: Category = DEFAULT_CATEGORY
    version: _Version = DEFAULT_VERSION
    license: Annotated[str, Field(max_length=MAX_LICENSE_LENGTH), ONE_LINE] | None = None
    labels: Annotated[list[Label], Field(max_length=MAX_LABELS)] = list(DEFAULT_LABELS)  # noqa: RUF012 - Pydantic copies it
    extensible: bool = False
    extension_points: Annotated[list[_ExtensionPoint], Field(max_length=MAX_EXTENSION_POINTS)] = []  # noqa: RUF012 - Pydantic copies it
    rescan: bool = False

    @model_validator(mode="before")
    @classmethod
    def _named(cls, body: Any) -> Any:
        if not isinstance(body, dict) or body.get("skillName") is not None:
            return body
        try:
            name = repository_name(body["repoUrl"])[:MAX_SKILL_NAME_LENGTH]
        except (KeyError, TypeError, AttributeError, ValueError):
            return body  # the repository is at fault, and is named
        return {**body, "skillName": name}

    def to_submission(self, submission_id: str, created_at: str) -> Submission:
        values = self.model_dump(by_alias=True, exclude={"rescan"}) | {
            "id": submission_id,
            "baseSlug": slugify(self.skill_name),
            "createdAt": created_at,
            "license": self.license or None,
            "extensible": self.extensible or bool(self.extension_points),
        }
        return msgspec.convert(values, Submission)


class SkillFacts(Document):
    """What the repository says the skill is. Fields not named here are ignored."""

    name: _SkillName
    display_name: (
        Annotated[str, Field(min_length=1, max_length=MAX_DISPLAY_NAME_LENGTH), ONE_LINE] | None
    ) = None
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION_LENGTH), PROSE] = ""
    version: _Version = DEFAULT_VERSION
    license: Annotated[str, Field(max_length=MAX_LICENSE_LENGTH), ONE_LINE] | None = None
    labels: Annotated[list[Label], Field(max_length=MAX_LABELS)] = []  # noqa: RUF012 - Pydantic copies it
    category: Category = DEFAULT_CATEGORY
    extensible: bool = False
    extension_points: Annotated[list[_ExtensionPoint], Field(max_length=MAX_EXTENSION_POINTS)] = []  # noqa: RUF012 - Pydantic copies it


class ScannedFile(Document):
    """A file of the skill's folder; ``size`` in bytes."""

    path: Annotated[str, Field(min_length=1, max_length=MAX_PATH_LENGTH), ONE_LINE]
    size: Annotated[int, Field(ge=0, strict=True)]
    sha256: _Sha256


class ScanResult(Document):
    """A scanner's verdict on one submission, and what it read there. Fields not named here are
    ignored."""

    submission_id: Annotated[str, Field(min_length=1, max_length=64, pattern="^[0-9A-Za-z_-]+$")]
    verdict: Verdict
    score: Annotated[int, Field(ge=0, le=MAX_SCORE, strict=True)] = 0
    cert_tier: CertTier = CertTier.SCANNED
    cert_method: CertMethod = CertMethod.AUTOMATED_SCAN
    reason: Annotated[str, Field(max_length=MAX_REASON_LENGTH), PROSE] | None = None
    scanned_at: Annotated[str, Field(max_length=40), AfterValidator(moment)] | None = None
    skill: SkillFacts | None = None
    path: (
        Annotated[str, Field(max_length=MAX_PATH_LENGTH), ONE_LINE, AfterValidator(_relative_path)]
        | None
    ) = None
    commit: Annotated[str, Field(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")] | None = None
    ref: Annotated[str, Field(max_length=MAX_REF_LENGTH), ONE_LINE] | None = None
    repository_id: ForgeId | None = None
    owner_id: ForgeId | None = None
    content_digest: _Sha256 | None = None
    skill_md_digest: _Sha256 | None = None
    files: Annotated[list[ScannedFile], Field(max_length=MAX_FILES)] = []  # noqa: RUF012 - Pydantic copies it

    @model_validator(mode="after")
    def _scored(self) -> Self:
        if self.verdict is Verdict.PASS and "score" not in self.model_fields_set:
            raise ValueError("a PASS needs a score")
        return self

    def to_report(self) -> ScanReport:
        """As publishing takes it."""
        return msgspec.convert(self.model_dump(by_alias=True), ScanReport)


class ReportRequest(Document):
    """What is wrong with a skill. Fields not named here are ignored."""

    reason: ReportReason
    text: Annotated[str, Field(max_length=MAX_REPORT_LENGTH), PROSE] = ""


class ResolveRequest(Document):
    """Why a report is closed: what was done, or why nothing."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, PROSE, Field(min_length=1, max_length=MAX_REPORT_LENGTH)]


class ScanResults(Document):
    """The verdicts that a scanner reports in one call."""

    results: Annotated[list[ScanResult], Field(min_length=1, max_length=MAX_RESULTS_A_CALL)]
