"""The health check: reads all sources and compares them.

Every source is read within a time of its own. One that fails is ``None`` with its error and a
finding of its own, and never fails the whole.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from marketplace.basics.timestamps import seconds_between, seconds_since
from marketplace.health.differences import (
    LOOK_AGAIN_SECONDS,
    Counts,
    Look,
    Suspect,
    join,
    look_again,
)
from marketplace.health.drift import find_drifts
from marketplace.health.findings import find, recommend, recommend_on_content, status_of
from marketplace.health.readings import (
    LIVE_PAGES,
    READ_SECONDS,
    SECONDS,
    FoundInDatabase,
    FoundInKv,
    Reading,
    read_database,
    read_pages,
    read_rest_of_kv,
    read_source,
)
from marketplace.health.report import DeadLetterCounts, Drift, Health, SourceState
from marketplace.health.scanning import describe_scanning
from marketplace.health.walk import beginning, save_suspects
from marketplace.kv.counting import CountingKv
from marketplace.kv.index.manifest import IndexHeader, index_header
from marketplace.kv.records import PublishedPage
from marketplace.operations.reports import LAST_CHECK, LAST_REPAIR, newest_report
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import StorageError, TimedOut
from marketplace.ports.kv import KV_LIST_LIMIT

HEAD_START_SECONDS: Final = 0.5

_NOT_COUNTED: Final = "not counted yet: no check has walked over all records"


async def check_health(env: Env, *, live: bool = True) -> Health:
    """Read all sources and compare them. Never raises because of a source.

    The records are counted now where LIVE_PAGES list calls suffice; else, and without ``live``,
    they are as many as the last complete walk has found.
    """
    end = asyncio.get_running_loop().time() + SECONDS
    kv = CountingKv(env.submissions_kv)
    env = replace(env, submissions_kv=kv)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read_source(env, "postgres", READ_SECONDS, read_database))
        heading = group.create_task(read_source(env, "kv_index", READ_SECONDS, index_header))
        looking = group.create_task(read_source(env, "kv", READ_SECONDS, read_rest_of_kv))
        # Counting keeps the one thread busy, and would be measured as PostgreSQL's latency.
        await asyncio.wait([reading, heading, looking], timeout=HEAD_START_SECONDS)
        pages: Reading[list[PublishedPage] | None] | None = None
        if live and not (looking.done() and _is_too_large(looking.result().value)):
            seconds = READ_SECONDS - HEAD_START_SECONDS
            pages = await read_source(env, "kv", seconds, read_pages)
    database, index, rest = reading.result(), heading.result(), looking.result()
    health = Health(seed_count=len(env.seed.skills), drifts=[], recommendations=[])
    _add_operations(env, health, database.value, rest.value)
    records = _Records(pages, rest, health.last_repair)
    health.sources = {
        "postgres": database.state(),
        "kv": records.state(),
        "kv_index": index.state(),
    }
    health.prisma_count = database.value.skills.count if database.value else None
    health.kv_enumerated_count = records.count
    reference = records.count if health.prisma_count is None else health.prisma_count
    health.kv_index_count = _index_counted(index.value, reference)
    _add_moments(env, health, records)
    _describe_index(health, index.value)
    health.drifts = records.drifts(health.prisma_count, health.kv_index_count)
    health.drift_detected = bool(health.drifts)
    suspects: Sequence[Suspect] = rest.value.suspects if rest.value else []
    if database.value and index.value and rest.value:
        sources = _Sources(database.value, index.value, records.pages)
        suspects = await _look(env, end, sources, suspects)
    health.findings = find(env, suspects, records.count, index.value)
    heap = env.heap_bytes()
    health.heap = None if heap is None else {"bytes": heap}
    health.kv_operations = {"list": kv.lists, "all": kv.operations}
    recommend(health, database.failure)
    recommend_on_content(health, has_archive=env.content is not None)
    health.status = status_of(health)
    return health


def _is_too_large(found: FoundInKv | None) -> bool:
    """Whether it is known that the records are too many to be counted in a request."""
    if found is None or found.walk is None:
        return False
    return found.walk.records > LIVE_PAGES * KV_LIST_LIMIT


@dataclass(frozen=True, slots=True)
class _Records:
    """The records as they were counted: now, or by the last complete walk."""

    live: Reading[list[PublishedPage] | None] | None  # None: not tried
    rest: Reading[FoundInKv]
    last_repair: Any

    @property
    def pages(self) -> Sequence[PublishedPage] | None:
        return self.live.value if self.live else None

    @property
    def walk(self) -> Counts | None:
        return self.rest.value.walk if self.rest.value else None

    @property
    def count(self) -> int | None:
        if self.pages is not None:
            return sum(len(page.summaries) for page in self.pages)
        return self.walk.records if self.walk else None

    @property
    def is_before_repair(self) -> bool:
        """Whether a rebuild has changed what the walk found, or the walk, in a KV that is late,
        may not have seen all that the rebuild wrote."""
        report = self.last_repair
        repaired_at = report.get("finishedAt") if isinstance(report, dict) else None
        if self.walk is None or not isinstance(repaired_at, str):
            return False
        return seconds_since(repaired_at, self.walk.begun_at) < LOOK_AGAIN_SECONDS

    def drifts(self, rows: int | None, entries: int | None) -> list[Drift]:
        """A walk's number is that of another moment: it is compared with the rows of its own."""
        now = {"postgres": rows, "kv_index": entries}
        if self.pages is not None:
            return find_drifts({"postgres": rows, "kv": self.count, "kv_index": entries})
        if self.walk is None or rows is None or self.is_before_repair:
            return find_drifts(now)
        then = {"postgres": self.walk.rows, "kv": self.walk.records}
        return find_drifts(then) + find_drifts(now)

    def state(self) -> SourceState:
        if self.live is None or isinstance(self.live.failure, TimedOut):
            state = self.rest.state()  # KV is slow, or has too many; that is no outage
        else:
            state = self.live.state()
        if state.error is None and self.count is None:
            state.error = _NOT_COUNTED
        return state


