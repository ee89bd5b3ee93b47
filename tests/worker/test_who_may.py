"""Every route for operators and scanners refuses every wrong credential, all in the same way."""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import httpx
import pytest

from marketplace.web.app import create_app
from tests.worker.credentials import BEARER, KEY, Headers, lesser, right, scanners, wrong
from tests.worker.log import log_until_now
from tests.worker.marketplace import INTERNAL_KEY, JWT_SECRET, SCANNER_KEY, Marketplace
from tests.worker.storage import keys

PUBLIC: Final = {
    "/.well-known/clawhub.json",
    "/api/search",
    "/api/v1/skills/installs",
    "/api/v1/skills/{owner}/{skill}",
    "/api/v1/skills/{owner}/{skill}/installs",
    "/api/v1/skills/{owner}/{repo}/{skill}/installs",
    "/api/v1/skills/{slug}/installs",
    "/clawhub/api/v1/download",
    "/clawhub/api/v1/resolve",
    "/clawhub/api/v1/search",
    "/clawhub/api/v1/skills",
    "/clawhub/api/v1/skills/{slug}",
    "/clawhub/api/v1/skills/{slug}/install",
    "/skills/{slug}/.well-known/{kind}/index.json",
    "/skills/{owner}/{repo}/{skill}/.well-known/{kind}/index.json",
    "/api/v1/blocklist",
    "/api/v1/blocklist/check",
    "/api/v1/changes",
    "/api/v1/health",
    "/api/v1/skills",
    "/api/v1/skills/categories",
    "/api/v1/skills/check-updates",
    "/api/v1/skills/count",
    "/api/v1/skills/search",
    "/api/v1/skills/{slug}",
    "/api/v1/skills/{slug}/content",
    "/api/v1/skills/{slug}/files",
    "/api/v1/skills/{slug}/reports",
    "/api/v1/skills/{slug}/versions",
    "/api/v1/skills/{owner}/{repo}/{skill}",
    "/api/v1/skills/{owner}/{repo}/{skill}/content",
    "/api/v1/skills/{owner}/{repo}/{skill}/versions",
    "/api/v1/submissions",
    "/api/v1/submissions/{submission_id}",
    "/content/{sha256}",
    "/skills/{slug}/SKILL.md",
}
"""All other routes are for operators; so is a new one, until it stands here."""
GUARDED: Final = sorted(
    (method.upper(), path)
    for path, operations in create_app().openapi()["paths"].items()
    if path not in PUBLIC
    for method in operations
)
SKILL: Final = "/api/v1/admin/skills/{slug}"
BODIES: Final[Mapping[str, Any]] = {
    "/api/v1/admin/dead-letters/redrive": {"ids": ["nobody"]},
    "/api/v1/admin/content/{sha256}/purge": {"reason": "Looked at."},
    "/api/v1/admin/reports/{report_id}/resolve": {"reason": "Looked at."},
    "/api/v1/admin/restore": {"skills": []},
    f"{SKILL}/accept-owner": {"ownerId": "7", "reason": "They wrote."},
    f"{SKILL}/block": {"threatType": "malware", "severity": "HIGH", "reason": "It is."},
    f"{SKILL}/correct": {"category": "data", "reason": "It is."},
    f"{SKILL}/restore": {"acts": ["some"], "reason": "It was not."},
    f"{SKILL}/withdraw": {"reason": "Its author asked."},
    "/api/v1/admin/rules": {
        "kind": "WITHDRAW",
        "matches": "identity",
        "value": "https://github.com/nobody/none#none",
        "reason": "Looked at.",
    },
    "/api/v1/admin/rules/{rule_id}/lift": {"reason": "Looked at."},
    "/api/v1/webhooks/scan-results": {
        "results": [{"submissionId": "nobody", "verdict": "PASS", "score": 1}]
    },
}
UPLOAD: Final = ("PUT", "/api/v1/webhooks/content/{sha256}")
UPLOADED: Final = b"---\nname: looked-at\n---\n"
DIGESTS: Final = {UPLOAD[1]: sha256(UPLOADED).hexdigest()}  # another one for other routes
CHANGING_HEADERS: Final = {"date", "connection"}
"""Whether a body that nobody reads ends the connection is a matter of time."""
TOO_LARGE: Final = 64 * 1024  # of a header: the HTTP server may refuse it before the Worker

Route = tuple[str, str]
SUBMIT: Final[Route] = ("POST", "/api/v1/submissions")
for_every_route = pytest.mark.parametrize("route", GUARDED, ids=" ".join)


def ask(client: httpx.Client, route: Route, headers: Headers, **changes: Any) -> httpx.Response:
    method, path = route
    request: dict[str, Any] = {"json": BODIES.get(path)} | changes
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    if route == UPLOAD and not changes:
        request = {"content": UPLOADED}
        encoded.append((b"Content-Type", b"text/markdown"))
    url = path.replace("{sha256}", DIGESTS.get(path, "0" * 64))
    return client.request(method, re.sub(r"\{\w+\}", "some", url), headers=encoded, **request)


