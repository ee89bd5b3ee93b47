"""Cloudflare Queues at their worst: at least once, out of order, retried, then dead-lettered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from marketplace.ports.errors import QueueError
from marketplace.ports.queue import MessageQueue
from tests.doubles.chance import Chance
from tests.doubles.errors import SimulationError
from tests.doubles.network import IMMEDIATE, Fault, Network, call

QUEUE_BATCH_LIMIT: Final = 100  # messages
QUEUE_MESSAGE_LIMIT: Final = 128_000  # bytes
QUEUE_DELAY_LIMIT: Final = 43_200  # seconds


@dataclass(slots=True, eq=False)
class _Stored:
    id: str
    body: Mapping[str, Any]
    sent_at: datetime
    due: float
    attempts: int = 0


@dataclass(slots=True)
class Delivery:
    """One delivery of one message. The first call of ``ack`` or ``retry`` counts."""

    stored: _Stored
    attempts: int
    acknowledged: bool = False
    retry_after: int | None = None
    on_ack: Callable[["Delivery"], None] | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        return self.stored.id

    @property
    def body(self) -> Any:
        return self.stored.body

    @property
    def timestamp(self) -> datetime:
        return self.stored.sent_at

    def ack(self) -> None:
        if self.retry_after is None and not self.acknowledged:
            self.acknowledged = True
            if self.on_ack is not None:
                self.on_ack(self)

    def retry(self, *, delay_seconds: int) -> None:
        if not 0 <= delay_seconds <= QUEUE_DELAY_LIMIT:
            raise SimulationError(f"a retry after {delay_seconds} s")
        if not self.acknowledged:
            self.retry_after = delay_seconds


class SimulatedQueue:
    """One queue with its consumer's settings. ``now`` and ``clock`` tell the virtual time."""

    def __init__(
        self,
        name: str,
        *,
        now: Callable[[], float],
        clock: Callable[[], datetime],
        chance: Chance,
        max_retries: int = 3,
        dead_letter_queue: "SimulatedQueue | None" = None,
        duplicates: float = 0.0,
    ) -> None:
        self.name = name
        self.duplicates = duplicates  # share of messages delivered once more
        self.max_retries = max_retries
        self.dead_letter_queue = dead_letter_queue
        self.waiting: list[_Stored] = []
        self._in_flight: list[_Stored] = []
        self.refused: list[SimulationError] = []  # messages that the platform does not take
        self.lost: list[Mapping[str, Any]] = []  # beyond the last retry, without a next queue
        self._now = now
        self._clock = clock
        self._chance = chance
        self._sent = 0

    def add(self, body: Mapping[str, Any]) -> None:
        """Store a message."""
        self._sent += 1
        self.waiting.append(
            _Stored(f"{self.name}-{self._sent}", dict(body), self._clock(), self._now())
        )

    def take(self, limit: int, on_ack: Callable[[Delivery], None] | None = None) -> list[Delivery]:
        """A batch of the messages that are due, in any order."""
        now = self._now()
        due = [stored for stored in self.waiting if stored.due <= now]
        batch = self._chance.shuffled(due)[: min(limit, QUEUE_BATCH_LIMIT)]
        for stored in batch:
            self.waiting.remove(stored)
            stored.attempts += 1
        self._in_flight += batch
        return [Delivery(stored, stored.attempts, on_ack=on_ack) for stored in batch]

    def settle(self, batch: Sequence[Delivery], *, returned: bool) -> None:
        """The consumer's invocation has ended: by returning, or by an error or a cut-off.

        What it neither acknowledged nor retried is acknowledged if it returned, else retried. When
        it was cut off, the platform may not have heard of its acknowledgements.
        """
        for delivery in batch:
            self._in_flight.remove(delivery.stored)
            if returned and delivery.retry_after is None:
                delivery.ack()
            heard = returned or not self._chance.happens(0.5)
            if not (delivery.acknowledged and heard):
                self._retry(delivery.stored, delivery.retry_after or 0)
            elif self._chance.happens(self.duplicates):
                delivery.stored.due = self._now() + self._chance.between(0, 120)
                self.waiting.append(delivery.stored)

    def _retry(self, stored: _Stored, delay: float) -> None:
        if stored.attempts <= self.max_retries:
            stored.due = self._now() + delay
            self.waiting.append(stored)
        elif self.dead_letter_queue is not None:
            self.dead_letter_queue.add(stored.body)
        else:
            self.lost.append(stored.body)

    def flying(self) -> list[Mapping[str, Any]]:
        """Bodies of the messages that a consumer has at the moment."""
        return [stored.body for stored in self._in_flight]

    def next_due(self) -> float | None:
        """When the next waiting message is due."""
        return min((stored.due for stored in self.waiting), default=None)


class SimulatedProducer(MessageQueue):
    """The producer's binding as one invocation has it."""

    def __init__(
        self,
        queue: SimulatedQueue,
        *,
        faults: Callable[[], Fault | None] = lambda: None,
        network: Network = IMMEDIATE,
        chance: Chance | None = None,
        message_limit: int = QUEUE_MESSAGE_LIMIT,
    ) -> None:
        """``message_limit``: bytes of one message."""
        self._message_limit = message_limit
        self._queue = queue
        self._faults = faults
        self._network = network
        self._chance = chance or Chance(0)

    async def send_batch(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        if not 1 <= len(bodies) <= QUEUE_BATCH_LIMIT:
            raise SimulationError(f"a batch of {len(bodies)} messages")
        longest = max(len(msgspec.json.encode(body)) for body in bodies)
        if longest > self._message_limit:
            self._queue.refused.append(SimulationError(f"a message of {longest} bytes"))
            raise self._queue.refused[-1]

        def store() -> None:
            for body in bodies:
                self._queue.add(body)

        await self._send(store)

    async def _send(self, act: Callable[[], None]) -> None:
        await call(
            act,
            fault=self._faults(),
            error=lambda: QueueError(f"the queue {self._queue.name} did not take it"),
            network=self._network,
            chance=self._chance,
        )
