"""A schedule is a seed and a list of steps; running it again gives the same run."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.doubles.chance import Chance
from tests.doubles.loop import CutOff

# Small worlds collide often: three owners, two repositories each, names that clash across them
# and with what another's slug becomes (`ada` + `pdf` is `ada-pdf`).
REPOSITORIES: Final = ("ada/tools", "ada/kit", "bob/tools", "cyd/ada-tools")
BASE_SLUGS: Final = ("pdf", "ada-pdf", "ada-tools-pdf")
SETTLING: Final = 61.0  # seconds: longer than any staleness

FLAKY: Final = ((0.05, 0.05, 0.05), (0.3, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, 0.5))
"""Shares of the operations that fail while a source is flaky: of KV, of PostgreSQL, of the queues.
A step's choice selects one."""


class StepKind(StrEnum):
    """What may happen."""

    APPLY = "apply"  # through submission and webhook, as authors and scanners do
    SUBMIT = "submit"  # as if that had been done long ago
    RESCAN = "rescan"
    REPEAT = "repeat"
    POISON = "poison"
    ACT = "act"
    CONSUME = "consume"
    BURY = "bury"
    MAINTAIN = "maintain"
    READ = "read"
    FIND = "find"
    LIGHT_REPAIR = "light-repair"
    FULL_REPAIR = "full-repair"
    REDRIVE = "redrive"
    FLAKY = "flaky"
    KV_OUTAGE = "kv-outage"
    DATABASE_OUTAGE = "database-outage"
    RECOVER = "recover"
    DAMAGE_INDEX = "damage-index"
    LOSE_RECORD = "lose-record"
    LOSE_ROW = "lose-row"


_WEIGHTS: Final = {
    StepKind.APPLY: 4,
    StepKind.SUBMIT: 10,
    StepKind.RESCAN: 1,
    StepKind.REPEAT: 3,
    StepKind.POISON: 2,
    StepKind.ACT: 3,
    StepKind.CONSUME: 16,
    StepKind.BURY: 2,
    StepKind.MAINTAIN: 2,
    StepKind.READ: 8,
    StepKind.FIND: 3,
    StepKind.LIGHT_REPAIR: 2,
    StepKind.FULL_REPAIR: 2,
    StepKind.REDRIVE: 2,
    StepKind.FLAKY: 2,
    StepKind.KV_OUTAGE: 2,
    StepKind.DATABASE_OUTAGE: 3,
    StepKind.RECOVER: 4,
    StepKind.DAMAGE_INDEX: 1,
    StepKind.LOSE_RECORD: 1,
    StepKind.LOSE_ROW: 1,
}
_HURRIED: Final = (0.0, 0.0, 0.01, 0.05, 0.1, 0.3, 1.0, 90.0)
_ABSENT: Final = (0.1, 0.3, 0.6)  # share of what may happen that a seed leaves out
_ALWAYS: Final = {StepKind.SUBMIT, StepKind.CONSUME}
_DISTURBING: Final = {
    StepKind.LIGHT_REPAIR,
    StepKind.FULL_REPAIR,
    StepKind.FLAKY,
    StepKind.KV_OUTAGE,
    StepKind.DATABASE_OUTAGE,
    StepKind.DAMAGE_INDEX,
    StepKind.LOSE_RECORD,
    StepKind.LOSE_ROW,
}
_LOST_ROWS: Final = 0.1  # share of seeds with a race for one
_CUT_OFFS: Final = (
    CutOff.DROPPED,
    CutOff.DROPPED,
    CutOff.CANCELLED,
    CutOff.STALLED,
    CutOff.STALLED,
)
_CUT_OFFS_OF_READS: Final = (CutOff.DROPPED, CutOff.CANCELLED)  # they have a time limit
_READS: Final = {StepKind.READ, StepKind.FIND}
_PAUSES: Final = (0.0, 0.0, 0.0, 0.01, 0.05, 0.5, 1.5, 20.0, 61.0, 200.0)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens, ``pause`` seconds after the step before it began.

    ``choice`` selects among what there is; ``cut_at`` cuts the invocation off at one of its awaits.
    """

    kind: StepKind
    pause: float
    choice: int
    cut_at: int | None = None
    cut_off: CutOff = CutOff.DROPPED


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is replayed."""

    seed: int
    calm: bool  # without any fault: then both stores must agree before any repair
    repositories: tuple[str, ...]
    base_slugs: tuple[str, ...]
    steps: tuple[Step, ...]


def generate(seed: int) -> Schedule:
    """The schedule of a seed.

    Each seed leaves out some of what may happen, has its favourites among the rest, and makes its
    world as small as it likes: what needs several rare things in a row would otherwise drown.
    """
    chance = Chance(seed).fork("schedule")
    calm = chance.happens(0.15)
    absent = chance.pick(_ABSENT)
    left_out = {kind for kind in _WEIGHTS if chance.happens(absent)} - _ALWAYS
    left_out |= _DISTURBING if calm else set()
    favourites = chance.shuffled(list(_WEIGHTS))[:4]
    lottery = tuple(
        kind
        for kind, weight in _WEIGHTS.items()
        if kind not in left_out
        for _ in range(weight + 6 * (kind in favourites))
    )
    repositories = chance.shuffled(REPOSITORIES)[: 2 + chance.below(len(REPOSITORIES) - 1)]
    base_slugs = BASE_SLUGS[: 1 + chance.below(len(BASE_SLUGS))]
    cuts = 0.0 if calm else 0.2
    pauses = chance.pick((_PAUSES, _PAUSES, _HURRIED))
    steps = [_step(chance, lottery, pauses, cuts) for _ in range(25 + chance.below(26))]
    if not calm and chance.happens(_LOST_ROWS):
        start = chance.below(len(steps))
        steps[start:start] = _race_for_a_lost_row(chance)
    return Schedule(seed, calm, tuple(repositories), base_slugs, tuple(steps))


def _race_for_a_lost_row(chance: Chance) -> list[Step]:
    """PostgreSQL loses a row. Before a repair sees it, with KV failing, there comes an older state
    of that skill, or another that wants its slug: what chance alone hardly ever brings about."""
    author = chance.below(64)
    rival = author // 8 * 8 + chance.below(8)  # the same base slug, perhaps the same repository
    return [
        Step(StepKind.SUBMIT, 1.0, author + 64 * (1 + chance.below(2))),
        Step(StepKind.CONSUME, 0.1, 4),
        Step(StepKind.LOSE_ROW, 2.5 * SETTLING, chance.below(8)),
        Step(StepKind.FLAKY, 0.0, choice=1),  # KV alone
        Step(StepKind.SUBMIT, 0.0, rival),
        Step(StepKind.CONSUME, 0.1, 4),
        Step(StepKind.CONSUME, 10.0, 4),
        Step(StepKind.RECOVER, 1.0, 0),
        Step(StepKind.LIGHT_REPAIR, 1.0, 0),
    ]


def _step(
    chance: Chance, lottery: Sequence[StepKind], pauses: Sequence[float], cuts: float
) -> Step:
    kind = chance.pick(lottery)
    cut = chance.happens(cuts)
    return Step(
        kind,
        chance.pick(pauses),
        chance.below(1 << 16),
        1 + chance.below(40) if cut else None,
        chance.pick(_CUT_OFFS_OF_READS if kind in _READS else _CUT_OFFS),
    )
