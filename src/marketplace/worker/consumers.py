"""Which code consumes which queue."""

from collections.abc import Sequence
from typing import Final

from marketplace.kv.acknowledged import note_distrust
from marketplace.operations.dead_letters import bury
from marketplace.ports.dead_letter import DeadLetterReason
from marketplace.ports.env import Env
from marketplace.ports.errors import StorageError
from marketplace.ports.queue import QueueMessage, retry_delay
from marketplace.publishing.consumer import handle_publish_batch
from marketplace.publishing.messages import PUBLISH_QUEUE
from marketplace.repair.rebuild import handle_rebuild_messages

DEAD_LETTER_QUEUE: Final = f"{PUBLISH_QUEUE}-dead-letter"
MAINTENANCE_QUEUE: Final = "skill-maintenance"

LAST_ATTEMPT: Final = 101
"""At a dead letter: the first delivery and the 100 retries that ``wrangler.toml`` gives it."""


async def consume(env: Env, queue: str, messages: Sequence[QueueMessage]) -> None:
    """Consume a batch. A queue that nothing here knows keeps its messages, retried and logged."""
    if queue == PUBLISH_QUEUE:
        await handle_publish_batch(env, messages)
    elif queue == DEAD_LETTER_QUEUE:
        await _keep_dead_letters(env, messages)
    elif queue == MAINTENANCE_QUEUE:
        await handle_rebuild_messages(env, messages)
    else:
        env.log("queue-unknown", level="error", queue=queue)
        for message in messages:
            message.retry(delay_seconds=retry_delay(message.attempts))


async def _keep_dead_letters(env: Env, messages: Sequence[QueueMessage]) -> None:
    """Turn what the publish queue gave up into records; retry while PostgreSQL cannot keep them.

    The queue drops a message after its last attempt. Its body is then in the log alone.
    """
    for message in messages:
        try:
            await bury(
                env,
                message,
                queue=PUBLISH_QUEUE,
                reason=DeadLetterReason.RETRIES_EXHAUSTED,
                detail="storage was unavailable at every attempt",
            )
        except StorageError as error:
            body = {"body": message.body} if message.attempts >= LAST_ATTEMPT else {}
            env.log("dead-letter-not-kept", level="error", reason=error.reason, **body)
            await note_distrust(env, error)
            message.retry(delay_seconds=retry_delay(message.attempts))
        else:
            message.ack()
