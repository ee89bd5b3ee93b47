"""What the marketplace talks about: skills, their listing summaries, submissions and verdicts.

JSON is camelCase, Python and SQL are snake_case. Timestamps are text, see ``timestamps``.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from marketplace.slugs import identity_of, repository_owner, slugify
from marketplace.timestamps import EPOCH, normalize_timestamp
from marketplace.versions import MAX_VERSION_LENGTH, version_order

MAX_SKILL_NAME_LENGTH: Final = 64  # Agent Skills specification: `name`
MAX_DISPLAY_NAME_LENGTH: Final = 100
MAX_DESCRIPTION_LENGTH: Final = 1024  # Agent Skills specification: `description`
MAX_PATH_LENGTH: Final = 256
MAX_REPO_URL_LENGTH: Final = 256
MAX_LABELS: Final = 16
MAX_LABEL_LENGTH: Final = 32
MAX_EXTENSION_POINTS: Final = 32
MAX_EXTENSION_POINT_LENGTH: Final = 64
MAX_CATEGORY_LENGTH: Final = 40
MAX_LICENSE_LENGTH: Final = 64
MAX_SCORE: Final = 100
SUMMARY_DESCRIPTION_BYTES: Final = 400  # of UTF-8; lets a summary fit in 1,024 bytes of KV metadata

# Records from before validation may exceed the limits above. They are cut to what every store can
# hold: PostgreSQL's index entries have at most 2,704 bytes, a record 256 KiB, a key 512 bytes.
MAX_STORED_DESCRIPTION_BYTES: Final = 16 * 1024
MAX_STORED_PATH_LENGTH: Final = 2048
MAX_STORED_URL_LENGTH: Final = 2048
MAX_STORED_SLUG_LENGTH: Final = 506
MAX_AUTHOR_LENGTH: Final = 256
MAX_IDENTITY_LENGTH: Final = 2048

DEFAULT_CATEGORY: Final = "development"
DEFAULT_VERSION: Final = "1.0.0"
DEFAULT_LABELS: Final = ("community", "verified")


class CertTier(StrEnum):
    """How far a skill was checked."""

    SCANNED = "SCANNED"
    VERIFIED = "VERIFIED"
    CERTIFIED = "CERTIFIED"


class CertMethod(StrEnum):
    """By what means a skill was checked."""

    AUTOMATED_SCAN = "AUTOMATED_SCAN"
    HUMAN_REVIEW = "HUMAN_REVIEW"
    VENDOR_AUTO = "VENDOR_AUTO"


class SkillSummary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One entry of a listing: everything that listings show, filter, sort and search by.

    ``name`` is the slug. ``description`` is at most SUMMARY_DESCRIPTION_BYTES long.
    """

    name: str
    base_slug: str
    display_name: str
    description: str
    author: str
    repo_url: str
    skill_path: str = ""
    license: str | None = None
    category: str = DEFAULT_CATEGORY
    current_version: str = DEFAULT_VERSION
    cert_tier: CertTier = CertTier.SCANNED
    cert_method: CertMethod = CertMethod.AUTOMATED_SCAN
    cert_score: int = 0
    certified_at: str | None = None
    labels: tuple[str, ...] = DEFAULT_LABELS
    extensible: bool = False
    trending_score_7d: float = msgspec.field(name="trendingScore7d", default=0.0)
    trending_score_30d: float = msgspec.field(name="trendingScore30d", default=0.0)
    published_at: str = EPOCH
    updated_at: str = EPOCH

    @property
    def identity(self) -> str:
        """What makes two records the same skill: the repository and the base slug."""
        return identity_of(self.repo_url, self.base_slug)


class PublishedSummary(msgspec.Struct, frozen=True):
    """A summary as KV and the index hold it: with the revision, which only a whole skill tells."""

    summary: SkillSummary
    revision: str


class Skill(SkillSummary, frozen=True, kw_only=True, rename="camel"):
    """A published skill, whole: the summary's fields, the full description, extension points."""

    extension_points: tuple[str, ...] = ()

    @property
    def revision(self) -> str:
        """Total order over the states of one skill: version, then time, then content.

        Of two states the one with the greater revision is the newer. The content digest makes the
        order total, so that any order of arrival ends in the same state. The slug and the moment
        of first publication are left out, being properties of the listing; the trending scores
        are left out, being measured and not published.
        """
        digest = hashlib.sha256(_revision_encoder.encode(self._content())).hexdigest()[:16]
        return f"{version_order(self.current_version)}|{self.updated_at}|{digest}"

    def _content(self) -> list[object]:
        return [getattr(self, field) for field in _CONTENT_FIELDS]

    @classmethod
    def from_summary(cls, summary: SkillSummary) -> "Skill":
        """What can be told of a skill whose listing entry is all that is left at the moment."""
        return cls(**msgspec.structs.asdict(summary))

    def summary(self) -> SkillSummary:
        """The listing's view of this skill."""
        values = {field: getattr(self, field) for field in SkillSummary.__struct_fields__}
        values["description"] = shorten(self.description, SUMMARY_DESCRIPTION_BYTES)
        return SkillSummary(**values)

    def renamed(self, name: str, *, published_at: str | None = None) -> "Skill":
        """The same skill under another slug and, if given, with another first publication."""
        return msgspec.structs.replace(
            self, name=name, published_at=published_at or self.published_at
        )

    def published_summary(self) -> PublishedSummary:
        """The summary together with the revision."""
        return PublishedSummary(self.summary(), self.revision)


