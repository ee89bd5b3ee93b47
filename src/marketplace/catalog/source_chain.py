"""The chain of sources: PostgreSQL, then KV (enumeration or index), then the seed.

A read says how to answer from each; which of them answers is decided here and nowhere else. Each
source gets a share of the time that one read may take. A source that took too long has not said
that it holds nothing: the seed never answers for it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from marketplace.basics.json_text import InvalidData
from marketplace.catalog.answer import Answer, Source
from marketplace.catalog.published_skills import (
    KEPT_FROM_BEFORE,
    PublishedSkills,
    get_published_skills_list,
)
from marketplace.kv.acknowledged import READ_EVERY, acknowledge, note_distrust
from marketplace.kv.withheld import read_withheld
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import READ_BUDGET_SECONDS, Env, get_db
from marketplace.ports.errors import (
    DatabaseError,
    DatabaseTimeout,
    KvError,
    KvTimeout,
    StorageError,
    TimedOut,
)
from marketplace.skills.skill import Skill

_MARGIN_SECONDS: Final = 0.2  # left for making the answer of what was read

T = TypeVar("T")


class TooLate(TimedOut):
    """Time ran out before any source could tell, and no earlier answer stands in."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(f"no source answered in time; {'; '.join(reasons)}")


@dataclass(slots=True)
class Reading:
    """One read under way: what is left of its time, and what has failed so far.

    ``is_late``: a source had too little time, so that nobody knows what it holds.
    """

    env: Env
    reasons: list[str] = field(default_factory=list)
    is_late: bool = False
    _deadline: float = field(default_factory=lambda: _clock() + READ_BUDGET_SECONDS)

    @property
    def seconds_left(self) -> float:
        """Until an answer has to be made of what there is."""
        return max(self._deadline - _clock() - _MARGIN_SECONDS, 0.0)

    async def from_database(self, read: Callable[[SkillDatabase], Awaitable[T]]) -> T:
        """Run a read on a session of its own. Raises DatabaseError, noted, also when too slow."""

        async def in_session() -> T:
            database = await get_db(self.env)
            return await read(database)

        seconds = min(self.env.settings.database_read_timeout, self.seconds_left)
        found = await self._within(seconds, in_session, Source.POSTGRES, DatabaseTimeout)
        await acknowledge(self.env, every=READ_EVERY)
        return found

    async def from_kv(self, read: Callable[[], Awaitable[T]]) -> T:
        """Run a read of KV in the time that is left. Raises KvError, noted, also when too slow.

        What ``read`` bounds by ``seconds_left`` ends first and can hand over what it has.
        """
        seconds = self.seconds_left + _MARGIN_SECONDS
        return await self._within(seconds, read, Source.KV_ENUMERATION, KvTimeout)

    async def _within(
        self,
        seconds: float,
        read: Callable[[], Awaitable[T]],
        source: Source,
        timed_out: type[TimedOut],
    ) -> T:
        """Run a read; its failure, or that it took too long, is noted and raised."""
        try:
            async with asyncio.timeout(seconds):
                return await read()
        except TimeoutError as error:
            late = timed_out(f"no answer within {seconds:.1f} s")
            self.note(source, late)
            raise late from error
        except StorageError as error:
            self.note(source, error)
            await note_distrust(self.env, error)
            raise

    def note(self, source: Source, error: StorageError) -> None:
        """Remember that a source failed, and log it: the one line of this fallback."""
        self.reasons.append(f"{source}: {error.reason}")
        self.is_late = self.is_late or isinstance(error, TimedOut)
        self.env.log(
            "read-falls-back",
            level=error.level,
            source=source,
            reason=error.reason,
            detail=str(error),
        )

    def answer(self, value: T, source: Source) -> Answer[T]:
        return Answer(value, source, tuple(self.reasons))


async def read_from_first(
    env: Env,
    *,
    question: Hashable,
    database: Callable[[SkillDatabase], Awaitable[T]],
    published: Callable[[PublishedSkills], T],
    seed: Callable[[Sequence[Skill]], T],
) -> Answer[T]:
    """The answer of the first source that gives a whole one.

    When none does, in this order: the last whole answer to this question, what could be read, the
    seed. The seed alone answers only where no source ran out of time: raises TooLate otherwise.
    ``question`` tells what ``published`` makes of a listing from what other questions would.
    """
    reading, cache = Reading(env), env.fallback_cache
    try:
        value = await reading.from_database(database)
    except DatabaseError:  # noted by the reading
        pass
    else:
        if cache is not None:
            cache.remember(question, value, Source.POSTGRES)
        return reading.answer(value, Source.POSTGRES)
    try:
        found = await _from_kv(reading, question, published)
    except (KvError, InvalidData) as error:
        reading.note(Source.KV_ENUMERATION, _as_kv_error(error))
        found = None
    if found is not None and found.is_whole:
        return found.answer
    kept = None if cache is None else cache.recall(question)
    if kept is not None:
        reasons = (*reading.reasons, KEPT_FROM_BEFORE)
        return Answer(kept.value, Source(kept.source), reasons)
    if found is not None:
        return found.answer
    if reading.is_late:
        raise TooLate(reading.reasons)
    return reading.answer(seed(await _seed_listed(reading)), Source.SEED)


async def _seed_listed(reading: Reading) -> Sequence[Skill]:
    """The seed without what is withheld, where the list of that is all of KV that can be read."""
    skills = reading.env.seed.skills
    try:
        async with asyncio.timeout(reading.seconds_left):
            withheld = await read_withheld(reading.env)
    except (KvError, TimeoutError):  # that KV fails is noted already
        return skills
    return [skill for skill in skills if skill.identity not in withheld]


@dataclass(frozen=True, slots=True)
class _FromKv(Generic[T]):
    """KV's answer; whole where no part of KV failed."""

    answer: Answer[T]
    is_whole: bool


async def _from_kv(
    reading: Reading, question: Hashable, published: Callable[[PublishedSkills], T]
) -> _FromKv[T]:
    """The answer out of all that KV lists. Raises KvError, InvalidData."""
    env, cache = reading.env, reading.env.fallback_cache
    try:
        skills = await get_published_skills_list(env, deadline=reading.seconds_left)
        share = None if cache is None else cache.answer
        value = share(skills, question, lambda: published(skills)) if share else published(skills)
    except InvalidData as error:  # an index that was signed with lines that are no summaries
        reading.note(Source.KV_INDEX, _as_kv_error(error))
        skills = await get_published_skills_list(
            env, deadline=reading.seconds_left, use_index=False
        )
        value = published(skills)
    reading.reasons.extend(skills.degraded)
    if skills.truncated:
        reading.reasons.append(f"{Source.KV_ENUMERATION}: truncated")
    return _FromKv(reading.answer(value, skills.source), is_whole=not skills.thinned)


def _as_kv_error(error: KvError | InvalidData) -> KvError:
    return error if isinstance(error, KvError) else KvError(str(error), reason="damaged")


def _clock() -> float:
    return asyncio.get_running_loop().time()
