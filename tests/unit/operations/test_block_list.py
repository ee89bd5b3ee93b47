"""The blocklist has the time of a read, and asks KV only where PostgreSQL is away or silent."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from marketplace.kv.keys import WITHHELD_KEY
from marketplace.kv.records import write_record
from marketplace.kv.withheld import encode_withheld
from marketplace.operations.block_list import find_blocked, read_block_list
from marketplace.ports.database_reads import SILENT_AFTER
from marketplace.ports.env import READ_BUDGET_SECONDS, Env, get_db
from marketplace.ports.errors import DatabaseBusy, KvError
from marketplace.ports.isolate import FallbackCache
from marketplace.skills.skill import Status
from marketplace.skills.withholding import WithheldKey
from tests.doubles.kv import KvFaults
from tests.doubles.loop import current_loop
from tests.doubles.marketplace import Market, fault, make_skill
from tests.doubles.network import Fault

EVIL = make_skill("evil", status=Status.BLOCKED)

QUESTIONS: list[Callable[[Env], Awaitable[Any]]] = [
    read_block_list,
    lambda env: find_blocked(env, "evil", None),
]


def _env(market: Market) -> Env:
    return replace(market.env, fallback_cache=FallbackCache())


async def _for_ever(_operation: str) -> None:
    await asyncio.sleep(3600)


async def _block(market: Market) -> None:
    await write_record(market.env, EVIL)
    key = WithheldKey(EVIL.name, EVIL.identity, EVIL.status)
    market.kv.damage(WITHHELD_KEY, encode_withheld([key]))


@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_statement_that_postgres_cancels_is_no_reason_to_ask_kv(
    market: Market, question: Callable[[Env], Awaitable[Any]]
) -> None:
    market.tables.work = _for_ever
    with pytest.raises(DatabaseBusy):
        await question(_env(market))
    assert market.kv.operations["list"] == 0


@pytest.mark.parametrize("question", QUESTIONS)
async def test_nor_is_a_read_without_an_answer_beside_others_with_one(
    market: Market, question: Callable[[Env], Awaitable[Any]]
) -> None:
    market.tables.before = _for_ever
    env = _env(market)
    asking = asyncio.ensure_future(question(env))
    await asyncio.sleep(0.5)
    assert env.fallback_cache is not None
    env.fallback_cache.reads.note_answer()
    with pytest.raises(DatabaseBusy):
        await asking
    assert market.kv.operations["list"] == 0


async def test_a_silent_postgres_is_not_asked(market: Market) -> None:
    market.tables.before = _for_ever
    await _block(market)
    env = _env(market)
    assert env.fallback_cache is not None
    for _ in range(SILENT_AFTER):
        env.fallback_cache.reads.note_timeout()
    found = await read_block_list(env)
    assert current_loop().time() < 0.1
    assert [entry.skill_name for entry in found.entries] == ["evil"]
    assert found.reasons == ("postgres: silent",)


@pytest.mark.parametrize(
    "hanging",
    [fault(Fault.HANG, "get", key=WITHHELD_KEY), fault(Fault.HANG, "list", key="skill:")],
    ids=["withheld", "records"],
)
async def test_a_part_of_kv_that_hangs_costs_that_part(market: Market, hanging: KvFaults) -> None:
    market.tables.before = _for_ever
    await _block(market)
    market.kv.faults = hanging
    began = current_loop().time()
    found = await read_block_list(_env(market))
    assert [entry.skill_name for entry in found.entries] == ["evil"]
    assert current_loop().time() - began <= READ_BUDGET_SECONDS


@pytest.mark.parametrize("key", ["", "skill:evil"])
async def test_what_is_not_read_in_time_is_no_answer(market: Market, key: str) -> None:
    market.tables.before = _for_ever
    await _block(market)
    market.kv.faults = fault(Fault.HANG, "get", "get_many", "list", key=key)
    began = current_loop().time()
    with pytest.raises(KvError):
        await read_block_list(_env(market))
    assert current_loop().time() - began <= READ_BUDGET_SECONDS


async def test_its_limit_is_not_that_of_what_the_invocation_does_later(market: Market) -> None:
    env = _env(market)
    await read_block_list(env)

    async def slow(_operation: str) -> None:
        await asyncio.sleep(2 * env.settings.database_read_timeout)

    market.tables.work = slow
    assert await (await get_db(env)).get_skills([EVIL.identity]) == {}
