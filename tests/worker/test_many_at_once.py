"""Many skills published at once, in many batches of the real queue: none is lost."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx
import pytest

from tests.worker.log import log_until_now
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import (
    RESULTS_A_REPORT,
    eventually,
    names,
    report,
    submit_many,
    wait_all_published,
)
from tests.worker.storage import (
    SEED_COUNT,
    empty,
    everything_listed,
    health,
    query,
    rebuild,
    records,
    rows,
)

OWNERS: Final = [f"crowd-{number}" for number in range(4)]
NAMES: Final = [f"Crowd skill {number:02}" for number in range(50)]
COUNT: Final = len(OWNERS) * len(NAMES)
RESULTS_AT_ONCE: Final = 8
BATCH_LINE: Final = '"event":"publish-batch"'


@pytest.fixture(scope="module")
def crowd(marketplace: Marketplace) -> dict[str, Any]:
    """200 skills, four of each name, reported by eight scanners at once and every message sent
    again besides; the statuses of their submissions."""
    empty(marketplace)
    with (
        marketplace.client() as client,
        ThreadPoolExecutor(RESULTS_AT_ONCE) as pool,
    ):
        before = log_until_now(marketplace, client).count(BATCH_LINE)
        ids = [id_ for owner in OWNERS for id_ in submit_many(client, owner, NAMES)]
        parts = [ids[start : start + RESULTS_AT_ONCE] for start in range(0, COUNT, RESULTS_AT_ONCE)]
        outcomes = pool.map(lambda part: report(client, *part), parts)
        marketplace.worker.control.send(*({"submissionId": id_} for id_ in ids))
        assert sum(len(outcome["accepted"]) for outcome in outcomes) == COUNT
        statuses = wait_all_published(client, ids)
        batches = log_until_now(marketplace, client).count(BATCH_LINE) - before
    assert batches > COUNT // RESULTS_A_REPORT
    return {"statuses": statuses, "slugs": {status["slug"] for status in statuses}}


def test_two_hundred_messages_at_once_are_two_hundred_skills_in_every_source(
    crowd: dict[str, Any], marketplace: Marketplace, client: httpx.Client
) -> None:
    answer = everything_listed(client)

    assert len(crowd["slugs"]) == COUNT
    assert answer["source"] == "postgres"
    assert answer["total"] == SEED_COUNT + COUNT
    assert crowd["slugs"] <= names(answer)
    assert rows(marketplace) == crowd["slugs"]
    assert eventually(lambda: records(marketplace), lambda found: len(found) >= COUNT)
    assert records(marketplace) == crowd["slugs"]


def test_each_skill_of_a_shared_name_keeps_its_own_repository(
    crowd: dict[str, Any], marketplace: Marketplace
) -> None:
    found = query(marketplace, "select base_slug, count(distinct repository) from skill group by 1")

    assert {base for base, _ in found} == {f"crowd-skill-{number:02}" for number in range(50)}
    assert {count for _, count in found} == {str(len(OWNERS))}


def test_a_rebuild_finds_nothing_to_do_but_the_index(
    crowd: dict[str, Any], client: httpx.Client
) -> None:
    report_ = rebuild(client)

    assert (report_["ok"], report_["rebuilt"], report_["errors"]) == (True, COUNT, 0)
    changes = ("prismaBackfilled", "kvBackfilled", "conflictsResolved")
    assert [report_[change] for change in changes] == [0, 0, 0]
    counts = ("prisma_count", "kv_enumerated_count", "kv_index_count")
    answer = health(client)
    assert ([answer[count] for count in counts], answer["status"]) == ([COUNT] * 3, "ok")
