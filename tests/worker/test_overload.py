"""More clients at once than the Worker can serve at once, and a PostgreSQL that falls silent."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httpx
import pytest

from bench.overload import CHECK_CRON, kind_of, leave, load
from bench.overload import fill as fill_worker
from tests.worker.marketplace import INTERNAL_KEY, Marketplace
from tests.worker.publishing import listing
from tests.worker.storage import SEED_COUNT, empty, hanging_postgres

COUNT: Final = 3_000
CLIENTS: Final = 64
SECONDS: Final = 15.0
PAUSE: Final = 2.0  # so that the burst of all clients together is what is too much
WHOLE: Final = 0.995
AT_ONCE_SECONDS: Final = 0.9  # less than what a read waits for PostgreSQL

Crowded = tuple[Marketplace, list[str]]


@pytest.fixture(scope="module")
def crowded(marketplace: Marketplace) -> Iterator[Crowded]:
    """A marketplace with some thousands of skills, and their slugs."""
    empty(marketplace)
    yield marketplace, fill_worker(marketplace.worker, INTERNAL_KEY, COUNT)
    empty(marketplace)


def test_under_many_clients_and_checks_answers_are_whole_or_say_that_they_are_not(
    crowded: Crowded,
) -> None:
    marketplace, slugs = crowded

    with ThreadPoolExecutor(1) as pool:
        checks = [
            pool.submit(marketplace.worker.control.fire_scheduled, CHECK_CRON) for _ in range(2)
        ]
        answers = asyncio.run(
            load(marketplace.url, slugs, clients=CLIENTS, seconds=SECONDS, pause=PAUSE)
        )
        assert [check.result() for check in checks] == ["ok", "ok"]

    told = f"{answers.kinds} {sorted(answers.seconds)[-5:]}"
    assert not answers.wrong, f"{answers.wrong} {told}"
    assert len(answers.seconds) > CLIENTS, told
    assert answers.whole_share >= WHOLE, told
    assert not {kind for kind in answers.kinds if "kv" in kind}, told


def test_clients_that_leave_take_no_slot_no_session_and_no_memory_with_them(
    crowded: Crowded,
) -> None:
    marketplace, _ = crowded

    left = asyncio.run(leave(marketplace.url, marketplace.postgres, INTERNAL_KEY))

    assert left.is_good, left


def test_after_some_reads_without_an_answer_everything_is_listed_from_kv_at_once(
    crowded: Crowded, client: httpx.Client
) -> None:
    marketplace, _ = crowded
    with hanging_postgres(marketplace):
        for _ in range(3):
            listing(client)

        began = time.perf_counter()
        response = client.get("/api/v1/skills")
        seconds = time.perf_counter() - began

    assert kind_of(response) == "marked, kv-enumeration"
    answer = response.json()
    assert (answer["reasons"], answer["total"]) == (["postgres: silent"], COUNT + SEED_COUNT)
    assert seconds < AT_ONCE_SECONDS