def seen(response: httpx.Response) -> tuple[int, bytes, list[tuple[str, str]]]:
    """All that a client can tell two answers apart by, except the time."""
    headers = [
        (name, value) for name, value in response.headers.multi_items()
        if name not in CHANGING_HEADERS
    ]  # fmt: skip
    return response.status_code, response.content, sorted(headers)


def size(headers: Headers) -> int:
    return sum(len(value) for _, value in headers)


def test_there_are_guarded_routes_and_wrong_credentials() -> None:
    assert {path for _, path in GUARDED} >= {
        "/api/v1/admin/health/skills",
        "/api/v1/admin/rebuild-index",
        "/api/v1/admin/rebuild-index/{job_id}",
        "/api/v1/admin/dead-letters",
        "/api/v1/admin/dead-letters/redrive",
        "/api/v1/admin/audit",
        "/api/v1/admin/reports",
        SKILL,
        f"{SKILL}/block",
        "/api/v1/webhooks/scan-requests",
        "/api/v1/webhooks/scan-results",
    }
    assert len(wrong()) >= 20


@for_every_route
def test_every_wrong_credential_is_refused_in_the_same_way(
    client: httpx.Client, route: Route
) -> None:
    refusal = ask(client, route, [])
    assert refusal.status_code == 401
    assert refusal.headers["www-authenticate"].startswith("Bearer ")
    assert refusal.headers["cache-control"] == "no-store"
    assert refusal.headers["content-type"] == "application/problem+json"

    for name, credential in wrong().items():
        answer = ask(client, route, credential)
        if size(credential) > TOO_LARGE and answer.status_code == 431:
            continue
        assert seen(answer) == seen(refusal), name


@for_every_route
def test_a_right_token_of_a_lesser_role_is_forbidden(client: httpx.Client, route: Route) -> None:
    answers = {name: ask(client, route, credential) for name, credential in lesser().items()}

    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(
        answers, 403
    )
    assert len({repr(seen(answer)) for answer in answers.values()}) == 1
    assert {answer.headers["cache-control"] for answer in answers.values()} == {"no-store"}


@for_every_route
def test_every_right_credential_is_let_in_and_the_answer_is_never_stored(
    client: httpx.Client, route: Route
) -> None:
    for name, credential in right().items():
        answer = ask(client, route, credential)
        assert answer.status_code in {200, 201, 202, 404}, name
        assert answer.headers["cache-control"] == "no-store", name


@for_every_route
def test_a_scanners_key_opens_the_webhooks_alone(client: httpx.Client, route: Route) -> None:
    for name, credential in scanners().items():
        answer = ask(client, route, credential)
        assert answer.headers["cache-control"] == "no-store", name
        if route[1].startswith("/api/v1/webhooks/"):
            assert answer.status_code in {200, 201, 202, 404}, name
        else:
            assert answer.status_code == 403, name
            assert "a scanner's key opens /api/v1/webhooks/ alone" in answer.json()["detail"], name


@for_every_route
def test_the_credential_is_checked_before_the_request(client: httpx.Client, route: Route) -> None:
    for changes in ({"json": {"no": "such"}}, {"params": {"wait": "x", "limit": "x"}}):
        assert seen(ask(client, route, [], **changes)) == seen(ask(client, route, []))


def test_a_submission_with_a_wrong_credential_is_refused_as_everywhere(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    refusal = ask(client, ("GET", "/api/v1/admin/dead-letters"), [])
    before = keys(marketplace, "sub:")

    for name, credential in wrong().items():
        answer = ask(client, SUBMIT, credential)
        presented = {header for header, _ in credential} & {KEY, BEARER}
        if not presented or credential == [(BEARER, "")]:  # which the runtime leaves out
            assert answer.status_code == 422, name  # a stranger: the body is looked at
        elif not (size(credential) > TOO_LARGE and answer.status_code == 431):
            assert seen(answer) == seen(refusal), name
    for name, credential in lesser().items():
        assert ask(client, SUBMIT, credential).status_code == 403, name
    for name, credential in (right() | scanners()).items():
        assert ask(client, SUBMIT, credential).status_code == 422, name
    assert keys(marketplace, "sub:") == before


def test_a_refused_rebuild_starts_nothing(marketplace: Marketplace, client: httpx.Client) -> None:
    before = keys(marketplace, "state:")

    assert ask(client, ("POST", "/api/v1/admin/rebuild-index"), []).status_code == 401

    assert keys(marketplace, "state:") == before


def test_no_log_line_holds_a_credential(marketplace: Marketplace, client: httpx.Client) -> None:
    for credential in (*wrong().values(), *right().values(), *scanners().values()):
        ask(client, ("GET", "/api/v1/admin/dead-letters"), credential)

    log = log_until_now(marketplace, client)
    assert INTERNAL_KEY not in log
    assert SCANNER_KEY not in log
    assert JWT_SECRET not in log
    assert "eyJ" not in log  # how every token begins
