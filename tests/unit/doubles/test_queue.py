"""The simulated queue: at least once, in any order, and dead-lettered in the end."""

from datetime import UTC, datetime

import pytest

from tests.doubles.chance import Chance
from tests.doubles.errors import SimulationError
from tests.doubles.queue import SimulatedProducer, SimulatedQueue


class _Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.dead = self.queue("dead", 100, None)
        self.live = self.queue("live", 2, self.dead)

    def queue(self, name: str, retries: int, dead: SimulatedQueue | None) -> SimulatedQueue:
        return SimulatedQueue(
            name,
            now=lambda: self.now,
            clock=lambda: datetime.fromtimestamp(self.now, UTC),
            chance=Chance(1),
            max_retries=retries,
            dead_letter_queue=dead,
        )


def test_messages_come_in_any_order_and_once_acknowledged_no_more() -> None:
    queue = _Time().live
    for number in range(10):
        queue.add({"n": number})
    batch = queue.take(10)
    assert [delivery.body["n"] for delivery in batch] != list(range(10))
    assert sorted(delivery.body["n"] for delivery in batch) == list(range(10))
    queue.settle(batch, returned=True)
    assert queue.take(10) == []


def test_a_message_is_retried_after_its_delay_and_then_dead_lettered() -> None:
    time = _Time()
    time.live.add({"n": 1})
    for attempt in (1, 2, 3):
        (delivery,) = time.live.take(10)
        assert delivery.attempts == attempt
        delivery.retry(delay_seconds=30)
        delivery.ack()  # the first word counts
        time.live.settle([delivery], returned=True)
        assert time.live.take(10) == []
        time.now += 30
    assert time.live.next_due() is None
    assert [delivery.body for delivery in time.dead.take(10)] == [{"n": 1}]


def test_what_an_invocation_held_comes_again_when_it_was_cut_off() -> None:
    queue = _Time().live
    queue.add({"n": 1})
    queue.settle(queue.take(1), returned=False)
    assert [delivery.attempts for delivery in queue.take(1)] == [2]


def test_an_acknowledgement_may_be_lost_with_the_invocation() -> None:
    queue = _Time().live
    for number in range(40):
        queue.add({"n": number})
    batch = queue.take(40)
    for delivery in batch:
        delivery.ack()
    queue.settle(batch, returned=False)
    assert 0 < len(queue.take(40)) < 40


def test_an_acknowledged_message_may_be_delivered_once_more() -> None:
    time = _Time()
    time.live.duplicates = 1.0
    time.live.add({"n": 1})
    time.live.settle(time.live.take(1), returned=True)
    time.now += 120
    assert [delivery.body for delivery in time.live.take(1)] == [{"n": 1}]


def test_what_falls_out_of_the_last_queue_is_known() -> None:
    time = _Time()
    last = time.queue("last", 0, None)
    last.add({"n": 1})
    last.settle(last.take(1), returned=False)
    assert last.lost == [{"n": 1}]


def test_limits_are_kept() -> None:
    queue = _Time().live
    queue.add({})
    (delivery,) = queue.take(1)
    with pytest.raises(SimulationError):
        delivery.retry(delay_seconds=43_201)
    with pytest.raises(SimulationError):
        SimulatedProducer(queue).send_batch([{}] * 101).send(None)
