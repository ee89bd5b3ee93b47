"""Giving what waits in the outbox its place in both stores."""

from collections.abc import Sequence
from typing import Final

from marketplace.kv.outbox import OutboxEntry, clear_outbox
from marketplace.ports.env import Env
from marketplace.publishing.publish import publish_skills

OUTBOX_BATCH: Final = 100


async def place_outbox(env: Env, entries: Sequence[OutboxEntry]) -> list[str]:
    """Publish waiting skills and clear those that both stores took. Their keys. Raises KvError."""
    outcomes = await publish_skills(
        env,
        [entry.skill for entry in entries if entry.trusted],
        untrusted=[entry.skill for entry in entries if not entry.trusted],
    )
    placed = {identity for identity, outcome in outcomes.items() if outcome.in_both}
    done = [entry.key for entry in entries if entry.skill.identity in placed]
    await clear_outbox(env, done)
    return done
