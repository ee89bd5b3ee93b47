"""Giving what waits in the outbox its place in both stores."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from marketplace.kv.outbox import OutboxEntry, clear_outbox, list_outbox
from marketplace.ports.env import Env
from marketplace.publishing.publish import Published, publish_skills
from marketplace.skills.change import Waiting
from marketplace.skills.merging import merge

OUTBOX_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class DrainedOutbox:
    entries: int  # of one batch, which have left the outbox
    news: int  # skills of which PostgreSQL had an older state or none


async def drain_outbox(env: Env) -> DrainedOutbox:
    """Publish a batch of waiting skills and clear those that both stores took. Raises KvError."""
    entries = await list_outbox(env, limit=OUTBOX_BATCH)
    outcomes = await publish_skills(env, changes_of(entries))
    placed = {
        identity: outcome
        for identity, outcome in outcomes.items()
        if isinstance(outcome, Published) and outcome.in_both
    }
    done = [entry.key for entry in entries if entry.skill.identity in placed]
    await clear_outbox(env, done)
    return DrainedOutbox(len(done), sum(outcome.changed_database for outcome in placed.values()))


def changes_of(entries: Iterable[OutboxEntry]) -> list[Waiting]:
    """One a skill, of all its entries."""
    changes: dict[str, Waiting] = {}
    for entry in entries:
        identity = entry.skill.identity
        earlier = changes.get(identity)
        merged = entry.skill if earlier is None else merge(earlier.skill, entry.skill)
        changes[identity] = Waiting(merged)
    return list(changes.values())
