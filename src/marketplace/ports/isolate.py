"""What the requests of an isolate share when sources fail. Plain data, bounded.

- The last fallback listing. Reading all records of KV takes a large part of a second. If every
  request did that for itself, a handful of visitors at once would be too slow for any of them and
  need more memory than an isolate has. So one request reads, and those that come meanwhile take
  its listing. A request that comes later reads again.
- Which database is the marketplace's (`known_database`).
- The last whole answers. When the sources are too slow to answer now, the answer that they gave
  before stands in, marked as degraded, for KEPT_SECONDS.
- What its reads know of PostgreSQL: see ``database_reads``.
- What waits in the outbox, which is listed beside PostgreSQL's rows.
- How many uploads are under way: see ``uploads``.

Times are the event loop's, in seconds.
"""

import asyncio
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from marketplace.ports.database_reads import DatabaseReads
from marketplace.ports.known_database import KnownDatabase
from marketplace.ports.uploads import Uploads
from marketplace.skills.skill import PublishedSummary

KEPT_SECONDS: Final = 600.0
MAKING_SECONDS: Final = 1.0  # a request that makes a listing for longer may be gone
MAX_KEPT_BYTES: Final = 6 * 1024 * 1024
"""Of a listing that is kept: 110,000 skills have 12 MB, too much memory beside the next listing.
A larger one is still shared with the requests that wait for it."""

MAX_ANSWERS: Final = 32  # pages and counts; a page of 100 skills has about 100 KB

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The last whole answer to a question."""

    value: Any
    source: str
    moment: float
    listing: int | None  # the number of the fallback listing that it was made of


class SharedListing(Protocol):
    """Plain data."""

    @property
    def source(self) -> str: ...

    @property
    def thinned(self) -> bool: ...

    @property
    def bytes(self) -> int: ...


@dataclass(slots=True)
class KnownOutbox:
    """What waits for PostgreSQL, as KV told last; of no more than one list call."""

    states: Sequence[PublishedSummary] = ()
    complete: bool = True
    failure: str = ""  # the reason of the last failure
    read_at: float = -math.inf
    read_next: float = -math.inf


@dataclass(slots=True)
class FallbackCache:
    """Made by the entry point, handed down in the Env.

    A request may end at any await without a trace, so nothing here is held or awaited: what one
    was making, another makes after MAKING_SECONDS.
    """

    latest: SharedListing | None = None  # for the requests that waited for it
    made: int = 0  # listings so far
    good: SharedListing | None = None  # that no failure has thinned
    good_begun: float = -math.inf
    being_made_until: float = -math.inf
    reads: DatabaseReads = field(default_factory=DatabaseReads)
    database: KnownDatabase = field(default_factory=KnownDatabase)
    outbox: KnownOutbox = field(default_factory=KnownOutbox)
    uploads: Uploads = field(default_factory=Uploads)
    _answers: dict[Hashable, KeptAnswer] = field(default_factory=dict)  # the oldest first

    def is_being_made(self) -> bool:
        return _now() < self.being_made_until

    def begin(self, end: float) -> float:
        """Note that a listing is being made, until ``end`` at most; the moment, for `keep`."""
        begun = _now()
        self.latest = None
        self.being_made_until = min(end, begun + MAKING_SECONDS)
        return begun

    def end(self) -> None:
        self.being_made_until = -math.inf

    def keep(self, skills: SharedListing, begun: float) -> None:
        """Keep a listing. One that lacks a part is for the requests that waited for it alone."""
        self.latest = skills
        self.made += 1
        if not skills.thinned and skills.bytes <= MAX_KEPT_BYTES:
            self.good, self.good_begun = skills, begun

    def made_since(self, made_before: int) -> SharedListing | None:
        """The listing that came after ``made_before`` others, if one did."""
        return self.latest if self.made > made_before else None

    def older(self) -> SharedListing | None:
        """The last good listing, if it is not too old to stand in for one that failed."""
        return self.good if _now() - self.good_begun < KEPT_SECONDS else None

    def answer(self, skills: SharedListing, question: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` makes of a listing. Requests that share the listing share the answer."""
        if skills is not self.latest or skills.thinned:
            return make()
        kept = self._answers.get(question)
        if kept is None or kept.listing != self.made:
            value = make()
            self.remember(question, value, skills.source, listing=self.made)
            return value
        shared: T = kept.value
        return shared

    def remember(
        self, question: Hashable, value: object, source: str, *, listing: int | None = None
    ) -> None:
        self._answers.pop(question, None)
        if len(self._answers) >= MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]
        self._answers[question] = KeptAnswer(value, source, _now(), listing)

    def recall(self, question: Hashable) -> KeptAnswer | None:
        """The last whole answer to a question, if it is not older than KEPT_SECONDS."""
        kept = self._answers.get(question)
        return kept if kept is not None and _now() - kept.moment < KEPT_SECONDS else None


def _now() -> float:
    return asyncio.get_running_loop().time()
