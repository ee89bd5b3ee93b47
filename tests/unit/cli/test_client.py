"""Reaching a marketplace: what is retried, how errors read, and that no secret shows."""

import json
import traceback
from typing import Any

import httpx
import pytest

from cli import client as client_module
from cli.access import Access
from cli.app import app
from tests.unit.cli.double import KEY, TOKEN, FakeMarketplace

HEALTH = "/api/v1/admin/health/skills"
GOOD: dict[str, Any] = {"status": "ok", "drift_detected": False}

ECHO = {"title": f"Bad {KEY}", "detail": f"you sent {KEY}", "errors": [{"field": KEY}]}
FAILURES: dict[str, httpx.Response | Exception] = {
    "401": httpx.Response(401, json=ECHO),
    "403": httpx.Response(403, json=ECHO),
    "404": httpx.Response(404, json=ECHO),
    "429": httpx.Response(429, json=ECHO),
    "500": httpx.Response(500, json=ECHO),
    "503": httpx.Response(503, json=ECHO),
    "redirect": httpx.Response(302, headers={"Location": f"https://evil.example/?{KEY}"}),
    "no JSON": httpx.Response(200, text=f"<html>{KEY}</html>"),
    "no object": httpx.Response(200, json=[KEY]),
    "unknown form": httpx.Response(200, json={"status": [KEY], "drift_detected": KEY}),
    "refused": httpx.ConnectError(f"connection refused for {KEY}"),
    "protocol": httpx.LocalProtocolError(f"Illegal header value {KEY!r}"),
    "timeout": httpx.ReadTimeout(KEY),
    "bug": RuntimeError("an unforeseen error"),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
@pytest.mark.parametrize("as_json", [False, True], ids=["for people", "for machines"])
def test_secrets_never_appear_in_output_or_tracebacks(
    marketplace: FakeMarketplace, failure: httpx.Response | Exception, *, as_json: bool
) -> None:
    marketplace.on("GET", HEALTH, failure)
    result = marketplace.run("health", *(["--json"] if as_json else []))
    assert result.exit_code != 0
    assert KEY not in result.output
    if result.exc_info is not None and isinstance(result.exception, RuntimeError):
        assert KEY not in "".join(traceback.format_exception(result.exception))
    assert KEY not in repr(Access(httpx.URL("http://localhost"), KEY))


def test_secrets_do_not_appear_in_the_help(marketplace: FakeMarketplace) -> None:
    result = marketplace.run("--help", env={"MARKETPLACE_TOKEN": TOKEN})
    assert result.exit_code == 0
    assert KEY not in result.output
    assert TOKEN not in result.output


def test_tracebacks_show_no_locals() -> None:
    assert app.pretty_exceptions_show_locals is False


EXIT_CODES = {
    "401": 2,
    "403": 2,
    "404": 1,
    "429": 2,
    "500": 2,
    "503": 2,
    "redirect": 2,
    "no JSON": 2,
    "no object": 2,
    "unknown form": 2,
    "refused": 2,
    "timeout": 2,
}


@pytest.mark.parametrize(("name", "exit_code"), EXIT_CODES.items())
def test_exit_codes_of_failures(marketplace: FakeMarketplace, name: str, exit_code: int) -> None:
    marketplace.on("GET", HEALTH, FAILURES[name])
    assert marketplace.run("health").exit_code == exit_code


def test_redirects_are_not_followed(marketplace: FakeMarketplace) -> None:
    marketplace.on(
        "GET", HEALTH, httpx.Response(307, headers={"Location": "https://evil.example/"})
    )
    result = marketplace.run("health")
    assert "redirects to https://evil.example/" in result.stderr
    assert [request.url.host for request in marketplace.requests] == ["127.0.0.1"]


@pytest.mark.parametrize(
    "failure", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.Response(503)]
)
def test_passing_failures_are_retried_a_bounded_number_of_times(
    marketplace: FakeMarketplace, failure: httpx.Response | Exception
) -> None:
    marketplace.on("GET", HEALTH, failure, failure, GOOD)
    assert marketplace.run("health").exit_code == 0
    assert marketplace.slept == [0.5, 1.0]

    marketplace.requests.clear()
    marketplace.on("GET", HEALTH, failure)
    assert marketplace.run("health").exit_code == 2
    assert len(marketplace.requests) == client_module.ATTEMPTS


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 500])
def test_final_failures_are_not_retried(marketplace: FakeMarketplace, status: int) -> None:
    marketplace.on("GET", HEALTH, httpx.Response(status, json={"title": "No"}))
    marketplace.run("health")
    assert len(marketplace.requests) == 1


@pytest.mark.parametrize(
    ("header", "pause"), [("7", 7.0), ("86400", 10.0), ("soon", 0.5), ("-1", 0.5), ("", 0.5)]
)
def test_retry_after_is_followed_within_reason(
    marketplace: FakeMarketplace, header: str, pause: float
) -> None:
    busy = httpx.Response(429, headers={"Retry-After": header}, json={})
    marketplace.on("GET", HEALTH, busy, GOOD)
    assert marketplace.run("health").exit_code == 0
    assert marketplace.slept == [pause]


def test_every_request_has_a_deadline(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", HEALTH, GOOD)
    report = {"ok": True, "complete": True}
    marketplace.on("POST", "/api/v1/admin/rebuild-index", report)
    marketplace.run("health")
    marketplace.run("rebuild")
    for request in marketplace.requests:
        assert all(0 < limit <= 60 for limit in request.extensions["timeout"].values())
    asked, waited = (r.extensions["timeout"]["read"] for r in marketplace.requests)
    assert waited == asked + 5  # the server was asked to wait, so the client waits longer


def test_problem_details_are_sentences(marketplace: FakeMarketplace) -> None:
    problem = {
        "type": "about:blank",
        "title": "Invalid request",
        "status": 422,
        "detail": "The query is not valid.",
        "errors": [
            {"field": "limit", "message": "must be at most 100"},
            {"pointer": "#/ids/0", "detail": "must be text"},
            "something else",
        ],
    }
    marketplace.on("GET", HEALTH, httpx.Response(422, json=problem))
    result = marketplace.run("health")
    assert result.stderr == (
        "Error: Invalid request (422): The query is not valid.; limit: must be at most 100; "
        "#/ids/0: must be text; something else\n"
    )


def test_errors_for_machines(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", HEALTH, httpx.Response(401, json={"title": "Unauthorized"}))
    result = marketplace.run("health", "--json")
    assert json.loads(result.stdout) == {
        "error": "Unauthorized (401)",
        "status": 401,
    }
