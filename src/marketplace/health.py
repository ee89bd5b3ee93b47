"""How the sources stand: counts, reachability, where they disagree, and what repairs it.

Every source is read within a time of its own, the counting of KV a moment after the others. One
that fails is ``None`` with its error and a finding of its own, and never fails the whole.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from marketplace import kv_access, submission_store
from marketplace.db import get_db
from marketplace.dead_letters import PASSING_REASONS
from marketplace.env import Env
from marketplace.kv_counting import CountingKv
from marketplace.kv_keys import ALIAS_PREFIX, SKILL_PREFIX, is_slug
from marketplace.models import Skill
from marketplace.operation_state import LAST_CHECK, LAST_REPAIR, newest_report
from marketplace.published_index import add_versions_to_digest, index_header
from marketplace.storage import (
    KV_BULK_GET_LIMIT,
    NO_SKILLS,
    KvKey,
    StorageError,
)
from marketplace.submission_store import IndexHeader, Moved, PendingSubmission
from marketplace.timestamps import seconds_between

DATABASE_SECONDS: Final = 4.0
KV_SECONDS: Final = 8.0  # 110 list pages one after the other
HEAD_START_SECONDS: Final = 0.5
SHARE_TOLERATED: Final = 0.05
NUMBER_TOLERATED: Final = 10
MAX_VALUES_READ: Final = 10_000
"""Records without usable metadata whose values are read: a hundred bulk gets."""
PENDING_TOLERATED: Final = 3_600.0  # seconds

REBUILD_CALL: Final = "POST /api/v1/admin/rebuild-index"
REDRIVE_CALL: Final = "POST /api/v1/admin/dead-letters/redrive"

T = TypeVar("T")


class SourceState(msgspec.Struct, kw_only=True):
    """Whether a source answered, how fast, and what is wrong with it."""

    reachable: bool
    latency_ms: float
    error: str | None = None
    damaged: bool = False
    age_seconds: float | None = None


class Drift(msgspec.Struct, kw_only=True):
    """Two sources that disagree, in number or in members."""

    kind: Literal["count", "members"]
    sources: tuple[str, str]
    counts: tuple[int, int]
    difference: int
    message: str


class Recommendation(msgspec.Struct, kw_only=True):
    """What to do about a finding; ``call`` repairs it, where one call can."""

    action: str
    reason: str
    call: str | None = None


class DeadLetterCounts(msgspec.Struct, kw_only=True):
    """Dead letters that wait; None where no store of them could be read."""

    total: int | None = None
    by_reason: dict[str, int] = {}


class Health(msgspec.Struct, kw_only=True):
    """The health answer. Its field names are what dashboards read."""

    status: Literal["ok", "drift", "failing"] = "ok"
    kv_index_count: int | None = None
    kv_enumerated_count: int | None = None
    prisma_count: int | None = None
    seed_count: int = 0
    drift_detected: bool = False
    drifts: list[Drift] = []
    recommendations: list[Recommendation] = []
    sources: dict[str, SourceState] = {}
    last_repair: Any = None
    last_check: Any = None
    dead_letters: DeadLetterCounts = msgspec.field(default_factory=DeadLetterCounts)
    oldest_pending: dict[str, Any] | None = None
    heap: dict[str, Any] | None = None
    kv_operations: dict[str, int] = {}

    @property
    def needs_rebuild(self) -> bool:
        """Whether a rebuild would repair something of this."""
        return any(item.call == REBUILD_CALL for item in self.recommendations)


# --- reading the sources ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reading(Generic[T]):
    """What a source answered, or why it did not."""

    value: T | None
    milliseconds: float
    error: str | None = None

    def state(self) -> SourceState:
        """The source's entry in the answer."""
        return SourceState(
            reachable=self.error is None, latency_ms=self.milliseconds, error=self.error
        )


@dataclass(frozen=True, slots=True)
class _Counted:
    """The skills of a source; ``digest`` is None where only their number is known."""

    count: int
    digest: str | None


@dataclass(frozen=True, slots=True)
class _FromDatabase:
    skills: _Counted
    letters: Mapping[str, int]
    last_repair: bytes | None
    last_check: bytes | None


@dataclass(frozen=True, slots=True)
class _FromKv:
    """What else health wants of KV."""

    letters: Mapping[str, int]
    pending: PendingSubmission | None
    last_repair: bytes | None
    last_check: bytes | None


async def _timed(
    env: Env, source: str, seconds: float, read: Callable[[Env], Awaitable[T]]
) -> _Reading[T]:
    """Read a source; a failure and a timeout become part of the reading, and one log line."""
    start = time.monotonic()

    def elapsed() -> float:
        return round((time.monotonic() - start) * 1000, 1)

    try:
        async with asyncio.timeout(seconds):
            value = await read(env)
    except TimeoutError:
        error = f"timeout: no answer within {seconds:.0f} s"
    except StorageError as failure:
        error = f"{failure.reason}: {failure}"
    else:
        return _Reading(value, elapsed())
    env.log(f"health: {source} not read", level="warning", source=source, reason=error)
    return _Reading(None, elapsed(), error)


