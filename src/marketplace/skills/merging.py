"""One state out of two of the same skill: facts and acts, each merged for itself.

`merge` is commutative, associative and idempotent, so any order of messages, repairs and retries
ends in the same revision. It has three registers, of which the greater (moment, digest) wins: what
the repository says, what the newest PASS says, and the newest verdict; and the set of acts.
``updated_at`` and ``published_at`` only help a reader, and the revision does not count them. The
first publication is compared besides, as `is_same` does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from marketplace.basics.timestamps import EPOCH
from marketplace.skills.acts import ActKind, in_force, of_kind, union
from marketplace.skills.skill import (
    CERTIFIED,
    CONTENT,
    DECIDED,
    Said,
    Skill,
    Status,
    digest_of,
)
from marketplace.skills.tiers import CertTier, Verdict

_GRAVITY = {Verdict.PASS: 0, Verdict.GONE: 1, Verdict.WITHDRAWN: 2, Verdict.FAIL: 3}
"""Of two verdicts of one moment the graver one stands."""


def merge(one: Skill, other: Skill) -> Skill:
    """What both states of a skill know. The slug and what is measured are those of ``one``."""
    one, other = as_said(one), as_said(other)
    states = (one, other)
    content = max(states, key=_content_rank)
    certified = max(states, key=_certified_rank)
    decided = max(states, key=_decided_rank)
    values = _values(content, CONTENT) | _values(certified, CERTIFIED) | _values(decided, DECIDED)
    values |= {
        "read_at": content.facts_at,
        "verdict_at": decided.decided_at,
        "published_at": min(one.published_at, other.published_at),
        "updated_at": _updated_at(states, content),
        "acts": union(one.acts, other.acts),
    }
    return as_listed(msgspec.structs.replace(one, **values))


def is_same(one: Skill, other: Skill) -> bool:
    """Whether two states of one skill say the same, the first publication included."""
    return (one.revision, one.published_at) == (other.revision, other.published_at)


def as_listed(skill: Skill) -> Skill:
    """The skill with what its acts and its newest verdict make of it."""
    skill, acts = as_said(skill), in_force(skill.acts)
    failed = skill.verdict is Verdict.FAIL
    tier = _corrected(acts, lambda act: act.cert_tier, skill.cert_tier)
    listed = {
        "category": _corrected(acts, lambda act: act.category, skill.category),
        "labels": _corrected(acts, lambda act: act.labels, skill.labels),
        "cert_tier": CertTier.SCANNED if failed else tier,
    }
    said = _values(skill, listed)
    return msgspec.structs.replace(
        skill,
        **listed,
        said=Said(**said) if said != listed else None,
        status=_status(skill, acts),
        scan_failed_at=skill.decided_at if failed else None,
        source_gone_at=skill.decided_at if skill.verdict is Verdict.GONE else None,
    )


def as_said(skill: Skill) -> Skill:
    """The skill as the repository and the scanner describe it; its acts change nothing here."""
    if skill.said is None:
        return skill
    return msgspec.structs.replace(skill, **msgspec.structs.asdict(skill.said), said=None)


def _status(skill: Skill, acts: Sequence[Any]) -> Status:
    if of_kind(tuple(acts), ActKind.BLOCK) is not None:
        return Status.BLOCKED
    if of_kind(tuple(acts), ActKind.WITHDRAW) is not None or skill.verdict is Verdict.WITHDRAWN:
        return Status.WITHDRAWN
    return Status.LISTED


def _corrected(acts: Sequence[Any], field: Callable[[Any], Any], said: Any) -> Any:
    """What the latest act says of a field, or what is said of it anyway."""
    values = [field(act) for act in acts if act.kind is ActKind.CORRECT]
    return next((value for value in reversed(values) if value is not None), said)


def _content_rank(skill: Skill) -> tuple[bool, str, str]:
    return not skill.provisional, skill.facts_at, digest_of(skill.content())


def _certified_rank(skill: Skill) -> tuple[str, str]:
    return skill.certified_at or EPOCH, digest_of(list(_values(skill, CERTIFIED).values()))


def _decided_rank(skill: Skill) -> tuple[str, int, str, str]:
    reason, by = digest_of(skill.verdict_reason), skill.scanned_by or ""
    return skill.decided_at, _GRAVITY[skill.verdict], reason, by


def _updated_at(states: tuple[Skill, Skill], content: Skill) -> str:
    one, other = states
    if one.content()[1] == other.content()[1]:
        return min(one.updated_at, other.updated_at)
    return content.updated_at


def _values(skill: Skill, fields: Any) -> dict[str, Any]:
    return {field: getattr(skill, field) for field in fields}
