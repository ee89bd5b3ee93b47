"""The chain of sources: PostgreSQL, then KV (enumeration or index), then the seed.

A read says how to answer from each; which of them answers is decided here and nowhere else. Each
source gets a share of the time that one read may take, so a source that hangs is one that failed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from marketplace.db import get_db
from marketplace.env import READ_BUDGET_SECONDS, Env
from marketplace.models import InvalidRecord
from marketplace.published_skills import PublishedSkills, get_published_skills_list
from marketplace.storage import DatabaseError, KvError, SkillDatabase, Source, StorageError

_MARGIN_SECONDS: Final = 0.1  # left for answering from the seed after all else has failed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """An answer and where it came from. ``reasons`` tell what failed or is missing, if anything."""

    value: T
    source: Source
    reasons: tuple[str, ...] = ()

    @property
    def degraded(self) -> bool:
        """Whether a source that is trusted more could not answer."""
        return bool(self.reasons)


@dataclass(slots=True)
class Reading:
    """One read under way: what is left of its time, and what has failed so far."""

    env: Env
    reasons: list[str] = field(default_factory=list)
    _deadline: float = field(default_factory=lambda: _clock() + READ_BUDGET_SECONDS)

    @property
    def seconds_left(self) -> float:
        """Until an answer has to be made of what there is."""
        return max(self._deadline - _clock() - _MARGIN_SECONDS, 0.0)

    async def from_database(self, read: Callable[[SkillDatabase], Awaitable[T]]) -> T:
        """Run a read on a session of its own. Raises DatabaseError, noted, also when too slow."""

        async def in_session() -> T:
            with await get_db(self.env) as database:
                return await read(database)

        seconds = min(self.env.settings.database_read_timeout, self.seconds_left)
        return await self._within(seconds, in_session, Source.POSTGRES, DatabaseError)

    async def from_kv(self, read: Callable[[], Awaitable[T]]) -> T:
        """Run a read of KV in the time that is left. Raises KvError, noted, also when too slow."""
        return await self._within(self.seconds_left, read, Source.KV_ENUMERATION, KvError)

    async def _within(
        self,
        seconds: float,
        read: Callable[[], Awaitable[T]],
        source: Source,
        failure: type[StorageError],
    ) -> T:
        """Run a read; what ``failure`` says, or taking too long, is noted and raised as that."""
        try:
            async with asyncio.timeout(seconds):
                return await read()
        except TimeoutError as error:
            late = failure(f"no answer within {seconds:.1f} s", reason="timeout")
            self.note(source, late)
            raise late from error
        except failure as error:
            self.note(source, error)
            raise

    def note(self, source: Source, error: StorageError) -> None:
        """Remember that a source failed, and log it: the one line of this fallback."""
        self.reasons.append(f"{source}: {error.reason}")
        self.env.log(
            f"read falls back: {source} failed",
            level="warning",
            source=source,
            reason=error.reason,
            detail=str(error),
        )

    def answer(self, value: T, source: Source) -> Answer[T]:
        """The finished answer."""
        return Answer(value, source, tuple(self.reasons))


async def read_from_first(
    env: Env,
    *,
    question: Hashable,
    database: Callable[[SkillDatabase], Awaitable[T]],
    published: Callable[[PublishedSkills], T],
    seed: Callable[[], T],
) -> Answer[T]:
    """The answer of the first source that gives one. Never raises: the seed is always there.

    ``question`` tells what ``published`` makes of a listing from what other questions would.
    """
    reading = Reading(env)
    try:
        return reading.answer(await reading.from_database(database), Source.POSTGRES)
    except DatabaseError:  # noted by the reading
        pass
    try:
        skills = await reading.from_kv(
            lambda: get_published_skills_list(env, deadline=reading.seconds_left)
        )
        value = _shared(env, skills, question, lambda: published(skills))
    except KvError:  # noted by the reading
        return reading.answer(seed(), Source.SEED)
    except InvalidRecord as error:  # an index that is damaged and was signed as if it were not
        reading.note(Source.KV_INDEX, KvError(str(error), reason="damaged"))
        return reading.answer(seed(), Source.SEED)
    reading.reasons.extend(skills.degraded)
    if skills.truncated:
        reading.reasons.append(f"{Source.KV_ENUMERATION}: truncated")
    return reading.answer(value, skills.source)


def _shared(env: Env, skills: PublishedSkills, question: Hashable, make: Callable[[], T]) -> T:
    """The answer that those who share a listing also share."""
    cache = env.fallback_cache
    return make() if cache is None else cache.answer(skills, question, make)


def _clock() -> float:
    return asyncio.get_running_loop().time()
