"""Requests to be listed, and the verdicts of scanners on them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from marketplace.basics.concurrency import map_bounded
from marketplace.basics.json_text import Unreadable
from marketplace.basics.timestamps import seconds_since
from marketplace.catalog.lookup import find_by_identity
from marketplace.catalog.source_chain import Reading
from marketplace.kv import state as kv_state
from marketplace.kv import submissions as kv_submissions
from marketplace.kv.acceptance_log import log_verdict, read_rules, read_verdicts
from marketplace.kv.access import Stored
from marketplace.kv.submissions import PendingSubmission
from marketplace.operations.dead_letters import mark_sent_again, moment_of_sending
from marketplace.operations.reports import read_state
from marketplace.ports.env import Env, get_db, send_messages
from marketplace.ports.errors import DatabaseError, KvError, QueueError
from marketplace.ports.scan_request import ScanRequest
from marketplace.publishing.messages import PUBLISH_QUEUE, publish_message
from marketplace.publishing.scan_requests import ask_for_scan, note_results
from marketplace.skills.acts import lifted_by
from marketplace.skills.rules import targets_of
from marketplace.skills.scan import Refusal, Scan, ScanReport, refusal_of, that_count
from marketplace.skills.skill import Skill, Status
from marketplace.skills.slugs import repository_name, slugify
from marketplace.skills.submission import (
    OtherName,
    Publication,
    Submission,
    SubmissionState,
    SubmissionStatus,
)
from marketplace.skills.tiers import Verdict
from marketplace.skills.versions import version_order

_UNDER_WAY: Final = (SubmissionState.RECEIVED, SubmissionState.SCANNED)
MAX_RESULTS_A_CALL: Final = 100  # keeps one call well inside 1,000 KV operations
NAMING_VERDICTS: Final = 50  # of a skill, that are looked at for its name
MAX_SUBMISSIONS_TOLD: Final = 20  # of one skill, the last ones
MAX_PENDING_PAGES: Final = 25  # of a hundred marks, that one call of `ask_again` reads
MAX_PENDING_WRITES: Final = 100  # after which that call ends
MAX_LOST_PAGES: Final = 200  # as MAX_PENDING_PAGES, where queues began anew: three reads each
STUCK_SECONDS: Final = 900.0  # longer than any ordinary retries take
ASK_AGAIN_SECONDS: Final = 3600.0  # at first; then twice as long each time
LONGEST_PAUSE_SECONDS: Final = 86_400.0
_PLACE: Final = "ask-again"
_ALREADY_REJECTED: Final = "already-rejected"
_FOR_GOOD: Final = (Refusal.OTHER_PATH, _ALREADY_REJECTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a submitter is told: the submission to follow, and whether it is an earlier one."""

    id: str | None
    state: SubmissionState
    slug: str | None = None
    duplicate: bool = False
    already_verified: bool = False
    blocked: bool = False  # by a rule, or as a skill; it is not looked at


@dataclass(frozen=True, slots=True)
class RefusedResult:
    submission_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Noted:
    """A verdict that is kept in the log and changes nothing, unless another confirms it."""

    submission_id: str


@dataclass(frozen=True, slots=True)
class ResultsReceipt:
    """What became of each scan result of a call; ``accepted`` are submissions."""

    accepted: Sequence[str]
    rejected: Sequence[RefusedResult]


