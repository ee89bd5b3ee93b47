"""A rate limit as the local runtime has it: exact, its periods aligned to the wall clock."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from marketplace.ports.errors import RateLimitError


@dataclass(slots=True)
class RateLimitDouble:
    """``how`` it answers: as it should, with an error, or never."""

    limit: int
    clock: Callable[[], datetime]
    period: int = 60
    how: str = "counts"
    taken: Counter[tuple[str, int]] = field(default_factory=Counter)

    @property
    def keys(self) -> set[str]:
        """Those that it was asked about."""
        return {key for key, _ in self.taken}

    async def take(self, key: str) -> bool:
        if self.how == "fails":
            raise RateLimitError("away")
        if self.how == "hangs":
            await asyncio.Event().wait()
        place = (key, int(self.clock().timestamp()) // self.period)
        self.taken[place] += 1
        return self.taken[place] <= self.limit
