"""The health answer of the running Worker in each state that it has a word for."""

import time
from typing import Any, Final

import httpx
import msgspec
import pytest

from local.host.control import KvEntry
from marketplace.basics.timestamps import shifted
from tests.worker.log import log_until_now
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import listing, publish_many, submit
from tests.worker.storage import (
    INDEX_KEY,
    SEED_COUNT,
    hanging_postgres,
    health,
    keys,
    publish_only,
    query,
    rebuild,
    refusing_postgres,
    without_postgres,
)

NAMES: Final = [f"Vital {number:02}" for number in range(40)]
COUNT: Final = len(NAMES)
SECONDS: Final = 3.0
DIFFERENCES: Final = "state:differences"
REBUILD: Final = "POST /api/v1/admin/rebuild-index"
PENDING_MARK: Final = "pending:2026-11-20T08:00:00.000Z:"


@pytest.fixture(scope="module")
def published(marketplace: Marketplace) -> Marketplace:
    return publish_only(marketplace, "vital", NAMES)


@pytest.fixture
def healthy(published: Marketplace, client: httpx.Client) -> Marketplace:
    rebuild(client)
    return published


def in_time(client: httpx.Client) -> dict[str, Any]:
    """The health answer, within its time."""
    start = time.monotonic()
    answer = health(client)
    assert time.monotonic() - start < SECONDS
    return answer


def counts(answer: dict[str, Any]) -> list[int | None]:
    names = ("prisma_count", "kv_enumerated_count", "kv_index_count", "seed_count")
    return [answer[name] for name in names]


def drifts(answer: dict[str, Any]) -> dict[tuple[str, ...], tuple[str, list[int], int]]:
    """Kind, counts and difference, by the two sources."""
    assert answer["drift_detected"] is bool(answer["drifts"])
    assert all(str(count) in drift["message"] for drift in answer["drifts"]
               for count in drift["counts"])  # fmt: skip
    return {
        tuple(drift["sources"]): (drift["kind"], drift["counts"], drift["difference"])
        for drift in answer["drifts"]
    }


def calls(answer: dict[str, Any]) -> list[str | None]:
    return [each["call"] for each in answer["recommendations"]]


def as_if_a_minute_had_passed(marketplace: Marketplace) -> None:
    """Move the moment at which differences were found first."""
    control = marketplace.worker.control
    kept = control.kv_get(DIFFERENCES)
    assert kept is not None
    found = msgspec.json.decode(kept.value)
    for suspect in found:
        suspect["since"] = shifted(suspect["since"], -60.0)
    control.kv_put([KvEntry(DIFFERENCES, msgspec.json.encode(found).decode())])


def test_healthy(healthy: Marketplace, client: httpx.Client) -> None:
    answer = in_time(client)

    assert (answer["status"], answer["drift_detected"]) == ("ok", False)
    assert counts(answer) == [COUNT, COUNT, COUNT, SEED_COUNT]
    assert (answer["drifts"], answer["recommendations"]) == ([], [])
    assert set(answer["sources"]) == {"postgres", "kv", "kv_index"}
    for source in answer["sources"].values():
        assert (source["reachable"], source["error"], source["damaged"]) == (True, None, False)
        assert source["latency_ms"] < SECONDS * 1000
    assert 0 <= answer["sources"]["kv_index"]["age_seconds"] < 600
    assert answer["last_repair"]["ok"] is True
    assert answer["dead_letters"] == {"total": 0, "by_reason": {}}
    assert answer["oldest_pending"] is None
    assert 0 < answer["heap"]["bytes"] < 100_000_000


def test_an_index_that_is_gone(healthy: Marketplace, client: httpx.Client) -> None:
    healthy.worker.control.kv_delete(keys(healthy, INDEX_KEY))

    answer = in_time(client)

    assert (answer["status"], counts(answer)) == ("drift", [COUNT, COUNT, 0, SEED_COUNT])
    assert drifts(answer) == {
        ("postgres", "kv_index"): ("count", [COUNT, 0], COUNT),
        ("kv", "kv_index"): ("count", [COUNT, 0], COUNT),
    }
    assert answer["sources"]["kv_index"]["error"] == "missing"
    assert calls(answer) == [REBUILD]


@pytest.mark.parametrize("value", ["", "{", "[]", "null", '{"format":"published-index"}', "x" * 99])
def test_an_index_that_is_damaged(healthy: Marketplace, client: httpx.Client, value: str) -> None:
    healthy.worker.control.kv_put([KvEntry(INDEX_KEY, value)])

    answer = in_time(client)

    assert counts(answer) == [COUNT, COUNT, None, SEED_COUNT]
    assert answer["sources"]["kv_index"]["damaged"] is True
    assert answer["sources"]["kv_index"]["reachable"] is True
    assert calls(answer) == [REBUILD]


