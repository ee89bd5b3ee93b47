"""Where the counts of two sources disagree by more than is tolerated."""

from collections.abc import Mapping
from typing import Final

from marketplace.health.report import Drift

SHARE_TOLERATED: Final = 0.05
NUMBER_TOLERATED: Final = 10


def find_drifts(counted: Mapping[str, int | None]) -> list[Drift]:
    names = list(counted)
    pairs = [(a, b) for number, a in enumerate(names) for b in names[number + 1 :]]
    return [drift for a, b in pairs if (drift := _compare(a, counted[a], b, counted[b]))]


def _compare(a: str, one: int | None, b: str, other: int | None) -> Drift | None:
    if one is None or other is None:
        return None
    difference = abs(one - other)
    if difference <= NUMBER_TOLERATED and difference <= SHARE_TOLERATED * max(one, other):
        return None
    message = f"{a} has {one} skills, {b} has {other}: {difference} differ."
    return Drift(
        kind="count",
        sources=(a, b),
        counts=(one, other),
        difference=difference,
        message=message,
    )
