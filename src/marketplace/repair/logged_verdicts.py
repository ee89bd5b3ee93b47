"""The verdicts in the acceptance log and the rows: what the rows lost, they get from the log.

A failover may lose rows that were acknowledged, and KV's records of them may be lost or written
over. The log has every verdict, and all of one skill together make its state again. Rows from
before the log get entries.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from marketplace.basics.concurrency import map_bounded
from marketplace.basics.timestamps import shifted
from marketplace.kv.acceptance_log import (
    VerdictPage,
    list_verdicts,
    log_verdict,
    read_logged,
    read_verdicts,
)
from marketplace.kv.outbox import find_identity_in_outbox
from marketplace.kv.submissions import get_publications
from marketplace.operations.dead_letters import dead_letter_id
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env, get_db, send_messages
from marketplace.publishing.messages import PUBLISH_QUEUE, publish_message
from marketplace.publishing.publish import Published, publish_skills
from marketplace.skills.change import Change, Replayed
from marketplace.skills.logged import Logged, verdicts_of
from marketplace.skills.scan import Scan
from marketplace.skills.skill import Skill
from marketplace.skills.slugs import key_digest
from marketplace.skills.submission import Publication
from marketplace.skills.tiers import Verdict


@dataclass(frozen=True, slots=True)
class LogPlace:
    """Where a walk over the log goes on: the part that has ``cursor``, beyond a digest."""

    cursor: str | None
    after: str


Preview = Callable[[Sequence[Change]], Awaitable[None]]
"""Takes note of what would be published."""

BEGINNING: Final = LogPlace(None, "")

_FOR_SKILL: Final = 10  # KV operations that a skill takes that the rows lack
_FOR_ROW: Final = 4  # at most, for a row that gets entries


@dataclass(frozen=True, slots=True)
class ReplayedVerdicts:
    """What became of a part of the log; ``place`` is None at its end."""

    news: int  # skills that got back what their rows lacked
    place: LogPlace | None


async def replay_verdicts(
    env: Env, place: LogPlace = BEGINNING, *, operations: int, preview: Preview | None = None
) -> ReplayedVerdicts:
    """Compare a part of the log with the rows, both ways, and write what either lacks.

    Takes about so many KV operations at most. A verdict that takes a skill out of the listing is
    left to the consumer, which counts those. With ``preview`` nothing is written.

    Raises DatabaseError, KvError, QueueError.
    """
    database = await get_db(env)
    skills = max(operations // 2 // _FOR_SKILL, 2)  # one of them may be the last one again
    limit = max(operations // 2 // _FOR_ROW, 1)
    page = await list_verdicts(env, cursor=place.cursor)
    until = None if page.cursor is None else page.last
    # What KV may not show yet is no row from before the log.
    before = shifted(env.now(), -2 * env.settings.kv_lateness)
    found = await database.compare_log(
        page.newest,
        first=page.first,
        after=place.after,
        until=until,
        before=before,
        limit=limit,
    )
    # Entries of one skill may be in two parts, so the digest of the last part's end counts again.
    behind = sorted((key_digest(identity), identity) for identity in found.behind)
    behind = [item for item in behind if item[0] >= place.after]
    ends = [until, *(digest for digest, _ in behind[skills - 1 :][:1])]
    ends += [key_digest(row.identity) for row in found.unlogged[limit - 1 :]]
    end = min((digest for digest in ends if digest is not None), default=None)
    taken = [identity for digest, identity in behind if end is None or digest <= end]
    news = await _replay(env, database, page, taken, preview)
    if preview is None:
        rows = [row for row in found.unlogged if end is None or key_digest(row.identity) <= end]
        await map_bounded(rows, lambda row: _write_entries(env, row))
    if end == until:
        onward = None if page.cursor is None else LogPlace(page.cursor, end or "")
        return ReplayedVerdicts(news, onward)
    return ReplayedVerdicts(news, LogPlace(place.cursor, end or ""))


async def _replay(
    env: Env,
    database: SkillDatabase,
    page: VerdictPage,
    taken: Sequence[str],
    preview: Preview | None,
) -> int:
    """Make skills again of all that the log has of them; how many rows changed."""
    rows = await database.get_skills(taken)
    listable = [
        identity
        for identity in taken
        if identity in rows or (identity in page.passed and not await _waits(env, identity))
    ]
    logs = dict(zip(listable, await map_bounded(listable, lambda i: _read(env, i)), strict=True))
    changes = [Replayed(identity, log) for identity, log in logs.items()]
    if preview is not None:
        await preview(changes)
        return 0
    outcomes = await publish_skills(env, changes)
    stored = {i: o for i, o in outcomes.items() if isinstance(o, Published) and o.in_database}
    held_back = [
        withdrawal
        for identity, outcome in stored.items()
        for withdrawal in logs[identity].verdicts[-1:]
        if withdrawal.verdict is Verdict.WITHDRAWN
        and outcome.skill.verdict is not Verdict.WITHDRAWN
    ]
    await _send(env, database, held_back)
    return sum(outcome.changed_database for outcome in stored.values())


async def _waits(env: Env, identity: str) -> bool:
    """Whether a skill is in the outbox, which gives it the slug that it has there."""
    return await find_identity_in_outbox(env, identity) is not None


async def _read(env: Env, identity: str) -> Logged:
    """With the PASS of a submission that failed later, if that had listed the skill before."""
    verdicts = await read_verdicts(env, identity)
    failed = {scan.submission_id for scan in verdicts if scan.verdict is Verdict.FAIL}
    told = await get_publications(env, sorted(failed))
    listed = {id_ for id_, found in told.items() if isinstance(found, Publication)}
    return await read_logged(env, identity, listed=listed)


async def _send(env: Env, database: SkillDatabase, withdrawals: Sequence[Scan]) -> None:
    """Let the consumer decide about withdrawals, unless they wait for an operator."""
    messages = {
        dead_letter_id(PUBLISH_QUEUE, message): message
        for scan in withdrawals
        for message in [publish_message(scan.submission_id, scan.scanned_at)]
    }
    letters = await database.get_dead_letters(sorted(messages))
    waiting = {letter.id for letter in letters if letter.redriven_at is None}
    wanted = [message for id_, message in messages.items() if id_ not in waiting]
    if wanted:
        await send_messages(env, env.publish_queue, wanted)


async def _write_entries(env: Env, row: Skill) -> None:
    for scan in verdicts_of(row):
        await log_verdict(env, scan)
