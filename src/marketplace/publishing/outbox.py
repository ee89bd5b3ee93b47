"""Giving what waits in the outbox its place in both stores."""

from dataclasses import dataclass
from typing import Final

from marketplace.kv.outbox import clear_outbox, list_outbox
from marketplace.ports.env import Env
from marketplace.publishing.publish import publish_skills

OUTBOX_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class DrainedOutbox:
    entries: int  # of one batch, which have left the outbox
    news: int  # skills of which PostgreSQL had an older state or none


async def drain_outbox(env: Env) -> DrainedOutbox:
    """Publish a batch of waiting skills and clear those that both stores took. Raises KvError."""
    entries = await list_outbox(env, limit=OUTBOX_BATCH)
    outcomes = await publish_skills(
        env,
        [entry.skill for entry in entries if entry.trusted],
        untrusted=[entry.skill for entry in entries if not entry.trusted],
    )
    placed = {identity: outcome for identity, outcome in outcomes.items() if outcome.in_both}
    done = [entry.key for entry in entries if entry.skill.identity in placed]
    await clear_outbox(env, done)
    return DrainedOutbox(len(done), sum(outcome.changed_database for outcome in placed.values()))
