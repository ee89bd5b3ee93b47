"""A skill and its listing summary.

JSON is camelCase, Python and SQL are snake_case. Timestamps are text, see ``timestamps``.
"""

import hashlib
from enum import StrEnum
from typing import Final

import msgspec

from marketplace.basics.timestamps import EPOCH
from marketplace.skills.slugs import identity_of
from marketplace.skills.versions import version_order

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
        digest = hashlib.sha256(revision_encoder.encode(self._content())).hexdigest()[:16]
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
_OF_A_SCAN = {"cert_tier", "cert_method", "cert_score", "certified_at", "updated_at"}
SUBMITTED_FIELDS: Final = tuple(f for f in _CONTENT_FIELDS if f not in _OF_A_SCAN)
"""What a submission says of a skill; the rest of its content is what a scan found."""
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
