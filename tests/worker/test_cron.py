"""The cron triggers in the running Worker: what they repair, and what they leave for health."""

from typing import Any, Final

import httpx
import pytest

from marketplace.repair.cron import NIGHTLY_CRON
from tests.worker.log import log_until_now
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import eventually
from tests.worker.storage import (
    everything_listed,
    health,
    keys,
    publish_only,
    query,
    rebuild,
    records,
    rows,
    without_postgres,
)

LIGHT_CHECK: Final = "*/5 * * * *"
NAMES: Final = [f"Clockwork {number:02}" for number in range(12)]
SLUGS: Final = {f"clockwork-{number:02}" for number in range(12)}
CHANGES: Final = ("prismaBackfilled", "kvBackfilled", "conflictsResolved", "errors")
FINISHED: Final = '"event":"scheduled-run-finished"'
SKIPPED: Final = '"event":"scheduled-run-skipped"'


@pytest.fixture(scope="module")
def published(marketplace: Marketplace) -> Marketplace:
    return publish_only(marketplace, "clockwork", NAMES)


@pytest.fixture
def whole(published: Marketplace, client: httpx.Client) -> Marketplace:
    """A marketplace without drift, and without anything that earlier runs have left."""
    query(published, "delete from state")
    published.worker.control.kv_delete(keys(published, "state:"))
    rebuild(client)
    assert health(client)["status"] == "ok"
    return published


def fire(marketplace: Marketplace, client: httpx.Client, cron: str) -> dict[str, Any]:
    """Run a trigger to its end; the check's report as health shows it."""
    assert marketplace.worker.control.fire_scheduled(cron) == "ok"
    report: dict[str, Any] = health(client)["last_check"]
    assert report["cron"] == cron
    return report


def wait_for_repair(client: httpx.Client, job: str) -> dict[str, Any]:
    """The report of a rebuild, once health shows it as the last repair."""
    report = eventually(
        lambda: health(client)["last_repair"] or {}, lambda found: found.get("jobId") == job
    )
    assert report["complete"]
    assert report["ok"]
    return report


def stored(marketplace: Marketplace) -> tuple[Any, ...]:
    """All skills as both stores hold them."""
    control = marketplace.worker.control
    table = query(marketplace, "select name, revision, revision_in_kv from skill order by name")
    return table, [control.kv_get(key) for key in keys(marketplace, "skill:")]


def test_a_check_of_a_healthy_marketplace_changes_nothing(
    whole: Marketplace, client: httpx.Client
) -> None:
    before, lines = stored(whole), log_until_now(whole, client).count(FINISHED)

    reports = [fire(whole, client, LIGHT_CHECK) for _ in range(2)]

    assert [(report["ok"], report["status"], report["drifts"]) for report in reports] == [
        (True, "ok", [])
    ] * 2
    assert not any("rebuildJob" in report for report in reports)
    assert reports[1]["finishedAt"] > reports[0]["finishedAt"]
    assert stored(whole) == before
    assert log_until_now(whole, client).count(FINISHED) == lines + 2


@pytest.mark.parametrize("lost", [1, 9])
def test_a_check_repairs_rows_that_were_deleted(
    whole: Marketplace, client: httpx.Client, lost: int
) -> None:
    victims = sorted(SLUGS)[:lost]
    query(whole, "delete from skill where name = any(string_to_array($1, ','))", ",".join(victims))

    report = fire(whole, client, LIGHT_CHECK)

    assert report["status"] == "drift"
    assert wait_for_repair(client, report["rebuildJob"])["prismaBackfilled"] == lost
    assert rows(whole) == SLUGS
    assert "rebuildJob" not in fire(whole, client, LIGHT_CHECK)
    assert health(client)["status"] == "ok"


def test_a_check_repairs_records_and_an_index_that_were_deleted(
    whole: Marketplace, client: httpx.Client
) -> None:
    control = whole.worker.control
    control.kv_delete([*keys(whole, "skill:"), *keys(whole, "skills:published-index")])

    report = fire(whole, client, LIGHT_CHECK)

    assert wait_for_repair(client, report["rebuildJob"])["kvBackfilled"] == len(SLUGS)
    assert records(whole) == SLUGS
    answer = health(client)
    assert (answer["status"], answer["kv_index_count"]) == ("ok", len(SLUGS))


def test_the_nightly_run_rebuilds_and_a_second_one_changes_nothing(
    whole: Marketplace, client: httpx.Client
) -> None:
    query(whole, "delete from skill where name = 'clockwork-03'")
    whole.worker.control.kv_delete(["skill:clockwork-07"])

    first = wait_for_repair(client, fire(whole, client, NIGHTLY_CRON)["rebuildJob"])
    after = stored(whole)
    second = wait_for_repair(client, fire(whole, client, NIGHTLY_CRON)["rebuildJob"])

    assert [first[change] for change in CHANGES] == [1, 1, 0, 0]
    assert [second[change] for change in CHANGES] == [0, 0, 0, 0]
    assert first["rebuilt"] == second["rebuilt"] == len(SLUGS)
    assert stored(whole) == after
    assert {skill["name"] for skill in everything_listed(client)["skills"]} >= SLUGS


def test_a_run_is_skipped_while_another_holds_the_lease_and_not_for_ever(
    whole: Marketplace, client: httpx.Client
) -> None:
    lease = "insert into lease values ('scheduled-check', 'a crashed run', $1)"
    before = fire(whole, client, LIGHT_CHECK)
    skipped = log_until_now(whole, client).count(SKIPPED)
    query(whole, lease, "2999-01-01T00:00:00.000Z")
    try:
        assert whole.worker.control.fire_scheduled(LIGHT_CHECK) == "ok"
        assert log_until_now(whole, client).count(SKIPPED) == skipped + 1
        assert health(client)["last_check"] == before
    finally:
        query(whole, "delete from lease")
    query(whole, lease, "2020-01-01T00:00:00.000Z")

    assert fire(whole, client, LIGHT_CHECK)["finishedAt"] > before["finishedAt"]
    assert query(whole, "select * from lease") == []


def test_a_check_without_postgres_says_so_and_leaves_its_report_in_kv(
    whole: Marketplace, client: httpx.Client
) -> None:
    with without_postgres(whole):
        report = fire(whole, client, LIGHT_CHECK)
        assert (report["ok"], report["status"]) == (False, "failing")
        assert keys(whole, "lease:") == []
        assert keys(whole, "state:last-check") == ["state:last-check"]

    assert fire(whole, client, LIGHT_CHECK)["ok"] is True


def test_a_nightly_run_without_postgres_fails_in_its_report_and_the_next_one_succeeds(
    whole: Marketplace, client: httpx.Client
) -> None:
    with without_postgres(whole):
        job = fire(whole, client, NIGHTLY_CRON)["rebuildJob"]
        failed = eventually(
            lambda: health(client)["last_repair"] or {}, lambda found: found.get("jobId") == job
        )
        assert failed["ok"] is False
        assert failed["errorDetails"][0]["key"] == "postgres"

    assert wait_for_repair(client, fire(whole, client, NIGHTLY_CRON)["rebuildJob"])["errors"] == 0
