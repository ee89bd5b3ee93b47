"""Bad input gets a problem that names the field, and nothing is stored."""

import json
import re
import socket
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from marketplace.web.app import create_app
from tests.worker.log import log_until_now
from tests.worker.marketplace import ADDED_FORGE, Marketplace
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


def post(client: httpx.Client, path: str, document: object) -> httpx.Response:
    """As an operator; halves of surrogate pairs are escaped, as JSON has them."""
    headers = {**OPERATOR, "Content-Type": "application/json"}
    return client.post(path, content=json.dumps(document), headers=headers)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"repoUrl": None}, "repoUrl"),
        ({"repoUrl": "http://github.com/bad/input"}, "repoUrl"),
        ({"repoUrl": "https://github.com/onlyowner"}, "repoUrl"),
        ({"repoUrl": "https://github.com:8443/bad/input"}, "repoUrl"),
        ({"repoUrl": "https://github.com.evil.example/bad/input"}, "repoUrl"),
        ({"repoUrl": "https://github.com@evil.example/bad/input"}, "repoUrl"),
        ({"repoUrl": "https://g\u00efthub.com/bad/input"}, "repoUrl"),
        ({"repoUrl": "https://169.254.169.254/bad/input"}, "repoUrl"),
        ({"repoUrl": "https://localhost/bad/input"}, "repoUrl"),
        ({"repoUrl": "https://github.com/bad/input" + "x" * 300}, "repoUrl"),
        ({"skillName": 7}, "skillName"),
        ({"skillName": ""}, "skillName"),
        ({"skillName": "???"}, "skillName"),
        ({"repoUrl": "https://github.com/bad/___", "skillName": None}, "skillName"),
        ({"skillName": "x" * 65}, "skillName"),
        ({"description": "x" * 1025}, "description"),
        ({"description": "nul \u0000"}, "description"),
        ({"displayName": "nul \u0000"}, "displayName"),
        ({"displayName": "half \ud800"}, "displayName"),
        ({"displayName": "\u202eturned"}, "displayName"),
        ({"license": "nul \u0000"}, "license"),
        ({"license": "a\u0085b"}, "license"),
        ({"category": "No Such Shape"}, "category"),
        ({"version": "latest"}, "version"),
        ({"version": "1.\u0660.0"}, "version"),
        ({"skillPath": "../../etc"}, "skillPath"),
        ({"labels": "one"}, "labels"),
        ({"labels": ["x" * 33]}, "labels[0]"),
        ({"extensible": "yes"}, "extensible"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_stored(
    marketplace: Marketplace, client: httpx.Client, changes: dict[str, Any], field: str
) -> None:
    before = keys(marketplace)

    response = post(client, "/api/v1/submissions", SUBMISSION | changes)

    assert response.status_code == 422
    assert field in {error["field"] for error in problem(response)["errors"]}
    assert keys(marketplace) == before


def test_what_widely_used_clients_send_is_taken(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    body = {"repoUrl": "https://github.com/bad/Nameless", "source": "cli", "skilName": "typo"}

    receipt = client.post("/api/v1/submissions", json=body).json()

    assert (receipt["state"], receipt["skillName"]) == ("RECEIVED", "Nameless")
    assert f"sub:{receipt['submissionId']}" in keys(marketplace)
    status = client.get(f"/api/v1/submissions/{receipt['id']}").json()
    assert status["status"] == status["state"] == "RECEIVED"


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
        ("search=a&offset=10001", "offset"),
        ("sortBy=magic", "sortBy"),
        ("certTier=GOLD", "certTier"),
        ("extensible=perhaps", "extensible"),
        ("cursor=nonsense", "cursor"),
        ("search=%00", "search"),
        ("author=a%C2%85", "author"),
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
    response = post(client, "/api/v1/webhooks/scan-results", {"results": [result]})

    assert response.status_code == 422
    assert [error["field"] for error in problem(response)["errors"]] == [field]


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"ids": ["\ud800"]}, "ids[0]"),
        ({"ids": ["a", "b\0"]}, "ids[1]"),
        ({"all": True, "reason": "\udfff"}, "reason"),
        ({"all": True, "reason": "\0"}, "reason"),
    ],
)
def test_a_wrong_letter_is_named(
    client: httpx.Client, document: dict[str, Any], field: str
) -> None:
    response = post(client, "/api/v1/admin/dead-letters/redrive", document)

    assert response.status_code == 422
    assert [error["field"] for error in problem(response)["errors"]] == [field]


def test_the_operator_adds_a_forge_by_a_variable(client: httpx.Client) -> None:
    repository = f"https://{ADDED_FORGE}/group/subgroup/tools"
    response = post(client, "/api/v1/submissions", SUBMISSION | {"repoUrl": repository})

    assert response.status_code == 202


