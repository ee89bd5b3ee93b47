"""Bad input gets a problem that names the field, and nothing is stored."""

from typing import Any

import httpx
import pytest

from tests.worker.conftest import Marketplace
from tests.worker.publishing import OPERATOR

SUBMISSION = {"repoUrl": "https://github.com/bad/input", "skillName": "Bad input"}
PASSED: dict[str, Any] = {"submissionId": "a", "verdict": "PASS", "score": 1}


def keys(marketplace: Marketplace) -> list[str]:
    return [key for key, _ in marketplace.worker.control.kv_list("sub:")]


def problem(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == response.status_code
    return document


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"repoUrl": None}, "repoUrl"),
        ({"repoUrl": "http://github.com/bad/input"}, "repoUrl"),
        ({"repoUrl": "https://github.com/onlyowner"}, "repoUrl"),
        ({"repoUrl": "https://github.com/bad/input" + "x" * 300}, "repoUrl"),
        ({"skillName": 7}, "skillName"),
        ({"skillName": ""}, "skillName"),
        ({"skillName": "???"}, "skillName"),
        ({"skillName": "x" * 65}, "skillName"),
        ({"description": "x" * 1025}, "description"),
        ({"description": "nul \u0000"}, "description"),
        ({"category": "No Such Shape"}, "category"),
        ({"version": "latest"}, "version"),
        ({"skillPath": "../../etc"}, "skillPath"),
        ({"labels": "one"}, "labels"),
        ({"labels": ["x" * 33]}, "labels[0]"),
        ({"extensible": "yes"}, "extensible"),
        ({"skilName": "typo"}, "skilName"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_stored(
    marketplace: Marketplace, client: httpx.Client, changes: dict[str, Any], field: str
) -> None:
    before = keys(marketplace)

    response = client.post("/api/v1/submissions", json=SUBMISSION | changes)

    assert response.status_code == 422
    assert field in {error["field"] for error in problem(response)["errors"]}
    assert keys(marketplace) == before


def test_malformed_json_is_a_bad_request(client: httpx.Client) -> None:
    response = client.post(
        "/api/v1/submissions", content=b"{", headers={"Content-Type": "application/json"}
    )

    assert response.status_code == 400
    assert "JSON" in problem(response)["detail"]


def test_too_large_a_body_is_refused(client: httpx.Client) -> None:
    response = client.post("/api/v1/submissions", content=b" " * 300_000)

    assert response.status_code == 413
    problem(response)


@pytest.mark.parametrize(
    "path",
    ["/api/v1/skills/no-such", "/api/v1/skills/a/b/c", "/api/v1/submissions/nope", "/api/v1/no"],
)
def test_what_is_not_there_is_a_not_found_problem(client: httpx.Client, path: str) -> None:
    response = client.get(path)

    assert response.status_code == 404
    problem(response)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("offset=-1", "offset"),
        ("sortBy=magic", "sortBy"),
        ("certTier=GOLD", "certTier"),
        ("extensible=perhaps", "extensible"),
        ("cursor=nonsense", "cursor"),
    ],
)
def test_a_wrong_parameter_is_named(client: httpx.Client, query: str, field: str) -> None:
    response = client.get(f"/api/v1/skills?{query}")

    assert response.status_code == 422
    assert [error["field"] for error in problem(response)["errors"]] == [field]


@pytest.mark.parametrize(
    "headers", [{}, {"X-Internal-Key": "x" * 40}, {"Authorization": "Bearer x"}]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/webhooks/scan-results"),
        ("GET", "/api/v1/admin/health/skills"),
        ("POST", "/api/v1/admin/rebuild-index"),
        ("GET", "/api/v1/admin/dead-letters"),
    ],
)
def test_a_wrong_key_opens_nothing(
    client: httpx.Client, headers: dict[str, str], method: str, path: str
) -> None:
    body = {"results": [{"submissionId": "a", "verdict": "PASS", "score": 1}]}

    response = client.request(method, path, headers=headers, json=body)

    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    problem(response)


@pytest.mark.parametrize(
    ("result", "field"),
    [
        ({"submissionId": "a", "verdict": "MAYBE", "score": 1}, "results[0].verdict"),
        ({"submissionId": "a", "verdict": "PASS", "score": 101}, "results[0].score"),
        ({"submissionId": "a", "verdict": "PASS", "score": "1"}, "results[0].score"),
        ({"verdict": "PASS", "score": 1}, "results[0].submissionId"),
        (PASSED | {"scannedAt": "yesterday"}, "results[0].scannedAt"),
        (PASSED | {"scannedAt": "0001-01-01T00:00:00+10:00"}, "results[0].scannedAt"),
        (PASSED | {"reason": "a\0b"}, "results[0].reason"),
    ],
)
def test_a_wrong_verdict_is_named(client: httpx.Client, result: dict[str, Any], field: str) -> None:
    response = client.post(
        "/api/v1/webhooks/scan-results", json={"results": [result]}, headers=OPERATOR
    )

    assert response.status_code == 422
    assert [error["field"] for error in problem(response)["errors"]] == [field]
