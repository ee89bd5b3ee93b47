"""The message that asks for a submission to be published, and its queue."""

from collections.abc import Mapping
from typing import Any, Final

from marketplace.ports.dead_letter import APPROVED

PUBLISH_QUEUE: Final = "skill-publish"

SUBMISSION_ID = "submissionId"
SCANNED_AT = "scannedAt"


def publish_message(submission_id: str, scanned_at: str) -> Mapping[str, Any]:
    """The message that asks for a submission to be published, by the verdict of a moment.

    KV may show an older state for a minute; the moment tells the consumer that it has.
    """
    return {SUBMISSION_ID: submission_id, SCANNED_AT: scanned_at}


def submission_id_of(body: object) -> str | None:
    """The submission that a message names, or None when it is no such message."""
    value = body.get(SUBMISSION_ID) if isinstance(body, Mapping) else None
    return value if isinstance(value, str) and 0 < len(value) <= 64 else None


def is_approved(body: object) -> bool:
    """Whether an operator let the message pass the bound on withdrawals."""
    return isinstance(body, Mapping) and body.get(APPROVED) is True


def scanned_at_of(body: object) -> str:
    """The moment of the verdict that a message is about; empty when it names none."""
    value = body.get(SCANNED_AT) if isinstance(body, Mapping) else None
    return value if isinstance(value, str) else ""
