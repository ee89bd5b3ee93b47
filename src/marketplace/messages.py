"""Queue messages as the handlers see them. A message names a thing; the consumer re-reads it."""

from collections.abc import Mapping
from typing import Any, Protocol

SUBMISSION_ID = "submissionId"
SCANNED_AT = "scannedAt"


class QueueMessage(Protocol):
    """One delivery. At least once, in any order; acknowledged or retried for itself."""

    @property
    def id(self) -> str:
        """The queue's id of the message, the same on every delivery."""

    @property
    def body(self) -> Any:
        """The decoded JSON body."""

    @property
    def attempts(self) -> int:
        """How often this message was delivered, this time included; starts at 1."""

    def ack(self) -> None:
        """The message is done with and never comes again."""

    def retry(self, *, delay_seconds: int) -> None:
        """Deliver again after a delay; after the queue's last retry it is a dead letter."""


def publish_message(submission_id: str, scanned_at: str) -> Mapping[str, Any]:
    """The message that asks for a submission to be published, by the verdict of a moment.

    KV may show an older state for a minute; the moment tells the consumer that it has.
    """
    return {SUBMISSION_ID: submission_id, SCANNED_AT: scanned_at}


def submission_id_of(body: object) -> str | None:
    """The submission that a message names, or None when it is no such message."""
    value = body.get(SUBMISSION_ID) if isinstance(body, Mapping) else None
    return value if isinstance(value, str) and 0 < len(value) <= 64 else None


def scanned_at_of(body: object) -> str:
    """The moment of the verdict that a message is about; empty when it names none."""
    value = body.get(SCANNED_AT) if isinstance(body, Mapping) else None
    return value if isinstance(value, str) else ""


FIRST_RETRY_SECONDS = 5
LONGEST_RETRY_SECONDS = 600


def retry_delay(attempts: int) -> int:
    """Seconds to wait before the next delivery: 5, 10, 20, … at most 600."""
    return int(min(FIRST_RETRY_SECONDS * 2 ** (max(attempts, 1) - 1), LONGEST_RETRY_SECONDS))
