"""The consumer of the publish queue: each message of a batch has an end of its own."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from marketplace.basics.concurrency import map_bounded
from marketplace.basics.json_text import Unreadable
from marketplace.catalog.lookup import find_by_identity
from marketplace.kv.acceptance_log import read_logged
from marketplace.kv.access import Stored
from marketplace.kv.index.writing import add_to_published_index
from marketplace.kv.outbox import find_identity_in_outbox
from marketplace.kv.submissions import (
    PendingSubmission,
    get_scans,
    record_publication,
    unmark_pending,
)
from marketplace.operations.dead_letters import bury
from marketplace.operations.withdrawals import may_withdraw
from marketplace.ports.dead_letter import DeadLetterReason
from marketplace.ports.env import Env
from marketplace.ports.errors import DatabaseError, KvError, StorageError
from marketplace.ports.queue import QueueMessage, retry_delay
from marketplace.publishing.messages import (
    PUBLISH_QUEUE,
    is_approved,
    scanned_at_of,
    submission_id_of,
)
from marketplace.publishing.publish import Published, publish_skills
from marketplace.publishing.withheld import update_withheld
from marketplace.skills.change import Change, Scanned, Waiting
from marketplace.skills.scan import Refusal, Scan
from marketplace.skills.submission import Publication
from marketplace.skills.tiers import Verdict

OUTDATED_READS: Final = 5
"""How often a message is retried because KV may be late: 5 + 10 + … + 80 s; KV takes about 60."""


@dataclass(slots=True)
class BatchReport:
    published: int = 0  # in messages
    buried: int = 0
    retried: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Unpublishable:
    reason: DeadLetterReason
    detail: str


_Reading = Scan | _Unpublishable | None
"""What a message asks for. None: KV does not show the verdict yet that the message is about."""

_REFUSED: Final = {
    Refusal.OTHER_PATH: DeadLetterReason.OTHER_PATH,
    Refusal.CHANGED_HANDS: DeadLetterReason.CHANGED_HANDS,
    Refusal.TOO_MANY_WITHDRAWN: DeadLetterReason.TOO_MANY_WITHDRAWN,
    Refusal.UNUSABLE: DeadLetterReason.INVALID_RECORD,
}


_Outcome = Published | Refusal | None


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
    scans = list({r.submission_id: r for r in readings if isinstance(r, Scan)}.values())
    approved = {submission_id_of(m.body) for m in messages if is_approved(m.body)}
    outcomes: dict[str, _Outcome] = {}  # by submission
    while scans:
        # Verdicts on one skill one after the other, since a batch changes each skill once.
        batch = {scan.identity: scan for scan in reversed(scans)}
        changes = await _changes(env, list(batch.values()), approved)
        made = await publish_skills(env, changes)
        by_identity = {change.identity: change for change in changes}
        for identity, scan in batch.items():
            change = by_identity.get(identity)
            outcome = None if change is None else await _outcome(env, change, made)
            outcomes[scan.submission_id] = outcome
        scans = [scan for scan in scans if scan.submission_id not in outcomes]
    done: list[Scan] = []
    for message, reading in zip(messages, readings, strict=True):
        if isinstance(reading, _Unpublishable):
            await _bury(env, message, reading, report)
        elif reading is None:
            _retry(message, report, "outdated-read")
        else:
            finished = await _finish(env, message, reading, outcomes[reading.submission_id], report)
            done += [reading] if finished else []
    await _note_publications(env, done, outcomes)


async def _outcome(env: Env, change: Change, made: Mapping[str, Published | Refusal]) -> _Outcome:
    """What a change came to. One of a skill that only waits in the outbox needs that first."""
    outcome = made.get(change.identity)
    if outcome is not Refusal.NOT_LISTED:
        return outcome
    waiting = await find_identity_in_outbox(env, change.identity)
    if waiting is None:
        return outcome
    await publish_skills(env, [Waiting(waiting.skill)])
    outcome = (await publish_skills(env, [change])).get(change.identity)
    return None if outcome is Refusal.NOT_LISTED else outcome


async def _changes(
    env: Env, scans: Sequence[Scan], approved: Collection[str | None]
) -> list[Change]:
    """What the verdicts ask for; a withdrawal that cannot be counted is left out."""
    changes: list[Change] = []
    for scan in scans:
        try:
            if scan.verdict is Verdict.PASS:
                changes.append(await _passed(env, scan))
            elif scan.verdict is Verdict.WITHDRAWN and scan.submission_id not in approved:
                changes.append(await _withdrawn(env, scan))
            else:
                changes.append(Scanned(scan))
        except DatabaseError as error:
            id_, reason = scan.submission_id, error.reason
            env.log("withdrawal-not-counted", level=error.level, id=id_, reason=reason)
    return changes


async def _passed(env: Env, scan: Scan) -> Change:
    """A PASS, with what the log has besides of a skill that the stores may lack."""
    return Scanned(scan, await read_logged(env, scan.identity))


async def _withdrawn(env: Env, scan: Scan) -> Change:
    """A withdrawal, which may take a skill out of the listing if that many may leave."""
    change = Scanned(scan, may_withdraw=False)
    listed = await find_by_identity(env, scan.repo_url, scan.base_slug)
    leaves = listed is not None and change.onto(listed.value) is Refusal.TOO_MANY_WITHDRAWN
    return Scanned(scan) if leaves and await may_withdraw(env, scan.identity) else change


async def _read_submissions(env: Env, messages: Sequence[QueueMessage]) -> list[_Reading]:
    """What each message asks for, read afresh. Raises KvError."""
    ids = [submission_id_of(message.body) for message in messages]
    scans = await get_scans(env, sorted({submission_id for submission_id in ids if submission_id}))
    return [
        _Unpublishable(DeadLetterReason.INVALID_MESSAGE, "the message names no submission")
        if submission_id is None
        else _read_message(message, scans[submission_id])
        for message, submission_id in zip(messages, ids, strict=True)
    ]


def _read_message(message: QueueMessage, scan: Stored[Scan]) -> _Reading:
    submission_id, told = submission_id_of(message.body), scanned_at_of(message.body)
    if isinstance(scan, Unreadable):
        return _Unpublishable(DeadLetterReason.INVALID_RECORD, f"verdict: {scan}")
    if scan is None or scan.scanned_at < told:
        if told and message.attempts <= OUTDATED_READS:
            return None
        detail = f"there is no verdict of {told or 'any moment'} on submission {submission_id}"
        return _Unpublishable(DeadLetterReason.NOT_SCANNED, detail)
    try:
        scan.identity  # noqa: B018 - raises where the record names no repository
    except ValueError as error:
        return _Unpublishable(DeadLetterReason.INVALID_RECORD, str(error))
    return scan


async def _note_publications(
    env: Env, scans: Sequence[Scan], outcomes: Mapping[str, _Outcome]
) -> None:
    """Write the new state of the submissions and the index. Losing either loses no skill."""
    now = env.now()
    published = [found for found in outcomes.values() if isinstance(found, Published)]
    stored = {found.skill.name: found.skill for found in published}

    async def note(scan: Scan) -> None:
        await _note(env, scan, outcomes[scan.submission_id], now)

    await map_bounded(scans, note)
    if stored:
        in_database = {found.skill.name for found in published if found.in_database}
        # What waits has no slug for certain, and every listing out of KV reads the outbox.
        await add_to_published_index(env, [stored[name] for name in sorted(in_database)])
        await update_withheld(
            env,
            [skill for name, skill in stored.items() if name in in_database],
            [skill for name, skill in stored.items() if name not in in_database],
        )


async def _note(env: Env, scan: Scan, outcome: _Outcome, now: str) -> None:
    id_ = scan.submission_id
    try:
        if isinstance(outcome, Published) and scan.verdict is Verdict.PASS:
            skill = outcome.skill
            await record_publication(
                env,
                Publication(
                    submission_id=id_,
                    slug=skill.name,
                    version=skill.current_version,
                    published_at=now,
                    scanned_at=scan.scanned_at,
                ),
            )
        else:
            await unmark_pending(env, PendingSubmission(id_, scan.scanned_at))
    except KvError as error:
        env.log("publication-not-noted", level="warning", id=id_, reason=error.reason)


async def _finish(
    env: Env, message: QueueMessage, scan: Scan, outcome: _Outcome, report: BatchReport
) -> bool:
    """Whether the verdict of a message is carried out, as far as there is anything to do."""
    if outcome is None:
        return _retry(message, report, "storage-unavailable")
    if outcome is Refusal.NOT_LISTED and message.attempts <= OUTDATED_READS:
        # Until every read of the log shows it, an older PASS may still list the skill.
        return _retry(message, report, outcome)
    if isinstance(outcome, Refusal) and outcome in _REFUSED:
        detail = f"{scan.verdict} of {scan.scanned_at} on {scan.identity}"
        if outcome is Refusal.OTHER_PATH:
            detail += f", called {scan.skill_name!r}, in {scan.path!r}"
        return await _bury(env, message, _Unpublishable(_REFUSED[outcome], detail), report)
    message.ack()
    report.published += isinstance(outcome, Published)
    return True


async def _bury(env: Env, message: QueueMessage, why: _Unpublishable, report: BatchReport) -> bool:
    try:
        await bury(env, message, queue=PUBLISH_QUEUE, reason=why.reason, detail=why.detail)
    except StorageError as error:
        return _retry(message, report, error.reason)
    message.ack()
    report.buried += 1
    report.reasons[why.reason] = report.reasons.get(why.reason, 0) + 1
    return True


def _retry(message: QueueMessage, report: BatchReport, reason: str) -> bool:
    message.retry(delay_seconds=retry_delay(message.attempts))
    report.retried += 1
    report.reasons[reason] = report.reasons.get(reason, 0) + 1
    return False
