"""How many reads of an isolate may be with PostgreSQL at once, and whether it answers at all.

Plain numbers, shared by the requests of an isolate. A request may end at any await without a
trace, so nothing here depends on anybody giving something back: whatever a request takes is taken
until a moment, and free after it.

- *Slots.* More sessions than PostgreSQL and this one thread can serve make every read slower, until
  all are too slow. So only ``at_once`` reads are under way, and the others wait in the order in
  which they came. Nobody can wake them, as a request must not await what another one made: each
  looks again and again.
- *Silence.* SILENT_AFTER time-outs in a row, without an answer to anybody, mean that PostgreSQL is
  gone or frozen. For SILENT_SECONDS nobody then waits for it but one read that tries. An answer
  ends it.

Times are the event loop's, in seconds.
"""

import asyncio
import math
from dataclasses import dataclass, field
from typing import Final

SILENT_AFTER: Final = 3  # time-outs
SILENT_SECONDS: Final = 5.0
MAX_WAITING: Final = 256  # requests, so that the memory is bounded; further ones do not wait

POLL_SECONDS: Final = 0.02  # of the first in the queue; those behind look less often
MAX_POLL_SECONDS: Final = 0.25
GONE_AFTER_SECONDS: Final = 0.5  # without a look: a request in the queue has left, or is held up
LATE_SECONDS: Final = 0.25  # of a timer: this thread was busy, and an answer may have waited for it


@dataclass(slots=True)
class DatabaseReads:
    """Made with the isolate's memory, as ``FallbackCache.reads``."""

    answered: float = -math.inf  # when PostgreSQL last answered a read
    _timeouts: int = 0  # in a row
    _silent_until: float = -math.inf
    _last_ticket: int = 0
    _taken: dict[int, float] = field(default_factory=dict)  # slots: ticket, until when at most
    _waiting: dict[int, float] = field(default_factory=dict)  # tickets, until when believed to wait

    def may_ask(self) -> bool:
        """Whether a read should ask PostgreSQL. After a silence this read is the one that tries."""
        if self._timeouts < SILENT_AFTER:
            return True
        if self.is_silent():
            return False
        self._silent_until = _now() + SILENT_SECONDS
        return True

    def is_silent(self) -> bool:
        return self._timeouts >= SILENT_AFTER and _now() < self._silent_until

    def note_answer(self) -> None:
        """PostgreSQL answered a read, be it by refusing or cancelling the statement."""
        self.answered = _now()
        self._timeouts = 0

    def answers(self, begun: float, due: float) -> bool:
        """Whether PostgreSQL answers although a read that began at ``begun`` got nothing by
        ``due``: others were answered meanwhile. An answer from shortly before counts too where the
        read did not wait at all, or where the timer came late, this thread being too busy to hear
        of any answer."""
        has_listened = abs(_now() - due) <= LATE_SECONDS
        before = 0.0 if has_listened else SILENT_SECONDS
        return not self.is_silent() and self.answered >= begun - before

    def note_timeout(self) -> bool:
        """A read had no answer, and PostgreSQL `answers` nobody; whether that makes a silence."""
        self._timeouts += 1
        if self._timeouts < SILENT_AFTER:
            return False
        self._silent_until = _now() + SILENT_SECONDS
        return True

    async def take_slot(self, at_once: int, *, until: float, seconds: float) -> int | None:
        """The ticket of a slot that is ours for ``seconds``; None where none was free ``until``
        then, or where PostgreSQL fell silent meanwhile."""
        self._last_ticket += 1
        ticket = self._last_ticket
        self._waiting = {other: end for other, end in self._waiting.items() if end > _now()}
        if len(self._waiting) >= MAX_WAITING:
            return None
        tries = self.is_silent()  # this is the read that does
        while tries or not self.is_silent():
            now = _now()
            self._taken = {other: end for other, end in self._taken.items() if end > now}
            ahead = sum(1 for other, end in self._waiting.items() if other < ticket and end > now)
            if len(self._taken) + ahead < at_once:
                self._waiting.pop(ticket, None)
                self._taken[ticket] = now + seconds
                return ticket
            if now >= until:
                break
            pause = min(POLL_SECONDS * (1 + ahead), MAX_POLL_SECONDS)
            self._waiting[ticket] = now + pause + GONE_AFTER_SECONDS
            await asyncio.sleep(pause)
        self._waiting.pop(ticket, None)
        return None

    def free_slot(self, ticket: int) -> None:
        """Give a slot back before its time."""
        self._taken.pop(ticket, None)


def _now() -> float:
    return asyncio.get_running_loop().time()
