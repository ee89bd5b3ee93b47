"""Giving what waits in the outbox its place in both stores."""

from collections.abc import Sequence
from typing import Final

from marketplace.kv.outbox import OutboxEntry, clear_outbox
from marketplace.ports.env import Env
from marketplace.publishing.publish import is_in_both, publish_skills

OUTBOX_BATCH: Final = 100


async def place_outbox(env: Env, entries: Sequence[OutboxEntry]) -> list[str]:
    """Publish waiting skills and clear those that both stores took. Their keys. Raises KvError."""
    outcomes = await publish_skills(
        env,
        [entry.skill for entry in entries if entry.trusted],
        untrusted=[entry.skill for entry in entries if not entry.trusted],
    )
    done = [entry.key for entry in entries if is_in_both(outcomes[entry.skill.identity])]
    await clear_outbox(env, done)
    return done
