"""What `tests/unit/catalog/test_slow_kv.py` asks, at full size: in virtual and in real time."""

from collections.abc import Callable, Iterator
from typing import Final

import pytest

from marketplace.ports.isolate import FallbackCache
from tests.doubles.marketplace import Market, run
from tests.unit.catalog.slow_kv import QUESTIONS, Asked, Calls, Postgres, fill, judge
from tests.worker.slow_worker import SlowWorker, slow_worker

Note = Callable[[str, object], None]

SLOW: Final = (Calls.MS_100, Calls.MS_300, Calls.MS_500, Calls.HANGING)
SLACK: Final = 2.0  # seconds, for what is no call: 110,000 summaries are merged and matched


@pytest.mark.parametrize("postgres", Postgres)
@pytest.mark.parametrize("index", [True, False], ids=["index", "no index"])
@pytest.mark.parametrize("calls", SLOW)
def test_each_answer_comes_in_time_and_says_what_it_lacks(
    calls: Calls, postgres: Postgres, *, index: bool, record_property: Note
) -> None:
    async def cell(market: Market) -> dict[str, Asked]:
        slow = await fill(market, part=1, index=index)
        slow.calls, slow.postgres = calls, postgres
        answers = {}
        for name, question in QUESTIONS.items():
            slow.memory = FallbackCache()  # a new isolate
            answers[name] = await slow.ask(question)
            judge(name, answers[name], slow.whole)
        return answers

    record_property("figures", _told(run(cell)))


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowWorker]:
    with slow_worker(tmp_path_factory.mktemp("slow"), part=1) as slow:
        yield slow


def test_calls_of_300_ms_without_postgres(slow: SlowWorker, record_property: Note) -> None:
    slow.worker.control.slow_down(300)
    record_property("figures", _told(slow.ask_everything(slack=SLACK)))


def test_calls_that_hang_without_index_and_a_postgres_that_says_nothing(
    slow: SlowWorker, record_property: Note
) -> None:
    slow.lose_index()
    slow.database.be(Postgres.HANGS)
    slow.worker.control.slow_down(100, hangs_every=7)
    record_property("figures", _told(slow.ask_everything(slack=SLACK)))


def _told(answers: dict[str, Asked]) -> str:
    return ", ".join(
        f"{name} {asked.response.status_code} {asked.seconds:.1f} s"
        for name, asked in answers.items()
    )
