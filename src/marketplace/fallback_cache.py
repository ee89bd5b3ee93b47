"""The last fallback listing, shared between the requests of an isolate. Plain data, bounded.

Reading all records of KV takes a large part of a second. If every request did that for itself, a
handful of visitors at once would be too slow for any of them and need more memory than an isolate
has. So one request reads, and those that come meanwhile take its answer. Whoever comes later reads
again: a listing is never older than the time it takes to make one, unless that fails.

Times are the event loop's, in seconds.
"""

import asyncio
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from marketplace.published_skills import PublishedSkills

KEPT_SECONDS: Final = 60.0
"""For as long an older answer stands in for one that failed; KV itself may be as old."""

MAKING_SECONDS: Final = 1.0
"""A request that makes a listing for longer is not waited for: it may be gone."""

MAX_KEPT_BYTES: Final = 6 * 1024 * 1024
"""Of a listing that is kept; a larger one would stand in memory beside the next, and 110,000 skills
have 12 MB. It is still shared with those who wait for it."""

MAX_ANSWERS: Final = 32
"""Finished pages and counts kept with a listing; a page of 100 entries has about 100 KB."""

T = TypeVar("T")


@dataclass(slots=True)
class FallbackCache:
    """Made by the entry point, handed down in the Env.

    A request may end at any await without a trace, so nothing here is held or awaited: what one
    was making, another makes after MAKING_SECONDS.
    """

    latest: "PublishedSkills | None" = None  # for those who waited for it, thinned or not
    made: int = 0  # listings so far
    good: "PublishedSkills | None" = None  # that no failure has thinned
    good_begun: float = -math.inf
    being_made_until: float = -math.inf
    _answers: dict[Hashable, Any] = field(default_factory=dict)

    def is_being_made(self) -> bool:
        """Whether another request is making a listing that is worth waiting for."""
        return _now() < self.being_made_until

    def begin(self, end: float) -> float:
        """Note that a listing is being made, until ``end`` at most; the moment, for `keep`."""
        begun = _now()
        self.latest = None
        self.being_made_until = min(end, begun + MAKING_SECONDS)
        return begun

    def end(self) -> None:
        """Note that no listing is being made any more."""
        self.being_made_until = -math.inf

    def keep(self, skills: "PublishedSkills", begun: float) -> None:
        """Keep a listing; one that a failure has thinned for those alone who waited for it."""
        self.latest = skills
        self.made += 1
        if not skills.thinned and skills.bytes <= MAX_KEPT_BYTES:
            self.good, self.good_begun = skills, begun
            self._answers = {}

    def made_since(self, made_before: int) -> "PublishedSkills | None":
        """The listing that came after ``made_before`` others, if one did."""
        return self.latest if self.made > made_before else None

    def older(self) -> "PublishedSkills | None":
        """The last good listing, if it is not too old to stand in for one that failed."""
        return self.good if _now() - self.good_begun < KEPT_SECONDS else None

    def answer(self, skills: "PublishedSkills", question: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` makes of a listing; kept for others who share it and ask the same."""
        if skills is not self.good:
            return make()
        if question not in self._answers:
            if len(self._answers) >= MAX_ANSWERS:
                del self._answers[next(iter(self._answers))]
            self._answers[question] = make()
        value: T = self._answers[question]
        return value


def _now() -> float:
    return asyncio.get_running_loop().time()
