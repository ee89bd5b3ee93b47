"""What operators did to a skill: a set of acts, each written once and never changed.

An act is lifted by a later one of the kind RESTORE that names it. So two operators, a scan and a
repair can all write at once: the union of what they have is the truth.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from marketplace.skills.tiers import CertTier

MAX_ACT_REASON_LENGTH: Final = 1000
MAX_EVIDENCE_URLS: Final = 10
MAX_ACTS: Final = 999
"""Of one skill. A revision counts them in three digits."""


class ActKind(StrEnum):
    """What an operator did."""

    CORRECT = "CORRECT"
    WITHDRAW = "WITHDRAW"
    BLOCK = "BLOCK"
    ACCEPT_OWNER = "ACCEPT_OWNER"
    RESTORE = "RESTORE"


class Severity(StrEnum):
    """How bad a threat is."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


class Act(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One act. ``at``: when, as a timestamp; ``by``: the principal.

    CORRECT sets those of ``category``, ``labels`` and ``cert_tier`` that are not None. BLOCK has a
    threat. ACCEPT_OWNER names the forge's ids that are right from now on. RESTORE lifts the acts of
    the ids in ``lifts``. ``rule``: the id of the rule that the act applies.
    """

    id: str
    kind: ActKind
    reason: str
    at: str
    by: str
    category: str | None = None
    labels: tuple[str, ...] | None = None
    cert_tier: CertTier | None = None
    threat_type: str | None = None
    severity: Severity | None = None
    evidence_urls: tuple[str, ...] = ()
    repository_id: str | None = None
    owner_id: str | None = None
    rule: str | None = None
    lifts: tuple[str, ...] = ()


Acts = tuple[Act, ...]
"""In the order of their moments, each id once."""


def union(one: Iterable[Act], other: Iterable[Act]) -> Acts:
    """The acts of both."""
    by_id = {act.id: act for act in (*one, *other)}
    return tuple(sorted(by_id.values(), key=lambda act: (act.at, act.id)))


def lifted_by(acts: Acts) -> dict[str, str]:
    """The ids of lifted acts, each with the id of the first act that lifts it."""
    lifted: dict[str, str] = {}
    for act in acts:
        if act.kind is ActKind.RESTORE:
            for each in act.lifts:
                lifted.setdefault(each, act.id)
    return lifted


def in_force(acts: Acts) -> Acts:
    """The acts that nobody lifted; a RESTORE is none of them."""
    lifted = lifted_by(acts)
    return tuple(a for a in acts if a.kind is not ActKind.RESTORE and a.id not in lifted)


def of_kind(acts: Acts, kind: ActKind) -> Act | None:
    """The latest of a kind, or None."""
    return next((act for act in reversed(acts) if act.kind is kind), None)
