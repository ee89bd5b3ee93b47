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
from marketplace.skills.merging import as_listed, is_same, merge
from marketplace.skills.rules import Rule, under_rules
from marketplace.skills.scan import Refusal, Scan, apply_scan, has_changed_hands
from marketplace.skills.skill import Skill, Status


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

    Its acts are taken in any case.
    """

    skill: Skill

    @property
    def identity(self) -> str:
        return self.skill.identity

    def onto(self, stored: Skill | None) -> Skill | Refusal:
        if stored is None:
            return self.skill
        if has_changed_hands(stored, self.skill):
            return Refusal.CHANGED_HANDS
        return merge(stored, self.skill)


@dataclass(frozen=True, slots=True)
class Scanned:
    """A verdict. ``others``: what the acceptance log has of the skill besides, which counts where
    a store has nothing of it. ``may_withdraw``: whether it may take a skill out of the listing."""

    scan: Scan
    others: tuple[Scan, ...] = ()
    may_withdraw: bool = True

    @property
    def identity(self) -> str:
        return self.scan.identity

    def onto(self, stored: Skill | None) -> Skill | Refusal:
        outcome = apply_scan(stored, self.scan)
        if stored is None and isinstance(outcome, Skill):
            for other in sorted(self.others, key=lambda scan: scan.scanned_at):
                changed = apply_scan(outcome, other)
                outcome = changed if isinstance(changed, Skill) else outcome
        if not self.may_withdraw and withdraws(stored, outcome):
            return Refusal.TOO_MANY_WITHDRAWN
        return outcome


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
