"""A deterministic asyncio event loop in virtual time, whose tasks can be cut off at any await.

* ``time()`` stands still while anything can run and then jumps to the next timer: an hour of
  waiting costs nothing, and no test depends on how fast a machine is.
* Which of the callbacks that are ready runs next is decided by a seed: every seed explores one
  interleaving, and the same seed gives the same run anywhere.
* When nothing is ready, no timer is set and the main task is not done, ``Deadlock`` names the
  tasks that wait, and where.
* Tasks of an ``Invocation`` can be cut off as Workers does it: they are never resumed, so that
  not even their ``finally`` runs. Or they are held up for a while, as others go on.
"""

import asyncio
import heapq
from asyncio import AbstractEventLoop, Future, Handle, Task
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, TypeVar, cast

from tests.doubles.chance import Chance

T = TypeVar("T")

STALL: Final = 20.0  # seconds
EPOCH_OF_SIMULATION: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Deadlock(AssertionError):
    """All tasks wait for something that will never happen."""


class CutOff(StrEnum):
    """How an invocation ends before its time, or is held up."""

    DROPPED = "dropped"  # never resumed: what Workers does to a cancelled request
    CANCELLED = "cancelled"  # CancelledError: what asyncio does, and what time-outs do inside
    STALLED = "stalled"  # no end: it goes on STALL seconds later, as on a busy machine


class Invocation:
    """What runs on behalf of one call of a handler: its task and all the tasks that it starts.

    ``steps`` counts how often its code was resumed. ``cut_at`` is the step at which it is cut off
    or held up instead, and so chooses an await.
    """

    def __init__(
        self, name: str, *, cut_at: int | None = None, cut_off: CutOff = CutOff.DROPPED
    ) -> None:
        self.name = name
        self.cut_at = cut_at
        self.cut_off = cut_off
        self.steps = 0
        self.was_cut = False
        self.stalled_until = 0.0
        self.task: Task[Any] | None = None
        self.ended: Future[None] | None = None

    @property
    def is_dropped(self) -> bool:
        """Whether its code must never be resumed."""
        return self.was_cut and self.cut_off is CutOff.DROPPED

    def cut(self) -> None:
        """Cut it off here and now."""
        if self.was_cut or self.task is None or self.task.done():
            return
        self.was_cut = True
        if self.cut_off is CutOff.CANCELLED:
            self.task.cancel()
        elif self.ended is not None and not self.ended.done():
            self.ended.set_result(None)


_invocation: ContextVar[Invocation | None] = ContextVar("invocation", default=None)


class _NumberedTask(Task[Any]):
    """A task whose hash is its number: a set of tasks then has the same order in every run."""

    number = 0
    invocation: Invocation | None = None

    def __hash__(self) -> int:
        return self.number


class _SimulatedHandle(Handle):
    """A callback with the invocation that it belongs to."""

    __slots__ = ("invocation",)

    def __init__(
        self,
        callback: "_Callback",
        args: tuple[Any, ...],
        loop: "SimulatedLoop",
        context: Context | None,
    ) -> None:
        if context is None:
            context = copy_context()
        # All that Handle.__init__ does outside of debug mode: this is where the time goes.
        self._context = context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self.invocation: Invocation | None = context.get(_invocation)


_Callback = Callable[..., object]


