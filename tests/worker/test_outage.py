"""Sources taken away from the running Worker: what was accepted stays listed, and comes back."""

import httpx

from tests.worker.marketplace import Marketplace
from tests.worker.publishing import OPERATOR, eventually, listing, names, publish
from tests.worker.storage import query

LIGHT_CHECK = "*/5 * * * *"
ANSWER_SECONDS = 5.0  # the promise is 2; the rest is for a busy machine


def is_from_postgres(answer: dict[str, object]) -> bool:
    return answer["source"] == "postgres"


def test_listings_go_on_from_kv_and_return_to_postgres(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    publish(client, "outage-one", "Survivor")
    marketplace.postgres.kill()
    try:
        answer = listing(client, author="outage-one")
        assert (answer["source"], answer["degraded"]) == ("kv-enumeration", True)
        assert names(answer) == {"survivor"}
        detail = client.get("/api/v1/skills/survivor", timeout=ANSWER_SECONDS)
        assert detail.json()["degraded"] is True
        assert detail.headers["cache-control"] == "no-store"
    finally:
        marketplace.postgres.start()

    answer = eventually(lambda: listing(client, author="outage-one"), is_from_postgres)
    assert names(answer) == {"survivor"}


def test_a_skill_published_without_postgres_keeps_its_slug_after_the_repair(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    marketplace.postgres.kill()
    try:
        slug = publish(client, "outage-two", "Night work")["slug"]
        assert names(listing(client, author="outage-two")) == {slug}
    finally:
        marketplace.postgres.start()
    eventually(lambda: listing(client), is_from_postgres)

    marketplace.worker.control.fire_scheduled(LIGHT_CHECK)

    rows = eventually(
        lambda: query(marketplace, "select name from skill where author_lower = $1", "outage-two"),
        bool,
    )
    assert rows == [(slug,)]
    assert names(listing(client, author="outage-two")) == {slug}


def test_requests_leave_no_sessions_behind(marketplace: Marketplace, client: httpx.Client) -> None:
    for _ in range(50):
        listing(client)

    def sessions() -> list[tuple[str | None, ...]]:
        return query(
            marketplace,
            "select state from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()",
        )

    assert eventually(sessions, lambda rows: not rows) == []


def test_the_rebuild_brings_back_rows_and_records_that_were_deleted(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    publish(client, "outage-three", "Lost row")
    publish(client, "outage-three", "Lost record")
    query(marketplace, "delete from skill where name = $1", "lost-row")
    marketplace.worker.control.kv_delete(["skill:lost-record"])

    response = client.post("/api/v1/admin/rebuild-index", params={"wait": 20}, headers=OPERATOR)

    assert response.status_code == 200, response.text
    report = response.json()
    assert report["complete"]
    assert report["prismaBackfilled"] >= 1
    assert report["kvBackfilled"] >= 1
    assert names(listing(client, author="outage-three")) == {"lost-row", "lost-record"}
    assert marketplace.worker.control.kv_get("skill:lost-record") is not None


def test_health_counts_agree_after_a_rebuild(client: httpx.Client) -> None:
    publish(client, "outage-four", "Counted")
    client.post("/api/v1/admin/rebuild-index", params={"wait": 20}, headers=OPERATOR)

    health = client.get("/api/v1/admin/health/skills", headers=OPERATOR).json()

    assert health["prisma_count"] == health["kv_enumerated_count"] == health["kv_index_count"]
    assert health["seed_count"] == 118
    assert health["drift_detected"] is False
    assert health["heap"]["bytes"] > 0
