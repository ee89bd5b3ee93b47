"""What scanners are asked to read, and its hand-out under leases.

The list is in PostgreSQL. A submission that it cannot take gets a mark in KV, by which the light
repair finds it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from marketplace.basics.concurrency import map_bounded
from marketplace.basics.timestamps import seconds_since, shifted
from marketplace.kv import submissions as kv_submissions
from marketplace.kv.access import Stored
from marketplace.kv.unqueued import Unqueued, list_unqueued, mark_unqueued, unmark_unqueued
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, KvError
from marketplace.ports.scan_request import ScanReason, ScanRequest, WantedScan
from marketplace.skills.scan import GONE_SECONDS, READ_AGAIN_SECONDS, Scan
from marketplace.skills.submission import Submission, new_submission_id

MAX_HANDED_OUT: Final = 100  # in one call, of which each may cost a write to KV
LEASE_SECONDS: Final = 900.0
RESCAN_SECONDS: Final = 3600.0  # between two rescans of an identity that somebody asks for
COUNTED_SECONDS: Final = 86_400.0
"""How long hand-outs and results by the hour are kept at least."""

_PAUSES: Final = (0.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0, 57_600.0, 86_400.0)
"""Seconds between the end of a lease without a result and the next hand-out, the last for ever:
what can never be scanned takes little of the scanners' time."""
_MAX_QUEUED: Final = 100  # marks that one call of `queue_marked` removes
_MARK_SECONDS: Final = 900.0  # after which a mark without a submission is out of date
_MAX_FORGOTTEN: Final = 1000


@dataclass(frozen=True, slots=True)
class HandedOut:
    """A request that is a scanner's until ``lease_expires_at``."""

    request: ScanRequest
    lease_expires_at: str


async def ask_for_scan(
    env: Env, submission: Submission, *, at: str | None = None
) -> ScanRequest | None:
    """Put a submission on the list; what stands there of its identity, perhaps an earlier request.

    ``at`` is when it was asked for, unless that was with the submission. None: PostgreSQL is away,
    and a mark in KV tells that the list lacks it. Raises KvError when that cannot be written.
    """
    now = env.now()
    try:
        standing = await (await get_db(env)).ask_for_scans(
            [WantedScan(submission, at or submission.created_at)],
            expired=_expired(env, now),
            asked_since=shifted(now, -RESCAN_SECONDS),
        )
    except DatabaseError as error:
        env.log("scan-not-queued", level=error.level, id=submission.id, reason=error.reason)
        await mark_unqueued(env, submission.id, submission.created_at)
        return None
    return standing.get(submission.identity)


async def queue_marked(env: Env) -> int:
    """Put submissions on the list that PostgreSQL could not take; how many marks were removed.

    A mark without a submission is removed after _MARK_SECONDS, one with a damaged submission at
    once, so that none is in the way of those behind it. Raises DatabaseError, KvError.
    """
    removed = 0
    async for marks in list_unqueued(env):
        submissions = await kv_submissions.get_submissions(env, [mark.id for mark in marks])
        wanted: dict[str, WantedScan] = {}
        done: list[Unqueued] = []
        for mark in marks:
            submission = submissions[mark.id]
            identity = _identity(submission, mark)
            if identity is not None and isinstance(submission, Submission):
                wanted.setdefault(identity, WantedScan(submission, mark.created_at))
            elif submission is None and not _is_old(env, mark):
                continue  # it is being taken at this moment
            else:
                reason = "gone" if submission is None else "damaged"
                env.log("unqueued-without-submission", level="error", key=mark.key, reason=reason)
            done.append(mark)
        if wanted:
            now = env.now()
            # What was taken in an outage counts, how short after another one it may be.
            await (await get_db(env)).ask_for_scans(
                list(wanted.values()), expired=_expired(env, now), asked_since=now
            )
        for mark in done:
            await unmark_unqueued(env, mark)
        removed += len(done)
        if removed >= _MAX_QUEUED:
            break
    return removed


def _identity(submission: Stored[Submission], mark: Unqueued) -> str | None:
    """None where the submission is missing, or is none that PostgreSQL would take."""
    if not isinstance(submission, Submission):
        return None
    if (submission.id, submission.created_at) != (mark.id, mark.created_at):
        return None
    try:
        return submission.identity
    except ValueError:
        return None


