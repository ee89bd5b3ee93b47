"""One simulated world: the stores, the queues, their faults, and invocations that run in it."""

from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import msgspec

from marketplace.kv.acknowledged import GOOD_FOR, READ_AGAIN, expect_acknowledged
from marketplace.kv.keys import ACKNOWLEDGED_KEY
from marketplace.ports.database import DatabaseSession, SkillDatabase
from marketplace.ports.env import READ_BUDGET_SECONDS, Env, Settings
from marketplace.ports.isolate import FallbackCache
from marketplace.ports.known_database import Acknowledged
from marketplace.skills.seed import EMPTY_SEED
from tests.doubles.chance import Chance
from tests.doubles.errors import SimulationError
from tests.doubles.faulty_database import open_session
from tests.doubles.kv import KvConduct, KvOperation, KvOperationKind, SimulatedKv
from tests.doubles.loop import CutOff, Invocation, SimulatedLoop, current_loop, finished
from tests.doubles.network import Fault, Network
from tests.doubles.queue import SimulatedProducer, SimulatedQueue
from tests.simulation.actors import Marketplace
from tests.simulation.schedule import Conditions

T = TypeVar("T")

LOCATIONS: Final = ("ams", "sin", "gru")
MAX_SKEW: Final = 1.0
"""Seconds that the clock of a location may be off, either way."""
INVOCATION_LIMIT: Final = 900.0  # seconds: what the platform gives to a queue or cron invocation
NETWORK: Final = Network(latency=(0.001, 0.030))
SLOW_NETWORK: Final = Network(latency=(0.010, 0.500), answer=(0.0, 0.400))
FILLING_NETWORK: Final = Network(latency=(0.1, 0.9))
"""A read has two seconds for all its calls."""
MESSAGE_LIMIT: Final = 300  # bytes; the platform's in proportion to these small worlds
SLOW_INVOCATIONS: Final = 0.25  # share; during their long pauses others run between any two steps
_READ_FAULTS: Final = (Fault.FAIL, Fault.FAIL, Fault.HANG)
_WRITE_FAULTS: Final = (
    Fault.FAIL,
    Fault.FAIL_AFTER,
    Fault.HANG,
    Fault.HANG_AFTER,
    Fault.LATE,
)
_READING: Final = (
    "connect",
    "get_",
    "list_",
    "count_",
    "find_",
    "compare_",
    "load_state",
    "seed_claims",
    "without_versions",
    "skills_not_in_kv",
    "withheld_keys",
    "next_open_rule",
    "fingerprint",
    "scan_work",
)
"""How the statements begin that write nothing."""

_LIST_FAULTS: Final = (Fault.FAIL, Fault.HANG, Fault.EMPTY_PAGE, Fault.EMPTY_PAGE)


