"""Starts PostgreSQL again when it has ended by itself, as a killed or crashed one does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSES: Final = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each restart in a row. What ends once more after these is not started again."""

STEADY_SECONDS: Final = 60.0  # a server that ran for longer ends a row


class Server(Protocol):
    """What is watched: a `PostgresServer`."""

    @property
    def running(self) -> bool: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def log_tail(self) -> str: ...


class PostgresWatch:
    """Made when the server runs; `look` is called again and again by the one who serves."""

    def __init__(
        self,
        server: Server,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._say = say
        self._clock = clock
        self._started = clock()
        self._restarts = 0  # in a row
        self._due: float | None = None  # of the next restart, once the end was noticed

    def look(self) -> None:
        """Notices an end and says so in one line; starts the server again when its pause is over.

        Waits for nothing but the start. LocalError where the server keeps ending, or cannot start.
        """
        if self._server.running:
            return
        now = self._clock()
        if self._due is None:
            self._due = now + self._next_pause(now)
        if now < self._due:
            return
        self._due = None
        self._restarts += 1
        self._server.stop()  # what is left of it
        self._server.start()
        self._started = self._clock()

    def _next_pause(self, now: float) -> float:
        if now - self._started >= STEADY_SECONDS:
            self._restarts = 0
        if self._restarts == len(PAUSES):
            raise LocalError(
                f"PostgreSQL ended by itself again, and was started {self._restarts} times. "
                f"The end of its log tells why:\n{self._server.log_tail()}"
            )
        pause = PAUSES[self._restarts]
        self._say(f"PostgreSQL ended by itself; it is started again{_in(pause)}")
        return pause


def _in(pause: float) -> str:
    return f" in {pause:.0f} s" if pause else ""
