"""No list of waiting work is hidden by what stands first in it and cannot be done."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from marketplace.kv.keys import outbox_key
from marketplace.kv.outbox import find_identity_in_outbox, write_outbox
from marketplace.operations.redrive import RedriveOutcome, redrive_all
from marketplace.ports.dead_letter import DeadLetter
from marketplace.ports.errors import DatabaseRejected, QueueError
from marketplace.repair.light_repair import run_light_repair
from marketplace.repair.rebuild_job import (
    MAX_ERROR_DETAILS,
    MAX_PLACED,
    Rebuilds,
    message_of,
    new_job,
)
from marketplace.skills.slugs import MAX_SLUG_LENGTH
from tests.doubles.database import DoubleSession
from tests.doubles.kv import KvOperation
from tests.doubles.marketplace import ListQueue, Market, make_skill, make_skills
from tests.doubles.network import Fault

BLOCKED = 300  # more than any of the lists takes at once


def _letter(number: int) -> DeadLetter:
    return DeadLetter(
        id=f"{number:016x}",
        queue="skill-publish",
        body={"submissionId": f"sub-{number}"},
        reason="retries-exhausted",
        detail="",
        attempts=11,
        failed_at=f"2025-12-31T22:{number // 60:02d}:{number % 60:02d}.000Z",
    )


async def _checks_until(market: Market, key: str, *, gone: bool = False) -> int:
    """How many checks it takes until KV has a key, or has it no more."""
    for number in range(1, 6):
        await run_light_repair(market.env)
        if bool(market.kv.keys(key)) is not gone:
            return number
    pytest.fail(f"{key} still waits")


async def test_rows_that_kv_does_not_take_hide_no_other(market: Market) -> None:
    blocked = make_skills(BLOCKED, "blocked")
    await market.fill([*blocked, make_skill("z-good")], kv=False)

    def refuse(operation: KvOperation) -> Fault | None:
        is_blocked = operation.key.startswith("skill:blocked-") and operation.is_write
        return Fault.FAIL if is_blocked else None

    market.kv.faults = refuse
    assert await _checks_until(market, "skill:z-good") == 2
    market.kv.faults = None
    assert await _checks_until(market, "skill:blocked-00000") <= 2


async def test_rows_whose_slugs_are_taken_in_kv_hide_no_other(market: Market) -> None:
    """KV alone has the other skills, which no row covers: only the full repair may decide."""
    await market.fill(make_skills(BLOCKED, author="first", repo_url="https://g.it/a/b"), kv=False)
    others = [make_skill(f"skill-{n:05d}", base_slug=f"other-{n}") for n in range(BLOCKED)]
    await market.fill(others, table=False)
    await market.fill([make_skill("z-good")], kv=False)
    assert await _checks_until(market, "skill:z-good") == 2


async def test_letters_in_kv_that_postgresql_refuses_hide_no_other(market: Market) -> None:
    for number in range(BLOCKED + 1):
        letter = _letter(number)
        market.kv.damage(f"dead-letter:{letter.id}", msgspec.json.encode(letter))

    async def refuse(session: DoubleSession, letter: DeadLetter) -> None:
        if letter.id != good.id:
            raise DatabaseRejected("refused")
        await store(session, letter)

    good, store = _letter(BLOCKED), DoubleSession.store_dead_letter
    with patch.object(DoubleSession, "store_dead_letter", refuse):
        assert await _checks_until(market, f"dead-letter:{good.id}", gone=True) == 4
    assert list(market.tables.dead_letters) == [good.id]
    assert await _checks_until(market, f"dead-letter:{_letter(0).id}", gone=True) == 1


async def test_letters_in_kv_that_cannot_be_read_hide_no_other(market: Market) -> None:
    for number in range(10 * BLOCKED):
        market.kv.damage(f"dead-letter:{number:016x}", b"{")
    good = _letter(10 * BLOCKED)
    market.kv.damage(f"dead-letter:{good.id}", msgspec.json.encode(good))
    assert await _checks_until(market, f"dead-letter:{good.id}", gone=True) == 4


async def test_letters_that_the_queue_does_not_take_hide_no_other(market: Market) -> None:
    letters = {letter.id: letter for letter in map(_letter, range(BLOCKED + 1))}
    market.tables.dead_letters.update(letters)

    class Choosy(ListQueue):
        async def send_batch(self, bodies: Sequence[Mapping[str, Any]]) -> None:
            if bodies != [_letter(BLOCKED).body]:
                raise QueueError("too large")
            await super().send_batch(bodies)

    env = replace(market.env, publish_queue=Choosy())
    tried = [{r.id: r for r in await redrive_all(env, reason=None)} for _ in range(4)]
    assert {id_ for call in tried for id_ in call} == set(letters)
    assert tried[3][_letter(BLOCKED).id].outcome is RedriveOutcome.REDRIVEN
    kept = market.tables.dead_letters[_letter(0).id]
    assert (kept.is_open, kept.redrives, kept.reason) == (True, 0, "retries-exhausted")


async def test_of_many_states_in_the_outbox_the_newest_is_found(market: Market) -> None:
    """The keys of one skill are in no order of revisions: here the newest is behind the others."""
    moments = [f"2026-11-01T{n // 60:02d}:{n % 60:02d}:00.000Z" for n in range(2 * BLOCKED)]
    states = [make_skill(updated_at=moment) for moment in moments]
    keys = [outbox_key(state.identity, state.revision) for state in states]
    middle = sorted(keys)[BLOCKED]
    newest = max(n for n, key in enumerate(keys) if key > middle)
    for state in states[: newest + 1]:
        await write_outbox(market.env, state)
    found = await find_identity_in_outbox(market.env, states[0].identity)
    assert found is not None
    assert found.skill == states[newest]


async def test_a_rebuild_carries_an_id_and_keeps_a_bounded_state(market: Market) -> None:
    """After 3,600 moves, and after more than it remembers."""
    env = market.env
    job = new_job(env, dry_run=False, adopt=True)
    slug = "s" * MAX_SLUG_LENGTH
    for _ in range(3600):
        job.place(slug)
    assert message_of(job) == {"rebuildJob": job.id, "adopt": True}
    assert len(msgspec.json.encode(message_of(job))) < 100

    for _ in range(2 * MAX_PLACED):
        job.place(slug)
    for _ in range(2 * MAX_ERROR_DETAILS):
        job.add_error("k" * 512, "r" * 100_000)
    job.stage = "done"
    kept = Rebuilds(job).followed_by(env, new_job(env, dry_run=False))
    assert len(msgspec.json.encode(Rebuilds(job))) < 16 * 2**20  # what one answer may bring
    assert len(msgspec.json.encode(kept)) < 128 * 2**10
