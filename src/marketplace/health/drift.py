"""Where two sources disagree."""

from collections.abc import Mapping
from typing import Final

from marketplace.health.readings import SkillCount
from marketplace.health.report import Drift

SHARE_TOLERATED: Final = 0.05
NUMBER_TOLERATED: Final = 10


def find_drifts(counted: Mapping[str, SkillCount | None]) -> list[Drift]:
    names = list(counted)
    pairs = [(a, b) for number, a in enumerate(names) for b in names[number + 1 :]]
    return [drift for a, b in pairs if (drift := _compare(a, counted[a], b, counted[b]))]


def _compare(a: str, one: SkillCount | None, b: str, other: SkillCount | None) -> Drift | None:
    if one is None or other is None:
        return None
    difference = abs(one.count - other.count)
    counts = (one.count, other.count)
    if difference > NUMBER_TOLERATED or difference > SHARE_TOLERATED * max(counts):
        message = f"{a} has {one.count} skills, {b} has {other.count}: {difference} differ."
        return Drift(
            kind="count", sources=(a, b), counts=counts, difference=difference, message=message
        )
    digests = (one.digest, other.digest)
    if difference == 0 and None not in digests and one.digest != other.digest:
        message = f"{a} and {b} both have {one.count} skills, but not the same ones or versions."
        return Drift(kind="members", sources=(a, b), counts=counts, difference=0, message=message)
    return None