@dataclass(slots=True)
class Weather:
    """How the platform behaves at the moment. The defaults are what it promises on a good day."""

    kv_faults: float = 0.0  # share of operations
    database_faults: float = 0.0  # share of statements
    queue_faults: float = 0.0
    stale_reads: float = 0.5
    kv_outage: Fault | None = None  # every operation ends like this
    database_outage: Fault | None = None
    read_only: bool = False
    unreadable: str | None = None  # KV fails for keys that begin so

    def clear(self) -> None:
        """End all faults. Staleness is no fault and stays."""
        self.kv_faults = self.database_faults = self.queue_faults = 0.0
        self.kv_outage = self.database_outage = self.unreadable = None
        self.read_only = False


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log."""

    at: float
    invocation: str
    event: str
    level: str
    fields: dict[str, Any] = field(hash=False)


@dataclass(slots=True)
class Outcome(Generic[T]):
    """How an invocation ended. ``value`` only when it returned; neither of them when cut off."""

    name: str
    began: float
    ended: float = 0.0
    returned: bool = False
    value: T | None = None
    error: BaseException | None = None
    log: list[LogLine] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


class World:
    def __init__(
        self,
        marketplace: Marketplace,
        seed: int | str,
        *,
        page_limit: int = 3,
        skewed: bool = False,
        retries: int = 3,
        conditions: Conditions = Conditions(),  # noqa: B008 - it is frozen
    ) -> None:
        """``page_limit`` bounds a list call of KV. ``skewed``: the locations' clocks differ.
        ``retries``: of a message that asks for a publication."""
        loop = current_loop()
        chance = Chance(seed)
        self.loop: SimulatedLoop = loop
        self.marketplace = marketplace
        self.weather = Weather()
        self.settings = Settings(internal_keys=("key",))
        self.kv = SimulatedKv(chance=chance.fork("kv"), page_limit=page_limit, rate_limited=True)
        self.database = self.bound = marketplace.new_database()
        """The right one, and the one that answers."""
        self.seed = EMPTY_SEED
        self.away_since: float | None = None  # when every statement began to fail or to hang
        self.conditions = conditions
        self.after_statement: Callable[[], None] = lambda: None
        self._kv_fault_was_chosen = False
        self.unknown_until = 0.0  # when KV could not say which database is acknowledged
        self.mishaps = 0  # after which KV's list of withheld skills may be one of before
        self._fallback_caches = {location: FallbackCache() for location in LOCATIONS}
        self.trace: list[str] = []
        self.violations: list[SimulationError] = []  # of the platform's limits
        self.found: list[AssertionError] = []  # violations of the invariants
        self._chance = chance.fork("world")
        self._faults = chance.fork("faults")
        self._network = chance.fork("network")
        self._slow_reads = chance.fork("slow-reads")
        clocks, most = chance.fork("clocks"), MAX_SKEW if skewed else 0.0
        self._skews = {
            location: timedelta(seconds=clocks.between(-most, most)) for location in LOCATIONS
        }
        self._invocations = 0
        self.dead_letters = self._queue("dead-letters", chance, max_retries=100)
        self.publish_queue = self._queue(
            "publish",
            chance,
            max_retries=retries,
            dead_letter_queue=self.dead_letters,
            duplicates=0.1,
        )
        self.maintenance_queue = self._queue("maintenance", chance, max_retries=3)

    def _queue(self, name: str, chance: Chance, **options: Any) -> SimulatedQueue:
        loop = self.loop
        fork = chance.fork(name)
        return SimulatedQueue(name, now=loop.time, clock=loop.clock, chance=fork, **options)

    def note(self, text: str) -> None:
        """Add a line to the trace of what happened."""
        self.trace.append(f"{self.loop.time():10.3f} {text}")

    def forget_answers(self) -> None:
        """New isolates run everywhere, which have no earlier answers."""
        self._fallback_caches = {location: FallbackCache() for location in LOCATIONS}

    def knows_more_than(self, changes: int) -> bool:
        """Whether every location would miss something in a database that is at this change.

        That is so where every read of KV shows a later one, and did so long enough.
        """
        values = self.kv.visible(ACKNOWLEDGED_KEY, margin=GOOD_FOR)
        shown = [value and msgspec.json.decode(value, type=Acknowledged) for value in values]
        return (
            bool(shown)
            and all(found and found.changes > changes for found in shown)
            and not self.kv_has_failed
        )

    # Faults

    def _kv_fault(self, operation: KvOperation) -> Fault | None:
        fault = self._choose_kv_fault(operation)
        self._kv_fault_was_chosen |= fault is not None
        self.mishaps += fault is not None
        return fault

    @property
    def kv_has_failed(self) -> bool:
        """Whether a call to KV ever got no answer, also because the caller was held up."""
        return self._kv_fault_was_chosen or self.kv.given_up > 0

    def _choose_kv_fault(self, operation: KvOperation) -> Fault | None:
        weather = self.weather
        if weather.kv_outage is not None:
            return weather.kv_outage
        if weather.unreadable is not None and operation.key.startswith(weather.unreadable):
            return Fault.FAIL
        if not self._faults.happens(weather.kv_faults):
            return None
        if operation.kind is KvOperationKind.LIST:
            return self._faults.pick(_LIST_FAULTS)
        return self._faults.pick(_WRITE_FAULTS if operation.is_write else _READ_FAULTS)

    def _database_fault(self, method: str) -> Fault | None:
        weather = self.weather
        if weather.database_outage is not None:
            return weather.database_outage
        if weather.read_only and not method.startswith(_READING):
            return Fault.REFUSED
        if not self._faults.happens(weather.database_faults):
            return None
        return self._faults.pick(_READ_FAULTS if method == "connect" else _WRITE_FAULTS)

    def _queue_fault(self) -> Fault | None:
        if self._faults.happens(self.weather.queue_faults):
            return self._faults.pick(_WRITE_FAULTS)
        return None

    # Invocations

    def clock(self, location: str) -> datetime:
        """What the clock of a location shows."""
        return self.loop.clock() + self._skews[location]

    def env(self, invocation: str, location: str, log: list[LogLine]) -> Env:
        """The bindings of one invocation."""
        network = SLOW_NETWORK if self._chance.happens(SLOW_INVOCATIONS) else NETWORK
        reads = invocation.startswith(("read#", "find#", "ask#"))
        if reads and self._slow_reads.happens(self.conditions.slow_reads):
            network = FILLING_NETWORK

        async def connect() -> SkillDatabase:
            return await open_session(
                lambda: self.marketplace.connect(self.bound),
                faults=self._database_fault,
                network=network,
                chance=self._network,
                after=lambda _: self.after_statement(),
            )

        def write_log(event: str, *, level: str = "info", **fields: Any) -> None:
            if event == "acknowledged-not-read":
                self.unknown_until = self.loop.time() + READ_AGAIN + READ_BUDGET_SECONDS
            log.append(LogLine(self.loop.time(), invocation, event, level, fields))

        conduct = KvConduct(
            stale_reads=self.weather.stale_reads,
            blind_to_own=0.1,
            caches=self.conditions.caches,
            network=network,
        )
        return Env(
            submissions_kv=self.kv.at(location, self._kv_fault, conduct=conduct),
            database=DatabaseSession(connect, self._fallback_caches[location].database),
            publish_queue=self._producer(self.publish_queue, network),
            maintenance_queue=self._producer(self.maintenance_queue, network),
            settings=self.settings,
            seed=self.seed,
            clock=lambda: self.clock(location),
            log=write_log,
            fallback_cache=self._fallback_caches[location],
            expect_database=expect_acknowledged,
        )

    def _producer(self, queue: SimulatedQueue, network: Network) -> SimulatedProducer:
        return SimulatedProducer(
            queue,
            faults=self._queue_fault,
            network=network,
            chance=self._network,
            message_limit=MESSAGE_LIMIT,
        )

    async def invoke(
        self,
        name: str,
        handler: Callable[[Env], Coroutine[Any, Any, T]],
        *,
        cut_at: int | None = None,
        cut_off: CutOff = CutOff.DROPPED,
    ) -> Outcome[T]:
        """Run a handler as one invocation and wait for its end, whatever end that is."""
        self._invocations += 1
        name = f"{name}#{self._invocations}"
        outcome: Outcome[T] = Outcome(name, self.loop.time())
        env = self.env(name, self._chance.pick(LOCATIONS), outcome.log)
        invocation = Invocation(name, cut_at=cut_at, cut_off=cut_off)
        task = self.loop.start(invocation, handler(env))
        watchdog = self.loop.call_later(INVOCATION_LIMIT, self._overdue, invocation)
        await finished(invocation)
        watchdog.cancel()
        outcome.ended = self.loop.time()
        if task.done() and not task.cancelled():
            with suppress(BaseException):
                outcome.error = task.exception()
            if outcome.error is None:
                outcome.returned, outcome.value = True, task.result()
        merged = any(line.event == "withheld-merged" for line in outcome.log)
        self.mishaps += merged or not outcome.returned
        self.note(f"{name} {self._ending(outcome, invocation)}")
        return outcome

    def _overdue(self, invocation: Invocation) -> None:
        self.violations.append(
            SimulationError(f"{invocation.name} hung for {INVOCATION_LIMIT:.0f} s: bounded?")
        )
        invocation.cut_off = CutOff.DROPPED
        invocation.cut()

    @staticmethod
    def _ending(outcome: Outcome[T], invocation: Invocation) -> str:
        if outcome.returned:
            return f"returned after {outcome.seconds:.3f} s"
        if invocation.was_cut:
            return f"was cut off ({invocation.cut_off}) at step {invocation.steps}"
        return f"raised {outcome.error!r}"
