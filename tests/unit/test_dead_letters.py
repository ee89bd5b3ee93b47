"""Dead letters: listed from both stores, redriven once, counted against trying for ever."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from marketplace.kv.dead_letters import count_dead_letters, store_dead_letter
from marketplace.operations.dead_letters import bury
from marketplace.operations.redrive import (
    MAX_AUTOMATIC_REDRIVES,
    RedriveOutcome,
    count_letters,
    list_letters,
    redrive_all,
    redrive_ids,
    redrive_passing,
)
from marketplace.ports.database import DatabaseSession, SkillDatabase
from marketplace.ports.dead_letter import DeadLetter, DeadLetterReason
from marketplace.ports.env import Env
from marketplace.ports.errors import DatabaseError
from marketplace.repair.light_repair import run_light_repair
from tests.simulation.database_double import DoubleSession
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


def _letter(number: int, *, reason: str = "not-scanned", **fields: Any) -> DeadLetter:
    """Letter 0 failed first, an hour and more ago."""
    values: dict[str, Any] = {"body": {"submissionId": f"sub-{number}"}, "redrives": 0, **fields}
    return DeadLetter(
        id=f"{number:016x}",
        queue="skill-publish",
        reason=reason,
        detail="",
        attempts=1,
        failed_at=f"2025-12-31T22:{number // 60 % 60:02d}:{number % 60:02d}.000Z",
        **values,
    )


async def _store(market: Market, letters: Sequence[DeadLetter], *, in_kv: bool) -> Env:
    """Keep letters in one of the stores; the env with which they are redriven."""
    if not in_kv:
        market.tables.dead_letters.update({letter.id: letter for letter in letters})
        return market.env
    for letter in letters:
        await store_dead_letter(market.env, letter)
    return replace(market.env, database=DatabaseSession(_away))


both_stores = pytest.mark.parametrize("in_kv", [False, True], ids=["postgres", "kv"])


@both_stores
def test_letters_that_were_redriven_too_often_hide_none_behind_them(in_kv: bool) -> None:
    async def test(market: Market) -> None:
        letters = [_letter(number, redrives=MAX_AUTOMATIC_REDRIVES) for number in range(250)]
        env = await _store(market, [*letters, _letter(250)], in_kv=in_kv)
        (result,) = await redrive_passing(env)
        assert (result.id, result.outcome) == (_letter(250).id, RedriveOutcome.REDRIVEN)
        assert market.publish.bodies == [{"submissionId": "sub-250"}]

    run(test)


@both_stores
def test_letters_that_failed_just_now_hide_no_older_ones(in_kv: bool) -> None:
    async def test(market: Market) -> None:
        now = market.env.now()
        fresh = [msgspec.structs.replace(_letter(number), failed_at=now) for number in range(150)]
        env = await _store(market, [*fresh, _letter(150)], in_kv=in_kv)
        (result,) = await redrive_passing(env)
        assert result.id == _letter(150).id

    run(test)


@both_stores
def test_no_passing_reason_keeps_another_from_its_turn(in_kv: bool) -> None:
    async def test(market: Market) -> None:
        letters = [_letter(number) for number in range(1, 200)]
        first = _letter(0, reason="unknown-submission")
        env = await _store(market, [*letters, first], in_kv=in_kv)
        results = await redrive_passing(env)
        assert len(results) == 100
        assert results[0].id == first.id

    run(test)


@both_stores
def test_a_reason_is_found_behind_any_number_of_others(in_kv: bool) -> None:
    async def test(market: Market) -> None:
        others = [_letter(number, reason="not-passed") for number in range(300)]
        wanted = _letter(300, reason="invalid-record")
        env = await _store(market, [*others, wanted], in_kv=in_kv)
        listed = await list_letters(env, reason="invalid-record", after=None, limit=10)
        assert [letter.id for letter in listed] == [wanted.id]
        (result,) = await redrive_all(env, reason="invalid-record")
        assert result.id == wanted.id

    run(test)


@both_stores
def test_a_reason_is_found_behind_others_whose_metadata_is_lost(in_kv: bool) -> None:
    async def test(market: Market) -> None:
        others = [_letter(number, reason="not-passed") for number in range(150)]
        env = await _store(market, [*others, _letter(150)], in_kv=in_kv)
        for key in market.kv.keys("dead-letter:"):
            market.kv.damage(key, market.kv.peek(key))
        (result,) = await redrive_all(env, reason="not-scanned")
        assert result.id == _letter(150).id

    run(test)


@both_stores
def test_letters_without_a_message_hide_none_that_can_be_redriven(in_kv: bool) -> None:
    async def test(market: Market) -> None:
        broken = [
            _letter(number, reason="invalid-message", body="nonsense") for number in range(150)
        ]
        env = await _store(market, [*broken, _letter(150)], in_kv=in_kv)
        (result,) = await redrive_all(env, reason=None)
        assert result.id == _letter(150).id
        assert await count_letters(env, None) == 150

    run(test)


@both_stores
def test_what_fails_again_and_again_lets_the_others_have_their_turn(in_kv: bool) -> None:
    async def test(market: Market) -> None:
        letters = [_letter(number) for number in range(150)]
        env = await _store(market, letters, in_kv=in_kv)
        redriven = {result.id for result in await redrive_all(env, reason=None)}
        for number in range(100):
            await asyncio.sleep(1)
            again = msgspec.structs.replace(_letter(number), failed_at=env.now(), redrives=1)
            await _store(market, [again], in_kv=in_kv)
        redriven |= {result.id for result in await redrive_all(env, reason=None)}
        assert redriven == {letter.id for letter in letters}

    run(test)


def test_letters_that_cannot_be_read_or_are_refused_do_not_keep_others_in_kv() -> None:
    async def test(market: Market) -> None:
        for number in range(250):
            market.kv.damage(f"dead-letter:{number:016x}:2025-12-31T00:00:00.000Z", b"{")
        await _store(market, [_letter(250), _letter(251)], in_kv=True)

        async def refuse(session: DoubleSession, letter: DeadLetter) -> None:
            if letter.id == _letter(250).id:
                raise DatabaseError("refused", reason="rejected")
            await store(session, letter)

        store = DoubleSession.store_dead_letter
        with patch.object(DoubleSession, "store_dead_letter", refuse):
            assert (await run_light_repair(market.env)).errors == []
        assert list(market.tables.dead_letters) == [_letter(251).id]
        assert await count_dead_letters(market.env) == {
            "unknown": 250,
            "not-scanned": 1,
        }

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
