"""A skill and its listing summary: the one home of their fields.

What KV, PostgreSQL and ``/openapi.json`` say of a field is derived from here at import. README.md,
"Add a field", says how one is added. JSON is camelCase, Python and SQL are snake_case.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Annotated, Any, Final

import msgspec

from marketplace.basics.timestamps import EPOCH, parse_timestamp
from marketplace.skills.acts import Acts
from marketplace.skills.slugs import (
    identity_of,
    is_on_github,
    repository_owner,
)
from marketplace.skills.tiers import CertMethod, CertTier, Verdict
from marketplace.skills.versions import MAX_VERSION_LENGTH

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
MAX_COMMIT_LENGTH: Final = 64
MAX_REF_LENGTH: Final = 256
MAX_FORGE_ID_LENGTH: Final = 64
MAX_DIGEST_LENGTH: Final = 64  # hexadecimal digits of SHA-256
MAX_VERDICT_REASON_LENGTH: Final = 1000
MAX_PRINCIPAL_LENGTH: Final = 100
SUMMARY_DESCRIPTION_BYTES: Final = 400  # of UTF-8; lets a summary fit in 1,024 bytes of KV metadata

# Records from before validation may exceed the limits above. They are cut to what every store can
# hold: PostgreSQL's index entries have at most 2,704 bytes, a record 256 KiB, a key 512 bytes.
MAX_STORED_PATH_LENGTH: Final = 2048
MAX_AUTHOR_LENGTH: Final = 256

DEFAULT_CATEGORY: Final = "development"
DEFAULT_VERSION: Final = "1.0.0"
DEFAULT_LABELS: Final[tuple[str, ...]] = ()


class Status(StrEnum):
    """Whether a skill is shown."""

    LISTED = "LISTED"
    WITHDRAWN = "WITHDRAWN"  # by its owner, as a scan read, or by an operator
    BLOCKED = "BLOCKED"  # by an operator: it is a threat


@dataclass(frozen=True, slots=True)
class AtMost:
    """The greatest number, or the greatest length of a text or list, that a store may hold."""

    limit: int
    each: int = 2**31 - 1  # of the texts in a list


class Mark(Enum):
    """What else the code has to know of a field."""

    MOMENT = "a point in time as text, see timestamps"
    KEPT = "no newer state replaces it, and the revision does not count it"
    TOLD = "it helps a reader, and the revision does not count it"
    CERTIFIED = "what the newest PASS says of the check; the rest is what the repository says"
    DECIDED = "what the newest verdict says"
    INTERNAL = "no answer for visitors has it"
    DERIVED = "follows from the other fields and the acts, see merging"


class SkillSummary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a listing shows of a skill, and filters, sorts and searches by.

    ``name`` is the slug. ``description`` is at most SUMMARY_DESCRIPTION_BYTES long.

    A new field comes last and has a default: KV holds summaries as arrays, and older ones end
    before it.
    """

    name: Annotated[str, Mark.KEPT]  # links carry it
    base_slug: str
    display_name: Annotated[str, AtMost(MAX_DISPLAY_NAME_LENGTH)]
    description: str
    author: Annotated[str, AtMost(MAX_AUTHOR_LENGTH)]
    repo_url: str
    skill_path: Annotated[str, AtMost(MAX_STORED_PATH_LENGTH)] = ""
    license: Annotated[str | None, AtMost(MAX_LICENSE_LENGTH)] = None
    category: Annotated[str, AtMost(MAX_CATEGORY_LENGTH)] = DEFAULT_CATEGORY
    current_version: Annotated[str, AtMost(MAX_VERSION_LENGTH)] = DEFAULT_VERSION
    cert_tier: Annotated[CertTier, Mark.CERTIFIED] = CertTier.SCANNED
    cert_method: Annotated[CertMethod, Mark.CERTIFIED] = CertMethod.AUTOMATED_SCAN
    cert_score: Annotated[int, AtMost(MAX_SCORE), Mark.CERTIFIED] = 0
    certified_at: Annotated[str | None, Mark.MOMENT, Mark.CERTIFIED] = None
    labels: Annotated[tuple[str, ...], AtMost(MAX_LABELS, MAX_LABEL_LENGTH)] = DEFAULT_LABELS
    extensible: bool = False
    # Measured and not published: a new version has none of its own.
    trending_score_7d: Annotated[float, Mark.KEPT] = msgspec.field(
        name="trendingScore7d", default=0.0
    )
    trending_score_30d: Annotated[float, Mark.KEPT] = msgspec.field(
        name="trendingScore30d", default=0.0
    )
    published_at: Annotated[str, Mark.MOMENT, Mark.TOLD] = EPOCH  # of the first publication
    # When what the repository says last changed.
    updated_at: Annotated[str, Mark.MOMENT, Mark.TOLD] = EPOCH
    status: Annotated[Status, Mark.DERIVED] = Status.LISTED
    scan_failed_at: Annotated[str | None, Mark.MOMENT, Mark.DERIVED] = None
    source_gone_at: Annotated[str | None, Mark.MOMENT, Mark.DERIVED] = None
    provisional: bool = False  # no scan has told what the repository says
    installs: Annotated[int, Mark.KEPT] = 0  # as installers report them, in all

    @property
    def identity(self) -> str:
        """What makes two records the same skill: the repository and the base slug."""
        return identity_of(self.repo_url, self.base_slug)


