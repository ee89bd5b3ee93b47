"""Submissions: requests to look at a repository's skill."""

from enum import StrEnum

import msgspec

from marketplace.skills.skill import DEFAULT_CATEGORY, DEFAULT_LABELS, DEFAULT_VERSION
from marketplace.skills.slugs import identity_of
from marketplace.skills.tiers import Verdict


class SubmissionState(StrEnum):
    """Where a submission stands. RECEIVED → SCANNED → PUBLISHED, or REJECTED; never back."""

    RECEIVED = "RECEIVED"
    SCANNED = "SCANNED"
    PUBLISHED = "PUBLISHED"
    REJECTED = "REJECTED"


class Submission(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A request to look at a repository's skill: ``sub:{id}`` in KV, never changed.

    It points at a skill and says nothing about it: its texts are shown with the submission alone.
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

    @property
    def identity(self) -> str:
        return identity_of(self.repo_url, self.base_slug)


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
    verdict: Verdict | None = None  # the one that stands
    reason: str | None = None
