"""Submissions and what became of them.

Every step writes a key of its own (``sub:``, ``scan:``, ``published:``), so that a state derived
from them can only move forward. A submission expires (``settings.submission_ttl``) unless it
passes its scan; from then on it is kept, and has a mark (``pending:``) until it is published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from marketplace.basics.json_text import Unreadable
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
from marketplace.ports.kv import KV_BULK_GET_LIMIT, KvKey
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
    """A submission that passed its scan and is not known to be published.

    ``scanned_at``: of the verdict. ``asked_at``: when its publication was last asked for once
    more, if ever.
    """

    id: str
    scanned_at: str
    asked_at: str = ""

    @property
    def key(self) -> str:
        """Of the mark in KV."""
        return pending_key(self.scanned_at, self.id)


@dataclass(frozen=True, slots=True)
class PendingPage:
    """Some of them, the oldest first. ``cursor``: where the next ones begin, None at the end."""

    submissions: Sequence[PendingSubmission]
    cursor: str | None


async def create_submission(env: Env, submission: Submission) -> None:
    """Keep a new submission until it expires, findable by its identity. Raises KvError.

    The submission itself comes first: cut off later, it is complete but harder to find.
    """
    ttl = env.settings.submission_ttl
    value = msgspec.json.encode(submission)
    await kv_access.put_value(env, submission_key(submission.id), value, expiration_ttl=ttl)
    latest = msgspec.json.encode(_Latest(submission.identity, submission.id))
    key = identity_key(submission.identity)
    try:
        await kv_access.put_value(env, key, latest, expiration_ttl=ttl)
    except KvRateLimited as error:  # another submission of this identity, a moment ago
        env.log("identity-not-written", level="warning", id=submission.id, reason=str(error))


async def get_submissions(
    env: Env, ids: Sequence[str]
) -> Mapping[str, kv_access.Stored[Submission]]:
    """Submissions by id, one operation for every hundred. Raises KvError."""
    values = await kv_access.read_all_values(env, [submission_key(i) for i in ids])
    return {i: kv_access.decode_record(values[submission_key(i)], Submission) for i in ids}


async def get_submission(env: Env, submission_id: str) -> kv_access.Stored[Submission]:
    """One submission. Raises KvError."""
    return (await get_submissions(env, [submission_id]))[submission_id]


async def get_scans(env: Env, ids: Sequence[str]) -> Mapping[str, kv_access.Stored[Scan]]:
    """Verdicts by submission id, one operation for every hundred. Raises KvError."""
    values = await kv_access.read_all_values(env, [scan_key(i) for i in ids])
    return {i: kv_access.decode_record(values[scan_key(i)], Scan) for i in ids}


async def get_publications(
    env: Env, ids: Sequence[str]
) -> Mapping[str, kv_access.Stored[Publication]]:
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
        return standing
    if scan.verdict is Verdict.FAIL:
        await _keep_rejection(env, scan, standing)
    else:
        await _keep_pass(env, submission, scan, standing)
    return scan


async def _keep_pass(
    env: Env, submission: Submission, scan: Scan, standing: kv_access.Stored[Scan]
) -> None:
    """Three writes, each to a key of its own and each leaving what a cut off call can be taken up
    from.

    First the submission stops expiring: whoever finds the mark must find it, however long
    publishing takes. It is written once, so a stale read of it is no older state. Then the mark,
    which holds the verdict; then the verdict. Cut off between the two, `ask_again` keeps the
    verdict from the mark. A verdict kept first, without mark and message, would be looked at by
    nobody.
    """
    if not isinstance(standing, Scan):  # else an earlier verdict has done it
        key, value = submission_key(submission.id), msgspec.json.encode(submission)
        await kv_access.write_again_if_refused(lambda: kv_access.put_value(env, key, value))
    value = msgspec.json.encode(scan)
    await kv_access.put_value(env, pending_key(scan.scanned_at, scan.submission_id), value)
    await kv_access.put_value(env, scan_key(scan.submission_id), value)


async def _keep_rejection(env: Env, scan: Scan, standing: kv_access.Stored[Scan]) -> None:
    """The verdict expires with its submission, unless that passed before and is kept."""
    ttl = env.settings.submission_ttl if standing is None else None
    value = msgspec.json.encode(scan)
    await kv_access.put_value(env, scan_key(scan.submission_id), value, expiration_ttl=ttl)
    if isinstance(standing, Scan):
        await unmark_pending(env, PendingSubmission(scan.submission_id, standing.scanned_at))


def _supersedes(scan: Scan, standing: Scan) -> bool:
    if standing.verdict is Verdict.FAIL or scan == standing:
        return False
    return scan.scanned_at >= standing.scanned_at


async def record_publication(env: Env, publication: Publication) -> None:
    """Keep that a submission was published. Idempotent. Raises KvError."""
    submission_id = publication.submission_id
    value = msgspec.json.encode(publication)
    await kv_access.put_value(env, publication_key(submission_id), value)
    await unmark_pending(env, PendingSubmission(submission_id, publication.scanned_at))


async def unmark_pending(env: Env, pending: PendingSubmission) -> None:
    """Note that a submission is published or rejected. Raises KvError."""
    await kv_access.delete_key(env, pending.key)


async def mark_asked(env: Env, pending: PendingSubmission, scan: Scan) -> None:
    """Note that a submission's publication was asked for once more. Raises KvError."""
    value = msgspec.json.encode(scan)
    await kv_access.put_value(env, pending.key, value, metadata=env.now())


