"""Submissions: requests to look at a repository's skill."""

import secrets
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


class OtherName(Exception):
    """A submission of a name that only the slug rule makes equal to that of a listed skill of the
    repository. ``name`` and ``slug`` are that skill's."""

    def __init__(self, submitted: str, *, name: str, slug: str) -> None:
        super().__init__(
            f"This repository's skill {slug} is called {name!r}, and {submitted!r} would have the"
            f" same address. Submit {name!r} to have that skill scanned again; give another skill a"
            " name that differs in letters or digits."
        )
        self.name = name
        self.slug = slug


def new_submission_id() -> str:
    """An id that cannot be guessed: 128 random bits as 32 hex digits."""
    return secrets.token_hex(16)


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
