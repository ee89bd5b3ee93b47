"""What a visitor reports about a skill, until an operator has resolved it."""

from enum import StrEnum
from typing import NamedTuple

import msgspec


class ReportReason(StrEnum):
    MALICIOUS = "malicious"
    IMPERSONATION = "impersonation"
    LICENSE = "license"
    BROKEN = "broken"
    SPAM = "spam"
    OTHER = "other"


class SkillReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``id`` begins with the moment. ``slug`` is what the skill was called then."""

    id: str
    at: str
    slug: str
    identity: str
    reason: ReportReason
    text: str = ""
    resolved_at: str | None = None
    resolved_by: str | None = None
    resolution: str | None = None

    @property
    def place(self) -> "ReportPlace":
        return ReportPlace(self.resolved_at is not None, self.id)


class ReportPlace(NamedTuple):
    """Where a report stands in the list: the open ones first, each kind by age."""

    resolved: bool
    id: str
