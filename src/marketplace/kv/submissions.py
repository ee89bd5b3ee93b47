"""Submissions and what became of them.

Every step writes a key of its own (``sub:``, ``scan:``, ``published:``) and changes no other, so
that a state derived from them can only move forward.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from marketplace.kv import access as kv_access
from marketplace.kv.keys import (
    PENDING_PREFIX,
    identity_key,
    parse_pending_key,
    pending_key,
    publication_key,
    scan_key,
    submission_key,
)
from marketplace.ports.env import Env
from marketplace.ports.errors import KvRateLimited
from marketplace.ports.kv import KvKey
from marketplace.skills.stored import InvalidRecord
from marketplace.skills.submission import (
    Publication,
    Scan,
    Submission,
    SubmissionState,
    SubmissionStatus,
    Verdict,
)

_MAX_EMPTY_PAGES: Final = 5


class _Latest(msgspec.Struct, frozen=True, rename="camel"):
    """The value of ``identity:{digest}``."""

    identity: str
    submission_id: str


@dataclass(frozen=True, slots=True)
class PendingSubmission:
    """A submission that was neither published nor rejected.

    ``asked_at``: when its publication was last asked for once more, if ever.
    """

    id: str
    created_at: str
    asked_at: str = ""


async def create_submission(env: Env, submission: Submission) -> None:
    """Keep a new submission, findable by its identity and as pending. Raises KvError.

    The submission itself comes first: cut off later, it is complete but harder to find.
    """
    value = msgspec.json.encode(submission)
    await kv_access.put_value(env, submission_key(submission.id), value)
    await kv_access.put_value(env, pending_key(submission.created_at, submission.id), b"{}")
    latest = msgspec.json.encode(_Latest(submission.identity, submission.id))
    try:
        await kv_access.put_value(env, identity_key(submission.identity), latest)
    except KvRateLimited as error:  # another submission of this identity, a moment ago
        env.log("identity-not-written", level="warning", id=submission.id, reason=str(error))


async def get_submissions(
    env: Env, ids: Sequence[str]
) -> Mapping[str, Submission | InvalidRecord | None]:
    """Submissions by id, one operation for every hundred. Raises KvError."""
    values = await kv_access.read_all_values(env, [submission_key(i) for i in ids])
    return {i: kv_access.decode_record(values[submission_key(i)], Submission) for i in ids}


async def get_submission(env: Env, submission_id: str) -> Submission | InvalidRecord | None:
    """One submission. Raises KvError."""
    return (await get_submissions(env, [submission_id]))[submission_id]


async def get_scans(env: Env, ids: Sequence[str]) -> Mapping[str, Scan | InvalidRecord | None]:
    """Verdicts by submission id, one operation for every hundred. Raises KvError."""
    values = await kv_access.read_all_values(env, [scan_key(i) for i in ids])
    return {i: kv_access.decode_record(values[scan_key(i)], Scan) for i in ids}


async def get_publications(
    env: Env, ids: Sequence[str]
) -> Mapping[str, Publication | InvalidRecord | None]:
    """Publications by submission id, one operation for every hundred. Raises KvError."""
    values = await kv_access.read_all_values(env, [publication_key(i) for i in ids])
    return {i: kv_access.decode_record(values[publication_key(i)], Publication) for i in ids}


async def record_scan(env: Env, submission: Submission, scan: Scan) -> Scan:
    """Keep a verdict; returns the one that stands afterwards.

    A later verdict replaces an earlier one, but none replaces a FAIL: a rejected submission
    stays rejected. Best effort, as KV may read an older state. Raises KvError.
    """
    standing = (await get_scans(env, [submission.id]))[submission.id]
    if isinstance(standing, Scan) and not _supersedes(scan, standing):
        scan = standing
    else:
        await kv_access.put_value(env, scan_key(submission.id), msgspec.json.encode(scan))
    if scan.verdict is Verdict.FAIL:
        await _settle(env, submission)
    return scan


def _supersedes(scan: Scan, standing: Scan) -> bool:
    if standing.verdict is Verdict.FAIL or scan == standing:
        return False
    return scan.scanned_at >= standing.scanned_at


async def record_publication(env: Env, submission: Submission, publication: Publication) -> None:
    """Keep that a submission was published. Idempotent. Raises KvError."""
    value = msgspec.json.encode(publication)
    await kv_access.put_value(env, publication_key(submission.id), value)
    await _settle(env, submission)


async def _settle(env: Env, submission: Submission) -> None:
    """Take the pending mark away: the submission is decided."""
    await unmark_pending(env, submission.created_at, submission.id)


async def unmark_pending(env: Env, created_at: str, submission_id: str) -> None:
    """Note that a submission is decided. Raises KvError."""
    await kv_access.delete_key(env, pending_key(created_at, submission_id))


async def mark_asked(env: Env, pending: PendingSubmission) -> None:
    """Note that a pending submission's publication was asked for once more. Raises KvError."""
    key = pending_key(pending.created_at, pending.id)
    await kv_access.put_value(env, key, b"{}", metadata=env.now())


