"""The work list of scanners: what they are asked to read, one request an identity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from marketplace.skills.submission import Submission


class ScanReason(StrEnum):
    """Why a skill is read."""

    NEW = "new"  # it was submitted, and there is no skill of its identity yet
    RESCAN = "rescan"  # it was submitted once more
    DUE = "due"  # it is listed, and was not read for long


class ScanRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A request as it stands on the list, until it is answered and after that.

    ``attempts`` is how often it was handed out; it may be from ``free_at`` on.
    """

    identity: str
    submission_id: str
    reason: ScanReason
    requested_at: str
    submission: Submission
    attempts: int = 0
    free_at: str
    answered_at: str | None = None


@dataclass(frozen=True, slots=True)
class WantedScan:
    """What is put on the list. ``at`` is when it was asked for."""

    submission: Submission
    at: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many wait, and since when the oldest does; None where none does."""

    count: int = 0
    since: str | None = None


class ScanHour(msgspec.Struct, frozen=True, kw_only=True):
    """What was handed out and answered within the hour that begins at ``hour``."""

    hour: str
    handed_out: int = 0
    results: int = 0


@dataclass(frozen=True, slots=True)
class ScanWork:
    """How the list stands.

    ``asked`` are the open requests by reason. ``unread`` are the listed skills without one that
    are due; ``since`` is the moment since which the first of them was neither read nor asked for.
    """

    asked: Mapping[ScanReason, Waiting]
    unread: Waiting
    hours: Sequence[ScanHour]  # those with hand-outs or results, the oldest first
