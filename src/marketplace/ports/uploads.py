"""How many uploads of an isolate may be under way at once.

Plain numbers, shared by the requests of an isolate. A request whose client leaves ends at any await
without a trace. So a place is taken until a moment, and free after it, whether or not it was given
back. Times are the event loop's, in seconds.
"""

import asyncio
import math
from dataclasses import dataclass, field
from typing import Final

AT_ONCE: Final = 2
UPLOAD_SECONDS: Final = 60.0  # for 10 MiB, 1.4 Mbit/s


@dataclass(slots=True)
class Uploads:
    """Made with the isolate's memory, as ``FallbackCache.uploads``."""

    _last: int = 0
    _taken: dict[int, float] = field(default_factory=dict)  # until when at most

    def take(self) -> int | None:
        """A place for UPLOAD_SECONDS; None where there is none."""
        now = _now()
        self._taken = {place: end for place, end in self._taken.items() if end > now}
        if len(self._taken) >= AT_ONCE:
            return None
        self._last += 1
        self._taken[self._last] = now + UPLOAD_SECONDS
        return self._last

    def free(self, place: int) -> None:
        """Give a place back before its time."""
        self._taken.pop(place, None)

    @property
    def seconds_to_wait(self) -> int:
        """Until a place is free at the latest."""
        return max(1, math.ceil(min(self._taken.values(), default=0.0) - _now()))


def _now() -> float:
    return asyncio.get_running_loop().time()