def _is_old(env: Env, mark: Unqueued) -> bool:
    return seconds_since(mark.created_at, env.now()) >= _MARK_SECONDS


async def hand_out(env: Env, limit: int) -> Sequence[HandedOut]:
    """Up to ``limit`` requests, each the caller's alone for LEASE_SECONDS.

    Those that were asked for come first, see `SkillDatabase.hand_out_scans`, then listed skills
    that were not read for READ_AGAIN_SECONDS; for these, submissions are made. Raises
    DatabaseError, and KvError where no submission can be read; the leases then run out.
    """
    database, now = await get_db(env), env.now()
    lease_expires_at = shifted(now, LEASE_SECONDS)
    requests = await database.hand_out_scans(
        limit=limit,
        now=now,
        free_at=[shifted(lease_expires_at, pause) for pause in _PAUSES],
        expired=_expired(env, now),
    )
    if len(requests) < limit:
        due = await database.hand_out_due_scans(
            [new_submission_id() for _ in range(limit - len(requests))],
            now=now,
            free_at=lease_expires_at,
            read_before=shifted(now, -READ_AGAIN_SECONDS),
        )
        requests = [*requests, *due]
    submitted = await _with_submissions(env, requests)
    return [HandedOut(request, lease_expires_at) for request in submitted]


async def _with_submissions(env: Env, requests: Sequence[ScanRequest]) -> list[ScanRequest]:
    """Those whose submission is in KV as far as is known, so that a result finds it.

    Keys that were written a moment ago, or are written here, are not read before: KV would
    remember for a minute that they were missing. From the second hand-out on, a submission that
    is missing is written again, and what has its verdict already is closed.
    """
    again = [request.submission_id for request in requests if request.attempts > 1]
    submissions = await kv_submissions.get_submissions(env, again)
    scans = await kv_submissions.get_scans(env, again)
    answered = {id_ for id_, scan in scans.items() if isinstance(scan, Scan)}
    await note_results(env, sorted(answered))
    waiting = [request for request in requests if request.submission_id not in answered]
    missing = [request for request in waiting if _is_missing(request, submissions)]
    written = await map_bounded(missing, lambda request: _write(env, request))
    lost = {r.submission_id for r, done in zip(missing, written, strict=True) if not done}
    return [request for request in waiting if request.submission_id not in lost]


def _is_missing(request: ScanRequest, submissions: Mapping[str, Stored[Submission]]) -> bool:
    if request.submission_id in submissions:
        return not isinstance(submissions[request.submission_id], Submission)
    return request.reason is ScanReason.DUE


async def _write(env: Env, request: ScanRequest) -> bool:
    """Keep the submission of a request; whether KV took it."""
    try:
        await kv_submissions.keep_submission(env, request.submission)
    except KvError as error:
        id_ = request.submission_id
        env.log("scan-without-submission", level="warning", id=id_, reason=error.reason)
        return False
    return True


async def note_results(env: Env, answered: Sequence[str], *, noted: Sequence[str] = ()) -> None:
    """Close the requests of submissions that have their verdict.

    Those ``noted`` have one that counts only if a scan after GONE_SECONDS finds the same, and are
    handed out again then. Never raises because of PostgreSQL: a request that stays open is handed
    out once more, and `hand_out` closes it.
    """
    if not answered and not noted:
        return
    now = env.now()
    try:
        await (await get_db(env)).answer_scans(
            answered,
            again=[id_ for id_ in noted if id_ not in answered],
            again_at=shifted(now, GONE_SECONDS),
            now=now,
        )
    except DatabaseError as error:
        ids = [*answered, *noted]
        env.log("scan-results-not-noted", level=error.level, ids=ids, reason=error.reason)


async def forget_old(env: Env) -> int:
    """Delete requests that are as old as a submission gets, answered or not, and old counts; how
    many requests. Raises DatabaseError."""
    now = env.now()
    return await (await get_db(env)).forget_scans(
        asked_before=_expired(env, now),
        hours_before=shifted(now, -2 * COUNTED_SECONDS),
        limit=_MAX_FORGOTTEN,
    )


def _expired(env: Env, now: str) -> str:
    return shifted(now, -env.settings.submission_ttl)
