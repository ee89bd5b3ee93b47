"""Damaged and strange contents of KV in the running Worker: they hide nothing else."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

import httpx
import pytest

from local.host.control import KvEntry
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import OPERATOR, eventually, listing, names
from tests.worker.storage import empty, rebuild, without_postgres

AUTHOR: Final = "damage-author"
MEBIBYTE: Final = 1024 * 1024
HALF: Final = "\ud800"  # half of a surrogate pair: JSON can escape it, UTF-8 cannot hold it
ANSWER_SECONDS: Final = 5.0  # the promise is 2; the rest is for a busy machine
LONGEST: Final = "x" * (512 - len("skill:"))


def record(slug: str, **fields: Any) -> str:
    return json.dumps({"name": slug, "repoUrl": f"https://github.com/{AUTHOR}/{slug}", **fields})


GOOD: Final = [
    *(KvEntry(f"skill:damage-{number:03}", record(f"damage-{number:03}")) for number in range(150)),
    KvEntry("skill:damage-half-metadata", record("damage-half-metadata"), {"name": HALF}),
    KvEntry("skill:damage-half-text", record("damage-half-text"), HALF),
    KvEntry("skill:damage-nested", record("damage-nested"), json.loads("[" * 400 + "]" * 400)),
    KvEntry("skill:damage-old", record("damage-old"), {"name": "other", "score": 7}),
    KvEntry("skill:damage-text", record("damage-text"), '["s1","no summary"]'),
    KvEntry(f"skill:{LONGEST}", record(LONGEST)),
]
BAD: Final = [
    KvEntry("skill:damage-big", "x" * (25 * MEBIBYTE)),
    KvEntry("skill:damage-bytes", b'{"name": "\xff\xfe", "repoUrl": "\xc3"}'),
    KvEntry("skill:damage-half-value", record("damage-half-value", description=HALF)),
    KvEntry("skill:damage-large", "x" * (9 * MEBIBYTE)),
    KvEntry("skill:damage-null", "null"),
    KvEntry("skill:damage-empty", ""),
    KvEntry("skill:damage-deep", "[" * 100_000),
]
STRANGE: Final = [
    KvEntry(key, record("strange"))
    for key in (
        *("skill:", "skill: ", "skill:with space", "skill:a/b", "skill:a//../b", "skill:Upper"),
        *(
            "skill:ünïcode",
            "skill:\U0001f98a",
            "skill:-edge-",
            "skill:a:b",
            "skill:\n",
            "skill:%2F",
        ),
        *("skill:alias:", "skill:alias:alias:", "skill:alias:a b", "skill:alias:alias:a"),
        f"skill:{'é' * 253}",
    )
]
ALIASES: Final = [
    KvEntry("skill:alias:damage-circle-a", '{"slug": "damage-circle-b"}'),
    KvEntry("skill:alias:damage-circle-b", '{"slug": "damage-circle-a"}'),
    KvEntry("skill:alias:damage-self", '{"slug": "damage-self"}'),
    KvEntry("skill:alias:damage-nowhere", '{"slug": "damage-gone"}'),
    KvEntry("skill:alias:damage-former", '{"slug": "damage-000"}'),
]


@pytest.fixture(scope="module")
def damaged(marketplace: Marketplace) -> Iterator[Marketplace]:
    """The marketplace with all of it in KV, and PostgreSQL away."""
    empty(marketplace)
    try:
        with without_postgres(marketplace):
            marketplace.worker.control.kv_put([*GOOD, *BAD, *STRANGE, *ALIASES])
            yield marketplace
    finally:
        empty(marketplace)


def test_every_readable_record_is_listed(damaged: Marketplace, client: httpx.Client) -> None:
    def pages() -> list[dict[str, Any]]:
        first = listing(client, author=AUTHOR, limit=100)
        return [first, listing(client, author=AUTHOR, limit=100, offset=100)]

    def is_whole(answers: list[dict[str, Any]]) -> bool:  # a busy machine may need another try
        return all(answer["total"] == len(GOOD) for answer in answers)

    answers = eventually(pages, is_whole)

    found = set().union(*(names(answer) for answer in answers))
    assert found == {entry.key.removeprefix("skill:") for entry in GOOD}
    assert {(answer["source"], answer["degraded"]) for answer in answers} == {
        ("kv-enumeration", True)
    }


def test_what_cannot_be_used_is_in_the_log_by_its_key(
    damaged: Marketplace, client: httpx.Client
) -> None:
    listing(client)

    expected = [f'"key":"{entry.key}"' for entry in BAD]
    expected.append('"event":"kv-metadata-unusable","key":"skill:damage-half-text"')

    def not_logged() -> list[str]:  # no rebuild may mark the log's end here: it names them too
        log = damaged.log()
        return [text for text in expected if text not in log]

    eventually(not_logged, lambda missing: not missing)


@pytest.mark.parametrize(
    "slug", ["damage-circle-a", "damage-self", "damage-nowhere", "alias", "no", "a%2Fb"]
)
def test_what_leads_nowhere_is_not_found_nor_ruled_out(
    damaged: Marketplace, client: httpx.Client, slug: str
) -> None:
    assert client.get(f"/api/v1/skills/{slug}").status_code == 503  # PostgreSQL may have it


def test_an_alias_leads_to_its_skill(damaged: Marketplace, client: httpx.Client) -> None:
    assert client.get("/api/v1/skills/damage-former").json()["name"] == "damage-000"


@pytest.mark.parametrize(
    "slug", ["with%20space", "%C3%BCn%C3%AFcode", "alias:", "alias:alias:", "%F0%9F%A6%8A"]
)
def test_a_strange_slug_is_not_found(damaged: Marketplace, client: httpx.Client, slug: str) -> None:
    assert client.get(f"/api/v1/skills/{slug}").status_code == 404


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_body_of_bottomless_depth_is_refused(client: httpx.Client, opening: str) -> None:
    """Anybody could end the isolate by it, and with it every other request."""
    response = client.post("/api/v1/submissions", content=opening * 40_000)
    assert response.status_code == 400


def test_a_body_without_declared_length_is_read_no_further_than_the_limit(
    client: httpx.Client,
) -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(64 * 1024):  # 1 GiB
            sent += 16 * 1024
            yield b" " * (16 * 1024)

    try:
        status = client.post("/api/v1/submissions", content=body()).status_code
    except httpx.TransportError:  # the answer came and the connection was closed while sending
        status = 413
    assert status == 413
    assert sent < 256 * MEBIBYTE
    assert client.get("/api/v1/health").status_code == 200


def test_a_body_in_chunks_is_read(client: httpx.Client) -> None:
    response = client.post("/api/v1/submissions", content=iter([b'{"repo', b'Url": 1}']))
    assert response.status_code == 422


def test_the_heap_stays_small(damaged: Marketplace, client: httpx.Client) -> None:
    for _ in range(3):
        listing(client, author=AUTHOR)

    health = client.get("/api/v1/admin/health/skills", headers=OPERATOR).json()
    assert health["heap"]["bytes"] < 100 * MEBIBYTE


def test_simultaneous_visitors_share_a_listing_and_wait_for_none_that_left(
    damaged: Marketplace, client: httpx.Client
) -> None:
    damaged.worker.control.kv_delete(["skill:damage-big", "skill:damage-large"])  # which take long

    def visit(number: int) -> tuple[int, float]:
        before = time.monotonic()
        answer = listing(client, author=AUTHOR, limit=1 + number % 5)
        return answer["total"], time.monotonic() - before

    with suppress(httpx.TimeoutException):
        client.get("/api/v1/skills", timeout=0.05)  # the visitor that makes the listing, and leaves
    with ThreadPoolExecutor(16) as visitors:
        answers = list(visitors.map(visit, range(48)))

    assert {total for total, _ in answers} == {len(GOOD)}
    assert max(seconds for _, seconds in answers) < ANSWER_SECONDS


def test_a_rebuild_names_what_is_broken_and_repairs_the_rest(
    damaged: Marketplace, client: httpx.Client
) -> None:
    damaged.worker.control.kv_put([entry for entry in BAD if "big" in entry.key])
    damaged.postgres.start()
    try:
        eventually(lambda: listing(client), lambda answer: answer["source"] == "postgres")
        first, second = (rebuild(client) for _ in range(2))
        listed = listing(client, author=AUTHOR)
    finally:
        damaged.postgres.kill()  # as the other tests found it

    assert first["prismaBackfilled"] == len(GOOD)
    assert (listed["source"], listed["total"]) == ("postgres", len(GOOD))
    assert {"skill:damage-big", "skill:damage-bytes", "skill:damage-deep", "skill:Upper"} <= {
        error["key"] for error in first["errorDetails"]
    }
    changes = ("prismaBackfilled", "kvBackfilled", "conflictsResolved", "metadataRestored")
    assert [second[change] for change in changes] == [0, 0, 0, 0]
