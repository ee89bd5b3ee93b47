"""Which code consumes which queue."""

from collections.abc import Sequence
from typing import Final

from marketplace.operations.dead_letters import bury
from marketplace.ports.dead_letter import DeadLetterReason
from marketplace.ports.env import Env
from marketplace.ports.errors import StorageError
from marketplace.ports.queue import QueueMessage, retry_delay
from marketplace.publishing.consumer import PUBLISH_QUEUE, handle_publish_batch
from marketplace.repair.rebuild import handle_rebuild_messages

DEAD_LETTER_QUEUE: Final = f"{PUBLISH_QUEUE}-dead-letter"
MAINTENANCE_QUEUE: Final = "skill-maintenance"


async def consume(env: Env, queue: str, messages: Sequence[QueueMessage]) -> None:
    """Consume a batch. A queue that nothing here knows keeps its messages, retried and logged."""
    if queue == PUBLISH_QUEUE:
        await handle_publish_batch(env, messages)
    elif queue == DEAD_LETTER_QUEUE:
        await _keep_dead_letters(env, messages)
    elif queue == MAINTENANCE_QUEUE:
        await handle_rebuild_messages(env, messages)
    else:
        env.log(f"no consumer for queue {queue}", level="error", queue=queue)
        for message in messages:
            message.retry(delay_seconds=retry_delay(message.attempts))


async def _keep_dead_letters(env: Env, messages: Sequence[QueueMessage]) -> None:
    """Turn what the publish queue gave up into records; keep retrying while nothing can keep it."""
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
            env.log("dead letter not kept", level="error", reason=error.reason)
            message.retry(delay_seconds=retry_delay(message.attempts))
        else:
            message.ack()
