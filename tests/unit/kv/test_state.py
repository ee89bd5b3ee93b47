"""What a repair keeps of itself in KV."""

from marketplace.kv.state import load_state, save_state
from tests.doubles.marketplace import Market


async def test_a_state_is_kept_under_its_name(market: Market) -> None:
    assert await load_state(market.env, "report") is None
    await save_state(market.env, "report", b"{}")
    assert await load_state(market.env, "report") == b"{}"
