"""The simulated loop: virtual time, seeded order, deadlocks, invocations cut off."""

import asyncio

import pytest

from tests.doubles.loop import STALL, CutOff, Deadlock, Invocation, current_loop, finished, simulate


async def _steps(name: str, log: list[str]) -> None:
    for step in range(3):
        await asyncio.sleep(0)
        log.append(f"{name}{step}")


async def _interleaved() -> list[str]:
    log: list[str] = []
    async with asyncio.TaskGroup() as group:
        for name in "abcd":
            group.create_task(_steps(name, log))
    return log


def test_the_same_seed_gives_the_same_order_and_another_seed_another() -> None:
    orders = [simulate(_interleaved(), seed=seed) for seed in range(20)]
    assert orders == [simulate(_interleaved(), seed=seed) for seed in range(20)]
    assert len({tuple(order) for order in orders}) > 10


def test_the_order_of_a_seed_is_the_same_on_every_machine() -> None:
    assert " ".join(simulate(_interleaved(), seed=7)) == ("b0 a0 c0 b1 d0 a1 b2 a2 d1 d2 c1 c2")


def test_without_a_seed_tasks_take_turns() -> None:
    assert simulate(_interleaved())[:4] == ["a0", "b0", "c0", "d0"]


def test_time_jumps_to_the_next_timer() -> None:
    async def main() -> tuple[float, str]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.sleep(1_000_000)
        loop = current_loop()
        return loop.time(), loop.clock().isoformat()

    assert simulate(main()) == (3600.0, "2026-01-01T01:00:00+00:00")


def test_a_deadlock_names_what_waits_and_where() -> None:
    async def waits_for_godot() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match="waits_for_godot"):
        simulate(waits_for_godot())


def test_an_error_in_a_task_that_nobody_awaits_is_not_lost() -> None:
    async def fails() -> None:
        raise LookupError("lost")

    async def main() -> None:
        asyncio.ensure_future(fails())  # noqa: RUF006 - nobody shall keep it
        await asyncio.sleep(1)

    with pytest.raises(LookupError, match="lost"):
        simulate(main())


def test_what_a_dropped_invocation_could_not_look_at_is_no_error() -> None:
    async def fails() -> None:
        raise LookupError("lost")

    async def body() -> None:
        asyncio.ensure_future(fails())  # noqa: RUF006 - its invocation ends before it can look
        await asyncio.sleep(1)

    async def main() -> None:
        invocation = Invocation("dropped", cut_at=3)
        current_loop().start(invocation, body())
        await finished(invocation)
        assert invocation.is_dropped

    simulate(main(), seed=0)


@pytest.mark.parametrize("how", [CutOff.DROPPED, CutOff.CANCELLED])
def test_an_invocation_is_cut_off_at_the_chosen_await(how: CutOff) -> None:
    log: list[str] = []

    async def child() -> None:
        await asyncio.sleep(5)
        log.append("child")

    async def body() -> None:
        task = asyncio.ensure_future(child())
        try:
            for number in range(10):
                log.append(str(number))
                await asyncio.sleep(1)
        finally:
            log.append("finally")
            task.cancel()

    async def main() -> None:
        invocation = Invocation("cut", cut_at=4, cut_off=how)
        current_loop().start(invocation, body())
        await finished(invocation)
        assert invocation.was_cut
        await asyncio.sleep(100)
        log.append("end")

    simulate(main(), seed=0)
    resumed = log[: log.index("end")]
    assert ("finally" in resumed) is (how is CutOff.CANCELLED)
    assert "child" not in log
    assert "9" not in log


def test_an_invocation_that_is_not_cut_off_ends_by_itself() -> None:
    async def main() -> tuple[int, bool, object]:
        invocation = Invocation("whole", cut_at=1000)
        task = current_loop().start(invocation, asyncio.sleep(1, "done"))
        await finished(invocation)
        return invocation.steps, invocation.was_cut, task.result()

    assert simulate(main(), seed=0)[1:] == (False, "done")


def test_an_invocation_that_is_held_up_goes_on_later_while_others_do_not_wait() -> None:
    log: list[tuple[str, float]] = []

    async def tick(name: str) -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            log.append((name, current_loop().time()))

    async def held_up() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(tick("first"))
            group.create_task(tick("second"))

    async def main() -> None:
        invocation = Invocation("held up", cut_at=5, cut_off=CutOff.STALLED)
        current_loop().start(invocation, held_up())
        await tick("other")
        await finished(invocation)
        assert not invocation.was_cut

    simulate(main(), seed=0)
    other = [at for name, at in log if name == "other"]
    rest = sorted(at for name, at in log if name != "other")
    assert other == [1, 2, 3]
    assert (len(rest), rest[-1] > STALL) == (6, True)
    stalled = [at for at in rest if 1 < at < STALL]
    assert not stalled