async def _read_database(env: Env) -> _FromDatabase:
    with await get_db(env) as database:
        found = await database.fingerprint()
        return _FromDatabase(
            skills=_Counted(found.count, found.digest),
            letters=await database.count_dead_letters(),
            last_repair=await database.load_state(LAST_REPAIR),
            last_check=await database.load_state(LAST_CHECK),
        )


async def _read_kv_rest(env: Env) -> _FromKv:
    return _FromKv(
        letters=await submission_store.count_dead_letters(env),
        pending=await submission_store.oldest_pending(env),
        last_repair=await submission_store.load_state(env, LAST_REPAIR),
        last_check=await submission_store.load_state(env, LAST_CHECK),
    )


@dataclass(slots=True)
class _Tally:
    """The records counted so far, and those whose values have to tell what they are."""

    count: int = 0
    digest: str = NO_SKILLS.digest
    by_value: list[str] = field(default_factory=list)
    left_out: int = 0

    def add(self, versions: Sequence[tuple[str, str]]) -> None:
        """Count skills, given by slug and revision."""
        self.count += len(versions)
        self.digest = add_versions_to_digest(self.digest, versions)

    def sort(self, keys: Sequence[KvKey]) -> None:
        """Enter a list page, from its metadata."""
        versions = []
        for key in keys:
            slug = key.name.removeprefix(SKILL_PREFIX)
            if key.name.startswith(ALIAS_PREFIX) or not is_slug(slug):
                continue
            match submission_store.decode_revision(slug, key.metadata):
                case str() as revision:
                    versions.append((slug, revision))
                case Moved():
                    pass
                case None if len(self.by_value) < MAX_VALUES_READ:
                    self.by_value.append(slug)
                case None:
                    self.left_out += 1
        self.add(versions)


async def _count_records(env: Env) -> _Counted:
    """Count the records from list pages; values only where metadata does not tell, and bounded."""
    tally = _Tally()
    kept_free = MAX_VALUES_READ // KV_BULK_GET_LIMIT + 50
    budget = max(1, env.settings.kv_operation_budget - kept_free)
    cursor: str | None = None
    async for page in kv_access.list_all_keys(env, SKILL_PREFIX, page_budget=budget):
        tally.sort(page.keys)
        cursor = page.cursor
    if cursor is not None:
        raise StorageError(f"more than {budget} list pages", reason="too-many")
    for slugs in kv_access.chunks(tally.by_value, KV_BULK_GET_LIMIT):
        records = await submission_store.read_records(env, slugs)
        skills = [record for record in records.values() if isinstance(record, Skill)]
        tally.add([(skill.name, skill.revision) for skill in skills])
    if tally.left_out:
        return _Counted(tally.count + tally.left_out, None)
    return _Counted(tally.count, tally.digest)


# --- the answer -------------------------------------------------------------------------------


async def check_health(env: Env) -> Health:
    """Read all sources and compare them. Never raises because of a source."""
    kv = CountingKv(env.submissions_kv)
    env = replace(env, submissions_kv=kv)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(_timed(env, "postgres", DATABASE_SECONDS, _read_database))
        heading = group.create_task(_timed(env, "kv_index", KV_SECONDS, index_header))
        looking = group.create_task(_timed(env, "kv", KV_SECONDS, _read_kv_rest))
        # Counting keeps the one thread busy, and would be measured as PostgreSQL's latency.
        await asyncio.wait([reading, heading], timeout=HEAD_START_SECONDS)
        records = await _timed(env, "kv", KV_SECONDS, _count_records)
    database, index, rest = reading.result(), heading.result(), looking.result()
    health = Health(seed_count=len(env.seed.skills), drifts=[], recommendations=[])
    health.sources = {
        "postgres": database.state(),
        "kv": records.state(),
        "kv_index": index.state(),
    }
    counted = {
        "postgres": database.value.skills if database.value else None,
        "kv": records.value,
    }
    counted["kv_index"] = _index_counted(index.value, counted)
    health.prisma_count = _count(counted["postgres"])
    health.kv_enumerated_count = _count(counted["kv"])
    health.kv_index_count = _count(counted["kv_index"])
    _describe_index(health, index.value)
    health.drifts = _drifts(counted)
    health.drift_detected = bool(health.drifts)
    _add_operations(env, health, database.value, rest.value)
    heap = env.heap_bytes()
    health.heap = None if heap is None else {"bytes": heap}
    health.kv_operations = {"list": kv.lists, "all": kv.operations}
    _recommend(health)
    health.status = _status(health)
    return health