_NOT_CONTENT = {"name", "published_at", "trending_score_7d", "trending_score_30d"}
_CONTENT_FIELDS = tuple(f for f in Skill.__struct_fields__ if f not in _NOT_CONTENT)
_revision_encoder = msgspec.json.Encoder()


def shorten(text: str, limit: int) -> str:
    """Cut to at most ``limit`` bytes of UTF-8, between characters, ending in an ellipsis if cut."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    ellipsis = "…"
    kept = encoded[: limit - len(ellipsis.encode())].decode(errors="ignore")
    return kept.rstrip() + ellipsis


class InvalidRecord(ValueError):
    """A stored record that cannot be read as a skill; the message says what is wrong with it."""


_ALIASES_OF_FIELDS: Mapping[str, tuple[str, ...]] = {
    "name": ("slug",),
    "displayName": ("display_name", "title"),
    "repoUrl": ("repo_url", "repositoryUrl", "repository"),
    "currentVersion": ("current_version", "version"),
    "certTier": ("cert_tier", "tier"),
    "certMethod": ("cert_method",),
    "certScore": ("cert_score", "score"),
    "certifiedAt": ("certified_at",),
    "publishedAt": ("published_at", "createdAt"),
    "updatedAt": ("updated_at",),
    "extensionPoints": ("extension_points",),
    "skillPath": ("skill_path", "path"),
    "baseSlug": ("base_slug",),
    "trendingScore7d": ("trending_score_7d",),
    "trendingScore30d": ("trending_score_30d",),
}


def read_skill(record: object, *, slug: str | None = None) -> Skill:
    """Read a decoded JSON record of any generation as a Skill that every store takes.

    ``slug`` is the slug that the record's key names; it wins over the record's own name, since
    the key is what links point to. Missing optional fields and unreadable times get their
    defaults, values beyond the limits are cut to them (see `storable`). Raises InvalidRecord when
    the record has no usable slug or repository, or a field of a wrong type.
    """
    if not isinstance(record, Mapping):
        raise InvalidRecord(f"expected a JSON object, found {type(record).__name__}")
    values = _known_fields(record)
    name = slug or values.get("name")
    if not isinstance(name, str) or not name or slugify(name) != name:
        raise InvalidRecord(f"no usable slug: {name!r:.80}")
    repo_url = values.get("repoUrl")
    if not isinstance(repo_url, str) or not repo_url:
        raise InvalidRecord("no repoUrl")
    values |= {"name": name}
    values.setdefault("baseSlug", name)
    values.setdefault("displayName", name)
    values.setdefault("description", "")
    if not values.get("author"):
        values["author"] = _owner(repo_url)
    for field in ("publishedAt", "updatedAt", "certifiedAt"):
        _normalize_time(values, field)
    if "updatedAt" not in values and "publishedAt" in values:
        values["updatedAt"] = values["publishedAt"]
    score = values.get("certScore")
    if isinstance(score, float) and math.isfinite(score):
        values["certScore"] = round(score)
    try:
        return storable(msgspec.convert(values, Skill, strict=False))
    except ValueError as error:  # msgspec.ValidationError is one
        raise InvalidRecord(str(error)) from error


_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


def storable(skill: Skill) -> Skill:
    """The skill as PostgreSQL, KV and the index all can hold it, so that none of them ever lacks
    a skill that another has. Idempotent.

    Too long texts and lists are cut, NUL characters (which PostgreSQL has no room for) replaced,
    scores brought into their range, trending scores that are no numbers set to 0. Raises
    InvalidRecord for what cannot be mended: the slug, the repository, times, broken Unicode.
    """
    try:
        _revision_encoder.encode(skill)  # refuses broken Unicode
    except ValueError as error:
        raise InvalidRecord(str(error)) from error
    stored = msgspec.structs.replace(
        skill,
        display_name=_cut(skill.display_name, MAX_DISPLAY_NAME_LENGTH),
        description=shorten(_without_nul(skill.description), MAX_STORED_DESCRIPTION_BYTES),
        author=_cut(skill.author, MAX_AUTHOR_LENGTH),
        skill_path=_cut(skill.skill_path, MAX_STORED_PATH_LENGTH),
        license=None if skill.license is None else _cut(skill.license, MAX_LICENSE_LENGTH),
        category=_cut(skill.category, MAX_CATEGORY_LENGTH) or DEFAULT_CATEGORY,
        current_version=_cut(skill.current_version, MAX_VERSION_LENGTH),
        cert_score=min(max(skill.cert_score, 0), MAX_SCORE),
        labels=tuple(_cut(label, MAX_LABEL_LENGTH) for label in skill.labels[:MAX_LABELS]),
        extension_points=tuple(
            _cut(point, MAX_EXTENSION_POINT_LENGTH)
            for point in skill.extension_points[:MAX_EXTENSION_POINTS]
        ),
        trending_score_7d=_finite(skill.trending_score_7d),
        trending_score_30d=_finite(skill.trending_score_30d),
    )
    _check_storable(stored)
    return stored


def _check_storable(skill: Skill) -> None:
    if slugify(skill.name) != skill.name or not 0 < len(skill.name) <= MAX_STORED_SLUG_LENGTH:
        raise InvalidRecord(f"no usable slug: {skill.name!r:.80}")
    moments = (skill.published_at, skill.updated_at, skill.certified_at or EPOCH)
    if not all(_MOMENT.fullmatch(moment) for moment in moments):
        raise InvalidRecord(f"not all times: {moments!r:.120}")
    if len(skill.repo_url) > MAX_STORED_URL_LENGTH:
        raise InvalidRecord(f"a repoUrl of {len(skill.repo_url)} characters")
    try:
        identity = skill.identity
    except ValueError as error:
        raise InvalidRecord(str(error)) from error
    if len(identity) > MAX_IDENTITY_LENGTH:
        raise InvalidRecord(f"an identity of {len(identity)} characters")


def _cut(text: str, length: int) -> str:
    return _without_nul(text)[:length]


def _without_nul(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _owner(repo_url: str) -> str:
    try:
        return repository_owner(repo_url)
    except ValueError as error:
        raise InvalidRecord(str(error)) from error


def _known_fields(record: Mapping[Any, Any]) -> dict[str, Any]:
    """The record's values under their present names; ``null`` counts as missing."""
    values: dict[str, Any] = {}
    for field in _FIELD_NAMES:
        for key in (field, *_ALIASES_OF_FIELDS.get(field, ())):
            if record.get(key) is not None:
                values[field] = record[key]
                break
    return values


