"""Two cells of ``tests/unit/catalog/test_slow_kv.py`` in real time: 5,500 skills in workerd."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.unit.catalog.slow_kv import Postgres
from tests.worker.slow_worker import SlowWorker, slow_worker

PART: Final = 20
SLACK: Final = 2.0  # seconds, for a busy machine


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowWorker]:
    with slow_worker(tmp_path_factory.mktemp("slow"), part=PART) as slow:
        yield slow


def test_calls_of_300_ms_without_postgres(slow: SlowWorker) -> None:
    slow.worker.control.slow_down(300)

    answers = slow.ask_everything(slack=SLACK)

    assert {asked.response.status_code for asked in answers.values()} == {200}
    for name in ("listing", "count", "categories"):
        assert answers[name].total == slow.market.whole, name
        assert answers[name].document["source"] == "kv-index", name
    assert answers["one skill"].seconds > 2 * 0.3  # each call did take its time


def test_calls_that_hang_without_index_and_a_postgres_that_says_nothing(slow: SlowWorker) -> None:
    slow.lose_index()
    slow.database.be(Postgres.HANGS)
    slow.worker.control.slow_down(100, hangs_every=7)

    answers = slow.ask_everything(slack=SLACK)

    assert answers["health"].document["sources"]["postgres"]["error"].startswith("timeout")
