"""The Worker serves, with every binding within the tests' reach."""

import subprocess

import httpx

from local.host.control import KvEntry
from local.host.cron import cron_expressions
from local.paths import NODE, NODE_MODULES, REPOSITORY, WRANGLER_CONFIG
from local.setup.packages import node_environment
from tests.worker.marketplace import Marketplace

WRANGLER = NODE_MODULES / "wrangler" / "bin" / "wrangler.js"


def test_health_answers(client: httpx.Client) -> None:
    response = client.get("/api/v1/health")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"


def test_unknown_paths_are_answered_by_the_static_files(client: httpx.Client) -> None:
    response = client.get("/no/such/page")
    assert response.status_code == 404
    assert "text/html" in response.headers["content-type"]


def test_kv_can_be_written_listed_read_and_deleted(marketplace: Marketplace) -> None:
    control = marketplace.worker.control
    entries = [KvEntry(f"serving:{n:04}", f"value {n}", {"n": n}) for n in range(1_234)]
    assert control.kv_put(entries) == 1_234
    assert list(control.kv_list("serving:")) == [(each.key, each.metadata) for each in entries]
    assert control.kv_get("serving:0007") == entries[7]
    control.kv_delete([each.key for each in entries])
    assert list(control.kv_list("serving:")) == []
    assert control.kv_get("serving:0007") is None


def test_every_cron_trigger_reaches_the_handler(marketplace: Marketplace) -> None:
    for expression in cron_expressions(WRANGLER_CONFIG):
        assert marketplace.worker.control.fire_scheduled(expression) == "ok"


def test_control_refuses_a_wrong_token(marketplace: Marketplace) -> None:
    address = marketplace.worker.control.url
    refused = httpx.post(
        f"{address}/kv/list", headers={"authorization": "Bearer wrong"}, trust_env=False
    )
    assert refused.status_code == 401


def test_postgres_comes_back_after_a_kill_on_the_same_address(marketplace: Marketplace) -> None:
    dsn = marketplace.postgres.dsn
    marketplace.postgres.kill()
    assert not marketplace.postgres.running
    marketplace.postgres.start()
    assert marketplace.postgres.running
    assert marketplace.postgres.dsn == dsn


def test_wrangler_reads_and_writes_the_local_kv_while_the_worker_runs(
    marketplace: Marketplace,
) -> None:
    control = marketplace.worker.control
    control.kv_put([KvEntry("serving:seen", "by the Worker")])

    def wrangler(command: str, *arguments: str) -> str:
        where = ("--binding", "SUBMISSIONS_KV", "--local", "--persist-to")
        return subprocess.run(
            [
                NODE,
                WRANGLER,
                "kv",
                "key",
                command,
                *arguments,
                *where,
                marketplace.worker.persist_to,
            ],
            cwd=REPOSITORY,
            env=node_environment() | {"WRANGLER_SEND_METRICS": "false", "CI": "true"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout

    assert "by the Worker" in wrangler("get", "serving:seen", "--text")
    wrangler("put", "serving:seen", "by wrangler")
    entry = control.kv_get("serving:seen")
    control.kv_delete(["serving:seen"])
    assert entry is not None
    assert entry.value == "by wrangler"
