"""A marketplace to which nothing was ever published: exactly the seed."""

import httpx

from tests.worker.marketplace import Marketplace
from tests.worker.storage import (
    SEED_COUNT,
    empty,
    everything_listed,
    health,
    rebuild,
    without_postgres,
)


def test_it_lists_exactly_the_seed(marketplace: Marketplace, client: httpx.Client) -> None:
    empty(marketplace)

    answer = everything_listed(client)

    assert (answer["source"], answer["degraded"]) == ("postgres", False)
    assert answer["total"] == len(answer["skills"]) == SEED_COUNT
    assert client.get("/api/v1/skills/count").json()["count"] == SEED_COUNT
    categories = client.get("/api/v1/skills/categories").json()["categories"]
    assert sum(category["count"] for category in categories) == SEED_COUNT


def test_it_lists_exactly_the_seed_without_postgres(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    empty(marketplace)

    with without_postgres(marketplace):
        answer = everything_listed(client)

    assert answer["degraded"] is True
    assert answer["total"] == len(answer["skills"]) == SEED_COUNT


def test_it_is_healthy_and_stays_empty_in_a_rebuild(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    empty(marketplace)

    report = rebuild(client)

    assert (report["ok"], report["errors"], report["rebuilt"]) == (True, 0, 0)
    answer = health(client)
    assert answer["status"] == "ok"
    assert answer["recommendations"] == []
    counts = ("prisma_count", "kv_enumerated_count", "kv_index_count", "seed_count")
    assert [answer[count] for count in counts] == [0, 0, 0, SEED_COUNT]
