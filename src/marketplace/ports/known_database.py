"""Which database is the marketplace's, as far as an isolate knows, and how far it had come.

A database that answers may be an empty one, an older state of the right one, or another
marketplace's. So it says in every round trip which instance it is and the number of its last
change, and KV holds both as last acknowledged (`kv.acknowledged`). Plain data, one of each kind;
times are the event loop's, in seconds.
"""

import math
from dataclasses import dataclass, field

import msgspec


@dataclass(frozen=True, slots=True)
class Standing:
    """Which database it is, and the number of its last change."""

    instance: str
    changes: int


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """What KV holds. ``since``: the moment of adoption; empty for the first instance."""

    instance: str
    changes: int
    since: str = ""


@dataclass(slots=True)
class Expectation:
    """What a session demands of the database, in each transaction before anything else.

    ``instance``: its id, None for any. ``least``: the number of its last change, or more.
    ``repairing``: it may have come less far.
    """

    instance: str | None = None
    least: int = 0
    repairing: bool = False

    @property
    def standing(self) -> Standing | None:
        return None if self.instance is None else Standing(self.instance, self.least)

    def see(self, standing: Standing) -> None:
        """Demand no less of the next transaction than what the last one has shown."""
        if not self.repairing:
            self.instance, self.least = standing.instance, max(self.least, standing.changes)


@dataclass(slots=True)
class KnownDatabase:
    """What an isolate knows; its sessions share the expectation and add to it."""

    expectation: Expectation = field(default_factory=Expectation)
    since: str = ""  # as of Acknowledged
    in_kv: Acknowledged | None = None  # what KV is known to hold
    kv_was_read: bool = False  # otherwise nobody knows whether the instance is the right one
    read_at: float = -math.inf  # when it was read last
    read_next: float = -math.inf  # when it is to be read again
    written: float = -math.inf  # when this isolate last wrote to KV
    told: float = -math.inf  # when it last logged that the database is not trusted
    repair_asked: float = -math.inf
    ask_every: float = 0.0  # seconds after which a repair is asked for again

    def learn(self, found: Acknowledged | None) -> None:
        """Take over what KV holds. A later adoption counts, and an earlier one does not: KV may
        show what was there a minute ago."""
        expectation = self.expectation
        if found is not None and found.since >= self.since:
            expectation.instance, expectation.least = found.instance, found.changes
            self.since = found.since
        self.in_kv, self.kv_was_read = found, True
