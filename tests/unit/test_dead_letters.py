"""Dead letters: listed from both stores, redriven once, counted against trying for ever."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from marketplace.kv.dead_letters import count_dead_letters
from marketplace.operations.dead_letters import bury
from marketplace.operations.redrive import (
    RedriveOutcome,
    count_letters,
    list_letters,
    redrive_all,
    redrive_ids,
    redrive_passing,
)
from marketplace.ports.database import DatabaseSession, SkillDatabase
from marketplace.ports.dead_letter import DeadLetterReason
from marketplace.ports.errors import DatabaseError
from marketplace.repair.light_repair import run_light_repair
from tests.unit.operations_support import Delivered, ListQueue, Market, run


async def _away() -> SkillDatabase:
    raise DatabaseError("away")


async def _bury(market: Market, number: int, *, in_kv: bool = False) -> None:
    env = replace(market.env, database=DatabaseSession(_away)) if in_kv else market.env
    await bury(
        env,
        Delivered({"submissionId": f"sub-{number}"}),
        queue="skill-publish",
        reason=DeadLetterReason.NOT_SCANNED,
        detail="no verdict",
    )


def test_letters_of_both_stores_are_one_list_and_redriven_once() -> None:
    async def test(market: Market) -> None:
        await _bury(market, 1)
        await _bury(market, 2, in_kv=True)
        await asyncio.sleep(1)
        letters = await list_letters(market.env, reason=None, after=None, limit=10)
        assert len(letters) == 2
        assert await list_letters(market.env, reason="other", after=None, limit=10) == []
        results = await redrive_all(market.env, reason=None)
        assert {result.outcome for result in results} == {RedriveOutcome.REDRIVEN}
        assert len(market.publish.bodies) == 2
        again = await redrive_ids(market.env, [*(x.id for x in letters), "nobody"])
        assert [result.outcome for result in again] == [
            RedriveOutcome.ALREADY_REDRIVEN,
            RedriveOutcome.ALREADY_REDRIVEN,
            RedriveOutcome.UNKNOWN,
        ]
        assert len(market.publish.bodies) == 2
        assert await count_letters(market.env, None) == 0

    run(test)


def test_a_queue_that_refuses_leaves_the_letter() -> None:
    async def test(market: Market) -> None:
        await _bury(market, 1)
        market.publish.failing = True
        (result,) = await redrive_all(market.env, reason=None)
        assert result.outcome is RedriveOutcome.FAILED
        assert await count_letters(market.env, "not-scanned") == 1

    run(test)


def test_passing_reasons_are_redriven_later_and_five_times_at_most() -> None:
    async def test(market: Market) -> None:
        await _bury(market, 1)
        assert await redrive_passing(market.env) == []
        for attempt in range(7):
            old = {
                key: msgspec.structs.replace(x, failed_at="2020-01-01T00:00:00.000Z")
                for key, x in market.tables.dead_letters.items()
            }
            market.tables.dead_letters.update(old)
            results = await redrive_passing(market.env)
            assert len(results) == (1 if attempt < 5 else 0)
            await asyncio.sleep(1)
            await _bury(market, 1)

    run(test)


def test_what_fails_again_before_its_redrive_is_noted_waits_again() -> None:
    async def test(market: Market) -> None:
        await _bury(market, 1)
        await asyncio.sleep(1)

        class Impatient(ListQueue):
            async def send_batch(self, bodies: Sequence[Mapping[str, Any]]) -> None:
                await asyncio.sleep(1)
                await _bury(market, 1)

        env = replace(market.env, publish_queue=Impatient())
        (result,) = await redrive_all(env, reason=None)
        assert result.outcome is RedriveOutcome.REDRIVEN
        assert await count_letters(market.env, None) == 1

    run(test)


def test_the_light_repair_gives_postgres_the_letters_that_kv_kept() -> None:
    async def test(market: Market) -> None:
        await _bury(market, 1, in_kv=True)
        assert market.tables.dead_letters == {}
        await run_light_repair(market.env)
        assert len(market.tables.dead_letters) == 1
        assert await count_dead_letters(market.env) == {}
        assert await count_letters(market.env, None) == 1

    run(test)
