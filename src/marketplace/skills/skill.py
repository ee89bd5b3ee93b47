"""A skill and its listing summary: the one home of their fields.

What KV, PostgreSQL and ``/openapi.json`` say of a field is derived from here at import. README.md,
"Add a field", says how one is added. JSON is camelCase, Python and SQL are snake_case.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Annotated, Any, Final

import msgspec

from marketplace.basics.timestamps import EPOCH
from marketplace.skills.slugs import identity_of
from marketplace.skills.versions import MAX_VERSION_LENGTH, version_order

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
MAX_STORED_PATH_LENGTH: Final = 2048
MAX_AUTHOR_LENGTH: Final = 256

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


@dataclass(frozen=True, slots=True)
class AtMost:
    """The greatest number, or the greatest length of a text or list, that a store may hold."""

    limit: int
    each: int = 2**31 - 1  # of the texts in a list


class Mark(Enum):
    """What else the code has to know of a field."""

    MOMENT = "a point in time as text, see timestamps"
    KEPT = "a newer state of the skill does not replace it, and the revision does not count it"
    SCANNED = "what a scan found; the rest is what a submission says"


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
    cert_tier: Annotated[CertTier, Mark.SCANNED] = CertTier.SCANNED
    cert_method: Annotated[CertMethod, Mark.SCANNED] = CertMethod.AUTOMATED_SCAN
    cert_score: Annotated[int, AtMost(MAX_SCORE), Mark.SCANNED] = 0
    certified_at: Annotated[str | None, Mark.MOMENT, Mark.SCANNED] = None
    labels: Annotated[tuple[str, ...], AtMost(MAX_LABELS, MAX_LABEL_LENGTH)] = DEFAULT_LABELS
    extensible: bool = False
    # Measured and not published: a new version has none of its own.
    trending_score_7d: Annotated[float, Mark.KEPT] = msgspec.field(
        name="trendingScore7d", default=0.0
    )
    trending_score_30d: Annotated[float, Mark.KEPT] = msgspec.field(
        name="trendingScore30d", default=0.0
    )
    published_at: Annotated[str, Mark.MOMENT, Mark.KEPT] = EPOCH  # of the first publication
    updated_at: Annotated[str, Mark.MOMENT, Mark.SCANNED] = EPOCH

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

    extension_points: Annotated[
        tuple[str, ...], AtMost(MAX_EXTENSION_POINTS, MAX_EXTENSION_POINT_LENGTH)
    ] = ()

    @property
    def revision(self) -> str:
        """Total order over the states of one skill: version, then time, then content.

        Of two states the one with the greater revision is the newer. The content digest makes the
        order total, so that any order of arrival ends in the same state.
        """
        digest = hashlib.sha256(revision_encoder.encode(self._content())).hexdigest()[:16]
        return f"{version_order(self.current_version)}|{self.updated_at}|{digest}"

    def _content(self) -> list[object]:
        content: list[object] = [getattr(self, field) for field in _FIRST_CONTENT]
        added = {f: getattr(self, f) for f in _ADDED_CONTENT if getattr(self, f) != _DEFAULTS[f]}
        return [*content, added] if added else content

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
KEPT: Final = _marked(Mark.KEPT)
SUBMITTED_FIELDS: Final = tuple(f for f in _NOTES if f not in (*KEPT, *_marked(Mark.SCANNED)))
"""What a submission says of a skill; the rest of its content is what a scan found."""

ADDED_TO_SUMMARY: Final = _after(SkillSummary, "updated_at")
"""Fields that summaries stored before them lack."""
# A field that was added counts where it differs from its default: it changes no revision that is
# stored already.
_ADDED: Final = (*ADDED_TO_SUMMARY, *_after(Skill, "extension_points"))
_ADDED_CONTENT: Final = tuple(f for f in _ADDED if f not in KEPT)
_FIRST_CONTENT: Final = tuple(f for f in _DEFAULTS if f not in (*KEPT, *_ADDED))
revision_encoder = msgspec.json.Encoder()


def replaces(state: Skill, stored: Skill, *, trusted: bool) -> bool:
    """Whether a state takes the place of the stored one of the same skill.

    It has to be newer. One that a stranger submitted also has to say what the stored one says: it
    may bring a new verdict, and no other name, text, path or version.
    """
    return state.revision > stored.revision and (trusted or says_the_same(state, stored))


def says_the_same(state: Skill, other: Skill) -> bool:
    """Whether two states of a skill differ by nothing but a scan."""
    return all(getattr(state, field) == getattr(other, field) for field in SUBMITTED_FIELDS)


def shorten(text: str, limit: int) -> str:
    """Cut to at most ``limit`` bytes of UTF-8, between characters, ending in an ellipsis if cut."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    ellipsis = "…"
    kept = encoded[: limit - len(ellipsis.encode())].decode(errors="ignore")
    return kept.rstrip() + ellipsis
