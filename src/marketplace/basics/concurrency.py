"""Running many small pieces of work within one invocation's limits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, TypeVar

SIMULTANEOUS_CONNECTIONS: Final = 6  # documented limit of an invocation

TURN: Final = 100  # of a list call's thousand keys: what decodes in some ten milliseconds

T = TypeVar("T")
R = TypeVar("R")


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """The items. After every TURN of them whatever else has work to do on the one thread gets its
    turn, so that no request waits for the end of a long list."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % TURN == 0:
            await asyncio.sleep(0)


async def map_bounded(
    items: Iterable[T],
    work: Callable[[T], Awaitable[R]],
    *,
    at_once: int = SIMULTANEOUS_CONNECTIONS,
) -> list[R]:
    """``work`` applied to each item, at most ``at_once`` at a time; the results in order.

    The first exception is raised when it happens; work under way then is cancelled.
    """
    gate = asyncio.Semaphore(at_once)

    async def run(item: T) -> R:
        async with gate:
            return await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(item)) for item in items]
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]
