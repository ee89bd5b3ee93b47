"""Every message that the marketplace sends goes through here: bounded in time."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from marketplace.env import Env
from marketplace.storage import MessageQueue, QueueError


async def send_messages(env: Env, queue: MessageQueue, bodies: Sequence[Mapping[str, Any]]) -> None:
    """Enqueue up to 100 messages within ``settings.queue_timeout`` seconds. Raises QueueError.

    After an error some of them may have been taken all the same.
    """
    limit = env.settings.queue_timeout
    try:
        async with asyncio.timeout(limit):
            await queue.send_batch(bodies)
    except TimeoutError as error:
        raise QueueError(f"the queue took longer than {limit} s", reason="timeout") from error