async def submission_status(env: Env, submission_id: str) -> SubmissionStatus | None:
    """Where a submission stands; None when there is none. One operation.

    A verdict that cannot be read counts as none. Raises KvError; InvalidRecord when the
    submission itself cannot be read.
    """
    keys = [f(submission_id) for f in (submission_key, scan_key, publication_key)]
    values = await kv_access.read_values(env, keys)
    submission = kv_access.decode_record(values[keys[0]], Submission)
    scan = kv_access.decode_record(values[keys[1]], Scan)
    publication = kv_access.decode_record(values[keys[2]], Publication)
    for key, record in zip(keys, (submission, scan, publication), strict=True):
        if isinstance(record, InvalidRecord):
            env.log("submission-malformed", level="warning", key=key, reason=str(record))
    if isinstance(submission, InvalidRecord):
        raise submission
    if submission is None:
        return None
    return _status(submission, scan, publication)


def _status(
    submission: Submission,
    scan: Scan | InvalidRecord | None,
    publication: Publication | InvalidRecord | None,
) -> SubmissionStatus:
    scan = scan if isinstance(scan, Scan) else None
    state = _state(scan, published=publication is not None)
    readable = publication if isinstance(publication, Publication) else None
    rejected = state is SubmissionState.REJECTED
    return SubmissionStatus(
        id=submission.id,
        state=state,
        repo_url=submission.repo_url,
        skill_name=submission.skill_name,
        received_at=submission.created_at,
        scanned_at=scan.scanned_at if scan else None,
        published_at=readable.published_at if readable else None,
        rejected_at=scan.scanned_at if scan and rejected else None,
        slug=readable.slug if readable else None,
        reason=scan.reason if scan and rejected else None,
    )


def _state(scan: Scan | None, *, published: bool) -> SubmissionState:
    if published:  # for good: a verdict that comes later does not take it back
        return SubmissionState.PUBLISHED
    if scan is None:
        return SubmissionState.RECEIVED
    failed = scan.verdict is Verdict.FAIL
    return SubmissionState.REJECTED if failed else SubmissionState.SCANNED


async def find_by_identity(env: Env, identity: str) -> str | None:
    """The id of the latest known submission of a skill. Raises KvError."""
    key = identity_key(identity)
    latest = kv_access.decode_record((await kv_access.read_values(env, [key]))[key], _Latest)
    if isinstance(latest, InvalidRecord):
        env.log("identity-malformed", level="warning", key=key, reason=str(latest))
        return None
    return latest.submission_id if latest and latest.identity == identity else None


async def oldest_pending(env: Env) -> PendingSubmission | None:
    """The submission that has waited longest for a decision. One list call, as a rule.

    Raises KvError.
    """
    pages = kv_access.list_all_keys(env, PENDING_PREFIX, page_budget=_MAX_EMPTY_PAGES)
    async for page in pages:
        for key in page.keys:
            if (pending := _pending(env, key)) is not None:
                return pending
    return None


async def list_pending(env: Env, *, page_budget: int) -> AsyncIterator[list[PendingSubmission]]:
    """Pending submissions, the oldest first, a list page at a time. Raises KvError.

    Keys that tell no moment are left out, with a warning that names them.
    """
    async for page in kv_access.list_all_keys(env, PENDING_PREFIX, page_budget=page_budget):
        found = [_pending(env, key) for key in page.keys]
        yield [pending for pending in found if pending is not None]


def _pending(env: Env, key: KvKey) -> PendingSubmission | None:
    try:
        created_at, submission_id = parse_pending_key(key.name)
    except ValueError as error:
        env.log("pending-malformed", level="warning", key=key.name, reason=str(error))
        return None
    asked_at = key.metadata if isinstance(key.metadata, str) else ""
    return PendingSubmission(submission_id, created_at, asked_at)
