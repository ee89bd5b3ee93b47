"""Dead letters: kept in PostgreSQL, redriven once, and none of them hides another."""

import asyncio
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import msgspec

from local.paths import REPOSITORY
from marketplace.operations.dead_letters import bury
from marketplace.operations.redrive import (
    RedriveOutcome,
    count_letters,
    list_letters,
    redrive_all,
    redrive_ids,
)
from marketplace.ports.database import DatabaseSession
from marketplace.ports.dead_letter import DeadLetter, DeadLetterReason
from marketplace.ports.env import Env
from marketplace.ports.errors import DatabaseRejected
from marketplace.ports.queue import retry_delay
from marketplace.repair.light_repair import run_light_repair
from marketplace.worker.consumers import DEAD_LETTER_QUEUE, LAST_ATTEMPT, consume
from tests.doubles.database import DoubleSession
from tests.doubles.loop import current_loop
from tests.doubles.marketplace import Delivered, ListQueue, Market, postgres_away


async def _bury(market: Market, number: int, *, env: Env | None = None) -> None:
    await bury(
        env or market.env,
        Delivered({"submissionId": f"sub-{number}"}),
        queue="skill-publish",
        reason=DeadLetterReason.NOT_SCANNED,
        detail="no verdict",
    )


async def test_letters_are_listed_and_redriven_once(market: Market) -> None:
    await _bury(market, 1)
    await _bury(market, 2)
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


async def test_a_letter_tells_how_often_it_was_redriven(market: Market) -> None:
    for redrives in range(3):
        await _bury(market, 1)
        (letter,) = await list_letters(market.env, reason=None, after=None, limit=10)
        assert letter.redrives == redrives
        await asyncio.sleep(1)
        await redrive_all(market.env, reason=None)
        await asyncio.sleep(1)


async def test_with_postgres_away_the_queue_keeps_the_message_and_its_last_attempt_is_logged(
    market: Market,
) -> None:
    env = replace(market.env, database=DatabaseSession(postgres_away))
    body = {"submissionId": "sub-1"}
    early = Delivered(body, attempts=LAST_ATTEMPT - 1)
    last = Delivered(body, attempts=LAST_ATTEMPT)
    await consume(env, DEAD_LETTER_QUEUE, [early, last])
    assert [early.retried, last.retried] == [True, True]
    lines = [line for line in market.log.lines if line["event"] == "dead-letter-not-kept"]
    assert [line.get("body") for line in lines] == [None, body]
    assert {line["level"] for line in lines} == {"error"}
    again = Delivered(body)
    await consume(market.env, DEAD_LETTER_QUEUE, [again])
    assert again.acknowledged
    assert await count_letters(market.env, None) == 1


def test_the_queue_keeps_a_dead_letter_for_over_16_hours() -> None:
    (queue,) = [
        consumer
        for consumer in tomllib.loads((REPOSITORY / "wrangler.toml").read_text())["queues"][
            "consumers"
        ]
        if consumer["queue"] == DEAD_LETTER_QUEUE
    ]
    assert queue["max_retries"] == LAST_ATTEMPT - 1
    assert sum(retry_delay(attempt) for attempt in range(1, LAST_ATTEMPT)) > 16 * 3600


async def test_a_queue_that_refuses_leaves_the_letter(market: Market) -> None:
    await _bury(market, 1)
    market.publish.failing = True
    (result,) = await redrive_all(market.env, reason=None)
    assert result.outcome is RedriveOutcome.FAILED
    assert await count_letters(market.env, "not-scanned") == 1


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


def _keep(market: Market, letters: Sequence[DeadLetter]) -> None:
    market.tables.dead_letters.update({letter.id: letter for letter in letters})


async def test_a_reason_is_found_behind_any_number_of_others(market: Market) -> None:
    others = [_letter(number, reason="not-passed") for number in range(300)]
    wanted = _letter(300, reason="invalid-record")
    _keep(market, [*others, wanted])
    listed = await list_letters(market.env, reason="invalid-record", after=None, limit=10)
    assert [letter.id for letter in listed] == [wanted.id]
    (result,) = await redrive_all(market.env, reason="invalid-record")
    assert result.id == wanted.id


async def test_letters_without_a_message_hide_none_that_can_be_redriven(market: Market) -> None:
    broken = [_letter(number, reason="invalid-message", body="nonsense") for number in range(150)]
    _keep(market, [*broken, _letter(150)])
    (result,) = await redrive_all(market.env, reason=None)
    assert result.id == _letter(150).id
    assert await count_letters(market.env, None) == 150


async def test_what_fails_again_and_again_lets_the_others_have_their_turn(market: Market) -> None:
    letters = [_letter(number) for number in range(150)]
    _keep(market, letters)
    redriven = {result.id for result in await redrive_all(market.env, reason=None)}
    for number in range(100):
        await asyncio.sleep(1)
        again = msgspec.structs.replace(_letter(number), failed_at=market.env.now(), redrives=1)
        _keep(market, [again])
    redriven |= {result.id for result in await redrive_all(market.env, reason=None)}
    assert redriven == {letter.id for letter in letters}


def _keep_in_kv(market: Market, letter: DeadLetter) -> str:
    """As an earlier version did with PostgreSQL away."""
    key = f"dead-letter:{letter.id}:{letter.failed_at}"
    market.kv.damage(key, msgspec.json.encode(letter))
    return key


async def test_the_light_repair_moves_the_letters_that_kv_holds(market: Market) -> None:
    for number in range(3):
        _keep_in_kv(market, _letter(number))
    later = msgspec.structs.replace(_letter(1), redriven_at=market.env.now(), redrives=1)
    _keep(market, [later])
    await run_light_repair(market.env)
    assert market.kv.keys("dead-letter:") == []
    assert market.tables.dead_letters[later.id] == later
    assert await count_letters(market.env, None) == 2


async def test_letters_that_cannot_be_read_or_are_refused_do_not_keep_others_in_kv(
    market: Market,
) -> None:
    for number in range(250):
        market.kv.damage(f"dead-letter:{number:016x}:2025-12-31T00:00:00.000Z", b"{")
    refused = _keep_in_kv(market, _letter(250))
    moved = _keep_in_kv(market, _letter(251))

    async def refuse(session: DoubleSession, letter: DeadLetter) -> None:
        if letter.id == _letter(250).id:
            raise DatabaseRejected("refused")
        await store(session, letter)

    store = DoubleSession.store_dead_letter
    with patch.object(DoubleSession, "store_dead_letter", refuse):
        assert (await run_light_repair(market.env)).errors == []
    assert list(market.tables.dead_letters) == [_letter(251).id]
    left = market.kv.keys("dead-letter:")
    assert (len(left), refused in left, moved in left) == (251, True, False)


async def test_what_fails_again_before_its_redrive_is_noted_waits_again(market: Market) -> None:
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


async def test_a_failure_after_a_redrive_opens_the_letter_whatever_its_clock_says(
    market: Market,
) -> None:
    """Two locations, whose clocks differ."""

    def at(skew: timedelta) -> Env:
        return replace(market.env, clock=lambda: current_loop().clock() + skew)

    ahead, behind = at(timedelta(seconds=1)), at(timedelta(seconds=-1))
    await _bury(market, 1, env=ahead)
    (letter,) = await list_letters(ahead, reason=None, after=None, limit=10)
    assert await redrive_ids(ahead, [letter.id])
    assert not await list_letters(behind, reason=None, after=None, limit=10)
    await _bury(market, 1, env=behind)
    (again,) = await list_letters(behind, reason=None, after=None, limit=10)
    assert (again.id, again.redrives) == (letter.id, 1)
