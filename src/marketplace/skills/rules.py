"""Rules of operators: each withholds every skill that it matches, by acts that name it.

What a rule makes of a skill follows from the rule and the skill alone. So every writer gives a
skill the same acts, in any order and any number of times.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from marketplace.skills.acts import MAX_ACTS, Act, ActKind, Severity, union
from marketplace.skills.merging import as_listed
from marketplace.skills.skill import Skill, digest_of
from marketplace.skills.slugs import identity_of, normalize_repository, slugify

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SCHEME: Final = "https://"


class RuleKind(StrEnum):
    """What a rule does to a skill; the kinds of the acts that apply it."""

    WITHDRAW = "WITHDRAW"
    BLOCK = "BLOCK"


class Matches(StrEnum):
    """What a rule looks at."""

    IDENTITY = "identity"
    OWNER = "owner"
    CONTENT_DIGEST = "contentDigest"


class Target(NamedTuple):
    """What a rule matches: an identity, an owner (``github.com/owner``, with all groups below it)
    or the digest of a skill's content."""

    matches: Matches
    value: str


class Rule(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One rule. ``id`` begins with the moment. ``lifted_at``: None while it is in force.

    ``applied_at``: when checks ended to look for skills that it is yet to be applied to (or, once
    it is lifted, for acts that are yet to be lifted). Only PostgreSQL knows that.
    """

    id: str
    kind: RuleKind
    matches: Matches
    value: str
    reason: str
    at: str
    by: str
    threat_type: str | None = None
    severity: Severity | None = None
    evidence_urls: tuple[str, ...] = ()
    lifted_at: str | None = None
    lifted_by: str | None = None
    lift_reason: str | None = None
    applied_at: str | None = None

    @property
    def target(self) -> Target:
        return Target(self.matches, self.value)

    @property
    def changed_at(self) -> str:
        return self.lifted_at or self.at

    def lifted(self, lift: "RuleLift") -> "Rule":
        """The rule, no longer in force."""
        return msgspec.structs.replace(
            self,
            lifted_at=lift.at,
            lifted_by=lift.by,
            lift_reason=lift.reason,
            applied_at=None,
        )


class RuleLift(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """That the rule of an id is lifted."""

    rule: str
    at: str
    by: str
    reason: str


def read_target(matches: Matches, value: str) -> Target:
    """What an operator names, in the one form that it is compared in. Raises ValueError."""
    match matches:
        case Matches.IDENTITY:
            repository, separator, name = value.strip().rpartition("#")
            if not separator or not slugify(name):
                raise ValueError("must be as in https://github.com/owner/repository#skill-name")
            return Target(matches, identity_of(repository, slugify(name)))
        case Matches.OWNER:
            return Target(matches, _owner(value.strip()))
        case Matches.CONTENT_DIGEST:
            digest = value.strip().lower().removeprefix("sha256:")
            if not _DIGEST.fullmatch(digest):
                raise ValueError("must be a SHA-256 as 64 hexadecimal digits")
            return Target(matches, digest)


def _owner(value: str) -> str:
    repository = normalize_repository(f"{value.rstrip('/')}/x")
    owner = repository.removeprefix(_SCHEME).removesuffix("/x")
    if owner not in owners_of(f"{repository}#x"):  # of a longer path, what follows was cut off
        raise ValueError("must be a forge and an owner, as in github.com/owner")
    return owner


def owners_of(identity: str) -> list[str]:
    """Who owns a skill's repository: ``gitlab.com/group`` and ``gitlab.com/group/subgroup``."""
    repository = identity.rpartition("#")[0].removeprefix(_SCHEME)
    parts = repository.split("/")
    return ["/".join(parts[:length]) for length in range(2, len(parts))]


def targets_of(identity: str, content_digest: str | None = None) -> list[Target]:
    """All that rules may match a skill by."""
    targets = [Target(Matches.IDENTITY, identity)]
    targets += [Target(Matches.OWNER, owner) for owner in owners_of(identity)]
    if content_digest is not None:
        targets.append(Target(Matches.CONTENT_DIGEST, content_digest))
    return targets


def targets_of_skill(skill: Skill) -> list[Target]:
    return targets_of(skill.identity, skill.content_digest)


def rules_applied(skill: Skill) -> set[str]:
    """The ids of the rules that acts on a skill name."""
    return {act.rule for act in skill.acts if act.rule is not None}


def under_rules(skill: Skill, rules: Iterable[Rule]) -> Skill:
    """The skill with the acts that these rules ask for and that it lacks.

    A rule's act that an operator has lifted on this skill alone is an exception, and stays lifted.
    """
    due = [act for rule in rules if (act := act_due(skill, rule)) is not None]
    room = MAX_ACTS - len(skill.acts)
    if not due or room <= 0:
        return skill
    return as_listed(msgspec.structs.replace(skill, acts=union(skill.acts, due[:room])))


def act_due(skill: Skill, rule: Rule) -> Act | None:
    """The act that a rule asks for and a skill lacks: the rule's own or, once the rule is lifted,
    the one that lifts it."""
    acts = [act for act in skill.acts if act.rule == rule.id]
    if rule.lifted_at is None:
        matching = not acts and rule.target in targets_of_skill(skill)
        return _applying(rule, skill.identity) if matching else None
    applied = tuple(act.id for act in acts if act.kind is not ActKind.RESTORE)
    if not applied or len(applied) < len(acts):
        return None
    return _lifting(rule, skill.identity, applied)


def _applying(rule: Rule, identity: str) -> Act:
    return Act(
        id=digest_of([rule.id, identity]),
        kind=ActKind(rule.kind),
        reason=rule.reason,
        at=rule.at,
        by=rule.by,
        threat_type=rule.threat_type,
        severity=rule.severity,
        evidence_urls=rule.evidence_urls,
        rule=rule.id,
    )


def _lifting(rule: Rule, identity: str, applied: tuple[str, ...]) -> Act:
    """Two stores may know other lifts of one rule; each gives an act of its own."""
    at, by, reason = rule.lifted_at or rule.at, rule.lifted_by or rule.by, rule.lift_reason or ""
    return Act(
        id=digest_of([rule.id, identity, at, by, reason]),
        kind=ActKind.RESTORE,
        reason=reason,
        at=at,
        by=by,
        rule=rule.id,
        lifts=applied,
    )
