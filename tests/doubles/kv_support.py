"""An env on a simulated KV, and skills to put into it, for the tests of the KV side."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from marketplace.catalog.published_skills import PublishedSkills
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Env, Settings
from marketplace.skills.skill import Skill
from tests.doubles.kv import KvFaults, KvOperation, SimulatedKv
from tests.doubles.loop import current_loop, simulate
from tests.doubles.network import Fault

T = TypeVar("T")


@dataclass(slots=True)
class Log:
    """Collects log lines."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, event: str, *, level: str = "info", **fields: Any) -> None:
        self.lines.append({"event": event, "level": level, **fields})

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]


@dataclass(slots=True)
class Bench:
    """One simulated KV and the env on it."""

    kv: SimulatedKv
    env: Env
    log: Log


def run(test: Callable[[Bench], Coroutine[Any, Any, T]], **options: Any) -> T:
    """Run a test in virtual time; options are `SimulatedKv`'s."""

    async def main() -> T:
        kv, log = SimulatedKv(**options), Log()
        nothing = cast("Any", None)
        env = Env(
            submissions_kv=kv,
            database=DatabaseSession(nothing),
            publish_queue=nothing,
            maintenance_queue=nothing,
            settings=Settings(),
            clock=current_loop().clock,
            log=log,
        )
        return await test(Bench(kv, env, log))

    return simulate(main())


def fault(kind: Fault, *operations: str, key: str = "") -> KvFaults:
    """Let operations of these kinds fail whose key contains ``key``."""

    def decide(operation: KvOperation) -> Fault | None:
        concerned = operation.kind in operations and key in operation.key
        return kind if concerned else None

    return decide


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


def names(skills: PublishedSkills) -> list[str]:
    """The slugs of a listing."""
    return [entry.summary.name for entry in skills]
