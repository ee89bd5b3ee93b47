"""Versions and updates from the real Worker: published through the queue, read from PostgreSQL and,
with that away, from KV."""

from typing import Any, Final

import httpx

from tests.worker.marketplace import Marketplace
from tests.worker.publishing import OPERATOR, eventually, submit, wait_published
from tests.worker.storage import query, without_postgres

OLD, NEW = "1" * 64, "2" * 64
VERSIONS: Final = "/api/v1/skills/versioned/versions"


def scanned(client: httpx.Client, version: str, digest: str, **result: Any) -> None:
    """Publish what a scanner has read of the skill."""
    id_ = submit(client, "versions-one", "Versioned", version=version, trusted=True)["id"]
    facts = {"name": "Versioned", "description": f"As of {version}.", "version": version}
    verdict = {
        "submissionId": id_,
        "verdict": "PASS",
        "score": 90,
        "skill": facts,
        "path": "skills/versioned",
        "commit": digest[0] * 40,
        "contentDigest": digest,
        **result,
    }
    answer = client.post(
        "/api/v1/webhooks/scan-results", json={"results": [verdict]}, headers=OPERATOR
    )
    assert answer.json()["accepted"] == [id_], answer.text
    wait_published(client, id_)


def updates(client: httpx.Client, *installed: dict[str, str]) -> httpx.Response:
    return client.post("/api/v1/skills/check-updates", json={"skills": installed})


def told(client: httpx.Client, path: str = VERSIONS) -> list[tuple[str, str, str]]:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return [
        (version["version"], version["contentHash"], version["diffSummary"])
        for version in answer.json()["versions"]
    ]


def test_versions_and_updates_are_told_with_either_source(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    scanned(client, "1.2.0", OLD)
    scanned(client, "1.3.0", NEW)
    expected = [
        ("1.3.0", NEW, "Version 1.2.0 → 1.3.0; description and files changed."),
        ("1.2.0", OLD, "First listed as version 1.2.0."),
    ]
    assert eventually(lambda: told(client), lambda versions: len(versions) == 2) == expected
    assert told(client, "/api/v1/skills/versions-one/tools/versioned/versions") == expected
    stored = "select count(*) from skill_version where identity like '%versions-one%'"
    assert query(marketplace, stored) == [("2",)]

    installed = [
        {"name": "versioned", "currentVersion": "1.2.0", "sha": OLD},
        {"name": "versioned", "currentVersion": "1.3.0", "sha": NEW},
        {"name": "nobody-has-this", "currentVersion": "9999999999"},
        {"name": "versions-one/tools/Versioned", "currentVersion": ""},
    ]
    whole = updates(client, *installed).json()
    assert (whole["source"], whole["degraded"]) == ("postgres", False)
    assert [
        (each["latest"], each["updateAvailable"], each["versionBump"], each["status"])
        for each in whole["results"]
    ] == [
        ("1.3.0", True, "minor", "LISTED"),
        ("1.3.0", False, None, "LISTED"),
        ("9999999999", False, None, "UNKNOWN"),
        ("1.3.0", True, None, "LISTED"),
    ]

    with without_postgres(marketplace):
        kept = client.get(VERSIONS)
        assert kept.json()["degraded"] is True
        assert kept.headers["cache-control"] == "no-store"
        assert told(client) == expected
        answer = updates(client, *installed).json()
        assert (answer["source"], answer["degraded"]) == ("kv-enumeration", True)
        assert answer["results"] == whole["results"]
    eventually(lambda: client.get(VERSIONS).json(), lambda answer: not answer["degraded"])


def test_a_withheld_skill_keeps_its_versions_and_has_no_update(client: httpx.Client) -> None:
    if client.get(VERSIONS).status_code == 404:  # this test alone
        scanned(client, "1.2.0", OLD)
    acts = "/api/v1/admin/skills/versioned"
    block = {"reason": "Steals keys.", "threatType": "exfiltration", "severity": "HIGH"}
    act = client.post(f"{acts}/block", json=block, headers=OPERATOR).json()["act"]["id"]
    try:
        eventually(lambda: client.get(VERSIONS).status_code, lambda status: status == 410)
        (result,) = updates(client, {"name": "versioned", "currentVersion": "1.0.0"}).json()[
            "results"
        ]
        assert (result["updateAvailable"], result["status"]) == (False, "BLOCKED")
        shown = client.get(acts, headers=OPERATOR).json()
        assert shown["versions"][-1]["version"] == "1.2.0"
    finally:
        restore = {"acts": [act], "reason": "A test."}
        client.post(f"{acts}/restore", json=restore, headers=OPERATOR)
    assert eventually(lambda: client.get(VERSIONS).status_code, lambda status: status == 200)
