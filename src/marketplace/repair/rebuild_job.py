"""The state of a rebuild between its steps: plain data, in the queue's message and in a store."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from marketplace.basics.timestamps import age_in_seconds
from marketplace.kv.access import write_again_if_refused
from marketplace.kv.index import IndexProgress, new_generation
from marketplace.operations.reports import load_states, save_state
from marketplace.ports.env import Env

MAX_ERROR_DETAILS: Final = 100
MAX_REASON: Final = 200  # characters
REBUILD_JOB: Final = "rebuildJob"
MAX_UNFINISHED: Final = 10

_UNFINISHED: Final = "rebuilds-unfinished"


class ErrorDetail(msgspec.Struct):
    """What could not be read or placed, and why."""

    key: str
    reason: str


class Position(msgspec.Struct, rename="camel"):
    """How far a walk has come: the list cursor, and the last slug that is done with."""

    cursor: str | None = None
    after: str = ""


class RebuildJob(msgspec.Struct, kw_only=True, rename="camel"):
    """One rebuild: what it was asked for, where it stands, and what it has done so far."""

    id: str
    started_at: str
    dry_run: bool
    index: IndexProgress
    stage: Literal["outbox", "reconcile", "index", "done"] = "outbox"
    position: Position = msgspec.field(default_factory=Position)
    sequence: int = 0  # grows with every saved state
    saved_at: str | None = None
    resumed: int = 0  # how often in a row it was found abandoned
    steps: int = 0
    max_kv_operations: int = 0  # of any one step
    processed: int = 0
    estimated_total: int | None = None
    failure: str | None = None
    finished_at: str | None = None
    placed: list[str] = []  # slugs written ahead of the walk
    parted: int = 0  # skills that a dry run would give a slug besides the one they share
    rebuilt: int = 0
    errors: int = 0
    orphaned_aliases: int = 0
    prisma_backfilled: int = 0
    kv_backfilled: int = 0
    conflicts_resolved: int = 0
    metadata_restored: int = 0
    error_details: list[ErrorDetail] = []

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do, or nothing more will be tried."""
        return self.stage == "done"

    def add_error(self, key: str, reason: str) -> None:
        """Count an error; the first ones are named."""
        self.errors += 1
        if len(self.error_details) < MAX_ERROR_DETAILS:
            self.error_details = [*self.error_details, ErrorDetail(key, reason[:MAX_REASON])]

    def move_to(self, stage: Literal["reconcile", "index", "done"]) -> None:
        """Begin a stage."""
        self.stage = stage
        self.position = Position()

    def report(self, now: str) -> dict[str, Any]:
        """The answer of the admin call."""
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
            "errorDetails": self.error_details,
            "durationMs": None if seconds is None else 1000 * seconds,
            "complete": self.complete,
            "dryRun": self.dry_run,
            "jobId": self.id,
            "progress": {
                "processed": self.processed,
                "estimatedTotal": self.estimated_total,
                "steps": self.steps,
                "maxKvOperations": self.max_kv_operations,
            },
        }


def new_job(env: Env, *, dry_run: bool) -> RebuildJob:
    """A rebuild that has not begun."""
    now = env.now()
    progress = IndexProgress(generation=new_generation(env), begun_at=now)
    return RebuildJob(id=secrets.token_hex(8), started_at=now, dry_run=dry_run, index=progress)


def copy_of(job: RebuildJob) -> RebuildJob:
    """The same state, to work on."""
    return msgspec.convert(msgspec.to_builtins(job), RebuildJob)


def job_message(job: RebuildJob) -> Mapping[str, Any]:
    """The message that asks for the next step."""
    return {REBUILD_JOB: msgspec.to_builtins(job)}


def job_of(body: object) -> RebuildJob | None:
    """The job that a message carries, or None when it carries none."""
    if not isinstance(body, Mapping) or REBUILD_JOB not in body:
        return None
    try:
        return msgspec.convert(body[REBUILD_JOB], RebuildJob)
    except msgspec.ValidationError:
        return None  # the caller reports it


def state_name(job_id: str) -> str:
    """Under which name a job's state is kept."""
    return f"rebuild:{job_id}"


def encode_job(env: Env, job: RebuildJob) -> bytes:
    """A new saved state of a job."""
    job.sequence += 1
    job.saved_at = env.now()
    return msgspec.json.encode(job)


async def save_job(env: Env, job: RebuildJob) -> None:
    """Keep the state in PostgreSQL or, with that away, in KV. Raises KvError."""
    document = encode_job(env, job)
    # The state before it may have been kept this very second.
    await write_again_if_refused(lambda: save_state(env, state_name(job.id), document))


async def load_job(env: Env, job_id: str) -> RebuildJob | None:
    """The furthest state kept of a job. Raises KvError when neither store tells."""
    jobs = await load_states(env, state_name(job_id), RebuildJob)
    return max(jobs, key=lambda job: job.sequence, default=None)


async def load_unfinished(env: Env) -> list[str]:
    """The ids of rebuilds that may be unfinished, oldest first. Raises KvError."""
    found = await load_states(env, _UNFINISHED, list[str])
    return list(dict.fromkeys(job_id for ids in found for job_id in ids))


async def save_unfinished(env: Env, job_ids: Sequence[str]) -> None:
    """Keep that list, the MAX_UNFINISHED newest of it. Raises KvError."""
    await save_state(env, _UNFINISHED, msgspec.json.encode(job_ids[-MAX_UNFINISHED:]))