async def submit(env: Env, submission: Submission, *, rescan: bool = False) -> Receipt:
    """Take a request to look at a skill, unless it is waiting or listed already.

    What a rule forbids, or an operator has blocked, is not taken. A submission of the same
    identity that is under way answers as a duplicate of the earlier one.
    A skill that is listed and passed its newest scan is verified already, unless ``rescan`` or a
    newer version asks for another scan; of a skill there is one in RESCAN_SECONDS. Another try
    after a rejection is a new submission. Raises KvError, and OtherName where the listed skill is
    called something else.
    """
    if await _is_forbidden(env, submission):
        return Receipt(id=None, state=SubmissionState.REJECTED, blocked=True)
    earlier = await _earlier_submission(env, submission.identity)
    if earlier is not None and earlier.state in _UNDER_WAY:
        await _ask_once_more(env, earlier)
        return Receipt(id=earlier.id, state=earlier.state, duplicate=True)
    listed = await find_by_identity(env, submission.repo_url, submission.base_slug)
    if listed is not None and listed.value.status is Status.BLOCKED:
        return Receipt(id=None, state=SubmissionState.REJECTED, blocked=True)
    if listed is not None and listed.value.status is Status.LISTED:
        await _require_its_name(env, submission, listed.value)
    verified: Receipt | None = None
    if listed is not None and _stands(listed.value):
        verified = Receipt(
            id=earlier.id if earlier else None,
            state=SubmissionState.PUBLISHED,
            slug=listed.value.name,
            already_verified=True,
        )
        if not rescan and not _is_newer(submission, listed.value):
            return verified
    # The list comes first: cut off in between, it has all that is needed to keep the submission.
    standing = await ask_for_scan(env, submission)
    if standing is None or standing.submission_id == submission.id:
        await kv_submissions.create_submission(env, submission)
        return Receipt(id=submission.id, state=SubmissionState.RECEIVED)
    if standing.answered_at is not None and verified is not None:
        return verified
    return await _in_its_place(env, standing)


async def _require_its_name(env: Env, submission: Submission, listed: Skill) -> None:
    """Refuse a name that only the slug rule makes equal to the listed skill's. Raises OtherName,
    KvError.

    The name is what the newest scan of the listed folder has read there, or its display name, in
    any letter case. Nothing is refused where no scan tells, where the submission points at that
    very folder, or where it has the repository's name, which stands for none.
    """
    submitted = submission.skill_name.casefold()
    if submission.skill_path and submission.skill_path == listed.skill_path:
        return
    if submitted == repository_name(submission.repo_url).casefold():
        return
    for scan in reversed(await read_verdicts(env, submission.identity, newest=NAMING_VERDICTS)):
        facts = scan.skill if scan.verdict is Verdict.PASS else None
        if facts is not None and scan.path in (None, listed.skill_path):
            names = {facts.name.casefold(), (facts.display_name or facts.name).casefold()}
            if submitted not in names:
                raise OtherName(submission.skill_name, name=facts.name, slug=listed.name)
            return


async def _in_its_place(env: Env, standing: ScanRequest) -> Receipt:
    """The earlier submission that is waiting, or was answered a short time ago."""
    state = SubmissionState.RECEIVED
    if standing.answered_at is not None:
        status = await get_submission_status(env, standing.submission_id)
        state = status.state if isinstance(status, SubmissionStatus) else SubmissionState.SCANNED
    return Receipt(id=standing.submission_id, state=state, duplicate=True)


async def _ask_once_more(env: Env, earlier: SubmissionStatus) -> None:
    """Let scanners have a submission without a verdict, if their list has lost it."""
    if earlier.state is not SubmissionState.RECEIVED:
        return
    submission = await kv_submissions.get_submission(env, earlier.id)
    if isinstance(submission, Submission):
        await ask_for_scan(env, submission, at=env.now())


async def _is_forbidden(env: Env, submission: Submission) -> bool:
    """Whether a rule in force matches, and no operator has made an exception of the skill.

    PostgreSQL tells or, with that away, the log. Raises KvError.
    """
    targets = targets_of(submission.identity)
    try:
        rules = await Reading(env).from_database(lambda db: db.find_rules(targets, []))
    except DatabaseError:  # noted by the reading
        rules = [r for r in await read_rules(env, targets) if r.lifted_at is None]
    if not rules:
        return False
    listed = await find_by_identity(env, submission.repo_url, submission.base_slug)
    acts = () if listed is None else listed.value.acts
    excepted = {act.rule for act in acts if act.id in lifted_by(acts)}
    return any(rule.id not in excepted for rule in rules)