class PublishedSummary(msgspec.Struct, frozen=True):
    """A summary as KV and the index hold it: with the revision, which only a whole skill tells."""

    summary: SkillSummary
    revision: str


class Said(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the repository and the scanner say, where something else is listed instead."""

    category: str
    labels: tuple[str, ...]
    cert_tier: CertTier


class Skill(SkillSummary, frozen=True, kw_only=True, rename="camel"):
    """A published skill, whole: the summary's fields, the full description, extension points."""

    extension_points: Annotated[
        tuple[str, ...], AtMost(MAX_EXTENSION_POINTS, MAX_EXTENSION_POINT_LENGTH)
    ] = ()

    commit: Annotated[str | None, AtMost(MAX_COMMIT_LENGTH)] = None
    ref: Annotated[str | None, AtMost(MAX_REF_LENGTH)] = None
    repository_id: Annotated[str | None, AtMost(MAX_FORGE_ID_LENGTH)] = None  # the forge's own
    owner_id: Annotated[str | None, AtMost(MAX_FORGE_ID_LENGTH)] = None
    content_digest: Annotated[str | None, AtMost(MAX_DIGEST_LENGTH)] = None  # of the archive
    skill_md_digest: Annotated[str | None, AtMost(MAX_DIGEST_LENGTH)] = None
    read_at: Annotated[str | None, Mark.MOMENT] = None  # see facts_at
    verdict: Annotated[Verdict, Mark.DECIDED] = Verdict.PASS
    verdict_at: Annotated[str | None, Mark.MOMENT, Mark.DECIDED] = None  # see decided_at
    verdict_reason: Annotated[str | None, AtMost(MAX_VERDICT_REASON_LENGTH), Mark.DECIDED] = None
    said: Annotated[Said | None, Mark.DERIVED, Mark.INTERNAL] = None
    acts: Annotated[Acts, Mark.DERIVED, Mark.INTERNAL] = ()
    files_digest: Annotated[str | None, AtMost(MAX_DIGEST_LENGTH)] = None  # of the list of files
    # The key that reported the newest verdict.
    scanned_by: Annotated[str | None, AtMost(MAX_PRINCIPAL_LENGTH), Mark.DECIDED] = None

    @property
    def facts_at(self) -> str:
        """When a scanner read what the repository says here."""
        return self.read_at or self.updated_at

    @property
    def decided_at(self) -> str:
        """The moment of the newest verdict."""
        return self.verdict_at or self.certified_at or self.facts_at

    @property
    def revision(self) -> str:
        """Names a state of one skill; where one state has all that another has, it is greater.

        The moments of its newest verdict, act, PASS and facts come first; the digest makes it
        unique. Two states may each have what the other lacks: `merging.merge` makes one of them.
        """
        certified_at = self.certified_at or EPOCH
        moments = [self.decided_at, certified_at, self.facts_at]
        latest = max([*moments, *(act.at for act in self.acts[-1:])])
        digest = digest_of(
            [self.identity, self.content(), self._verdicts(), [act.id for act in self.acts]]
        )
        parts = [_compact(latest), f"{len(self.acts):03d}", *map(_compact, moments), digest]
        return "|".join(parts)

    def content(self) -> list[object]:
        """What the repository says, with the moment; a field at its default is left out."""
        said: dict[str, object] = {} if self.said is None else msgspec.structs.asdict(self.said)
        values = {f: said.get(f, getattr(self, f)) for f in CONTENT}
        values["author"] = self._author_in_revision()
        return [self.facts_at, {f: v for f, v in values.items() if v != _DEFAULTS[f]}]

    def _author_in_revision(self) -> str:
        """On another forge than GitHub the owner alone. So a state that was stored before authors
        had the forge in front has the same revision as now."""
        return self.author if is_on_github(self.repo_url) else repository_owner(self.repo_url)

    def _verdicts(self) -> list[object]:
        tier = self.cert_tier if self.said is None else self.said.cert_tier
        certified = [getattr(self, f) for f in CERTIFIED if f != "cert_tier"]
        by = [] if self.scanned_by is None else [self.scanned_by]
        return [tier, *certified, self.verdict, self.decided_at, self.verdict_reason, *by]

    @classmethod
    def from_summary(cls, summary: SkillSummary) -> "Skill":
        """What can be told of a skill of which only the summary can be read."""
        return cls(**msgspec.structs.asdict(summary))

    def summary(self) -> SkillSummary:
        values = {field: getattr(self, field) for field in SkillSummary.__struct_fields__}
        values["description"] = shorten(self.description, SUMMARY_DESCRIPTION_BYTES)
        return SkillSummary(**values)

    def renamed(self, name: str, *, published_at: str | None = None) -> "Skill":
        """The same skill under another slug and, if given, with another first publication."""
        return msgspec.structs.replace(
            self, name=name, published_at=published_at or self.published_at
        )

    def published_summary(self) -> PublishedSummary:
        return PublishedSummary(self.summary(), self.revision)


def _marked(mark: Mark) -> tuple[str, ...]:
    return tuple(field for field, notes in _NOTES.items() if mark in notes)


def _after(kind: type[SkillSummary], last: str) -> tuple[str, ...]:
    return kind.__struct_fields__[kind.__struct_fields__.index(last) + 1 :]


_FIELDS: Final = msgspec.structs.fields(Skill)
_DEFAULTS: Final = {field.name: field.default for field in _FIELDS}
_NOTES: Final[dict[str, tuple[Any, ...]]] = {
    field.name: getattr(field.type, "__metadata__", ()) for field in _FIELDS
}
LIMITS: Final = {
    field: next((note for note in notes if isinstance(note, AtMost)), AtMost(2**31 - 1))
    for field, notes in _NOTES.items()
}
"""Of every field; without one of its own, what a column can hold."""
MOMENTS: Final = _marked(Mark.MOMENT)
SUMMARY_MOMENTS: Final = tuple(f for f in MOMENTS if f in SkillSummary.__struct_fields__)
KEPT: Final = _marked(Mark.KEPT)
INTERNAL: Final = _marked(Mark.INTERNAL)
CERTIFIED: Final = _marked(Mark.CERTIFIED)
DECIDED: Final = _marked(Mark.DECIDED)
CONTENT: Final = tuple(
    field
    for field in _NOTES
    if field not in (*KEPT, *_marked(Mark.TOLD), *CERTIFIED, *DECIDED, *_marked(Mark.DERIVED))
    and field not in ("base_slug", "read_at")
)
"""What a repository says of a skill."""

ADDED_TO_SUMMARY: Final = _after(SkillSummary, "updated_at")
"""Fields that summaries stored before them lack."""
revision_encoder = msgspec.json.Encoder()


def digest_of(value: object) -> str:
    """16 hexadecimal digits that tell values apart."""
    return hashlib.sha256(revision_encoder.encode(value)).hexdigest()[:16]


def _compact(moment: str) -> str:
    """A moment as milliseconds in 11 hexadecimal digits, which sort as the moments do."""
    return f"{max(0, round(parse_timestamp(moment).timestamp() * 1000)):011x}"


def shorten(text: str, limit: int) -> str:
    """Cut to at most ``limit`` bytes of UTF-8, between characters, ending in an ellipsis if cut."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    ellipsis = "…"
    kept = encoded[: limit - len(ellipsis.encode())].decode(errors="ignore")
    return kept.rstrip() + ellipsis
