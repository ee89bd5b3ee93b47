"""A marketplace in memory: all its stores, the Env on them, and skills to put into it."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NoReturn, TypeVar

from marketplace.catalog.published_skills import PublishedSkills
from marketplace.kv.acknowledged import expect_acknowledged
from marketplace.kv.index.writing import IndexWriter
from marketplace.kv.records import write_record
from marketplace.ports.database import DatabaseSession, RecordKey, SkillDatabase
from marketplace.ports.env import Env, Settings
from marketplace.ports.errors import DatabaseError, QueueError
from marketplace.skills.skill import Skill
from tests.doubles.content import ContentDouble
from tests.doubles.database import DatabaseDouble
from tests.doubles.kv import KvFaults, KvOperation, SimulatedKv
from tests.doubles.loop import current_loop, simulate
from tests.doubles.network import Fault

T = TypeVar("T")


REFUSED = "refused"  # the category of skills that the table does not take
EARLIER, LATER = "2026-10-01T08:00:00.000Z", "2026-12-01T08:00:00.000Z"  # than `make_skill`'s


@dataclass(slots=True)
class Log:
    """Collects log lines."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, event: str, *, level: str = "info", **fields: Any) -> None:
        self.lines.append({"event": event, "level": level, **fields})

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]


@dataclass(slots=True)
class ListQueue:
    """A queue that keeps what it was sent."""

    bodies: list[Mapping[str, Any]] = field(default_factory=list)
    failing: bool = False

    async def send_batch(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        if self.failing:
            raise QueueError("away")
        self.bodies += bodies


@dataclass(slots=True)
class Delivered:
    """A message as a handler gets it, and whether it was acknowledged or retried."""

    body: Any
    attempts: int = 1
    id: str = "message"
    settled: list[str] = field(default_factory=list)

    @property
    def acknowledged(self) -> bool:
        return "ack" in self.settled

    @property
    def retried(self) -> bool:
        return any(how.startswith("retry") for how in self.settled)

    def ack(self) -> None:
        self.settled.append("ack")

    def retry(self, *, delay_seconds: int) -> None:
        self.settled.append(f"retry in {delay_seconds}")


@dataclass(slots=True)
class Market:
    """All stores of a marketplace, and the env on them."""

    kv: SimulatedKv
    tables: DatabaseDouble
    publish: ListQueue
    maintenance: ListQueue
    env: Env
    log: Log
    content: ContentDouble

    async def database(self) -> SkillDatabase:
        return await self.tables.connect()

    async def fill(self, skills: Sequence[Skill], *, kv: bool = True, table: bool = True) -> None:
        """Put skills into either source; into both, the table knows that KV has them."""
        with await self.database() as database:
            if table:
                await database.upsert_skills(skills)
            for skill in skills if kv else ():
                await write_record(self.env, skill)
        if kv and table:
            await self.mark(skills)

    async def mark(self, skills: Sequence[Skill]) -> None:
        """Tell the table that KV has these."""
        with await self.database() as database:
            await database.mark_in_kv([RecordKey(s.name, s.identity, s.revision) for s in skills])

    async def index(self, skills: Sequence[Skill]) -> None:
        """Write the index with these skills."""
        writer = IndexWriter.begin(self.env, f"generation-{len(skills)}")
        await writer.add([skill.published_summary() for skill in skills])
        await writer.finish()

    def lose_rows(self, skills: Sequence[Skill]) -> None:
        """Delete rows unseen by the marketplace."""
        for skill in skills:
            del self.tables.rows[skill.identity]
            del self.tables.identities[skill.name]

    def delete_rows(self, skills: Sequence[Skill]) -> None:
        """Delete rows by one statement, as somebody may by hand."""
        self.lose_rows(skills)
        self.tables.note_deleted(len(skills))

    def lose_records(self, skills: Sequence[Skill]) -> None:
        """Delete records unseen by the marketplace."""
        for skill in skills:
            self.kv.damage(f"skill:{skill.name}", None)


def new_market(
    clock: Callable[[], datetime], *, settings: Settings | None = None, **options: Any
) -> Market:
    """An empty marketplace; options are `SimulatedKv`'s."""
    kv, log = SimulatedKv(**options), Log()
    tables = DatabaseDouble(refuses=lambda skill: skill.category == REFUSED)
    publish, maintenance, content = ListQueue(), ListQueue(), ContentDouble()
    env = Env(
        submissions_kv=kv,
        database=DatabaseSession(tables.connect),
        publish_queue=publish,
        maintenance_queue=maintenance,
        content=content,
        settings=settings or Settings(),
        clock=clock,
        log=log,
        expect_database=expect_acknowledged,
    )
    return Market(kv, tables, publish, maintenance, env, log, content)


def run(
    test: Callable[[Market], Coroutine[Any, Any, T]],
    *,
    settings: Settings | None = None,
    **options: Any,
) -> T:
    """What a scenario gives on a marketplace of its own, in virtual time.

    For tests that need several; the others have the fixture ``market``.
    """

    async def main() -> T:
        return await test(new_market(current_loop().clock, settings=settings, **options))

    return simulate(main())


def fault(kind: Fault, *operations: str, key: str = "") -> KvFaults:
    """Let operations of these kinds fail whose key contains ``key``."""

    def decide(operation: KvOperation) -> Fault | None:
        concerned = operation.kind in operations and key in operation.key
        return kind if concerned else None

    return decide


async def postgres_away(*_: str) -> NoReturn:
    """Stands in for a connector, or for a hook of the double."""
    raise DatabaseError("away")


def without_postgres(market: "Market") -> Env:
    """The marketplace's Env as it is, but that PostgreSQL takes no session."""
    return replace(market.env, database=DatabaseSession(postgres_away))


def kv_away(_operation: KvOperation) -> Fault:
    return Fault.FAIL


def make_skill(name: str = "pdf-tools", **fields: Any) -> Skill:
    """A skill; any field can be given."""
    values: dict[str, Any] = {
        "name": name,
        "base_slug": name,
        "display_name": name.title(),
        "description": f"What {name} does.",
        "author": "octo",
        "repo_url": f"https://github.com/octo/{name}",
        "updated_at": "2026-11-01T08:00:00.000Z",
        **fields,
    }
    return Skill(**values)


def make_skills(count: int, prefix: str = "skill", **fields: Any) -> list[Skill]:
    """``count`` skills in slug order."""
    return [make_skill(f"{prefix}-{number:05d}", **fields) for number in range(count)]


def names(skills: PublishedSkills) -> list[str]:
    """The slugs of a listing."""
    return [entry.summary.name for entry in skills]
