"""Reading each source for health, within a time of its own.

A source that fails is a reading with an error, and never fails the whole.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from marketplace.basics.timestamps import hour_of, shifted
from marketplace.health.content import CONTENT_WALK, ContentCounts, read_counts
from marketplace.health.differences import Counts, Suspect
from marketplace.health.report import SourceState
from marketplace.health.walk import load_suspects, load_walk
from marketplace.kv.acknowledged import note_distrust
from marketplace.kv.records import PublishedPage, enumerate_published_skills
from marketplace.kv.state import load_state
from marketplace.kv.submissions import PendingSubmission, oldest_pending
from marketplace.operations.reports import LAST_CHECK, LAST_REPAIR
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import StorageError, TimedOut
from marketplace.ports.scan_request import ScanWork
from marketplace.skills.fingerprint import Fingerprint
from marketplace.skills.scan import READ_AGAIN_SECONDS

SECONDS: Final = 2.9  # of the whole answer
READ_SECONDS: Final = 2.3  # of each source; the rest is for looking at differences
LIVE_PAGES: Final = 10
"""List calls for records in a request; beyond them the last complete walk tells."""

HOURS_TOLD: Final = 24  # of hand-outs to scanners, the present one included

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    value: T | None
    milliseconds: float
    error: str | None = None  # why there is no value
    failure: StorageError | None = None

    def state(self) -> SourceState:
        return SourceState(
            reachable=self.error is None, latency_ms=self.milliseconds, error=self.error
        )


@dataclass(frozen=True, slots=True)
class FoundInDatabase:
    skills: Fingerprint
    open_rules: int
    letters: Mapping[str, int]
    scans: ScanWork
    last_repair: bytes | None
    last_check: bytes | None
    content: ContentCounts | None


@dataclass(frozen=True, slots=True)
class FoundInKv:
    pending: PendingSubmission | None
    last_repair: bytes | None
    last_check: bytes | None
    walk: Counts | None
    suspects: list[Suspect]


async def read_source(
    env: Env, source: str, seconds: float, read: Callable[[Env], Awaitable[T]]
) -> Reading[T]:
    """Read a source; a failure and a timeout become part of the reading, and one log line."""
    start = time.monotonic()
    value: T | None = None
    failure: StorageError | None = None
    try:
        async with asyncio.timeout(seconds):
            value = await read(env)
    except TimeoutError:
        failure = TimedOut(f"no answer within {seconds:.1f} s")
    except StorageError as raised:
        failure = raised
    milliseconds = round((time.monotonic() - start) * 1000, 1)
    if failure is None:
        return Reading(value, milliseconds)
    error = f"{failure.reason}: {failure}"
    env.log("health-source-not-read", level=failure.level, source=source, reason=error)
    await note_distrust(env, failure)
    return Reading(None, milliseconds, error, failure)


async def read_database(env: Env) -> FoundInDatabase:
    database, now = await get_db(env), env.now()
    return FoundInDatabase(
        skills=await database.fingerprint(),
        open_rules=await database.count_open_rules(),
        letters=await database.count_dead_letters(),
        scans=await database.scan_work(
            expired=shifted(now, -env.settings.submission_ttl),
            read_before=shifted(now, -READ_AGAIN_SECONDS),
            hours_since=shifted(hour_of(now), -HOURS_TOLD * 3600.0 + 3600.0),
        ),
        last_repair=await database.load_state(LAST_REPAIR),
        last_check=await database.load_state(LAST_CHECK),
        content=read_counts(await database.load_state(CONTENT_WALK)),
    )


async def read_rest_of_kv(env: Env) -> FoundInKv:
    return FoundInKv(
        *await asyncio.gather(
            oldest_pending(env),
            load_state(env, LAST_REPAIR),
            load_state(env, LAST_CHECK),
            load_walk(env),
            load_suspects(env),
        )
    )


async def read_pages(env: Env) -> list[PublishedPage] | None:
    """All records, where LIVE_PAGES list calls suffice; else None."""
    pages = [page async for page in enumerate_published_skills(env, page_budget=LIVE_PAGES)]
    return pages if pages[-1].cursor is None else None
