"""Aliases lead on from old slugs, or end."""

import pytest

from marketplace.basics.json_text import Unreadable
from marketplace.kv.aliases import find_over_aliases, follow_aliases, mark_moved, write_alias
from marketplace.kv.records import write_record
from marketplace.ports.errors import KvError
from tests.doubles.marketplace import Market, fault, make_skill
from tests.doubles.network import Fault
from tests.unit.kv.records import listed


async def test_aliases_resolve_over_chains(market: Market) -> None:
    env = market.env
    await write_record(env, make_skill("c"))
    await mark_moved(env, "b", "c")
    await write_alias(env, "a", "b")
    market.kv.damage("skill:alias:plain", b"c")
    market.kv.damage("skill:alias:quoted", b'"c"')
    market.kv.damage("skill:alias:object", b'{"newSlug": "c"}')
    for slug in ("a", "b", "c", "plain", "quoted", "object"):
        chain = await follow_aliases(env, slug)
        assert (chain.slugs[-1], chain.is_live) == ("c", True), slug
    assert not (await follow_aliases(env, "unknown")).is_live
    assert market.log.lines == []


async def test_aliases_that_lead_nowhere_end(market: Market) -> None:
    env = market.env
    await write_alias(env, "lost", "nothing")
    await write_alias(env, "x", "y")
    await write_alias(env, "y", "x")
    for number in range(30):
        await write_alias(env, f"n{number}", f"n{number + 1}")
    market.kv.damage("skill:alias:self", b'"self"')
    for slug in ("lost", "x", "n0"):
        assert not (await follow_aliases(env, slug)).is_live, slug
    assert market.log.events() == ["alias-unresolved"] * 3
    for slug in ("self", "\ud800", "x" * 2000, ""):
        assert not (await follow_aliases(env, slug)).is_live, slug


async def test_moving_leaves_the_old_record_until_the_alias_is_there(market: Market) -> None:
    await write_record(market.env, make_skill("old"))
    market.kv.faults = fault(Fault.FAIL, "put", key="alias")
    with pytest.raises(KvError):
        await mark_moved(market.env, "old", "new")
    assert await listed(market) == ["old"]


async def test_many_slugs_are_followed_at_once(market: Market) -> None:
    env = market.env
    for number in range(150):
        await write_record(env, make_skill(f"c{number:03d}"))
        await write_alias(env, f"b{number:03d}", f"c{number:03d}")
    await mark_moved(env, "a", "b000")
    await write_alias(env, "x", "y")
    await write_alias(env, "y", "x")
    market.kv.damage("skill:broken", b"{")
    asked = [*(f"b{number:03d}" for number in range(150)), "a", "c001", "x", "lost", "broken", ""]

    before = market.kv.operations.total()
    found = await find_over_aliases(env, asked)
    assert market.kv.operations.total() - before < 30
    broken = found.pop("broken")
    assert isinstance(broken, Unreadable)
    led = {
        slug: record.name for slug, record in found.items() if not isinstance(record, Unreadable)
    }
    assert led == {f"b{n:03d}": f"c{n:03d}" for n in range(150)} | {"a": "c000", "c001": "c001"}


async def test_an_alias_that_cannot_be_read_is_a_failure_of_all(market: Market) -> None:
    await write_record(market.env, make_skill("there"))
    market.kv.faults = fault(Fault.FAIL, "get", key="skill:alias:")
    with pytest.raises(KvError):
        await find_over_aliases(market.env, ["there", "old"])
    assert list(await find_over_aliases(market.env, ["there"])) == ["there"]
