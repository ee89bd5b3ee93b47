"""A schedule is a seed and a list of steps; running it again gives the same run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    STALL = "stall"  # the same, and the message was lost
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
    RESTORE_DUMP = "restore-dump"  # the table becomes what it was some minutes ago
    GO_MAD = "go-mad"  # a scanner reports nonsense
    FAIL_OVER = "fail-over"  # the database loses its last seconds
    REBIND = "rebind"  # another, empty database answers
    READ_ONLY = "read-only"  # the database takes no writes
    ADD_SEED = "add-seed"  # a version of the Worker is deployed with one more well-known skill
    OLD_LINK = "old-link"  # a skill has had another slug long ago
    LOSE_ALIAS = "lose-alias"
    ASK = "ask"  # a search, a count or the categories


_WEIGHTS: Final = {
    StepKind.APPLY: 4,
    StepKind.SUBMIT: 10,
    StepKind.STALL: 1,
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
    StepKind.RESTORE_DUMP: 1,
    StepKind.GO_MAD: 1,
}
_RARE: Final = frozenset(StepKind) - _WEIGHTS.keys()
"""What only some profiles have."""

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
    StepKind.RESTORE_DUMP,
}
_CUT_OFFS: Final = (
    CutOff.DROPPED,
    CutOff.DROPPED,
    CutOff.CANCELLED,
    CutOff.STALLED,
    CutOff.STALLED,
)
_CUT_OFFS_OF_READS: Final = (CutOff.DROPPED, CutOff.CANCELLED)  # they have a time limit
_READS: Final = {StepKind.READ, StepKind.FIND, StepKind.ASK}
_PAUSES: Final = (0.0, 0.0, 0.0, 0.01, 0.05, 0.5, 1.5, 20.0, 61.0, 200.0)
_CLOCKS: Final = (0.0, 0.0, 2.0, -2.0, 300.0, -300.0, 3 * 3600.0, -3 * 3600.0)


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
    profile: str
    calm: bool  # without any fault: then both stores must agree before any repair
    repositories: tuple[str, ...]
    base_slugs: tuple[str, ...]
    scanners: tuple[float, ...]  # by how many seconds their clocks are ahead
    skewed: bool  # the clocks of the Worker's locations differ
    retries: int  # of a message that asks for a publication
    steps: tuple[Step, ...]


Scene = Callable[[Chance], list[Step]]
"""Several rare things in a row, which chance alone hardly ever brings about."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What holds all the time in the schedules of a profile.

    ``seeds``: well-known skills at the beginning. ``caches``: each location shows what it read of
    KV, hits and misses, for up to a minute. ``slow_reads``: share of the reads whose calls take so
    long that few of them fit into the time of one read.
    """

    seeds: int = 0
    caches: bool = False
    slow_reads: float = 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """What schedules are mostly about.

    ``more``: weights besides the usual ones. ``never``: what does not happen. A schedule has one of
    the ``scenes`` with the probability ``played``. ``steps``: how many besides, at least and less
    than. ``small``: a world of one repository and one slug. ``retries``: of a message.
    """

    more: Mapping[StepKind, int] = field(default_factory=dict)
    never: frozenset[StepKind] = frozenset()
    scenes: tuple[Scene, ...] = ()
    played: float = 0.0
    calm: float = 0.15
    steps: tuple[int, int] = (25, 51)
    small: bool = False
    retries: int = 3
    conditions: Conditions = Conditions()


_OTHER_VERDICT: Final = 768
"""Added to a choice of SUBMIT it leaves the skill and changes the verdict: PASS to PASS, WITHDRAWN,
PASS, PASS, GONE, PASS and FAIL in turn."""


_WITHDRAWN: Final = 6 * 256
"""Added to a choice of SUBMIT for a PASS it makes the verdict WITHDRAWN."""


def _author(chance: Chance) -> int:
    """A choice of SUBMIT: a PASS of any skill."""
    return chance.below(64) + 64 * chance.below(3)


def _two_at_once(chance: Chance) -> list[Step]:
    """Two consumers have a verdict each on one skill."""
    author = _author(chance)
    return [
        Step(StepKind.SUBMIT, 1.0, author),
        Step(StepKind.CONSUME, 0.0, 0),
        Step(StepKind.SUBMIT, 10.0, author + _OTHER_VERDICT),
        Step(StepKind.SUBMIT, 0.0, author + 3 * _OTHER_VERDICT),
        Step(StepKind.CONSUME, 0.0, 0),
        Step(StepKind.CONSUME, chance.pick((0.0, 0.2, 0.5, 1.0, 1.5, 2.0)), 0),
    ]


def _race_for_a_lost_row(chance: Chance) -> list[Step]:
    """PostgreSQL loses a row. Before a repair sees it, with KV failing, there comes an older state
    of that skill, or another that wants its slug."""
    author = chance.below(64)
    rival = author // 8 * 8 + chance.below(8)  # the same base slug, perhaps the same repository
    return [
        Step(StepKind.SUBMIT, 1.0, author + _OTHER_VERDICT),
        Step(StepKind.CONSUME, 0.1, 4),
        Step(StepKind.LOSE_ROW, 2.5 * SETTLING, chance.below(8)),
        Step(StepKind.FLAKY, 0.0, choice=1),  # KV alone
        Step(StepKind.SUBMIT, 0.0, rival),
        Step(StepKind.CONSUME, 0.1, 4),
        Step(StepKind.CONSUME, 10.0, 4),
        Step(StepKind.RECOVER, 1.0, 0),
        Step(StepKind.LIGHT_REPAIR, 1.0, 0),
    ]


def _older_table(chance: Chance) -> list[Step]:
    """The table becomes what it was at the beginning, and is read before, while and after it is
    repaired."""
    return [
        *(Step(StepKind.SUBMIT, 0.5, _author(chance)) for _ in range(3)),
        Step(StepKind.CONSUME, 1.0, 4),
        Step(StepKind.CONSUME, 5.0, 4),
        Step(StepKind.READ, 2.0, 0),
        Step(StepKind.RESTORE_DUMP, 2.5 * SETTLING, 0),
        Step(StepKind.READ, chance.pick((0.0, 1.0, 40.0)), 0),
        Step(StepKind.SUBMIT, 0.5, _author(chance)),
        Step(StepKind.CONSUME, 1.0, 4),
        Step(StepKind.READ, 1.0, 0),
        Step(StepKind.MAINTAIN, 1.0, 0),
        Step(StepKind.READ, 1.0, 0),
        Step(StepKind.MAINTAIN, 70.0, 0),
        Step(StepKind.READ, 0.1, 0),
        Step(StepKind.READ, 1.0, 0),
    ]


def _late_first_verdict(chance: Chance) -> list[Step]:
    """The message of a first PASS is lost. Another verdict on the skill comes and is given up, as
    nothing is listed; long after it the PASS is asked for again."""
    author = _author(chance)
    later = author + _OTHER_VERDICT * chance.pick((2, 7))
    return [
        Step(StepKind.STALL, 1.0, author),
        Step(StepKind.SUBMIT, 5.0, later),
        *(Step(StepKind.CONSUME, pause, 4) for pause in (5.0, 10.0, 20.0, 40.0, 80.0, 100.0)),
        Step(StepKind.LIGHT_REPAIR, 1000.0, 0),
        Step(StepKind.CONSUME, 1.0, 4),
    ]


def _states_in_the_outbox(chance: Chance) -> list[Step]:
    """PostgreSQL is away while several verdicts and acts on one skill come."""
    author = _author(chance)
    return [
        Step(StepKind.DATABASE_OUTAGE, 1.0, 0),
        Step(StepKind.SUBMIT, 1.0, author),
        Step(StepKind.CONSUME, 0.1, 4),
        Step(StepKind.SUBMIT, chance.pick((1.0, 70.0)), author + _OTHER_VERDICT * chance.below(8)),
        Step(StepKind.CONSUME, 0.1, 4),
        Step(StepKind.CONSUME, 10.0, 4),
        Step(StepKind.RECOVER, 1.0, 0),
        Step(StepKind.LIGHT_REPAIR, 1.0, 0),
    ]


def _blocked_again(chance: Chance) -> list[Step]:
    """A skill is blocked, restored and blocked again while KV shows what was before; or blocked
    while KV takes little. Then PostgreSQL is away."""
    skill = chance.below(16)
    block, restore = skill, skill + 16 * 3
    kinds = chance.pick(((block, restore, block), (block,)))
    return [
        Step(StepKind.SUBMIT, 1.0, _author(chance)),
        Step(StepKind.CONSUME, 1.0, 4),
        *([Step(StepKind.FLAKY, 70.0, choice=1)] if len(kinds) == 1 else []),
        *(Step(StepKind.ACT, 3.0, choice) for choice in kinds),
        *([Step(StepKind.RECOVER, 8.0, 0)] if len(kinds) == 1 else []),
        Step(StepKind.DATABASE_OUTAGE, 70.0, 0),
        Step(StepKind.READ, 1.0, 0),
        Step(StepKind.READ, 1.0, 0),
        Step(StepKind.RECOVER, 1.0, 0),
    ]


def _act_in_the_log_alone(chance: Chance) -> list[Step]:
    """PostgreSQL is away and KV fails now and then while an operator acts."""
    return [
        Step(StepKind.SUBMIT, 1.0, _author(chance)),
        Step(StepKind.CONSUME, 1.0, 4),
        Step(StepKind.DATABASE_OUTAGE, 70.0, 0),
        Step(StepKind.FLAKY, 0.0, choice=1),  # KV alone
        Step(StepKind.ACT, 1.0, chance.below(64)),
        Step(StepKind.RECOVER, 30.0, 0),
    ]


def _block_where_a_row_was_lost(chance: Chance) -> list[Step]:
    """PostgreSQL loses a row, and with KV failing its slug goes to another skill. That is blocked;
    the first one still has the slug in KV."""
    author = chance.below(64)
    rival = author // 8 * 8 + chance.below(8)
    return [
        Step(StepKind.SUBMIT, 1.0, author),
        Step(StepKind.CONSUME, 0.1, 4),
        Step(StepKind.LOSE_ROW, 2.5 * SETTLING, chance.below(8)),
        Step(StepKind.FLAKY, 0.0, choice=1),  # KV alone
        Step(StepKind.SUBMIT, 0.0, rival),
        Step(StepKind.CONSUME, 0.1, 4),
        Step(StepKind.CONSUME, 10.0, 4),
        Step(StepKind.RECOVER, 1.0, 0),
        Step(StepKind.ACT, 2.0, chance.below(16)),
        Step(StepKind.ACT, 2.0, chance.below(16)),
        Step(StepKind.DATABASE_OUTAGE, 70.0, 0),
        Step(StepKind.READ, 1.0, 0),
        Step(StepKind.RECOVER, 1.0, 0),
    ]


def _many_withdrawn(chance: Chance) -> list[Step]:
    """A scanner finds all that is listed withdrawn."""
    return [
        *(Step(StepKind.SUBMIT, 0.5, _author(chance)) for _ in range(5)),
        Step(StepKind.CONSUME, 1.0, 4),
        Step(StepKind.CONSUME, 5.0, 4),
        Step(StepKind.GO_MAD, 2.5 * SETTLING, 16),
        Step(StepKind.CONSUME, 2.0, 4),
        Step(StepKind.CONSUME, 10.0, 4),
    ]


def _slug_given_away(chance: Chance) -> list[Step]:
    """The database loses its last seconds. Before that is repaired, another skill wants the slug
    of one that was lost."""
    author = chance.below(64)
    rival = author // 8 * 8 + chance.below(8)
    pause = chance.pick((0.0, 0.3, 2.0, 8.0))
    looks: list[Step] = []  # at slugs that nobody has yet, so that locations keep the misses
    for _ in range(chance.pick((0, 3, 5))):
        other = author // 8 * 8 + chance.below(8) + _WITHDRAWN
        looks += [Step(StepKind.SUBMIT, 0.1, other), Step(StepKind.CONSUME, 0.5, 4)]
    flaky = chance.happens(0.5)
    return [
        *looks,
        *([Step(StepKind.FLAKY, 0.0, choice=1)] if flaky else []),  # KV alone
        Step(StepKind.SUBMIT, 5.0 if looks else 70.0, author),
        Step(StepKind.CONSUME, 0.1, 4),
        Step(StepKind.FAIL_OVER, chance.pick((0.5, 2.0, 5.0)), chance.below(8)),
        Step(StepKind.SUBMIT, pause, rival),
        Step(StepKind.CONSUME, 0.1, 4),
        Step(StepKind.READ, 1.0, 0),
        Step(StepKind.MAINTAIN, chance.pick((1.0, 70.0)), 0),
        Step(StepKind.READ, 150.0, 0),
        Step(StepKind.ASK, 0.0, chance.below(64)),
    ]


def _other_database(chance: Chance) -> list[Step]:
    """An empty database answers for a while, and is published to and read from."""
    return [
        *(Step(StepKind.SUBMIT, 0.5, _author(chance)) for _ in range(3)),
        Step(StepKind.CONSUME, 1.0, 4),
        Step(StepKind.READ, 5.0, 0),
        Step(StepKind.REBIND, 2.5 * SETTLING, 0),
        Step(StepKind.READ, 1.0, 0),
        Step(StepKind.SUBMIT, 1.0, _author(chance)),
        Step(StepKind.CONSUME, 1.0, 4),
        Step(StepKind.ASK, 1.0, chance.below(64)),
        Step(StepKind.LIGHT_REPAIR, 1.0, 0),
        Step(StepKind.READ, 2.5 * SETTLING, 0),
    ]


def _no_writes(chance: Chance) -> list[Step]:
    """The database answers and takes no writes for some minutes."""
    return [
        Step(StepKind.SUBMIT, 1.0, _author(chance)),
        Step(StepKind.CONSUME, 1.0, 4),
        Step(StepKind.READ_ONLY, 1.0, 0),
        *(Step(StepKind.SUBMIT, 1.0, _author(chance)) for _ in range(3)),
        Step(StepKind.CONSUME, 1.0, 4),
        Step(StepKind.READ, 2.5 * SETTLING, 0),
        *(Step(StepKind.ASK, 0.1, chance.below(64)) for _ in range(2)),
        Step(StepKind.RECOVER, 1.0, 0),
    ]


def _lost_link(chance: Chance) -> list[Step]:
    """A store loses an old link, and another skill wants that slug."""
    author = chance.below(64)
    return [
        Step(StepKind.SUBMIT, 1.0, author),
        Step(StepKind.CONSUME, 1.0, 4),
        Step(StepKind.OLD_LINK, 2.5 * SETTLING, chance.below(16)),
        Step(StepKind.LOSE_ALIAS, 2.5 * SETTLING, chance.below(16)),
        Step(StepKind.SUBMIT, 1.0, _author(chance)),
        Step(StepKind.SUBMIT, 1.0, _author(chance)),
        Step(StepKind.CONSUME, 1.0, 4),
    ]


def _seed_beside_published(chance: Chance) -> list[Step]:
    """Skills are published, then the Worker ships with well-known skills of those slugs."""
    return [
        *(Step(StepKind.SUBMIT, 0.5, _author(chance)) for _ in range(2)),
        Step(StepKind.CONSUME, 1.0, 4),
        *(Step(StepKind.ADD_SEED, 70.0, chance.below(64)) for _ in range(2)),
        Step(StepKind.READ, 1.0, 0),
        Step(StepKind.FIND, 0.0, chance.below(64)),
        Step(StepKind.ASK, 0.0, chance.below(64)),
        Step(StepKind.DATABASE_OUTAGE, 1.0, 0),
        Step(StepKind.READ, 70.0, 0),
        Step(StepKind.FIND, 0.0, chance.below(64)),
        Step(StepKind.RECOVER, 1.0, 0),
    ]


_FAULTS: Final = frozenset(
    {
        StepKind.FLAKY,
        StepKind.KV_OUTAGE,
        StepKind.DATABASE_OUTAGE,
        StepKind.DAMAGE_INDEX,
        StepKind.LOSE_RECORD,
        StepKind.LOSE_ROW,
        StepKind.RESTORE_DUMP,
    }
)

PROFILES: Final[Mapping[str, Profile]] = {
    "any": Profile(scenes=(_race_for_a_lost_row,), played=0.1),
    "outage": Profile(
        more={StepKind.DATABASE_OUTAGE: 6, StepKind.RECOVER: 4, StepKind.LIGHT_REPAIR: 3},
        scenes=(_states_in_the_outbox,),
        played=0.5,
        calm=0.0,
        steps=(10, 30),
    ),
    "dump": Profile(
        more={StepKind.RESTORE_DUMP: 4, StepKind.READ: 6, StepKind.MAINTAIN: 4},
        scenes=(_older_table,),
        played=0.8,
        calm=0.0,
        steps=(5, 25),
    ),
    "race": Profile(
        more={StepKind.SUBMIT: 10, StepKind.CONSUME: 16},
        never=_FAULTS,
        scenes=(_two_at_once,),
        played=0.9,
        calm=0.6,
        steps=(1, 10),
        small=True,
    ),
    "repair": Profile(
        more={StepKind.LOSE_ROW: 3, StepKind.LIGHT_REPAIR: 2, StepKind.FULL_REPAIR: 3},
        scenes=(_race_for_a_lost_row, _race_for_a_lost_row, _block_where_a_row_was_lost),
        played=0.8,
        calm=0.0,
        steps=(5, 25),
    ),
    "queue": Profile(
        more={StepKind.BURY: 8, StepKind.REDRIVE: 8, StepKind.POISON: 6, StepKind.FLAKY: 4},
        calm=0.0,
        steps=(15, 40),
    ),
    "verdicts": Profile(
        more={StepKind.APPLY: 8, StepKind.RESCAN: 10, StepKind.STALL: 4},
        scenes=(_late_first_verdict,),
        played=0.4,
        retries=6,
        calm=0.1,
        steps=(10, 30),
    ),
    "acts": Profile(
        more={
            StepKind.ACT: 14,
            StepKind.READ: 8,
            StepKind.RECOVER: 4,
            StepKind.LIGHT_REPAIR: 6,
            StepKind.RESTORE_DUMP: 2,
        },
        scenes=(_blocked_again, _act_in_the_log_alone),
        played=0.8,
        calm=0.0,
        steps=(10, 40),
    ),
    "mad": Profile(
        more={StepKind.GO_MAD: 12, StepKind.SUBMIT: 6, StepKind.REDRIVE: 3},
        scenes=(_many_withdrawn,),
        played=0.4,
        calm=0.2,
        steps=(10, 35),
    ),
    "failover": Profile(
        more={
            StepKind.FAIL_OVER: 6,
            StepKind.READ: 4,
            StepKind.ASK: 4,
            StepKind.MAINTAIN: 4,
            StepKind.LIGHT_REPAIR: 2,
        },
        never=frozenset({StepKind.GO_MAD, StepKind.RESTORE_DUMP}),
        scenes=(_slug_given_away,),
        played=0.7,
        calm=0.0,
        steps=(5, 25),
        conditions=Conditions(caches=True, slow_reads=0.2),
    ),
    "sources": Profile(
        more={
            StepKind.REBIND: 2,
            StepKind.READ_ONLY: 3,
            StepKind.ADD_SEED: 3,
            StepKind.OLD_LINK: 4,
            StepKind.LOSE_ALIAS: 4,
            StepKind.READ: 4,
            StepKind.ASK: 8,
            StepKind.RECOVER: 4,
        },
        never=frozenset({StepKind.GO_MAD, StepKind.FLAKY, StepKind.RESTORE_DUMP}),
        scenes=(_other_database, _no_writes, _lost_link, _seed_beside_published),
        played=0.9,
        calm=0.0,
        steps=(5, 20),
        conditions=Conditions(seeds=2, caches=True, slow_reads=0.2),
    ),
}
"""By name. ``any`` has a little of everything."""


def generate(seed: int, profile: str = "any") -> Schedule:
    """The schedule of a seed.

    Each seed leaves out some of what may happen, has its favourites among the rest, and makes its
    world as small as it likes: several rare things in a row would otherwise hardly ever happen.
    """
    chance, about = Chance(seed).fork("schedule"), PROFILES[profile]
    weights = _WEIGHTS | {kind: 0 for kind in StepKind if kind in _RARE & about.more.keys()}
    calm = chance.happens(about.calm)
    absent = chance.pick(_ABSENT)
    left_out = {kind for kind in weights if chance.happens(absent)} - _ALWAYS - about.more.keys()
    left_out |= about.never | (_DISTURBING if calm else set())
    favourites = chance.shuffled(list(weights))[:4]
    lottery = tuple(
        kind
        for kind, weight in weights.items()
        if kind not in left_out
        for _ in range(weight + about.more.get(kind, 0) + 6 * (kind in favourites))
    )
    repositories = chance.shuffled(REPOSITORIES)[: 2 + chance.below(len(REPOSITORIES) - 1)]
    base_slugs = BASE_SLUGS[: 1 + chance.below(len(BASE_SLUGS))]
    if about.small:
        repositories, base_slugs = repositories[:1], base_slugs[:1]
    cuts = 0.0 if calm else 0.2
    pauses = chance.pick((_PAUSES, _PAUSES, _HURRIED))
    least, limit = about.steps
    steps = [
        _step(chance, lottery, pauses, cuts) for _ in range(least + chance.below(limit - least))
    ]
    if chance.happens(about.played):
        scene = chance.pick(about.scenes)(chance)
        if not (calm and any(step.kind in _DISTURBING for step in scene)):
            start = chance.below(len(steps) + 1)
            steps[start:start] = scene
    return Schedule(
        seed,
        profile,
        calm,
        tuple(repositories),
        base_slugs,
        (0.0, chance.pick(_CLOCKS)),
        chance.happens(0.5),
        about.retries,
        tuple(steps),
    )


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
