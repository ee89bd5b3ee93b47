"""Giving what waits in the outbox its place in both stores."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from marketplace.kv.acceptance_log import read_logged
from marketplace.kv.index.writing import add_to_published_index
from marketplace.kv.outbox import OutboxEntry, clear_outbox, list_outbox
from marketplace.ports.env import Env, send_messages
from marketplace.publishing.kv_copy import leave_note
from marketplace.publishing.messages import publish_message
from marketplace.publishing.publish import Published, publish_skills
from marketplace.skills.change import Replayed, Waiting
from marketplace.skills.logged import Logged, fold
from marketplace.skills.merging import merge
from marketplace.skills.scan import Refusal
from marketplace.skills.skill import Skill

OUTBOX_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class DrainedOutbox:
    news: int  # skills of which PostgreSQL had an older state or none
    cursor: str | None  # where the outbox goes on


async def drain_outbox(
    env: Env, cursor: str | None = None, *, leave_notes: bool = False
) -> DrainedOutbox:
    """Publish a part of the waiting skills and clear those that both stores took.

    What cannot be placed stays, and hides nothing that comes after it. Where PostgreSQL refuses
    what was made without it, the acceptance log tells what stands; a verdict that this refuses too
    is sent to the consumer, which lets an operator decide. With ``leave_notes`` a slug that a skill
    had meanwhile leads to its row. Raises DatabaseError, KvError, QueueError.
    """
    page = await list_outbox(env, cursor=cursor, limit=OUTBOX_BATCH)
    outcomes = dict(await publish_skills(env, changes_of(page.entries)))
    refused = [i for i, outcome in outcomes.items() if isinstance(outcome, Refusal)]
    logged = {identity: await read_logged(env, identity) for identity in refused}
    outcomes |= await publish_skills(env, [Replayed(i, log) for i, log in logged.items()])
    placed = {
        identity: outcome
        for identity, outcome in outcomes.items()
        if isinstance(outcome, Published) and outcome.in_both
    }
    await _send_refused(env, [(placed[i].skill, logged[i]) for i in refused if i in placed])
    await add_to_published_index(env, [outcome.skill for outcome in placed.values()])
    for entry in page.entries if leave_notes else ():
        row = placed.get(entry.skill.identity)
        if row is not None and row.skill.name != entry.skill.name:
            await leave_note(env, entry.skill, row.skill)
    await clear_outbox(env, [e.key for e in page.entries if e.skill.identity in placed])
    news = sum(outcome.changed_database for outcome in placed.values())
    return DrainedOutbox(news, page.cursor)


async def _send_refused(env: Env, placed: Iterable[tuple[Skill, Logged]]) -> None:
    """Send once more, of each skill, the newest verdict that it refuses although it says other
    facts later. Raises QueueError."""
    messages = [
        publish_message(scan.submission_id, scan.scanned_at)
        for skill, log in placed
        for scan, _ in fold(skill, log).refused[-1:]
        if scan.scanned_at > skill.facts_at
    ]
    if messages:
        await send_messages(env, env.publish_queue, messages)


def changes_of(entries: Iterable[OutboxEntry]) -> list[Waiting]:
    """One a skill, of all its entries."""
    changes: dict[str, Waiting] = {}
    for entry in entries:
        identity = entry.skill.identity
        earlier = changes.get(identity)
        merged = entry.skill if earlier is None else merge(earlier.skill, entry.skill)
        changes[identity] = Waiting(merged)
    return list(changes.values())