def _count(counted: _Counted | None) -> int | None:
    return None if counted is None else counted.count


def _index_counted(
    header: IndexHeader | None, others: Mapping[str, _Counted | None]
) -> _Counted | None:
    """The index's number of skills; of an unreadable one None, of an absent one 0.

    Its recent entries may be new skills or new states of listed ones, which only the pages tell.
    So the number within that range is taken which is closest to what it is a copy of.
    """
    if header is None or header.problem not in (None, "missing"):
        return None
    if header.fingerprint is None:
        return _Counted(0, NO_SKILLS.digest)
    if header.recent == 0:
        return _Counted(header.count, header.fingerprint.digest)
    reference = others["postgres"] or others["kv"]
    truth = reference.count if reference else header.count
    return _Counted(min(max(truth, header.count), header.count + header.recent), None)


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


def _drifts(counted: Mapping[str, _Counted | None]) -> list[Drift]:
    names = list(counted)
    pairs = [(a, b) for number, a in enumerate(names) for b in names[number + 1 :]]
    return [drift for a, b in pairs if (drift := _compare(a, counted[a], b, counted[b]))]


def _compare(a: str, one: _Counted | None, b: str, other: _Counted | None) -> Drift | None:
    if one is None or other is None:
        return None
    difference = abs(one.count - other.count)
    counts = (one.count, other.count)
    if difference > NUMBER_TOLERATED or difference > SHARE_TOLERATED * max(counts):
        message = f"{a} has {one.count} skills, {b} has {other.count}: {difference} differ."
        return Drift(
            kind="count", sources=(a, b), counts=counts, difference=difference, message=message
        )
    digests = (one.digest, other.digest)
    if difference == 0 and None not in digests and one.digest != other.digest:
        message = f"{a} and {b} both have {one.count} skills, but not the same ones or versions."
        return Drift(kind="members", sources=(a, b), counts=counts, difference=0, message=message)
    return None


def _add_operations(
    env: Env, health: Health, database: _FromDatabase | None, rest: _FromKv | None
) -> None:
    """Dead letters, reports and the oldest pending submission, from whichever store has them."""
    letters: dict[str, int] = {}
    for source in (database, rest):
        for reason, number in source.letters.items() if source else ():
            letters[reason] = letters.get(reason, 0) + number
    if database or rest:
        health.dead_letters = DeadLetterCounts(total=sum(letters.values()), by_reason=letters)
    sources = [source for source in (database, rest) if source is not None]
    health.last_repair = newest_report(*(source.last_repair for source in sources))
    health.last_check = newest_report(*(source.last_check for source in sources))
    if rest and rest.pending:
        created_at = rest.pending.created_at
        health.oldest_pending = {
            "id": rest.pending.id,
            "created_at": created_at,
            "age_seconds": seconds_between(created_at, env.now()),
        }


_CHECKS: Final = {
    "postgres": "Check that the database is up and that Hyperdrive reaches it.",
    "kv": "Check the KV namespace and its binding SUBMISSIONS_KV.",
    "kv_index": "Check the KV namespace and its binding SUBMISSIONS_KV.",
}


def _recommend(health: Health) -> None:
    add = health.recommendations.append
    for name, state in health.sources.items():
        if not state.reachable:
            add(Recommendation(action=_CHECKS[name], reason=f"{name}: {state.error}"))
    index = health.sources["kv_index"]
    if health.drifts:
        reason = " ".join(drift.message for drift in health.drifts)
        add(Recommendation(action="Rebuild.", reason=reason, call=REBUILD_CALL))
    elif index.reachable and index.error:
        reason = f"The index cannot be used: {index.error}"
        add(Recommendation(action="Rebuild.", reason=reason, call=REBUILD_CALL))
    elif isinstance(health.last_repair, dict) and health.last_repair.get("ok") is False:
        reason = "The last repair did not come to a good end; its report says why."
        add(Recommendation(action="Rebuild again.", reason=reason, call=REBUILD_CALL))
    passing = sum(health.dead_letters.by_reason.get(reason, 0) for reason in PASSING_REASONS)
    if passing:
        reason = f"{passing} messages failed for a passing reason."
        add(Recommendation(action="Redrive them.", reason=reason, call=REDRIVE_CALL))
    pending = health.oldest_pending
    if pending and pending["age_seconds"] > PENDING_TOLERATED:
        reason = f"Submission {pending['id']} has waited {pending['age_seconds'] / 3600:.1f} hours."
        add(Recommendation(action="Check the scanner, the publish queue and cron.", reason=reason))


def _status(health: Health) -> Literal["ok", "drift", "failing"]:
    if any(not state.reachable for state in health.sources.values()):
        return "failing"
    return "drift" if health.drifts else "ok"
