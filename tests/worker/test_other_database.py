"""The running Worker's database emptied, restored from a dump, replaced: what was listed stays so.

An answer that is not marked as degraded never lacks a skill that was acknowledged.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import httpx
import pytest

from local.setup.migrations import apply_migrations
from tests.worker.faults import dump, restore
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import (
    OPERATOR,
    eventually,
    listing,
    names,
    publish,
    publish_many,
)
from tests.worker.storage import everything_listed, health, query, records, rows

LIGHT_CHECK: Final = "*/5 * * * *"
PAUSE: Final = 0.1  # seconds between two listings of who watches


@contextmanager
def watched(marketplace: Marketplace, owner: str, expected: set[str]) -> Iterator[list[str]]:
    """Reads an owner's listing, its count and each skill over and over. In the end no undegraded
    answer has lacked one of them; the sources that have answered."""
    sources: list[str] = []
    lacking: list[Any] = []
    over = threading.Event()

    def look() -> None:
        with marketplace.client() as client:
            while not over.wait(PAUSE):
                answer = listing(client, author=owner, limit=100)
                sources.append(f"{answer['source']} {answer['degraded']}")
                if not answer["degraded"] and not expected <= names(answer):
                    lacking.append(answer)
                count = client.get("/api/v1/skills/count", params={"author": owner}).json()
                if not count["degraded"] and count["count"] < len(expected):
                    lacking.append(count)
                for slug in sorted(expected)[-1:]:
                    found = client.get(f"/api/v1/skills/{slug}")
                    if found.status_code in {404, 410}:
                        lacking.append(found.text)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield sources
    finally:
        over.set()
        watcher.join()
    assert lacking == []


def trusted(client: httpx.Client, owner: str) -> dict[str, Any]:
    """An owner's listing, as soon as it is PostgreSQL's."""
    return eventually(
        lambda: listing(client, author=owner, limit=100), lambda answer: not answer["degraded"]
    )


def acknowledged(marketplace: Marketplace) -> str | None:
    """The id of the database that KV has acknowledged."""
    entry = marketplace.worker.control.kv_get("database:acknowledged")
    return None if entry is None else json.loads(entry.value)["instance"]


def in_another_isolate(marketplace: Marketplace) -> None:
    """Start the Worker again: what it knows from now on KV has told it."""
    worker = marketplace.worker
    worker.stop()
    worker.port = httpx.URL(worker.url).port or 0
    worker.start()
    worker.wait_healthy()


def slugs(prefix: str, count: int) -> Sequence[str]:
    return [f"{prefix}-{number:02}" for number in range(count)]


def test_a_database_from_an_old_dump_is_repaired_before_it_is_believed(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    early, late = slugs("early", 5), slugs("late", 8)
    adoptions = marketplace.log().count('"database-adopted"')
    publish_many(client, "dumped", early)
    kept = dump(marketplace)
    publish_many(client, "dumped", late)
    trusted(client, "dumped")

    with watched(marketplace, "dumped", {*early, *late}) as sources:
        restore(marketplace, kept)
        assert not set(late) & rows(marketplace)
        answer = listing(client, author="dumped", limit=100)
        assert (answer["degraded"], answer["reasons"]) == (True, ["postgres: older-state"])
        meanwhile = publish(client, "dumped", "Meanwhile")["slug"]
        assert trusted(client, "dumped")["source"] == "postgres"
        assert {*early, *late} <= rows(marketplace)
        marketplace.worker.control.fire_scheduled(LIGHT_CHECK)  # publishes what waited
        # The rebuild may have made its row from the log before it waited in the outbox.
        meanwhile = eventually(
            lambda: client.get(f"/api/v1/skills/{meanwhile}").json().get("name"),
            lambda name: name in rows(marketplace),
        )
    assert names(trusted(client, "dumped")) == {*early, *late, meanwhile}
    assert any(source.endswith("True") for source in sources)
    assert health(client)["prisma_count"] == len(records(marketplace))
    # Not by each request; KV may show a moment later what the first one wrote.
    assert marketplace.log().count('"database-adopted"') - adoptions < len(early)


@pytest.mark.parametrize("statement", ["truncate skill", "delete from skill"])
def test_an_emptied_table_is_repaired_before_it_is_believed(
    marketplace: Marketplace, client: httpx.Client, statement: str
) -> None:
    before = slugs("row", 12)
    publish_many(client, "rows", before)
    trusted(client, "rows")
    whole = everything_listed(client)["total"]

    with watched(marketplace, "rows", set(before)) as sources:
        query(marketplace, statement)
        answer = listing(client, author="rows", limit=100)
        assert (answer["degraded"], answer["reasons"]) == (True, ["postgres: older-state"])
        assert names(answer) == set(before)
        assert trusted(client, "rows")["source"] == "postgres"
    assert any(source.endswith("True") for source in sources)
    assert set(before) <= rows(marketplace)
    assert everything_listed(client)["total"] == whole
    assert health(client)["prisma_count"] == len(records(marketplace))


def test_an_emptied_database_is_not_believed_until_it_is_adopted(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    before = slugs("kept", 8)
    publish_many(client, "emptied", before)
    trusted(client, "emptied")
    assert acknowledged(marketplace) == query(marketplace, "select id from instance")[0][0]
    whole = everything_listed(client)["total"]

    with watched(marketplace, "emptied", set(before)) as sources:
        restore(marketplace, "")
        assert listing(client, author="emptied")["degraded"] is True
        apply_migrations(marketplace.postgres.dsn)
        answer = listing(client, author="emptied", limit=100)
        assert answer["reasons"] == ["postgres: other-instance"]
    in_another_isolate(marketplace)
    with watched(marketplace, "emptied", set(before)):
        answer = listing(client, author="emptied", limit=100)
        assert answer["reasons"] == ["postgres: other-instance"]
        assert names(answer) == set(before)
        meanwhile = publish(client, "emptied", "Meanwhile")["slug"]
        found = health(client)
        assert (found["status"], found["prisma_count"]) == ("failing", None)
        advice = [r for r in found["recommendations"] if "--adopt" in r["action"]]
        assert [r["call"] for r in advice] == [None]
        ordinary = client.post("/api/v1/admin/rebuild-index", headers=OPERATOR).json()
        assert ordinary["ok"] is False
        assert rows(marketplace) == set()

        url = "/api/v1/admin/rebuild-index"
        begun = client.post(url, params={"adopt": "true"}, headers=OPERATOR)
        assert begun.status_code == 202
        report = eventually(
            lambda: client.get(f"{url}/{begun.json()['jobId']}", headers=OPERATOR).json(),
            lambda found: found["complete"],
        )
        assert report["ok"], report
        answer = trusted(client, "emptied")
        assert answer["source"] == "postgres"
    assert names(answer) == {*before, meanwhile}
    assert names(answer) <= rows(marketplace)
    assert any(source.endswith("True") for source in sources)
    assert everything_listed(client)["total"] == whole + 1
    (audit,) = query(marketplace, "select action, target from audit")
    assert audit == ("adopt-database", report["jobId"])
    assert acknowledged(marketplace) == query(marketplace, "select id from instance")[0][0]
    assert health(client)["status"] == "ok"