def _stands(listed: Skill) -> bool:
    """Whether the newest scan passed, and the listing shows it."""
    return listed.status is Status.LISTED and listed.verdict is Verdict.PASS


def _is_newer(submission: Submission, listed: Skill) -> bool:
    return version_order(submission.version) > version_order(listed.current_version)


async def get_submission_status(env: Env, submission_id: str) -> Stored[SubmissionStatus]:
    """Where a submission stands; None for an unknown id.

    What KV could not note while it was away is told by the listing itself. Raises KvError.
    """
    status = await kv_submissions.submission_status(env, submission_id)
    if not isinstance(status, SubmissionStatus) or status.state is not SubmissionState.SCANNED:
        return status
    listed = await find_by_identity(env, status.repo_url, slugify(status.skill_name))
    if listed is None or (listed.value.certified_at or "") < (status.scanned_at or ""):
        return status
    return msgspec.structs.replace(
        status,
        state=SubmissionState.PUBLISHED,
        slug=listed.value.name,
        published_at=listed.value.updated_at,
    )


async def submissions_on(env: Env, identity: str, ids: Sequence[str]) -> list[SubmissionStatus]:
    """What is known of a skill's submissions: of its last one and of those named. Raises
    KvError."""
    latest = await kv_submissions.find_by_identity(env, identity)
    wanted = list(dict.fromkeys([*ids, *([latest] if latest else [])]))[-MAX_SUBMISSIONS_TOLD:]
    found = [await kv_submissions.submission_status(env, id_) for id_ in wanted]
    return [status for status in found if isinstance(status, SubmissionStatus)]


async def record_scan_results(env: Env, results: Sequence[ScanReport]) -> ResultsReceipt:
    """Keep verdicts and enqueue them. Each is accepted or refused for itself.

    A verdict is kept before its message is sent: cut off in between, the submission keeps its mark
    and the light repair sends the message. Raises KvError when no submission can be read.
    """
    ids = sorted({result.submission_id for result in results})
    submissions = await kv_submissions.get_submissions(env, ids)
    told = [_scan(env, submissions[result.submission_id], result) for result in results]
    rows = await _rows(env, [scan for scan in told if isinstance(scan, Scan)])
    kept = await map_bounded(told, lambda scan: _keep(env, scan, rows))
    standing = {scan.submission_id: scan for scan in kept if isinstance(scan, Scan)}
    sent = await _enqueue(env, _messages(standing.values()))
    noted = [result.submission_id for result in kept if isinstance(result, _Noted)]
    refused = [result for result in kept if isinstance(result, RefusedResult)]
    # The queue may be asked again; a verdict that is kept needs no other scan.
    await note_results(env, [*standing, *_settled(refused)], noted=noted)
    if not sent:
        refused += [RefusedResult(submission_id, "queue-unavailable") for submission_id in standing]
    accepted = [*(standing if sent else ()), *noted]
    return ResultsReceipt(accepted=accepted, rejected=refused)


def _settled(refused: Iterable[RefusedResult]) -> list[str]:
    """Of refused results the submissions that no other scan would make anything of."""
    return [result.submission_id for result in refused if result.reason in _FOR_GOOD]


def _scan(env: Env, submission: Stored[Submission], result: ScanReport) -> Scan | RefusedResult:
    if submission is None:
        return RefusedResult(result.submission_id, "unknown-submission")
    if isinstance(submission, Unreadable):
        return RefusedResult(result.submission_id, "invalid-record")
    return result.on(submission, env.now())


async def _rows(env: Env, scans: Sequence[Scan]) -> Mapping[str, Skill]:
    """The rows of the skills that were scanned. With PostgreSQL away the consumer looks at what
    is listed."""
    try:
        return await (await get_db(env)).get_skills(sorted({scan.identity for scan in scans}))
    except DatabaseError as error:
        env.log("rows-not-checked", level=error.level, reason=error.reason)
        return {}