async def keep_marked_scans(
    env: Env, pending: Sequence[PendingSubmission]
) -> Mapping[str, kv_access.Stored[Scan]]:
    """Keep the verdicts that marks hold, by the keys of the marks. Raises KvError."""
    values = await kv_access.read_all_values(env, [submission.key for submission in pending])
    scans = {key: kv_access.decode_record(value, Scan) for key, value in values.items()}
    for scan in scans.values():
        if isinstance(scan, Scan):
            await kv_access.put_value(env, scan_key(scan.submission_id), msgspec.json.encode(scan))
    return scans


async def submission_status(env: Env, submission_id: str) -> kv_access.Stored[SubmissionStatus]:
    """Where a submission stands. One operation.

    A verdict that cannot be read counts as none. Raises KvError.
    """
    keys = [f(submission_id) for f in (submission_key, scan_key, publication_key)]
    values = await kv_access.read_values(env, keys)
    submission = kv_access.decode_record(values[keys[0]], Submission)
    scan = kv_access.decode_record(values[keys[1]], Scan)
    publication = kv_access.decode_record(values[keys[2]], Publication)
    for key, record in zip(keys, (submission, scan, publication), strict=True):
        if isinstance(record, Unreadable):
            env.log("submission-malformed", level="warning", key=key, reason=str(record))
    if not isinstance(submission, Submission):
        return submission
    return _status(submission, scan, publication)


def _status(
    submission: Submission,
    scan: kv_access.Stored[Scan],
    publication: kv_access.Stored[Publication],
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
    if isinstance(latest, Unreadable):
        env.log("identity-malformed", level="warning", key=key, reason=str(latest))
        return None
    return latest.submission_id if latest and latest.identity == identity else None


async def oldest_pending(env: Env) -> PendingSubmission | None:
    """The submission that has waited longest to be published. One list call, as a rule.

    Raises KvError.
    """
    pages = kv_access.list_all_keys(env, PENDING_PREFIX, page_budget=_MAX_EMPTY_PAGES)
    async for page in pages:
        for key in page.keys:
            if (pending := _pending(env, key)) is not None:
                return pending
    return None


async def list_pending(env: Env, *, cursor: str | None = None) -> PendingPage:
    """A page of the submissions that wait to be published, no more than one bulk get reads.

    Keys that tell no moment are left out, with a warning that names them. Raises KvError.
    """
    page = await kv_access.list_page(env, PENDING_PREFIX, cursor=cursor, limit=KV_BULK_GET_LIMIT)
    found = [_pending(env, key) for key in page.keys]
    return PendingPage([pending for pending in found if pending is not None], page.cursor)


def _pending(env: Env, key: KvKey) -> PendingSubmission | None:
    try:
        scanned_at, submission_id = parse_pending_key(key.name)
    except ValueError as error:
        env.log("pending-malformed", level="warning", key=key.name, reason=str(error))
        return None
    asked_at = key.metadata if isinstance(key.metadata, str) else ""
    return PendingSubmission(submission_id, scanned_at, asked_at)
