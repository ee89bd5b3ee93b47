"""Reading each source for health, within a time of its own.

A source that fails is a reading with an error, and never fails the whole.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from marketplace.basics.timestamps import hour_of, shifted
from marketplace.health.report import SourceState
from marketplace.kv import access as kv_access
from marketplace.kv.acknowledged import note_distrust
from marketplace.kv.keys import ALIAS_PREFIX, SKILL_PREFIX
from marketplace.kv.records import read_records
from marketplace.kv.state import load_state
from marketplace.kv.submissions import PendingSubmission, oldest_pending
from marketplace.kv.summaries import decode_revision
from marketplace.operations.reports import LAST_CHECK, LAST_REPAIR
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import StorageError, TimedOut
from marketplace.ports.kv import KV_BULK_GET_LIMIT
from marketplace.ports.scan_request import ScanWork
from marketplace.skills.fingerprint import NO_SKILLS, add_versions_to_digest
from marketplace.skills.scan import READ_AGAIN_SECONDS
from marketplace.skills.skill import Skill
from marketplace.skills.slugs import is_slug

DATABASE_SECONDS: Final = 4.0
KV_SECONDS: Final = 8.0  # 110 list pages one after the other

HOURS_TOLD: Final = 24  # of hand-outs to scanners, the present one included

MAX_VALUES_READ: Final = 10_000
"""Records without usable metadata whose values are read: a hundred bulk gets."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Reading(Generic[T]):
    value: T | None
    milliseconds: float
    error: str | None = None  # why there is no value
    failure: StorageError | None = None

    def state(self) -> SourceState:
        return SourceState(
            reachable=self.error is None, latency_ms=self.milliseconds, error=self.error
        )


@dataclass(frozen=True, slots=True)
class SkillCount:
    count: int
    digest: str | None  # None where only the number is known


@dataclass(frozen=True, slots=True)
class FoundInDatabase:
    skills: SkillCount
    letters: Mapping[str, int]
    scans: ScanWork
    last_repair: bytes | None
    last_check: bytes | None


@dataclass(frozen=True, slots=True)
class FoundInKv:
    pending: PendingSubmission | None
    last_repair: bytes | None
    last_check: bytes | None


async def read_source(
    env: Env, source: str, seconds: float, read: Callable[[Env], Awaitable[T]]
) -> _Reading[T]:
    """Read a source; a failure and a timeout become part of the reading, and one log line."""
    start = time.monotonic()
    value: T | None = None
    failure: StorageError | None = None
    try:
        async with asyncio.timeout(seconds):
            value = await read(env)
    except TimeoutError:
        failure = TimedOut(f"no answer within {seconds:.0f} s")
    except StorageError as raised:
        failure = raised
    milliseconds = round((time.monotonic() - start) * 1000, 1)
    if failure is None:
        return _Reading(value, milliseconds)
    error = f"{failure.reason}: {failure}"
    env.log("health-source-not-read", level=failure.level, source=source, reason=error)
    await note_distrust(env, failure)
    return _Reading(None, milliseconds, error, failure=failure)


async def read_database(env: Env) -> FoundInDatabase:
    database, now = await get_db(env), env.now()
    found = await database.fingerprint()
    return FoundInDatabase(
        skills=SkillCount(found.count, found.digest),
        letters=await database.count_dead_letters(),
        scans=await database.scan_work(
            expired=shifted(now, -env.settings.submission_ttl),
            read_before=shifted(now, -READ_AGAIN_SECONDS),
            hours_since=shifted(hour_of(now), -HOURS_TOLD * 3600.0 + 3600.0),
        ),
        last_repair=await database.load_state(LAST_REPAIR),
        last_check=await database.load_state(LAST_CHECK),
    )


async def read_rest_of_kv(env: Env) -> FoundInKv:
    return FoundInKv(
        pending=await oldest_pending(env),
        last_repair=await load_state(env, LAST_REPAIR),
        last_check=await load_state(env, LAST_CHECK),
    )


async def count_records(env: Env) -> SkillCount:
    """Count the records from list pages; values only where metadata does not tell, and bounded."""
    count, digest = 0, NO_SKILLS.digest
    unread: list[str] = []
    left_out = 0
    kept_free = MAX_VALUES_READ // KV_BULK_GET_LIMIT + 50
    budget = max(1, env.settings.kv_operation_budget - kept_free)
    cursor: str | None = None
    async for page in kv_access.list_all_keys(env, SKILL_PREFIX, page_budget=budget):
        versions = []
        for key in page.keys:
            slug = key.name.removeprefix(SKILL_PREFIX)
            if key.name.startswith(ALIAS_PREFIX) or not is_slug(slug):
                continue
            revision = decode_revision(slug, key.metadata)
            if isinstance(revision, str):
                versions.append((slug, revision))
            elif revision is None and len(unread) < MAX_VALUES_READ:
                unread.append(slug)
            elif revision is None:
                left_out += 1
        count, digest = count + len(versions), add_versions_to_digest(digest, versions)
        cursor = page.cursor
    if cursor is not None:
        raise StorageError(f"more than {budget} list pages", reason="too-many")
    for slugs in kv_access.chunks(unread, KV_BULK_GET_LIMIT):
        records = await read_records(env, slugs)
        versions = [(r.name, r.revision) for r in records.values() if isinstance(r, Skill)]
        count, digest = count + len(versions), add_versions_to_digest(digest, versions)
    return SkillCount(count + left_out, None if left_out else digest)
