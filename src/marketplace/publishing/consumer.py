"""The consumer of the publish queue: each message of a batch has an end of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from marketplace.basics.concurrency import map_bounded
from marketplace.basics.json_text import Unreadable
from marketplace.kv.access import Stored
from marketplace.kv.index.writing import add_to_published_index
from marketplace.kv.submissions import get_scans, get_submissions, record_publication
from marketplace.operations.dead_letters import bury
from marketplace.ports.dead_letter import DeadLetterReason
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError, StorageError
from marketplace.ports.queue import QueueMessage, retry_delay
from marketplace.publishing.messages import PUBLISH_QUEUE, scanned_at_of, submission_id_of
from marketplace.publishing.publish import Published, publish_skills
from marketplace.skills.skill import Skill, says_the_same
from marketplace.skills.submission import (
    Publication,
    Scan,
    Submission,
    Verdict,
    skill_from_submission,
)

OUTDATED_READS: Final = 5
"""How often a message is retried because KV may be late: 5 + 10 + … + 80 s; KV takes about 60."""


@dataclass(slots=True)
class BatchReport:
    published: int = 0  # in messages
    buried: int = 0
    retried: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Publishable:
    submission: Submission
    scan: Scan
    skill: Skill


@dataclass(frozen=True, slots=True)
class _Unpublishable:
    reason: DeadLetterReason
    detail: str


_Reading = _Publishable | _Unpublishable | None
"""What a message asks for. None: KV does not show the verdict yet that the message is about."""


async def handle_publish_batch(env: Env, messages: Sequence[QueueMessage]) -> BatchReport:
    """Publish what the messages name. Every message is acknowledged, buried or retried.

    Acknowledged: its skill is stored in PostgreSQL or in KV. Buried: it can never be published as
    it is, so it became a dead-letter record with the reason and was acknowledged. Retried: storage
    was away; the delay grows with the attempts, and at last it goes to the dead-letter queue.
    """
    report = BatchReport()
    await _handle(env, messages, report)
    env.log(
        "publish-batch",
        messages=len(messages),
        published=report.published,
        buried=report.buried,
        retried=report.retried,
        reasons=report.reasons,
    )
    return report


async def _handle(env: Env, messages: Sequence[QueueMessage], report: BatchReport) -> None:
    """Process messages together; if one of them meets a bug, each for itself."""
    try:
        await _publish(env, messages, await _read_submissions(env, messages), report)
    except KvError as error:
        env.log("publish-batch-retried", level="warning", reason=error.reason)
        for message in messages:
            _retry(message, report, error.reason)
    except Exception as error:  # noqa: BLE001 - a bug that one message meets is not its neighbours'
        if len(messages) == 1:
            env.log("message-not-processed", level="error", id=messages[0].id, reason=repr(error))
            _retry(messages[0], report, "unexpected-error")
            return
        env.log("publish-batch-split", level="error", messages=len(messages), reason=repr(error))
        for message in messages:
            await _handle(env, [message], report)


async def _publish(
    env: Env, messages: Sequence[QueueMessage], readings: Sequence[_Reading], report: BatchReport
) -> None:
    publishable = [r for r in readings if isinstance(r, _Publishable)]
    outcomes = await publish_skills(
        env,
        [reading.skill for reading in publishable if reading.submission.trusted],
        untrusted=[reading.skill for reading in publishable if not reading.submission.trusted],
    )
    for message, reading in zip(messages, readings, strict=True):
        if isinstance(reading, _Publishable):
            _finish(message, outcomes.get(reading.skill.identity), report)
        elif reading is None:
            _retry(message, report, "outdated-read")
        else:
            await _bury(env, message, reading, report)
    await _note_publications(env, publishable, outcomes)


async def _read_submissions(env: Env, messages: Sequence[QueueMessage]) -> list[_Reading]:
    """What each message asks for, read afresh. Raises KvError."""
    ids = [submission_id_of(message.body) for message in messages]
    known = sorted({submission_id for submission_id in ids if submission_id})
    submissions = await get_submissions(env, known)
    scans = await get_scans(env, known)
    return [
        _Unpublishable(DeadLetterReason.INVALID_MESSAGE, "the message names no submission")
        if submission_id is None
        else _read_message(message, submissions[submission_id], scans[submission_id])
        for message, submission_id in zip(messages, ids, strict=True)
    ]


def _read_message(
    message: QueueMessage,
    submission: Stored[Submission],
    scan: Stored[Scan],
) -> _Reading:
    submission_id, told = submission_id_of(message.body), scanned_at_of(message.body)
    seen = scan.scanned_at if isinstance(scan, Scan) else ""
    if not isinstance(scan, Unreadable) and (seen < told or (told and submission is None)):
        if message.attempts <= OUTDATED_READS:
            return None
        if submission is not None:
            detail = f"there is no verdict of {told} on {submission_id}"
            return _Unpublishable(DeadLetterReason.NOT_SCANNED, detail)
    if isinstance(submission, Unreadable):
        return _Unpublishable(DeadLetterReason.INVALID_RECORD, f"submission: {submission}")
    if isinstance(scan, Unreadable):
        return _Unpublishable(DeadLetterReason.INVALID_RECORD, f"verdict: {scan}")
    if submission is None:
        detail = f"there is no submission {submission_id}"
        return _Unpublishable(DeadLetterReason.UNKNOWN_SUBMISSION, detail)
    if scan is None:
        detail = f"there is no verdict on submission {submission_id}"
        return _Unpublishable(DeadLetterReason.NOT_SCANNED, detail)
    if scan.verdict is not Verdict.PASS:
        detail = f"submission {submission_id} did not pass its scan"
        return _Unpublishable(DeadLetterReason.NOT_PASSED, detail)
    try:
        skill = skill_from_submission(submission, scan)
        skill.identity  # noqa: B018 - raises where the record names no repository
    except ValueError as error:
        return _Unpublishable(DeadLetterReason.INVALID_RECORD, str(error))
    return _Publishable(submission, scan, skill)


async def _note_publications(
    env: Env, publishable: Sequence[_Publishable], outcomes: Mapping[str, Published]
) -> None:
    """Write the new state of the submissions and the index. Losing either loses no skill."""
    now = env.now()
    stored: dict[str, Skill] = {}
    notes: dict[str, Publication] = {}
    for reading in publishable:
        outcome = outcomes.get(reading.skill.identity)
        if outcome is None:
            continue
        submission, skill = reading.submission, outcome.skill
        if not (submission.trusted or says_the_same(reading.skill, skill)):
            env.log("stranger-changed-nothing", id=submission.id, slug=skill.name)
        # A stranger's skill that waits in the outbox may be listed already: the index, where the
        # newest state counts, must not get it.
        if submission.trusted or outcome.in_database:
            stored[skill.name] = skill
        notes[submission.id] = Publication(
            submission_id=submission.id,
            slug=skill.name,
            version=skill.current_version,
            published_at=now,
            scanned_at=reading.scan.scanned_at,
        )
    if notes:
        await map_bounded(notes.values(), lambda publication: _note(env, publication))
        await add_to_published_index(env, list(stored.values()))


async def _note(env: Env, publication: Publication) -> None:
    try:
        await record_publication(env, publication)
    except KvError as error:
        id_, reason = publication.submission_id, error.reason
        env.log("publication-not-noted", level="warning", id=id_, reason=reason)


def _finish(message: QueueMessage, outcome: Published | None, report: BatchReport) -> None:
    if outcome is None:
        _retry(message, report, "storage-unavailable")
        return
    message.ack()
    report.published += 1


async def _bury(env: Env, message: QueueMessage, why: _Unpublishable, report: BatchReport) -> None:
    try:
        await bury(env, message, queue=PUBLISH_QUEUE, reason=why.reason, detail=why.detail)
    except StorageError as error:
        _retry(message, report, error.reason)
        return
    message.ack()
    report.buried += 1
    report.reasons[why.reason] = report.reasons.get(why.reason, 0) + 1


def _retry(message: QueueMessage, report: BatchReport, reason: str) -> None:
    message.retry(delay_seconds=retry_delay(message.attempts))
    report.retried += 1
    report.reasons[reason] = report.reasons.get(reason, 0) + 1