@dataclass(frozen=True, slots=True)
class _Sources:
    """All that were read, to be looked at for differences."""

    database: FoundInDatabase
    index: IndexHeader
    pages: Sequence[PublishedPage] | None


async def _look(
    env: Env, end: float, sources: _Sources, known: Sequence[Suspect]
) -> Sequence[Suspect]:
    """Look at known differences again and, where the records are here, for others; those that
    were known where there is no time for it. Raises nothing."""
    try:
        async with asyncio.timeout_at(end):
            database, manifest = await get_db(env), sources.index.manifest
            suspects = await look_again(env, database, manifest, known)
            if sources.pages is not None:
                place = beginning(env)
                for page in sources.pages:
                    place = msgspec.structs.replace(place, counts=place.counts.with_page(page, 0))
                is_same = place.counts.digest == sources.database.skills.digest
                look = Look(env, database, beginning(env), manifest, is_same=is_same)
                for page in sources.pages:
                    await look.take(page)
                suspects = join(suspects, look.suspects)
    except TimeoutError:
        env.log("differences-not-looked-at", level="warning", reason="timeout")
        return known
    except StorageError as error:
        env.log("differences-not-looked-at", level="warning", reason=error.reason)
        return known
    try:
        async with asyncio.timeout_at(end):
            await save_suspects(env, suspects, before=known)
    except TimeoutError:
        env.log("differences-not-kept", level="warning", reason="timeout")
    except StorageError as error:
        env.log("differences-not-kept", level="warning", reason=error.reason)
    return suspects


def _index_counted(header: IndexHeader | None, reference: int | None) -> int | None:
    """The index's number of skills; of an unreadable one None, of an absent one 0.

    Its recent entries may be new skills or new states of listed ones, which only the pages tell.
    So the number within that range is taken which is closest to what it is a copy of.
    """
    if header is None or header.problem not in (None, "missing"):
        return None
    if reference is None:
        return header.count
    return min(max(reference, header.count), header.count + header.recent)


def _add_moments(env: Env, health: Health, records: _Records) -> None:
    now = env.now()
    health.last_walk = records.walk
    walked_at = records.walk.finished_at if records.walk else None
    health.counted_at = {
        "postgres": None if health.prisma_count is None else now,
        "kv": walked_at if records.pages is None else now,
        "kv_index": None if health.kv_index_count is None else now,
    }


def _describe_index(health: Health, header: IndexHeader | None) -> None:
    if header is None:
        return
    state = health.sources["kv_index"]
    state.age_seconds = header.age_seconds
    if header.problem == "missing":
        others = (health.prisma_count, health.kv_enumerated_count)
        state.error = "missing" if any(others) else None  # nothing published: nothing to index
    elif header.problem is not None:
        state.damaged = True
        state.error = header.problem


def _add_operations(
    env: Env, health: Health, database: FoundInDatabase | None, rest: FoundInKv | None
) -> None:
    """Dead letters, the scanners' work, reports, and the submission that has waited longest to be
    published."""
    if database:
        letters = dict(database.letters)
        health.open_rules = database.open_rules
        health.content = database.content
        health.scanning = describe_scanning(database.scans, env.now())
        health.dead_letters = DeadLetterCounts(total=sum(letters.values()), by_reason=letters)
    sources = [source for source in (database, rest) if source is not None]
    health.last_repair = newest_report(env, LAST_REPAIR, [s.last_repair for s in sources])
    health.last_check = newest_report(env, LAST_CHECK, [s.last_check for s in sources])
    if rest and rest.pending:
        scanned_at = rest.pending.scanned_at
        health.oldest_pending = {
            "id": rest.pending.id,
            "scanned_at": scanned_at,
            "age_seconds": seconds_between(scanned_at, env.now()),
        }
