"""Why a skill is not listed, or not handed out."""

from enum import StrEnum

import msgspec

from marketplace.skills.acts import Act, ActKind, Severity, in_force, of_kind
from marketplace.skills.skill import Skill, SkillSummary, Status


class Standing(StrEnum):
    """What installers are told of a skill; they are handed out a LISTED one, and no other."""

    LISTED = "LISTED"
    SCAN_FAILED = "SCAN_FAILED"
    WITHDRAWN = "WITHDRAWN"
    BLOCKED = "BLOCKED"
    UNKNOWN = "UNKNOWN"


class Withholding(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What everybody is told of a skill that is withheld.

    ``reason`` and ``at`` are those of the act in force or, without one, of the verdict WITHDRAWN;
    None where only the summary of the skill could be read.
    """

    status: Status
    reason: str | None = None
    at: str | None = None
    threat_type: str | None = None
    severity: Severity | None = None
    evidence_urls: tuple[str, ...] = ()


class ScanFailure(msgspec.Struct, frozen=True, kw_only=True):
    """What everybody is told of a skill that failed its latest scan.

    ``reason``: the scanner's; None also where only the summary of the skill could be read. ``at``:
    when it was scanned.
    """

    status: Standing = Standing.SCAN_FAILED
    reason: str | None = None
    at: str


class WithheldKey(msgspec.Struct, frozen=True, array_like=True):
    """Which skill is withheld: its slug, its identity and how."""

    name: str
    identity: str
    status: Status


def standing_of(skill: SkillSummary) -> Standing:
    """A skill that is withheld is told as that, even if it failed its scan too."""
    if skill.status is not Status.LISTED:
        return Standing(skill.status)
    return Standing.LISTED if skill.scan_failed_at is None else Standing.SCAN_FAILED


def key_of(skill: Skill) -> WithheldKey:
    return WithheldKey(skill.name, skill.identity, skill.status)


def withholding_of(skill: Skill) -> Withholding | None:
    """None for a skill that is listed."""
    acts = in_force(skill.acts)
    match skill.status:
        case Status.BLOCKED:
            return _by_act(skill, of_kind(acts, ActKind.BLOCK))
        case Status.WITHDRAWN:
            act = of_kind(acts, ActKind.WITHDRAW)
            if act is not None:
                return _by_act(skill, act)
            return Withholding(
                status=skill.status, reason=skill.verdict_reason, at=skill.verdict_at
            )
        case _:
            return None


def failure_of(skill: Skill) -> ScanFailure | None:
    """None for a skill that did not fail its latest scan."""
    if skill.scan_failed_at is None:
        return None
    return ScanFailure(reason=skill.verdict_reason, at=skill.scan_failed_at)


def _by_act(skill: Skill, act: Act | None) -> Withholding:
    if act is None:
        return Withholding(status=skill.status)
    return Withholding(
        status=skill.status,
        reason=act.reason,
        at=act.at,
        threat_type=act.threat_type,
        severity=act.severity,
        evidence_urls=act.evidence_urls,
    )
