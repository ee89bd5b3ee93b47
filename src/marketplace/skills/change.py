"""What may happen to a skill, each as a function of the state that a store has of it.

A store that changes a skill reads it, lets the change make the new state, and writes that only if
it still holds what was read; otherwise it does all of it once more. So every rule is asked about
the very state that it changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from marketplace.skills.acts import Act, union
from marketplace.skills.logged import NOTHING_LOGGED, Logged, fold
from marketplace.skills.merging import as_listed, is_same, merge
from marketplace.skills.rules import Rule, under_rules
from marketplace.skills.scan import Refusal, Scan, apply_scan, refusal_of_state
from marketplace.skills.skill import Skill, Status
from marketplace.skills.tiers import Verdict


class Change(Protocol):
    """A change of the skill of one identity. ``onto`` raises nothing."""

    @property
    def identity(self) -> str:
        """Of the skill that it changes."""

    def onto(self, stored: Skill | None) -> Skill | Refusal:
        """What it makes of a state; of None where a store has none."""


@dataclass(frozen=True, slots=True)
class State:
    """A state that was accepted before, as another store has it: both are merged."""

    skill: Skill

    @property
    def identity(self) -> str:
        return self.skill.identity

    def onto(self, stored: Skill | None) -> Skill | Refusal:
        return self.skill if stored is None else merge(stored, self.skill)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A state that was made without the source of truth, which may refuse it now.

    Nobody knew then which folder is listed, and whose it is; `Replayed` tells what stands.
    """

    skill: Skill

    @property
    def identity(self) -> str:
        return self.skill.identity

    def onto(self, stored: Skill | None) -> Skill | Refusal:
        refusal = None if stored is None else refusal_of_state(stored, self.skill)
        if stored is None or refusal is not None:
            return refusal or self.skill
        return merge(stored, self.skill)


@dataclass(frozen=True, slots=True)
class Scanned:
    """A verdict. ``logged``: what the acceptance log has of the skill besides, which counts where
    a store may lack some of it. ``may_withdraw``: whether it may take a skill out of the listing.
    """

    scan: Scan
    logged: Logged = NOTHING_LOGGED
    may_withdraw: bool = True

    @property
    def identity(self) -> str:
        return self.scan.identity

    def onto(self, stored: Skill | None) -> Skill | Refusal:
        outcome = apply_scan(stored, self.scan)
        if outcome is Refusal.OTHER_PATH or (stored is None and isinstance(outcome, Skill)):
            folded = fold(stored, self.logged.with_verdict(self.scan))
            outcome = folded.refusal_of(self.scan) or folded.skill or outcome
        if not self.may_withdraw and withdraws(stored, outcome):
            return Refusal.TOO_MANY_WITHDRAWN
        return outcome


@dataclass(frozen=True, slots=True)
class Replayed:
    """All that the acceptance log has of a skill, where a store lacks some of it.

    It takes no skill out of the listing by verdicts: each of those has to be counted.
    """

    identity: str
    logged: Logged

    def onto(self, stored: Skill | None) -> Skill | Refusal:
        changed = fold(stored, self.logged).skill
        if changed is not None and changed.verdict is Verdict.WITHDRAWN:
            changed = self._without_withdrawal(stored) or changed
        return Refusal.NOT_LISTED if changed is None else changed

    def _without_withdrawal(self, stored: Skill | None) -> Skill | None:
        if stored is None or stored.verdict is Verdict.WITHDRAWN:
            return None
        counted = [scan for scan in self.logged.verdicts if scan.verdict is not Verdict.WITHDRAWN]
        return fold(stored, Logged(tuple(counted), self.logged.acts)).skill


@dataclass(frozen=True, slots=True)
class Acted:
    """What an operator did to the skill of an identity."""

    identity: str
    acts: tuple[Act, ...]

    def onto(self, stored: Skill | None) -> Skill | Refusal:
        if stored is None:
            return Refusal.NOT_LISTED
        return as_listed(msgspec.structs.replace(stored, acts=union(stored.acts, self.acts)))


@dataclass(frozen=True, slots=True)
class Knowing:
    """A change by one who knows a state that the store may have lost, or never had."""

    change: Change
    known: Skill

    @property
    def identity(self) -> str:
        return self.change.identity

    def onto(self, stored: Skill | None) -> Skill | Refusal:
        return self.change.onto(self.known if stored is None else merge(stored, self.known))


@dataclass(frozen=True, slots=True)
class Ruled:
    """A change, and the rules that apply to what it makes: in the same write, so that nobody sees
    the skill without their acts."""

    change: Change
    rules: Sequence[Rule]

    @property
    def identity(self) -> str:
        return self.change.identity

    def onto(self, stored: Skill | None) -> Skill | Refusal:
        outcome = self.change.onto(stored)
        return under_rules(outcome, self.rules) if isinstance(outcome, Skill) else outcome


def withdraws(stored: Skill | None, outcome: Skill | Refusal) -> bool:
    """Whether a skill leaves the listing by a change that makes this of it."""
    listed = stored is not None and stored.status is Status.LISTED
    return listed and isinstance(outcome, Skill) and outcome.status is not Status.LISTED


def covers(one: Skill, other: Skill) -> bool:
    """Whether a state knows all that another state of the same skill knows."""
    return is_same(merge(one, other), one)
