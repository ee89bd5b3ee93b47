"""Calls over a network that may lose the question or the answer: for KV, PostgreSQL and queues."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from tests.doubles.chance import Chance

T = TypeVar("T")


class Fault(StrEnum):
    """What may go wrong with one call."""

    FAIL = "fail"  # an error, and nothing was done
    FAIL_AFTER = "fail-after"  # an error, although it was done
    HANG = "hang"  # no answer ever, and nothing was done
    HANG_AFTER = "hang-after"  # no answer ever, although it was done
    LATE = "late"  # no answer, and done some seconds later
    REFUSED = "refused"  # PostgreSQL only: an error that leaves the session as it is
    EMPTY_PAGE = "empty-page"  # KV lists only: a page without keys that is not the last


_NOT_DONE = {Fault.FAIL, Fault.HANG, Fault.REFUSED}
_NOT_ANSWERED = {Fault.HANG, Fault.HANG_AFTER, Fault.LATE}


@dataclass(frozen=True, slots=True)
class Network:
    """How long calls take, in seconds: least and most.

    ``latency`` passes until a call is carried out, ``answer`` from then on until that is known.
    """

    latency: tuple[float, float] = (0.0, 0.0)
    answer: tuple[float, float] = (0.0, 0.0)
    late_by: tuple[float, float] = (1.0, 10.0)


IMMEDIATE = Network()


async def call(
    act: Callable[[], T],
    *,
    fault: Fault | None,
    error: Callable[[], Exception],
    network: Network,
    chance: Chance,
) -> T:
    """Let the platform do ``act`` and wait for the answer.

    Once sent, a call is carried out whatever becomes of the invocation that asked for it: that is
    why ``act`` runs outside the caller's context, and not in the caller.
    """
    if fault is None and network.latency[1] == 0:
        await asyncio.sleep(0)
        return act()
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def arrive() -> None:
        result: T | None = None
        failure: Exception | None = None
        if fault not in _NOT_DONE:
            try:
                result = act()
            except Exception as refused:  # noqa: BLE001 - it is handed to the caller
                failure = refused
        if fault in {Fault.FAIL, Fault.FAIL_AFTER, Fault.REFUSED}:
            failure = error()
        if fault in _NOT_ANSWERED:
            return
        if network.answer[1] > 0:
            loop.call_later(chance.between(*network.answer), tell, result, failure)
        else:
            tell(result, failure)

    def tell(result: T | None, failure: Exception | None) -> None:
        if answer.done():
            return
        if failure is not None:
            answer.set_exception(failure)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    delay = chance.between(*network.latency)
    if fault is Fault.LATE:
        delay += chance.between(*network.late_by)
    loop.call_later(delay, arrive, context=Context())
    return await answer
