"""What waits in the outbox, merged into PostgreSQL's answers.

Skills are published while PostgreSQL is away, or takes no writes. They are in no row until the
outbox is drained, and are listed all the same. Whether a state counts PostgreSQL says in the round
trip of the question: not beside newer facts, nor where an act is in force.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from marketplace.kv.outbox import list_waiting
from marketplace.ports.database import RowOfWaiting
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError, KvTimeout
from marketplace.ports.isolate import KnownOutbox
from marketplace.skills.seed import Claim
from marketplace.skills.skill import PublishedSummary, SkillSummary, Status

READ_EVERY: Final = 5.0  # seconds
READ_AGAIN: Final = 2.0  # after a failure
GOOD_FOR: Final = 50.0  # seconds; with the minute that KV may be late less than two minutes
WAIT_SECONDS: Final = 0.5  # for KV at most: what it says of the outbox is not worth more


@dataclass(frozen=True, slots=True)
class OutboxView:
    """The newest state of each skill in the outbox. ``lacks``: why some may be missing;
    ``truncated``: there are more than one list call tells."""

    states: Sequence[PublishedSummary]
    lacks: str | None = None
    truncated: bool = False


async def look_at_outbox(env: Env) -> OutboxView:
    """What waits: one list call, at most every READ_EVERY seconds of an isolate.

    Where KV does not tell, what it told up to GOOD_FOR seconds ago counts. Raises nothing.
    """
    known = KnownOutbox() if env.fallback_cache is None else env.fallback_cache.outbox
    now = _now()
    if now >= known.read_next:
        if now - known.read_at < GOOD_FOR:  # the others need not wait for this one
            known.read_next = now + READ_EVERY
        await _read(env, known)
    if _now() - known.read_at > GOOD_FOR:
        return OutboxView(known.states, f"outbox: {known.failure}")
    if known.complete:
        return OutboxView(known.states)
    return OutboxView(known.states, "outbox: truncated", truncated=True)


async def _read(env: Env, known: KnownOutbox) -> None:
    begun = _now()
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            states, known.complete = await list_waiting(env)
    except (KvError, TimeoutError) as error:
        known.failure = error.reason if isinstance(error, KvError) else KvTimeout.reason
        known.read_next = _now() + READ_AGAIN
        env.log("outbox-not-read", level="warning", reason=known.failure)
        return
    newest: dict[str, PublishedSummary] = {}
    for state in sorted(states, key=lambda state: state.revision):
        newest[state.summary.identity] = state
    known.states = tuple(newest.values())
    known.read_at, known.read_next = begun, begun + READ_EVERY


@dataclass(frozen=True, slots=True)
class StandIns:
    """Waiting states that count, and the rows that they are listed in place of; both LISTED."""

    states: Sequence[SkillSummary]
    outdone: Sequence[SkillSummary]
    claims: Sequence[Claim]  # on what the seed has


def stand_ins(waiting: Sequence[PublishedSummary], rows: Sequence[RowOfWaiting]) -> StandIns:
    """Which of the waiting states count beside these rows, each under the slug of its row."""
    of_identity = {found.row.identity: found for found in rows}
    taken = {found.row.name: found.row.identity for found in rows}
    states: list[SkillSummary] = []
    for state in waiting:
        summary, found = state.summary, of_identity.get(state.summary.identity)
        if found is not None and found.is_outdone:
            states.append(msgspec.structs.replace(summary, name=found.row.name))
        elif found is None and taken.get(summary.name) is None:
            states.append(summary)
    outdone = [found.row for found in rows if found.is_outdone]
    return StandIns(
        states=[state for state in states if state.status is Status.LISTED],
        outdone=[row for row in outdone if row.status is Status.LISTED],
        claims=[Claim(state.name, state.identity) for state in states],
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