async def _keep(
    env: Env, scan: Scan | RefusedResult, rows: Mapping[str, Skill]
) -> Scan | RefusedResult | _Noted:
    """The verdict that stands afterwards, which may be an earlier one."""
    if isinstance(scan, RefusedResult):
        return scan
    id_, row = scan.submission_id, rows.get(scan.identity)
    if row is not None and refusal_of(row, scan) is Refusal.OTHER_PATH:
        return RefusedResult(id_, Refusal.OTHER_PATH)
    try:
        if scan.verdict is Verdict.GONE and not await _is_confirmed(env, scan):
            await log_verdict(env, scan)
            return _Noted(id_)
        standing = await kv_submissions.record_scan(env, scan)
    except KvError as error:
        env.log("verdict-not-kept", level="warning", id=id_, reason=error.reason)
        return RefusedResult(id_, f"storage-{error.reason}")
    if standing.verdict is not scan.verdict:
        return RefusedResult(id_, _ALREADY_REJECTED)
    return standing


async def _is_confirmed(env: Env, gone: Scan) -> bool:
    """Whether an earlier scan, long enough before, has not found the repository either."""
    logged = await read_verdicts(env, gone.identity)
    earlier = [scan for scan in logged if scan.scanned_at < gone.scanned_at]
    return gone in that_count([*earlier, gone])


def _messages(scans: Iterable[Scan]) -> list[Mapping[str, Any]]:
    return [publish_message(scan.submission_id, scan.scanned_at) for scan in scans]


