"""Submissions, the verdicts of scanners on them, and the skill that they make."""

from enum import StrEnum
from typing import Any

import msgspec

from marketplace.skills.skill import (
    DEFAULT_CATEGORY,
    DEFAULT_LABELS,
    DEFAULT_VERSION,
    CertMethod,
    CertTier,
    Skill,
)
from marketplace.skills.slugs import identity_of, repository_owner
from marketplace.skills.stored import storable


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
    """A repository's request to be listed: ``sub:{id}`` in KV, never changed.

    ``trusted``: an operator or a scanner sent it. What a stranger sent changes no listed skill.
    """

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
    trusted: bool = False

    @property
    def identity(self) -> str:
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
    """That a submission was published, by which verdict, and as what: ``published:{id}`` in KV."""

    submission_id: str
    slug: str
    version: str
    published_at: str
    scanned_at: str = ""  # of the verdict


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
    values = _fields_of_a_skill(submission) | _fields_of_a_skill(scan)
    values |= {
        "name": submission.base_slug,
        "display_name": submission.display_name or submission.skill_name,
        "author": repository_owner(submission.repo_url),
        "current_version": scan.version or submission.version,
        "cert_score": scan.score,
        "certified_at": scan.scanned_at,
        "published_at": scan.scanned_at,
        "updated_at": scan.scanned_at,
    }
    return storable(Skill(**values))


def _fields_of_a_skill(said: Submission | Scan) -> dict[str, Any]:
    return {f: getattr(said, f) for f in said.__struct_fields__ if f in Skill.__struct_fields__}
