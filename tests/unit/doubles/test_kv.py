"""The simulated KV at its worst: stale, refusing, losing answers, and strict about its limits."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from marketplace.ports.errors import KvError, KvRateLimited
from marketplace.ports.kv import KvNamespace
from tests.doubles.chance import Chance
from tests.doubles.errors import SimulationError
from tests.doubles.kv import KvConduct, KvHandle, KvOperation, KvOperationKind, SimulatedKv
from tests.doubles.loop import CutOff, Invocation, current_loop, finished
from tests.doubles.network import Fault, Network

STALE = KvConduct(stale_reads=1.0, blind_to_own=1.0)


def _always(fault: Fault) -> Callable[[KvOperation], Fault]:
    return lambda _: fault


async def _reads(kv: KvHandle, times: int = 40) -> set[bytes | None]:
    return {await kv.get("k") for _ in range(times)}


async def _lists(kv: KvHandle, times: int = 40) -> set[tuple[str, ...]]:
    pages = [await kv.list(prefix="") for _ in range(times)]
    return {tuple(key.name for key in page.keys) for page in pages}


async def test_reads_and_lists_are_stale_for_a_minute_and_no_longer() -> None:
    kv = SimulatedKv(chance=Chance(1))
    here = kv.at("ams", conduct=STALE, operations_limit=None)
    await here.put("k", b"old")
    await asyncio.sleep(100)
    await here.put("k", b"new")
    assert await _reads(here) == {b"old", b"new"}
    await asyncio.sleep(59)
    assert await _reads(here) == {b"old", b"new"}
    await asyncio.sleep(1)
    assert await _reads(here) == {b"new"}
    await here.delete("k")
    assert await _lists(here) == {("k",), ()}
    await asyncio.sleep(60)
    assert await _lists(here) == {()}


async def test_a_key_that_was_not_there_may_be_missing_for_a_minute() -> None:
    kv = SimulatedKv(chance=Chance(1))
    there = kv.at("sin", conduct=STALE, operations_limit=None)
    await kv.at("ams").put("k", b"v")
    assert await _reads(there) == {None, b"v"}
    assert kv.visible("k") == [None, b"v", b"v"]


async def test_a_location_sees_its_own_writes_unless_it_is_blind_to_them() -> None:
    kv = SimulatedKv(chance=Chance(1))
    conduct = KvConduct(stale_reads=1.0)
    here = kv.at("ams", conduct=conduct, operations_limit=None)
    there = kv.at("sin", conduct=conduct, operations_limit=None)
    await here.put("k", b"v")
    assert await _reads(here) == {b"v"}
    assert await _reads(there) == {None, b"v"}


async def test_a_second_write_to_a_key_within_a_second_is_refused() -> None:
    kv = SimulatedKv(rate_limited=True)
    await kv.put("k", b"1")
    await kv.put("other", b"1")
    await asyncio.sleep(0.9)
    with pytest.raises(KvRateLimited):
        await kv.put("k", b"2")
    with pytest.raises(KvRateLimited):
        await kv.delete("k")
    await asyncio.sleep(0.1)
    await kv.put("k", b"3")
    assert kv.peek("k") == b"3"


@pytest.mark.parametrize(
    ("fault", "answer", "done"),
    [
        (Fault.FAIL, KvError, False),
        (Fault.FAIL_AFTER, KvError, True),
        (Fault.HANG, TimeoutError, False),
        (Fault.HANG_AFTER, TimeoutError, True),
    ],
)
async def test_a_fault_loses_the_question_or_the_answer(
    fault: Fault, answer: type[Exception], done: bool
) -> None:
    kv = SimulatedKv()
    with pytest.raises(answer):
        async with asyncio.timeout(5):
            await kv.at("ams", _always(fault)).put("k", b"v")
    assert kv.peek("k") == (b"v" if done else None)


async def test_a_late_write_is_done_after_its_caller_gave_up() -> None:
    kv = SimulatedKv()
    conduct = KvConduct(network=Network(late_by=(5.0, 6.0)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await kv.at("ams", _always(Fault.LATE), conduct=conduct).put("k", b"late")
    assert kv.peek("k") is None
    await asyncio.sleep(6)
    assert kv.peek("k") == b"late"


async def test_a_write_in_flight_outlives_an_invocation_that_is_cut_off() -> None:
    kv = SimulatedKv()
    conduct = KvConduct(network=Network(latency=(1.0, 1.1)))
    resumed = []

    async def handler() -> None:
        await kv.at("ams", conduct=conduct).put("k", b"v")
        resumed.append(True)

    invocation = Invocation("cut", cut_at=2, cut_off=CutOff.DROPPED)
    current_loop().start(invocation, handler())
    await finished(invocation)
    await asyncio.sleep(2)
    assert kv.peek("k") == b"v"
    assert not resumed


async def test_a_list_has_empty_pages_that_are_not_the_last() -> None:
    kv = SimulatedKv(page_limit=2)
    for number in range(3):
        await kv.put(f"k{number}", b"v")
    seen: list[list[str]] = []
    empty = iter([True, True, False, True, False])
    handle = kv.at("ams", lambda _: Fault.EMPTY_PAGE if next(empty) else None)
    cursors: list[str | None] = [None]
    while len(cursors) == 1 or cursors[-1] is not None:
        page = await handle.list(prefix="k", cursor=cursors[-1])
        seen.append([key.name for key in page.keys])
        cursors.append(page.cursor)
    assert seen == [[], [], ["k0", "k1"], [], ["k2"]]
    assert len(set(cursors[:-1])) == 5


_BREACHES: list[Callable[[KvNamespace], Coroutine[Any, Any, object]]] = [
    lambda kv: kv.put("k" * 513, b""),
    lambda kv: kv.put("", b""),
    lambda kv: kv.put("k", b"x" * (25 * 1024 * 1024 + 1)),
    lambda kv: kv.put("k", b"\xff"),
    lambda kv: kv.put("k", b"", metadata="ü" * 512),
    lambda kv: kv.put("k", b"", expiration_ttl=59),
    lambda kv: kv.get_many([f"k{number}" for number in range(101)]),
    lambda kv: kv.get_many([]),
    lambda kv: kv.list(prefix="", limit=1001),
    lambda kv: kv.list(prefix="", cursor="made up"),
]


@pytest.mark.parametrize("breach", _BREACHES)
async def test_a_breach_of_a_limit_is_a_finding_even_if_it_is_caught(
    breach: Callable[[KvNamespace], Coroutine[Any, Any, object]],
) -> None:
    kv = SimulatedKv()
    with pytest.raises(SimulationError):
        await breach(kv)
    assert len(kv.violations) == 1


async def test_metadata_of_just_1024_bytes_is_taken() -> None:
    kv = SimulatedKv()
    await kv.put("k", b"", metadata="ü" * 511)
    assert kv.peek_metadata("k") == "ü" * 511


async def test_an_invocation_has_a_thousand_operations() -> None:
    kv = SimulatedKv()
    handle = kv.at("ams")
    for _ in range(1000):
        await handle.get("k")
    with pytest.raises(SimulationError):
        await handle.get("k")
    await kv.at("ams").get("k")
    assert kv.operations[KvOperationKind.GET] == 1002


def test_faults_of_the_friendly_kv_can_be_scripted() -> None:
    async def main() -> None:
        kv = SimulatedKv()
        kv.faults = lambda op: Fault.FAIL if op.is_write and op.key.startswith("skill:") else None
        await kv.put("other", b"v")
        with pytest.raises(KvError):
            await kv.put("skill:a", b"v")

    asyncio.run(main())
