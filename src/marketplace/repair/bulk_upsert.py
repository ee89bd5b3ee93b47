"""Upserting many skills at once; one that PostgreSQL refuses stops no other."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from marketplace.ports.errors import DatabaseConflict, DatabaseRejected
from marketplace.skills.skill import Skill

_DESCRIPTIONS_AT_ONCE: Final = 2_000_000  # characters in one bulk upsert


@dataclass(slots=True)
class _Outcome:
    stored: list[Skill] = field(default_factory=list)
    unplaced: list[Skill] = field(default_factory=list)  # their slug is another skill's
    rejected: list[tuple[Skill, str]] = field(default_factory=list)  # with PostgreSQL's reason


async def upsert_in_bulk(
    skills: Sequence[Skill], upsert: Callable[[Sequence[Skill]], Awaitable[Sequence[Skill]]]
) -> _Outcome:
    """Upsert, or check, any number of skills. Raises a DatabaseError that concerns them all.

    A skill that PostgreSQL refuses is found by halving, in some twenty statements for a thousand.
    """
    outcome = _Outcome()
    waiting = _by_size(skills)
    while waiting:
        some = waiting.pop()
        try:
            unplaced = await upsert(some)
        except (DatabaseRejected, DatabaseConflict) as error:  # of one skill
            if len(some) == 1:
                outcome.rejected.append((some[0], str(error)))
            else:
                middle = len(some) // 2
                waiting += [some[middle:], some[:middle]]
            continue
        identities = {skill.identity for skill in unplaced}
        outcome.stored += [skill for skill in some if skill.identity not in identities]
        outcome.unplaced += unplaced
    return outcome


def _by_size(skills: Sequence[Skill]) -> list[list[Skill]]:
    """Cut where a statement would become too large for the Worker's memory: long descriptions."""
    batches: list[list[Skill]] = []
    left = 0
    for skill in skills:
        left -= len(skill.description)
        if left < 0 or not batches:
            batches.append([])
            left = _DESCRIPTIONS_AT_ONCE - len(skill.description)
        batches[-1].append(skill)
    return batches