def _normalize_time(values: dict[str, Any], field: str) -> None:
    """Bring a time into its one form; what is no time counts as missing."""
    try:
        values[field] = normalize_timestamp(values[field])
    except (KeyError, ValueError, TypeError):
        values.pop(field, None)  # no skill is hidden because nobody can say how old it is


_FIELD_NAMES = tuple(field.encode_name for field in msgspec.structs.fields(Skill))


class SubmissionState(StrEnum):
    """Where a submission stands. RECEIVED → SCANNED → PUBLISHED, or REJECTED; never back."""

    RECEIVED = "RECEIVED"
    SCANNED = "SCANNED"
    PUBLISHED = "PUBLISHED"
    REJECTED = "REJECTED"


class Verdict(StrEnum):
    """What a scanner found."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"


class Submission(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A repository's request to be listed: ``sub:{id}`` in KV, written once and never changed."""

    id: str
    repo_url: str
    skill_name: str
    base_slug: str
    created_at: str
    display_name: str | None = None
    skill_path: str = ""
    description: str = ""
    category: str = DEFAULT_CATEGORY
    version: str = DEFAULT_VERSION
    license: str | None = None
    labels: tuple[str, ...] = DEFAULT_LABELS
    extensible: bool = False
    extension_points: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """The identity of the skill that this submission wants listed."""
        return identity_of(self.repo_url, self.base_slug)


class Scan(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A scanner's verdict on a submission: ``scan:{id}`` in KV; the newest replaces older ones."""

    submission_id: str
    verdict: Verdict
    score: int
    scanned_at: str
    cert_tier: CertTier = CertTier.SCANNED
    cert_method: CertMethod = CertMethod.AUTOMATED_SCAN
    version: str | None = None
    reason: str | None = None


class Publication(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """That a submission was published, and as what: ``published:{id}`` in KV."""

    submission_id: str
    slug: str
    version: str
    published_at: str


class SubmissionStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The state of a submission, derived from the records that each step leaves behind.

    Every step writes a key of its own and changes no other, so the state can only move forward.
    """

    id: str
    state: SubmissionState
    repo_url: str
    skill_name: str
    received_at: str
    scanned_at: str | None = None
    published_at: str | None = None
    rejected_at: str | None = None
    slug: str | None = None
    reason: str | None = None


def skill_from_submission(submission: Submission, scan: Scan) -> Skill:
    """The skill that a passed submission publishes. Deterministic: repeats give the same revision.

    The slug is the base slug for now; publishing decides the one it gets. Raises ValueError when
    the records, which may be damaged, make no skill.
    """
    skill = Skill(
        name=submission.base_slug,
        base_slug=submission.base_slug,
        display_name=submission.display_name or submission.skill_name,
        description=submission.description,
        author=repository_owner(submission.repo_url),
        repo_url=submission.repo_url,
        skill_path=submission.skill_path,
        license=submission.license,
        category=submission.category,
        current_version=scan.version or submission.version,
        cert_tier=scan.cert_tier,
        cert_method=scan.cert_method,
        cert_score=scan.score,
        certified_at=scan.scanned_at,
        labels=submission.labels,
        extensible=submission.extensible,
        extension_points=submission.extension_points,
        published_at=scan.scanned_at,
        updated_at=scan.scanned_at,
    )
    return storable(skill)