async def _enqueue(env: Env, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Ask for publications; whether the queue took all messages. It takes all or none."""
    try:
        if messages:
            await send_messages(env, env.publish_queue, messages)
    except QueueError as error:
        env.log("nothing-enqueued", level="error", reason=error.reason)
        return False
    return True


class _Place(msgspec.Struct, frozen=True):
    cursor: str | None = None  # where the next call of `ask_again` begins; None: at the oldest mark
    queues_began_at: str = ""  # all verdicts from before that are asked for


async def ask_again(env: Env) -> int:
    """Ask once more for submissions that passed a while ago and are not published; how many.

    Its message was lost between keeping the verdict and the queue, or ended as a dead letter; that
    letter is closed, as by a redrive. Each is asked for after STUCK_SECONDS and then at growing
    intervals, at least once a day. One call reads MAX_PENDING_PAGES; the next goes on
    where it stopped, and begins again at the end, so that no number of submissions hides those
    behind them. The place is kept in KV: a stale read of it costs a round and hides nothing.
    The first call after ``settings.queues_began_at`` asks for all from before that. Raises KvError.
    """
    document = await kv_state.load_state(env, _PLACE)
    place = read_state(env, _PLACE, document, _Place) or _Place()
    if env.settings.queues_began_at > place.queues_began_at:
        return await _ask_for_lost(env, place)
    cursor, asked, writes = place.cursor, 0, 0
    try:
        for _ in range(MAX_PENDING_PAGES):
            page = await kv_submissions.list_pending(env, cursor=cursor)
            old = [p for p in page.submissions if _is_older(env, p.scanned_at, STUCK_SECONDS)]
            found, unmarked = await _find_undecided(env, old)
            stuck = [each for each in found if _is_stuck(env, *each)]
            if stuck and not await _send_again(env, (scan for _, scan in stuck)):
                break
            for submission, scan in stuck:
                await kv_submissions.mark_asked(env, submission, scan)
            asked += len(stuck)
            writes += len(stuck) + unmarked
            # What follows a young submission is younger still.
            cursor = page.cursor if len(old) == len(page.submissions) else None
            if cursor is None or writes >= MAX_PENDING_WRITES:
                break
    except KvError:
        # Where nothing was read, the place itself may be what KV does not take any more.
        await _save_place(env, place, None if cursor == place.cursor else cursor)
        raise
    await _save_place(env, place, cursor)
    return asked


async def _ask_for_lost(env: Env, place: _Place) -> int:
    """Ask for all that was in queues which have lost it: they began anew. Raises KvError.

    No mark is written. What is lost once more is asked for like what is stuck.
    """
    cursor, asked, began_at = None, 0, env.settings.queues_began_at
    for _ in range(MAX_LOST_PAGES):
        page = await kv_submissions.list_pending(env, cursor=cursor)
        before = [p for p in page.submissions if p.scanned_at < began_at]
        lost, _ = await _find_undecided(env, before)
        if lost and not await _send_again(env, (scan for _, scan in lost)):
            return asked  # the next call begins anew
        asked += len(lost)
        cursor = page.cursor if len(before) == len(page.submissions) else None
        if cursor is None:
            break
    await _save_place(env, place, cursor, began_at)
    return asked


async def _save_place(
    env: Env, before: _Place, cursor: str | None, queues_began_at: str | None = None
) -> None:
    place = _Place(cursor, queues_began_at or before.queues_began_at)
    if place != before:
        await kv_state.save_state(env, _PLACE, msgspec.json.encode(place))


async def _find_undecided(
    env: Env, pending: Sequence[PendingSubmission]
) -> tuple[list[tuple[PendingSubmission, Scan]], int]:
    """Those that are not carried out, with their verdicts, and how many marks were out of date and
    have been taken away."""
    verdicts = await _verdicts(env, pending)
    published = await kv_submissions.get_publications(env, [p.id for p in pending])
    undecided, unmarked = [], 0
    for submission in pending:
        scan = verdicts.get(submission.key)
        if scan is None or _is_decided(submission, scan, published[submission.id]):
            await kv_submissions.unmark_pending(env, submission)
            unmarked += 1
        else:
            undecided.append((submission, scan))
    return undecided, unmarked


async def _send_again(env: Env, scans: Iterable[Scan]) -> bool:
    """Send the messages of verdicts once more; whether the queue took them."""
    began, messages = moment_of_sending(env), _messages(scans)
    if not await _enqueue(env, messages):
        return False
    await mark_sent_again(env, PUBLISH_QUEUE, messages, at=began)
    return True


async def _verdicts(env: Env, pending: Sequence[PendingSubmission]) -> Mapping[str, Scan]:
    """The verdict for each mark, by its key. Where a call was cut off before it kept one, that of
    the mark is kept now; none is left where that cannot be read either."""
    kept = await kv_submissions.get_scans(env, [p.id for p in pending])
    verdicts = {
        submission.key: scan
        for submission in pending
        if isinstance(scan := kept[submission.id], Scan)
        and scan.scanned_at >= submission.scanned_at
    }
    missing = [submission for submission in pending if submission.key not in verdicts]
    for key, scan in (await kv_submissions.keep_marked_scans(env, missing)).items():
        if isinstance(scan, Scan):
            verdicts[key] = scan
        else:
            env.log("pending-without-verdict", level="error", key=key, reason=str(scan))
    return verdicts


def _is_decided(pending: PendingSubmission, scan: Scan, published: Stored[Publication]) -> bool:
    if scan.scanned_at > pending.scanned_at:
        return True  # a later verdict, which has a mark of its own
    return isinstance(published, Publication) and published.scanned_at >= scan.scanned_at


def _is_stuck(env: Env, pending: PendingSubmission, scan: Scan) -> bool:
    if not pending.asked_at:
        return _is_older(env, scan.scanned_at, STUCK_SECONDS)
    waited = seconds_since(scan.scanned_at, pending.asked_at)
    pause = min(max(waited, ASK_AGAIN_SECONDS), LONGEST_PAUSE_SECONDS)
    return _is_older(env, pending.asked_at, pause)


def _is_older(env: Env, moment: str, seconds: float) -> bool:
    return seconds_since(moment, env.now()) >= seconds


async def _earlier_submission(env: Env, identity: str) -> SubmissionStatus | None:
    submission_id = await kv_submissions.find_by_identity(env, identity)
    if submission_id is None:
        return None
    status = await get_submission_status(env, submission_id)
    return None if isinstance(status, Unreadable) else status
