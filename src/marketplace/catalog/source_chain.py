"""The chain of sources: PostgreSQL, then KV (enumeration or index), then the seed.

A read says how to answer from each; which of them answers is decided here and nowhere else. Each
source gets a share of the time that one read may take. A source that took too long has not said
that it holds nothing: the seed never answers for it.

Only a PostgreSQL that is away or silent is replaced by KV. One that answers, and has too much to
do, is not: reading KV costs more, and every read that fell back would leave less time for the
others. `DatabaseBusy` tells.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from marketplace.basics.json_text import InvalidData
from marketplace.catalog.answer import Answer, Source
from marketplace.catalog.published_skills import (
    KEPT_FROM_BEFORE,
    PublishedSkills,
    get_published_skills_list,
)
from marketplace.catalog.waiting import OutboxView, look_at_outbox
from marketplace.kv.acknowledged import READ_EVERY, acknowledge, note_distrust
from marketplace.kv.withheld import read_withheld
from marketplace.ports.database import SkillDatabase
from marketplace.ports.database_reads import SILENT_SECONDS, DatabaseReads
from marketplace.ports.env import READ_BUDGET_SECONDS, Env, get_db
from marketplace.ports.errors import (
    DatabaseBusy,
    DatabaseConflict,
    DatabaseError,
    DatabaseRejected,
    DatabaseTimeout,
    KvError,
    KvTimeout,
    StorageError,
    TimedOut,
)
from marketplace.skills.seed import Claim
from marketplace.skills.skill import PublishedSummary, Skill

_MARGIN_SECONDS: Final = 0.2  # left for making the answer of what was read
_ANSWERED: Final = (DatabaseBusy, DatabaseConflict, DatabaseRejected)
"""Errors that PostgreSQL itself said, so that it is neither away nor frozen."""

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
    _reads: DatabaseReads = field(init=False)
    _due: float = field(default=0.0, init=False)  # of the read on the session

    def __post_init__(self) -> None:
        cache = self.env.fallback_cache
        self._reads = DatabaseReads() if cache is None else cache.reads

    @property
    def seconds_left(self) -> float:
        """Until an answer has to be made of what there is."""
        return max(self._deadline - _clock() - _MARGIN_SECONDS, 0.0)

    async def from_database(self, read: Callable[[SkillDatabase], Awaitable[T]]) -> T:
        """Run a read on a session of its own. Raises DatabaseError, noted, also when too slow;
        DatabaseBusy where PostgreSQL answers others meanwhile, or cancelled the statement.

        The read waits for one of the isolate's slots, and its time begins after that. Nothing is
        asked while PostgreSQL is silent.
        """
        try:
            found = await self._in_slot(read)
        except DatabaseError as error:
            self.note(Source.POSTGRES, error)
            await note_distrust(self.env, error)
            raise
        await acknowledge(self.env, every=READ_EVERY)
        return found

    async def _in_slot(self, read: Callable[[SkillDatabase], Awaitable[T]]) -> T:
        env, reads, begun = self.env, self._reads, _clock()
        if not reads.may_ask():
            raise DatabaseTimeout("it is silent and was not asked", reason="silent")
        limit = env.settings.database_read_timeout
        due = begun + env.settings.database_slot_timeout
        slot = await reads.take_slot(env.settings.database_reads_at_once, until=due, seconds=limit)
        self._deadline += _clock() - begun  # to have waited for others is not the sources' fault
        if slot is None:
            raise self._gave_up("no slot was free", begun, due)
        due = _clock() + min(limit, self.seconds_left)
        try:
            async with asyncio.timeout_at(due):
                found = await self._in_session(read, due)
        except TimeoutError as error:
            late = self._gave_up(f"no answer within {limit:.1f} s", begun, due)
            if isinstance(late, DatabaseTimeout) and reads.note_timeout():
                env.log("database-skipped", level="error", seconds=SILENT_SECONDS)
            raise late from error
        except _ANSWERED:
            reads.note_answer()
            raise
        finally:
            reads.free_slot(slot)
        reads.note_answer()
        return found

    async def _in_session(self, read: Callable[[SkillDatabase], Awaitable[T]], due: float) -> T:
        """Run a read that PostgreSQL itself ends in time to say so before ``due``."""
        database, self._due = await get_db(self.env), due
        self.limit_statements(database)
        try:
            return await read(database)
        finally:
            database.limit_statements(None)

    def limit_statements(self, database: SkillDatabase) -> None:
        """Let PostgreSQL end what follows in time; again after anything else that took time."""
        seconds = self._due - _clock() - _MARGIN_SECONDS
        database.limit_statements(max(seconds, _MARGIN_SECONDS / 2))

    def _gave_up(self, why: str, begun: float, due: float) -> DatabaseError:
        """Too late, in a PostgreSQL that answers others, or in one that does not."""
        if self._reads.answers(begun, due):
            return DatabaseBusy(f"{why}; others were answered")
        return DatabaseTimeout(why)

    async def from_kv(self, read: Callable[[], Awaitable[T]]) -> T:
        """Run a read of KV in the time that is left. Raises KvError, noted, also when too slow.

        What ``read`` bounds by ``seconds_left`` ends first and can hand over what it has.
        """
        seconds = self.seconds_left + _MARGIN_SECONDS
        try:
            async with asyncio.timeout(seconds):
                return await read()
        except TimeoutError as error:
            late = KvTimeout(f"no answer within {seconds:.1f} s")
            self.note(Source.KV_ENUMERATION, late)
            raise late from error
        except StorageError as error:
            self.note(Source.KV_ENUMERATION, error)
            raise

    def note(self, source: Source, error: StorageError) -> None:
        """Remember that a source failed, and log it: the one line of this fallback."""
        self.reasons.append(f"{source}: {error.reason}")
        self.is_late = self.is_late or isinstance(error, TimedOut)
        if isinstance(error, DatabaseBusy):
            self.env.log("read-shed", level="warning", reason=error.reason, detail=str(error))
            return
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
    database: Callable[[SkillDatabase, Sequence[PublishedSummary]], Awaitable[T]],
    published: Callable[[PublishedSkills], T],
    seed: Callable[[Sequence[Skill]], T],
) -> Answer[T]:
    """The answer of the first source that gives a whole one.

    When none does, in this order: the last whole answer to this question, what could be read, the
    seed. The seed alone answers only where no source ran out of time: raises TooLate otherwise.
    Where PostgreSQL is busy, it is the last whole answer or none: raises DatabaseBusy.
    ``database`` gets what waits in the outbox besides, and merges it in. ``question`` tells what
    ``published`` makes of a listing from what other questions would.
    """
    reading, cache = Reading(env), env.fallback_cache

    async def ask(session: SkillDatabase) -> tuple[T, OutboxView]:
        # Within a session: where there is none, KV's time is for the listing alone.
        outbox = await look_at_outbox(env)
        reading.limit_statements(session)
        return await database(session, outbox.states), outbox

    try:
        value, outbox = await reading.from_database(ask)
    except DatabaseBusy:  # noted by the reading
        kept = _kept_from_before(reading, question)
        if kept is None:
            raise
        return kept
    except DatabaseError:
        pass
    else:
        if outbox.lacks is not None:
            reading.reasons.append(outbox.lacks)
        elif cache is not None:
            cache.remember(question, value, Source.POSTGRES)
        return reading.answer(value, Source.POSTGRES)
    try:
        found = await _from_kv(reading, question, published)
    except (KvError, InvalidData) as error:
        reading.note(Source.KV_ENUMERATION, _as_kv_error(error))
        found = None
    if found is not None and found.is_whole:
        return found.answer
    kept = _kept_from_before(reading, question)
    if kept is not None:
        return kept
    if found is not None:
        return found.answer
    if reading.is_late:
        raise TooLate(reading.reasons)
    return reading.answer(seed(await _seed_listed(reading)), Source.SEED)


def _kept_from_before(reading: Reading, question: Hashable) -> Answer[Any] | None:
    """The last whole answer to a question, marked."""
    cache = reading.env.fallback_cache
    kept = None if cache is None else cache.recall(question)
    if kept is None:
        return None
    return Answer(kept.value, Source(kept.source), (*reading.reasons, KEPT_FROM_BEFORE))


async def _seed_listed(reading: Reading) -> Sequence[Skill]:
    """The seed beside what is withheld, where the list of that is all of KV that can be read."""
    seed = reading.env.seed
    try:
        async with asyncio.timeout(reading.seconds_left):
            withheld = await read_withheld(reading.env)
    except (KvError, TimeoutError):  # that KV fails is noted already
        return seed.skills
    return seed.beside([Claim(key.name, key.identity) for key in withheld.values()])


@dataclass(frozen=True, slots=True)
class _FromKv(Generic[T]):
    """KV's answer; whole where no part of KV failed, and none is known to be missing."""

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
        asked = (question, "short") if skills.short else question  # never the last whole answer
        value = share(skills, asked, lambda: published(skills)) if share else published(skills)
    except InvalidData as error:  # an index that was signed with lines that are no summaries
        reading.note(Source.KV_INDEX, _as_kv_error(error))
        skills = await get_published_skills_list(
            env, deadline=reading.seconds_left, use_index=False
        )
        value = published(skills)
    reading.reasons.extend(skills.degraded)
    if skills.truncated:
        reading.reasons.append(f"{Source.KV_ENUMERATION}: truncated")
    return _FromKv(
        reading.answer(value, skills.source), is_whole=not (skills.thinned or skills.short)
    )


def _as_kv_error(error: KvError | InvalidData) -> KvError:
    return error if isinstance(error, KvError) else KvError(str(error), reason="damaged")


def _clock() -> float:
    return asyncio.get_running_loop().time()