ROUTES: Final = sorted(
    [
        (method.upper(), path)
        for path, operations in create_app().openapi()["paths"].items()
        for method in operations
    ]
    + [("GET", "/skills/{slug}"), ("GET", "/openapi.json"), ("GET", "/api/v1/no/such")]
)
BAD_SEGMENTS: Final = ["%00", "%C2%85", "%ff%fe", "%zz", "a" * 505, "a" * 7_000, "%2e%2e", "%F0%9F"]
BAD_QUERIES: Final = [
    "limit=NaN&q=x", "limit=1&limit=x&q=x", f"offset={'9' * 5_000}", "q=%00&search=%00", "wait=nan",
    "cursor=%00&reason=%00", "cursor=W10&q=%ff", "&&=&;%", "dryRun=%ed%a0%80", f"q={'a' * 7_000}",
]  # fmt: skip
BAD_BODIES: Final = [
    b"", b"null", b"[", b'"\\ud800"', b'{"\\ud800": 1}', b"\xff\xfe", b"\0", b"1" * 5_000,
    b'{"ids": ["\\ud800"], "results": ["\\u0000"], "repoUrl": "\\udfff"}', b"[" * 100_000,
    # U+0222 has the byte of a quotation mark, which hides all brackets from a count of bytes.
    ('{"\u0222":' + "[" * 10_000 + '"').encode("utf-16-le"),
]  # fmt: skip


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_no_route_takes_bad_input_for_a_failure(
    marketplace: Marketplace, client: httpx.Client, route: tuple[str, str]
) -> None:
    method, path = route
    before = len(log_until_now(marketplace, client))
    headers = {**OPERATOR, "Content-Type": "application/json"}
    some = re.sub(r"\{\w+\}", "some", path)
    requests: list[tuple[str, dict[str, Any]]] = [
        *((re.sub(r"\{\w+\}", lambda _: segment, path), {}) for segment in BAD_SEGMENTS),  # noqa: B023
        *((f"{some}?{query}", {}) for query in BAD_QUERIES),
        *((some, {"content": body}) for body in BAD_BODIES),
        (some, {"content": b"{}", "headers": {**OPERATOR, "Content-Type": "text/plain"}}),
    ]
    for url, options in requests:
        response = client.request(method, url, **{"headers": headers} | options)
        assert response.status_code < 500, (url[:80], options)

    log = log_until_now(marketplace, client)[before:]
    assert '"level":"error"' not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("method", ["QUERY", "PROPFIND", "PURGE", "REPORT", "SEARCH", "OPTIONS"])
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/v1/skills", "GET, HEAD"),
        ("/api/v1/submissions", "POST"),
        ("/api/v1/admin/dead-letters", "GET, HEAD"),
        ("/skills/some", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
    ],
)
def test_a_method_that_no_route_takes_is_refused(
    client: httpx.Client, method: str, path: str, allowed: str
) -> None:
    response = client.request(method, path)

    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    problem(response)


@pytest.mark.parametrize("path", [path for method, path in ROUTES if method == "GET"])
def test_head_answers_as_get_does_without_a_body(client: httpx.Client, path: str) -> None:
    url = re.sub(r"\{\w+\}", "some", path)
    for headers in ({}, OPERATOR):
        got, head = (client.request(m, url, headers=headers) for m in ("GET", "HEAD"))
        assert head.status_code == got.status_code
        assert head.content == b""
        assert head.headers["content-type"] == got.headers["content-type"]
        assert head.headers.get("etag") == got.headers.get("etag")
        assert head.headers.get("cache-control") == got.headers.get("cache-control")


HALF: Final = b'{"repoUrl": "https://github.com/bad/input", "skillN'


@pytest.mark.parametrize(
    ("framing", "sent"),
    [
        (b"Content-Length: 500", HALF),
        (b"Content-Length: 500", b""),
        (b"Transfer-Encoding: chunked", b"33\r\n" + HALF + b"\r\n"),
        (b"Transfer-Encoding: chunked", b"33\r\n" + HALF + b"\r\nno number\r\n"),
        (b"Transfer-Encoding: chunked", b"FF\r\n" + HALF),
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/submissions", "/api/v1/webhooks/scan-results"])
def test_a_body_that_breaks_off_is_no_failure(
    marketplace: Marketplace, client: httpx.Client, path: str, framing: bytes, sent: bytes
) -> None:
    before, stored = len(log_until_now(marketplace, client)), keys(marketplace)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()

    with _connection(marketplace) as gone:  # closed at once, with nobody there for an answer
        gone.sendall(head + framing + b"\r\n\r\n" + sent)
    with _connection(marketplace) as half_closed:
        half_closed.sendall(head + framing + b"\r\n\r\n" + sent)
        half_closed.shutdown(socket.SHUT_WR)
        answer = half_closed.makefile("rb").readline()

    assert re.match(rb"HTTP/1\.1 4\d\d ", answer)
    assert client.get("/api/v1/health").status_code == 200
    log = log_until_now(marketplace, client)[before:]
    assert '"level":"error"' not in log
    assert "Traceback" not in log
    assert keys(marketplace) == stored


def _connection(marketplace: Marketplace) -> socket.socket:
    address = urlsplit(marketplace.url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=30)
