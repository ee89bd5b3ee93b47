"""Submissions and what became of them.

Every step writes a key of its own (``sub:``, ``scan:``, ``published:``), so that a state derived
from them can only move forward. A submission expires (``settings.submission_ttl``). A verdict
tells all that publishing needs, and has a mark (``pending:``) until it is carried out.
All functions raise KvError and nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from marketplace.basics.json_text import Unreadable
from marketplace.kv import access as kv_access
from marketplace.kv.acceptance_log import log_verdict
from marketplace.kv.access import Stored
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
from marketplace.skills.scan import Scan
from marketplace.skills.submission import (
    Publication,
    Submission,
    SubmissionState,
    SubmissionStatus,
)
from marketplace.skills.tiers import Verdict

_MAX_EMPTY_PAGES: Final = 5

T = TypeVar("T")


class _Latest(msgspec.Struct, frozen=True, rename="camel"):
    """The value of ``identity:{digest}``."""

    identity: str
    submission_id: str


@dataclass(frozen=True, slots=True)
class PendingSubmission:
    """A submission that passed its scan and is not known to be published."""

    id: str
    scanned_at: str
    asked_at: str = ""  # when its publication was last asked for once more, if ever

    @property
    def key(self) -> str:
        return pending_key(self.scanned_at, self.id)


@dataclass(frozen=True, slots=True)
class PendingPage:
    submissions: Sequence[PendingSubmission]  # the oldest first
    cursor: str | None  # where the next ones begin


async def create_submission(env: Env, submission: Submission) -> None:
    """Keep a new submission until it expires, findable by its identity."""
    ttl = env.settings.submission_ttl
    value = msgspec.json.encode(submission)
    await kv_access.put_value(env, submission_key(submission.id), value, expiration_ttl=ttl)
    latest = msgspec.json.encode(_Latest(submission.identity, submission.id))
    key = identity_key(submission.identity)
    try:
        await kv_access.put_value(env, key, latest, expiration_ttl=ttl)
    except KvRateLimited as error:  # another submission of this identity, a moment ago
        env.log("identity-not-written", level="warning", id=submission.id, reason=str(error))


async def _read(
    env: Env, ids: Sequence[str], key: Callable[[str], str], kind: type[T]
) -> Mapping[str, Stored[T]]:
    """Records by submission id, one operation for every hundred."""
    values = await kv_access.read_all_values(env, [key(i) for i in ids])
    return {i: kv_access.decode_record(values[key(i)], kind) for i in ids}


async def get_submissions(env: Env, ids: Sequence[str]) -> Mapping[str, Stored[Submission]]:
    return await _read(env, ids, submission_key, Submission)


async def get_submission(env: Env, submission_id: str) -> Stored[Submission]:
    return (await get_submissions(env, [submission_id]))[submission_id]


async def get_scans(env: Env, ids: Sequence[str]) -> Mapping[str, Stored[Scan]]:
    return await _read(env, ids, scan_key, Scan)


async def get_publications(env: Env, ids: Sequence[str]) -> Mapping[str, Stored[Publication]]:
    return await _read(env, ids, publication_key, Publication)


async def record_scan(env: Env, scan: Scan) -> Scan:
    """Keep a verdict; returns the one that stands afterwards.

    Of the verdicts on one submission a later one replaces an earlier one, but none replaces a
    FAIL, which itself counts from the moment of the verdict that it replaces. Best effort, as KV
    may read an older state.

    Three writes, each to a key of its own, and each leaves what a cut off call can be taken up
    from: the log's entry, then the mark, then the verdict. Cut off before the last, `ask_again`
    keeps the verdict from the mark.
    """
    standing = (await get_scans(env, [scan.submission_id]))[scan.submission_id]
    if isinstance(standing, Scan):
        if scan.verdict is Verdict.FAIL:
            moment = max(scan.scanned_at, standing.scanned_at)
            scan = msgspec.structs.replace(scan, scanned_at=moment)
        is_later = scan != standing and scan.scanned_at >= standing.scanned_at
        if standing.verdict is Verdict.FAIL or not is_later:
            return standing
    await log_verdict(env, scan)
    value = msgspec.json.encode(scan)
    await kv_access.put_value(env, pending_key(scan.scanned_at, scan.submission_id), value)
    await kv_access.put_value(env, scan_key(scan.submission_id), value)
    return scan


async def record_publication(env: Env, publication: Publication) -> None:
    """Keep that a submission was published. Idempotent."""
    id_ = publication.submission_id
    await kv_access.put_value(env, publication_key(id_), msgspec.json.encode(publication))
    await unmark_pending(env, PendingSubmission(id_, publication.scanned_at))


async def unmark_pending(env: Env, pending: PendingSubmission) -> None:
    """Note that a submission is published or rejected."""
    await kv_access.delete_key(env, pending.key)


async def mark_asked(env: Env, pending: PendingSubmission, scan: Scan) -> None:
    """Note that a submission's publication was asked for once more."""
    await kv_access.put_value(env, pending.key, msgspec.json.encode(scan), metadata=env.now())


