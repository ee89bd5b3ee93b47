"""The one place that knows how the marketplace is called: adapt this when its functions change.

``Marketplace`` is what the simulation needs: ``real`` is the marketplace itself, ``reference`` the
smallest one that keeps the promises.
Looking (``rows``, ``records``, …) is done on the stores themselves, without faults.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from marketplace.env import Env
from marketplace.listing import ListingQuery
from marketplace.models import Skill, SkillSummary
from marketplace.storage import SkillDatabase
from marketplace.versions import version_order
from tests.simulation.kv import SimulatedKv
from tests.simulation.queue import QueueMessage


@dataclass(frozen=True, slots=True)
class Listing:
    """An answer to a reader: the whole listing, all pages.

    ``complete`` False: it says itself that the source could not be read to the end.
    """

    source: str
    complete: bool
    skills: Sequence[SkillSummary]


@dataclass(frozen=True, slots=True)
class Repair:
    """What a run of the repair reports. ``finished`` False: call again, it goes on."""

    finished: bool
    errors: Sequence[str]


def stamp(skill: SkillSummary) -> str:
    """The part of a revision that a summary tells: two states of one skill never share it here."""
    return f"{version_order(skill.current_version)}|{skill.updated_at}"


class Marketplace(Protocol):
    """What is simulated."""

    def new_database(self) -> Any:
        """An empty in-memory database."""

    async def connect(self, database: Any) -> SkillDatabase:
        """A session with it, without faults. Must not really wait."""

    async def publish(self, env: Env, batch: Sequence[QueueMessage]) -> None:
        """The consumer of the publish queue."""

    async def bury(self, env: Env, batch: Sequence[QueueMessage]) -> None:
        """The consumer of the dead-letter queue."""

    async def maintain(self, env: Env, batch: Sequence[QueueMessage]) -> None:
        """The consumer of the maintenance queue."""

    async def read(self, env: Env, query: ListingQuery) -> Listing:
        """Every page of a listing."""

    async def light_repair(self, env: Env) -> Repair:
        """What cron does every few minutes."""

    async def full_repair(self, env: Env) -> Repair:
        """Reconcile everything, both ways, and rewrite the index."""

    async def redrive(self, env: Env) -> None:
        """Send every dead letter again."""

    def rows(self, database: Any) -> Mapping[str, Skill]:
        """The table, by identity."""

    def remove_row(self, database: Any, identity: str) -> None:
        """Damage the table."""

    def record_key(self, slug: str) -> str:
        """The KV key of a published skill."""

    def read_record(self, key: str, value: bytes) -> Skill | None:
        """The skill in a KV record; None for aliases, ``movedTo`` markers and anything else."""

    def outbox(self, kv: SimulatedKv) -> Sequence[Skill]:
        """Skills that wait in the outbox."""

    def buried(self, database: Any, kv: SimulatedKv) -> Sequence[Any]:
        """Bodies of the dead letters that were not redriven, wherever they are kept."""

    def index(self, kv: SimulatedKv) -> Mapping[str, str] | None:
        """What the published index holds: slug → stamp. None when it is unreadable."""

    def damage_index(self, kv: SimulatedKv, how: int) -> None:
        """Damage the published index in one of several ways."""
