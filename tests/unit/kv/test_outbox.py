"""The outbox keeps every state."""

import pytest

from marketplace.kv.outbox import clear_outbox, list_outbox, list_outbox_summaries, write_outbox
from tests.doubles.marketplace import Market, make_skill


async def test_the_outbox_keeps_every_state_and_broken_entries_do_not_stand_in_the_way(
    market: Market,
) -> None:
    env = market.env
    first, second = make_skill(), make_skill(current_version="2.0.0")
    keys = {await write_outbox(env, skill) for skill in (first, second, first)}
    market.kv.damage("outbox:0:broken", b"{")
    entries = (await list_outbox(env)).entries
    assert {entry.key for entry in entries} == keys
    assert {entry.skill.current_version for entry in entries} == {"1.0.0", "2.0.0"}
    assert len(await list_outbox_summaries(env)) == 2
    some = await list_outbox(env, limit=2)
    others = await list_outbox(env, cursor=some.cursor)
    assert others.cursor is None
    assert {entry.key for entry in (*some.entries, *others.entries)} == keys
    await clear_outbox(env, keys)
    assert market.kv.keys() == ["outbox:0:broken"]
    with pytest.raises(ValueError, match="not a key of the outbox"):
        await clear_outbox(env, ["skill:a"])