class SimulatedLoop(AbstractEventLoop):
    def __init__(self, chance: Chance | None = None) -> None:
        self._chance = chance
        self._now = 0.0
        self._ready: list[_SimulatedHandle] = []
        self._timers: list[tuple[float, int, _SimulatedHandle]] = []
        self._counter = 0
        self._tasks: list[_NumberedTask] = []
        self._running = False
        self._closed = False
        self._platform_context = Context()
        self.unhandled: list[dict[str, Any]] = []
        self.steps = 0

    # Time

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def clock(self) -> datetime:
        """The wall clock that belongs to ``time()``; fits ``Env.clock``."""
        return EPOCH_OF_SIMULATION + timedelta(seconds=self._now)

    # Scheduling

    def call_soon(  # type: ignore[override]
        self, callback: _Callback, *args: Any, context: Context | None = None
    ) -> _SimulatedHandle:
        """Make a callback ready to run."""
        handle = _SimulatedHandle(callback, args, self, context)
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: _Callback, *args: Any, context: Context | None = None
    ) -> _SimulatedHandle:
        """The same as ``call_soon``: there are no threads."""
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: _Callback, *args: Any, context: Context | None = None
    ) -> _SimulatedHandle:
        """Run a callback after a delay."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: _Callback, *args: Any, context: Context | None = None
    ) -> _SimulatedHandle:
        """Run a callback at a moment."""
        handle = _SimulatedHandle(callback, args, self, context)
        if not self._closed:
            self._put_off(handle, when)
        return handle

    def call_platform_later(self, delay: float, callback: _Callback, *args: Any) -> None:
        """Run a callback on behalf of the platform: it outlives the invocation that caused it."""
        self.call_at(self._now + delay, callback, *args, context=self._platform_context)

    def create_future(self) -> Future[Any]:
        """A future of this loop."""
        return Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> Task[T]:
        """A task that starts when its turn comes."""
        self._counter += 1
        # The number must be there before Task.__init__ registers the task in a set.
        task = _NumberedTask.__new__(_NumberedTask)
        task.number = self._counter
        task.invocation = _invocation.get() if context is None else context.get(_invocation)
        task.__init__(  # type: ignore[misc]
            coro, loop=self, name=name or f"task-{self._counter}", context=context
        )
        self._tasks.append(task)
        return cast("Task[T]", task)

    def start(self, invocation: Invocation, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        """Run a coroutine as an invocation; ``finished`` waits for its end, whatever it is."""
        context = copy_context()
        context.run(_invocation.set, invocation)
        task = self.create_task(coroutine, name=invocation.name, context=context)
        invocation.task = task
        invocation.ended = ended = self.create_future()
        task.add_done_callback(
            lambda _: None if ended.done() else ended.set_result(None),
            context=self._platform_context,
        )
        return task

    # Running

    def run_until_complete(self, future: Any) -> Any:
        """Run until a coroutine or future is done, and return its result."""
        task = future if isinstance(future, Future) else self.create_task(future, name="main")
        asyncio._set_running_loop(self)
        self._running = True
        try:
            while not task.done():
                self._run_one()
        finally:
            self._running = False
            asyncio._set_running_loop(None)
        return task.result()

    def _run_one(self) -> None:
        ready = self._ready
        if not ready:
            self._advance()
        count = len(ready)
        if count == 1:
            handle = ready.pop()
        elif self._chance is None:
            handle = ready.pop(0)
        else:
            # Order among the rest is of no meaning: each has the same chance every time.
            index = self._chance.below(count)
            handle = ready[index]
            ready[index] = ready[-1]
            ready.pop()
        if handle._cancelled:
            return
        invocation = handle.invocation
        if invocation is not None:
            if invocation.is_dropped:
                return
            if invocation.stalled_until > self._now:
                self._put_off(handle, invocation.stalled_until)
                return
            invocation.steps += 1
            if invocation.steps == invocation.cut_at:
                if invocation.cut_off is CutOff.STALLED:
                    invocation.stalled_until = self._now + STALL
                    self._put_off(handle, invocation.stalled_until)
                    return
                invocation.cut()
                if invocation.is_dropped:
                    return
        self.steps += 1
        handle._run()

    def _put_off(self, handle: _SimulatedHandle, when: float) -> None:
        self._counter += 1
        heapq.heappush(self._timers, (when, self._counter, handle))

    def _advance(self) -> None:
        """Jump to the next timer that still matters, and make everything due then ready."""
        timers = self._timers
        while timers:
            when, _, handle = heapq.heappop(timers)
            if handle.cancelled() or (handle.invocation and handle.invocation.is_dropped):
                continue
            self._now = max(self._now, when)
            self._ready.append(handle)
            while timers and timers[0][0] <= self._now:
                self._ready.append(heapq.heappop(timers)[2])
            return
        raise Deadlock(f"nobody can go on at {self._now:.3f} s: {self._waiting()}")

    def _waiting(self) -> str:
        places = []
        for task in self._tasks:
            if not task.done() and task.get_stack(limit=1):
                frame = task.get_stack(limit=1)[-1]
                places.append(f"{task.get_name()} in {frame.f_code.co_qualname}:{frame.f_lineno}")
        return "; ".join(places) or "no task"

    def raise_unhandled(self) -> None:
        """Raise the first error that nothing has looked at. Those of a dropped invocation are left
        out: the callback that looks at them never ran."""
        for task in self._tasks:
            is_dropped = task.invocation is not None and task.invocation.is_dropped
            if task.done() and task._log_traceback and not is_dropped:
                task.result()
        for context in self.unhandled:
            raise context.get("exception") or RuntimeError(context["message"])

    def close(self) -> None:
        """Dispose silently of what was cut off or never finished.

        Closing a coroutine runs its ``finally``; by now nothing looks at what that does.
        """
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        for task in self._tasks:
            if task.done():
                task._log_traceback = False
            else:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine = task.get_coro()
                if coroutine is not None:
                    with suppress(BaseException):
                        coroutine.close()
        self._tasks.clear()

    # What asyncio asks of a loop besides

    def is_running(self) -> bool:
        """Whether it runs."""
        return self._running

    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def get_debug(self) -> bool:
        """Never: asyncio's debug mode measures real time."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep an error that nothing handled; ``simulate`` raises it."""
        if not self._closed:
            self.unhandled.append(context)

    async def shutdown_asyncgens(self) -> None:
        """Nothing to do."""


async def finished(invocation: Invocation) -> None:
    """Wait until an invocation has ended, in whatever way."""
    if invocation.ended is not None:
        await invocation.ended


def current_loop() -> SimulatedLoop:
    """The running loop, which must be a simulated one."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    return loop


def new_loop(seed: int | str | None = None) -> SimulatedLoop:
    """A loop that chooses by a seed; without one the callbacks run first come, first served."""
    return SimulatedLoop(None if seed is None else Chance(seed))  # type: ignore[abstract]


def simulate(main: Coroutine[Any, Any, T], *, seed: int | str | None = None) -> T:
    """Run a coroutine in virtual time, as ``asyncio.run`` does in real time.

    Raises what the coroutine raises, ``Deadlock``, or what a task of its raised unhandled.
    """
    loop = new_loop(seed)
    try:
        result: T = loop.run_until_complete(main)
        loop.raise_unhandled()
        return result
    finally:
        loop.close()
