"""The one rebuild that is current: its state between steps, kept in PostgreSQL under a fixed name.

Every change of it is made from the state that was read, and fails when another came first. So of
two calls at once one begins a rebuild, and of two deliveries of one message the later goes on.
"""

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from marketplace.basics.timestamps import age_in_seconds
from marketplace.health.differences import Counts
from marketplace.kv.index.writing import IndexProgress, new_generation
from marketplace.operations.reports import read_state
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import StorageError

MAX_ERROR_DETAILS: Final = 100
MAX_REASON: Final = 200  # characters
MAX_PLACED: Final = 50_000
"""Slugs written ahead, or identities brought in, that a job remembers, some MB. Further ones may be
counted twice."""
REBUILD_JOB: Final = "rebuildJob"
ADOPT: Final = "adopt"
REBUILD_STATE: Final = "rebuild"
MAX_RACES: Final = 10  # changes of the state that others were quicker with


Stage = Literal[
    "outbox",
    "rules",
    "verdicts",
    "acts",
    "alias-keys",
    "reconcile",
    "alias-rows",
    "index",
    "complete",
    "done",
]
"""In the order in which they come; a dry run leaves out rules and acts."""


class ErrorDetail(msgspec.Struct):
    key: str
    reason: str


class Position(msgspec.Struct, rename="camel"):
    cursor: str | None = None  # of the list
    after: str = ""  # the last slug that is done with


class RebuildJob(msgspec.Struct, kw_only=True, rename="camel"):
    """One rebuild: what it was asked for, where it stands, and what it has done so far."""

    id: str
    started_at: str
    dry_run: bool
    index: IndexProgress
    adopt: bool = False  # whatever database it is
    waits_until: str | None = None  # where changes are missing: until KV shows what it has
    stage: Stage = "outbox"
    position: Position = msgspec.field(default_factory=Position)
    sequence: int = 0  # grows with every saved state
    saved_at: str | None = None
    under_way: bool = False  # a step was begun, and is not known to have come to its end
    resumed: int = 0  # how often a step was repeated
    abandoned: int = 0  # how often in a row it was found standing still
    steps: int = 0
    max_kv_operations: int = 0  # of any one step
    walk: Counts | None = None  # of the second walk, for health
    processed: int = 0
    estimated_total: int | None = None
    failure: str | None = None
    finished_at: str | None = None
    placed: list[str] = []  # slugs written ahead of the walk
    foreseen: str = ""  # rows that a dry run would have made, see foresight
    parted: int = 0  # slugs that a dry run would give besides those that the sources have
    rebuilt: int = 0
    errors: int = 0
    orphaned_aliases: int = 0
    prisma_backfilled: int = 0
    kv_backfilled: int = 0
    conflicts_resolved: int = 0
    metadata_restored: int = 0
    aliases_repaired: int = 0
    error_details: list[ErrorDetail] = []

    @property
    def complete(self) -> bool:
        return self.stage == "done"

    def add_error(self, key: str, reason: str) -> None:
        self.errors += 1
        if len(self.error_details) < MAX_ERROR_DETAILS:
            self.error_details = [*self.error_details, ErrorDetail(key, reason[:MAX_REASON])]

    def place(self, slug: str) -> None:
        if len(self.placed) < MAX_PLACED:
            self.placed.append(slug)

    def end(self, error: StorageError) -> None:
        """End before everything is done; what was repaired stays repaired."""
        self.failure = error.reason
        self.add_error("rebuild", f"{error.reason}: {error}")
        self.stage = "done"

    @property
    def fills(self) -> bool:
        """Whether it brings back what a database lacks that was emptied, restored or replaced."""
        return self.waits_until is not None

    def move_to(self, stage: Stage) -> None:
        self.stage = stage
        self.position = Position()
        if stage == "index":
            self.foreseen = ""

    def report(self, now: str) -> dict[str, Any]:
        seconds = age_in_seconds(self.started_at, self.finished_at or now)
        return {
            "ok": self.failure is None,
            "rebuilt": self.rebuilt,
            "errors": self.errors,
            "orphanedAliases": self.orphaned_aliases,
            "prismaBackfilled": self.prisma_backfilled,
            "kvBackfilled": self.kv_backfilled,
            "conflictsResolved": self.conflicts_resolved,
            "metadataRestored": self.metadata_restored,
            "aliasesRepaired": self.aliases_repaired,
            "errorDetails": self.error_details,
            "durationMs": None if seconds is None else 1000 * seconds,
            "complete": self.complete,
            "dryRun": self.dry_run,
            "adopt": self.adopt,
            "waitsUntil": self.waits_until,
            "resumed": self.resumed,
            "jobId": self.id,
            "progress": {
                "processed": self.processed,
                "estimatedTotal": self.estimated_total,
                "steps": self.steps,
                "maxKvOperations": self.max_kv_operations,
            },
        }


def new_job(env: Env, *, dry_run: bool, adopt: bool = False) -> RebuildJob:
    now = env.now()
    progress = IndexProgress(generation=new_generation(env), begun_at=now)
    return RebuildJob(
        id=secrets.token_hex(8), started_at=now, dry_run=dry_run, adopt=adopt, index=progress
    )


class Rebuilds(msgspec.Struct, rename="camel"):
    """The current rebuild, the one before it, and the one that was asked for meanwhile."""

    current: RebuildJob
    previous: RebuildJob | None = None
    following: RebuildJob | None = None

    def find(self, job_id: str) -> RebuildJob | None:
        jobs = (self.current, self.previous, self.following)
        return next((job for job in jobs if job is not None and job.id == job_id), None)

    def followed_by(self, env: Env, job: RebuildJob) -> "Rebuilds":
        begun = new_job(env, dry_run=job.dry_run, adopt=job.adopt)
        begun.id, begun.waits_until = job.id, job.waits_until
        ended = msgspec.structs.replace(self.current, placed=[], foreseen="")
        following = None if self.following is job else self.following
        return Rebuilds(begun, previous=ended, following=following)


Change = Callable[[Rebuilds | None], Rebuilds | None]
"""Makes the next state, perhaps in place, from the one kept; None: there is nothing to change."""


async def change_rebuilds(env: Env, change: Change) -> Rebuilds | None:
    """Change the kept state, whatever others do meanwhile. The new one; None: not changed.

    Raises DatabaseError, and StorageError when others were quicker each time.
    """
    database = await get_db(env)
    for _ in range(MAX_RACES):
        document = await database.load_state(REBUILD_STATE)
        changed = change(read_state(env, REBUILD_STATE, document, Rebuilds))
        if changed is None:
            return None
        encoded = msgspec.json.encode(changed)
        if await database.replace_state(REBUILD_STATE, encoded, before=document):
            return changed
    raise StorageError("the rebuild's state changes all the time", reason="conflict")


async def load_rebuilds(env: Env) -> Rebuilds | None:
    """Raises DatabaseError."""
    database = await get_db(env)
    return read_state(env, REBUILD_STATE, await database.load_state(REBUILD_STATE), Rebuilds)


def message_of(job: RebuildJob) -> Mapping[str, Any]:
    """The message that asks for the next step. To adopt it must be said: what is adopted, another
    consumer would not read the state from."""
    return {REBUILD_JOB: job.id} | ({ADOPT: True} if job.adopt else {})


def asks_to_adopt(body: object) -> bool:
    return isinstance(body, Mapping) and body.get(ADOPT) is True


def job_id_of(body: object) -> str | None:
    """The id that a message carries, if it carries one."""
    job_id = body.get(REBUILD_JOB) if isinstance(body, Mapping) else None
    return job_id if isinstance(job_id, str) else None
