"""The last fallback listing, kept between the requests of an isolate. Plain data, bounded.

Reading all records of KV takes a large part of a second. With PostgreSQL away and no cache, a
handful of visitors at once would each do that, too slowly for any of them and in more memory than
an isolate has. So one request reads and those that come meanwhile take its answer.

Times are the event loop's, in seconds.
"""

import asyncio
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from marketplace.published_skills import PublishedSkills

FRESH_SECONDS: Final = 5.0
"""A listing is made anew after this, or as soon as this isolate has written a record."""

KEPT_SECONDS: Final = 60.0
"""For as long an older answer stands in for one that failed; KV itself may be as old."""

MAKING_SECONDS: Final = 1.0
"""A request that makes a listing for longer is not waited for: it may be gone."""

MAX_ANSWERS: Final = 32
"""Finished pages and counts kept with a listing; a page of 100 entries has about 100 KB."""

T = TypeVar("T")


class Begun(NamedTuple):
    """When a listing was begun, and how many records this isolate had written by then."""

    at: float
    writes: int


_NEVER: Final = Begun(-math.inf, 0)


@dataclass(slots=True)
class FallbackCache:
    """Made by the entry point, handed down in the Env.

    A request may end at any await without a trace, so nothing here is held or awaited: what one
    was making, another makes after MAKING_SECONDS.
    """

    latest: "PublishedSkills | None" = None  # for those who waited for it, thinned or not
    made: int = 0  # listings so far
    good: "PublishedSkills | None" = None  # that no failure has thinned
    good_begun: Begun = _NEVER
    writes: int = 0  # of records, by this isolate
    being_made_until: float = -math.inf
    _answers: dict[Hashable, Any] = field(default_factory=dict)

    def is_being_made(self) -> bool:
        """Whether another request is making a listing that is worth waiting for."""
        return _now() < self.being_made_until

    def begin(self, end: float) -> Begun:
        """Note that a listing is being made, until ``end`` at most; what `keep` is to be told."""
        begun = Begun(_now(), self.writes)
        self.being_made_until = min(end, begun.at + MAKING_SECONDS)
        return begun

    def end(self) -> None:
        """Note that no listing is being made any more."""
        self.being_made_until = -math.inf

    def keep(self, skills: "PublishedSkills", begun: Begun) -> None:
        """Keep a listing; one that a failure has thinned for those alone who waited for it."""
        self.latest = skills
        self.made += 1
        if not skills.thinned:
            self.good, self.good_begun = skills, begun
            self._answers = {}

    def usable(self, made_before: int) -> "PublishedSkills | None":
        """A listing for a request that has seen ``made_before`` come: one that was finished while
        it waited, or else a fresh one."""
        if self.made > made_before:
            return self.latest
        is_fresh = _now() - self.good_begun.at < FRESH_SECONDS
        return self.good if is_fresh and self.writes == self.good_begun.writes else None

    def older(self) -> "PublishedSkills | None":
        """The last good listing, if it is not too old to stand in for one that failed."""
        return self.good if _now() - self.good_begun.at < KEPT_SECONDS else None

    def note_write(self) -> None:
        """A record was written: its skill is to be in the next listing."""
        self.writes += 1

    def answer(self, skills: "PublishedSkills", question: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` makes of a listing; kept for others who ask the same of the kept one."""
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