async def keep_marked_scans(
    env: Env, pending: Sequence[PendingSubmission]
) -> Mapping[str, Stored[Scan]]:
    """Keep the verdicts that marks hold, by the keys of the marks."""
    values = await kv_access.read_all_values(env, [submission.key for submission in pending])
    scans = {key: kv_access.decode_record(value, Scan) for key, value in values.items()}
    for scan in scans.values():
        if isinstance(scan, Scan):
            await kv_access.put_value(env, scan_key(scan.submission_id), msgspec.json.encode(scan))
    return scans


async def submission_status(env: Env, submission_id: str) -> Stored[SubmissionStatus]:
    """Where a submission stands. One operation. A verdict that cannot be read counts as none."""
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
    verdict = scan if isinstance(scan, Scan) else None
    state = _state(verdict, published=publication is not None)
    readable = publication if isinstance(publication, Publication) else None
    rejection = verdict if state is SubmissionState.REJECTED else None
    return SubmissionStatus(
        id=submission.id,
        state=state,
        repo_url=submission.repo_url,
        skill_name=submission.skill_name,
        received_at=submission.created_at,
        scanned_at=verdict.scanned_at if verdict else None,
        published_at=readable.published_at if readable else None,
        rejected_at=rejection.scanned_at if rejection else None,
        slug=readable.slug if readable else None,
        verdict=verdict.verdict if verdict else None,
        reason=rejection.reason if rejection else None,
    )


def _state(scan: Scan | None, *, published: bool) -> SubmissionState:
    if published:  # for good: a verdict that comes later does not take it back
        return SubmissionState.PUBLISHED
    if scan is None:
        return SubmissionState.RECEIVED
    passed = scan.verdict is Verdict.PASS
    return SubmissionState.SCANNED if passed else SubmissionState.REJECTED


async def find_by_identity(env: Env, identity: str) -> str | None:
    """The id of the latest known submission of a skill."""
    key = identity_key(identity)
    latest = kv_access.decode_record((await kv_access.read_values(env, [key]))[key], _Latest)
    if isinstance(latest, Unreadable):
        env.log("identity-malformed", level="warning", key=key, reason=str(latest))
        return None
    return latest.submission_id if latest and latest.identity == identity else None


async def oldest_pending(env: Env) -> PendingSubmission | None:
    """The submission that has waited longest. One list call, as a rule."""
    async for page in kv_access.list_all_keys(env, PENDING_PREFIX, page_budget=_MAX_EMPTY_PAGES):
        for key in page.keys:
            if (pending := _pending(env, key)) is not None:
                return pending
    return None


async def list_pending(env: Env, *, cursor: str | None = None) -> PendingPage:
    """Up to KV_BULK_GET_LIMIT submissions that wait to be published.

    Keys that tell no moment are left out, with a warning that names them.
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
