"""Queues as protocols: sending messages, and a message as its consumer sees it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class QueueMessage(Protocol):
    """One delivery. At least once, in any order; acknowledged or retried for itself."""

    @property
    def id(self) -> str:
        """The queue's id of the message, the same on every delivery."""

    @property
    def body(self) -> Any: ...

    @property
    def attempts(self) -> int:
        """How often this message was delivered, this time included; starts at 1."""

    def ack(self) -> None: ...

    def retry(self, *, delay_seconds: int) -> None:
        """Deliver again after a delay; after the queue's last retry it is a dead letter."""


def retry_delay(attempts: int) -> int:
    """Seconds before the next delivery: 5, 10, 20, … 640, so that a hundred reach over 16 hours."""
    return int(min(5 * 2 ** (attempts - 1), 640))


class MessageQueue(Protocol):
    """The producer side of a queue. Raises QueueError."""

    async def send_batch(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        """Enqueue up to 100 messages in one call."""