def test_an_index_that_is_stale(healthy: Marketplace, client: httpx.Client) -> None:
    total = health(client)["prisma_count"]
    stale = healthy.worker.control.kv_get(INDEX_KEY)
    assert stale is not None
    pages = [healthy.worker.control.kv_get(key) for key in keys(healthy, f"{INDEX_KEY}:")]
    publish_many(client, "vital-later", [f"Later vital {number:02}" for number in range(12)])
    rebuild(client)

    healthy.worker.control.kv_put([stale, *(page for page in pages if page is not None)])
    answer = in_time(client)

    assert counts(answer)[:3] == [total + 12, total + 12, total]
    assert drifts(answer) == {
        ("postgres", "kv_index"): ("count", [total + 12, total], 12),
        ("kv", "kv_index"): ("count", [total + 12, total], 12),
    }
    assert calls(answer) == [REBUILD]


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_table_short_by_more_than_five_percent_is_a_drift(
    healthy: Marketplace, client: httpx.Client, beyond: int
) -> None:
    total = health(client)["prisma_count"]
    lost = total // 20 + beyond
    query(
        healthy,
        "delete from skill where name in (select name from skill order by name limit $1::int)",
        str(lost),
    )

    answer = in_time(client)

    assert counts(answer) == [total - lost, total, total, SEED_COUNT]
    expected = ("count", [total - lost, total], lost)
    assert drifts(answer) == (
        {("postgres", "kv"): expected, ("postgres", "kv_index"): expected} if beyond else {}
    )
    assert calls(answer) == ([REBUILD] if beyond else [])
    assert rebuild(client)["prismaBackfilled"] == lost
    assert in_time(client)["status"] == "ok"


def test_equal_counts_of_different_members(healthy: Marketplace, client: httpx.Client) -> None:
    total = health(client)["prisma_count"]
    query(healthy, "delete from skill where name = 'vital-00'")
    healthy.worker.control.kv_delete(["skill:vital-01"])

    answer = in_time(client)

    assert counts(answer)[:3] == [total - 1, total - 1, total]
    assert (answer["status"], answer["drifts"], answer["findings"]) == ("ok", [], [])
    as_if_a_minute_had_passed(healthy)
    answer = in_time(client)
    assert {each["kind"]: each["examples"] for each in answer["findings"]} == {
        "record-missing": ["vital-01"],
        "row-missing": ["vital-00"],
    }
    assert calls(answer) == [REBUILD]
    report = rebuild(client)
    assert (report["prismaBackfilled"], report["kvBackfilled"]) == (1, 1)
    assert in_time(client)["findings"] == []


def test_postgres_away(healthy: Marketplace, client: httpx.Client) -> None:
    total = health(client)["prisma_count"]

    with without_postgres(healthy):
        answer = in_time(client)

    assert answer["status"] == "failing"
    assert counts(answer) == [None, total, total, SEED_COUNT]
    source = answer["sources"]["postgres"]
    assert source["reachable"] is False
    assert source["error"]
    assert answer["drifts"] == []
    (recommendation,) = answer["recommendations"]
    assert "Hyperdrive" in recommendation["action"]
    assert recommendation["call"] is None
    assert health(client)["status"] == "ok"


def test_postgres_that_refuses_every_session(healthy: Marketplace, client: httpx.Client) -> None:
    with refusing_postgres(healthy):
        page = listing(client)
        answer = in_time(client)

    assert page["degraded"]
    assert page["source"] != "postgres"
    assert answer["status"] == "failing"
    assert answer["sources"]["postgres"]["error"].startswith("refused: ")
    (recommendation,) = answer["recommendations"]
    assert "refuses every session" in recommendation["action"]
    assert "does not exist" in recommendation["reason"]
    log = log_until_now(healthy, client)
    for event in ("read-falls-back", "health-source-not-read"):
        assert f'{{"level":"error","event":"{event}"' in log
    assert health(client)["status"] == "ok"


def test_postgres_that_hangs(healthy: Marketplace, client: httpx.Client) -> None:
    with hanging_postgres(healthy):
        answer = health(client)

    assert answer["status"] == "failing"
    assert answer["prisma_count"] is None
    assert answer["sources"]["postgres"]["reachable"] is False
    assert answer["kv_enumerated_count"] == answer["kv_index_count"]


def test_dead_letters_and_the_oldest_pending_submission(
    healthy: Marketplace, client: httpx.Client
) -> None:
    submission_id = submit(client, "vital-waiting", "Waiting")["id"]
    control = healthy.worker.control
    control.kv_put([KvEntry(f"{PENDING_MARK}{submission_id}", "")])

    answer = in_time(client)

    control.kv_delete([f"{PENDING_MARK}{submission_id}"])
    pending = answer["oldest_pending"]
    assert (pending["id"], pending["scanned_at"]) == (submission_id, "2026-11-20T08:00:00.000Z")
    assert pending["age_seconds"] > 3_600
    (recommendation,) = answer["recommendations"]
    assert submission_id in recommendation["reason"]
    assert "passed" in recommendation["reason"]
    assert "publish queue" in recommendation["action"]
