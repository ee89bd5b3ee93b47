"""A database session over a network that fails: wraps the in-memory double, statement by statement.

The double's steps are atomic and never wait by themselves; here they get their latency, their
faults, the client's time limits, and their being carried out although nobody listens any more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar, cast

from marketplace.ports.database import SkillDatabase
from marketplace.ports.errors import DatabaseError, DatabaseTimeout
from marketplace.ports.known_database import Expectation
from marketplace.skills.skill import Skill
from pgwire.options import ConnectOptions
from tests.doubles.chance import Chance
from tests.doubles.database import merge_in_steps, upsert_all_in_steps, upsert_in_steps
from tests.doubles.network import Fault, Network, call

T = TypeVar("T")

_LIMITS: Final = ConnectOptions(host="", user="", database="")  # the client's defaults

DatabaseFaults = Callable[[str], Fault | None]
"""Decides about each step by the name of the double's method; ``connect`` is the opening of a
session."""


def run_at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("the database double waits by itself; it must not, in the simulation")


async def in_time(seconds: float, error: type[DatabaseError], ask: Callable[[], Awaitable[T]]) -> T:
    """Give up on an answer as the client does."""
    try:
        async with asyncio.timeout(seconds):
            return await ask()
    except TimeoutError as late:
        raise error(f"no answer within {seconds} s") from late


class FaultySession:
    """One session. After its first fault it is broken, as a connection is."""

    def __init__(
        self,
        inner: SkillDatabase,
        *,
        faults: DatabaseFaults,
        network: Network,
        chance: Chance,
        after: Callable[[str], None],
    ) -> None:
        self._inner = inner
        self._faults = faults
        self._network = network
        self._chance = chance
        self._after = after
        self._broken = False
        self.statements = 0

    def hold_to(self, expectation: Expectation) -> None:
        self._inner.hold_to(expectation)

    async def upsert_skill(self, *args: Any, **options: Any) -> Any:
        return await upsert_in_steps(self, *args, **options)

    async def upsert_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        return await upsert_all_in_steps(self, skills)

    async def check_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        return await merge_in_steps(self, skills, self.check_rows)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def statement(*args: Any, **options: Any) -> Any:
            self.statements += 1
            fault = Fault.FAIL if self._broken else self._faults(name)
            self._broken = self._broken or fault not in {None, Fault.REFUSED}

            def act() -> Any:
                result = run_at_once(method(*args, **options))
                self._after(name)
                return result

            def ask() -> Awaitable[Any]:
                return call(
                    act,
                    fault=fault,
                    error=lambda: DatabaseError(f"{name} failed"),
                    network=self._network,
                    chance=self._chance,
                )

            return await in_time(_LIMITS.query_timeout, DatabaseTimeout, ask)

        return statement

    def limit_statements(self, seconds: float | None) -> None:
        self._inner.limit_statements(seconds)

    @property
    def closed(self) -> bool:
        return self._broken

    def close(self) -> None:
        self._inner.close()
        self._broken = True

    def __enter__(self) -> "FaultySession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def open_session(
    connect: Callable[[], Coroutine[Any, Any, SkillDatabase]],
    *,
    faults: DatabaseFaults,
    network: Network,
    chance: Chance,
    after: Callable[[str], None] = lambda _: None,
) -> SkillDatabase:
    """Open a faulty session on the double, or fail to."""

    def ask() -> Awaitable[SkillDatabase]:
        return call(
            lambda: cast("SkillDatabase", run_at_once(connect())),
            fault=faults("connect"),
            error=lambda: DatabaseError("connection refused"),
            network=network,
            chance=chance,
        )

    inner = await in_time(_LIMITS.connect_timeout, DatabaseError, ask)
    session = FaultySession(inner, faults=faults, network=network, chance=chance, after=after)
    return cast("SkillDatabase", session)
