"""Where the credential goes, and which addresses and credentials are refused."""

from typing import Any

import pytest

from cli.access import check_access, is_loopback
from cli.errors import UsageProblem
from tests.unit.cli.double import KEY, TOKEN, FakeMarketplace

HEALTH = "/api/v1/admin/health/skills"
GOOD: dict[str, Any] = {"status": "ok", "drift_detected": False}


def test_the_key_is_sent_as_header(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", HEALTH, GOOD)
    assert marketplace.run("health").exit_code == 0
    assert marketplace.run("--key", "from-option", "health").exit_code == 0
    sent = [request.headers for request in marketplace.requests]
    assert [headers["X-Internal-Key"] for headers in sent] == [KEY, "from-option"]
    assert all("Authorization" not in headers for headers in sent)


def test_a_token_is_sent_as_bearer(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", HEALTH, GOOD)
    assert marketplace.run("health", key=None, env={"MARKETPLACE_TOKEN": TOKEN}).exit_code == 0
    (request,) = marketplace.requests
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert "X-Internal-Key" not in request.headers


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8787", f"http://127.0.0.1:8787{HEALTH}"),
        ("http://127.0.0.1:8787/", f"http://127.0.0.1:8787{HEALTH}"),
        ("https://skills.example/base/", f"https://skills.example/base{HEALTH}"),
    ],
)
def test_the_base_address_is_kept(marketplace: FakeMarketplace, url: str, expected: str) -> None:
    marketplace.run("--url", url, "health")
    assert str(marketplace.requests[0].url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://skills.example",
        "http://192.0.2.7:8787",
        "http://0.0.0.0:8787",
        "http://127.0.0.1.skills.example",
        "http://localhost.skills.example",
        "http://[2001:db8::1]",
    ],
)
def test_no_credential_goes_unencrypted_to_another_machine(
    marketplace: FakeMarketplace, url: str
) -> None:
    for result in (
        marketplace.run("--url", url, "health"),
        marketplace.run(
            "health", key=None, env={"MARKETPLACE_URL": url, "MARKETPLACE_TOKEN": TOKEN}
        ),
    ):
        assert result.exit_code == 2
        assert "--insecure" in result.stderr
    assert marketplace.requests == []


def test_insecure_is_a_choice(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", HEALTH, GOOD)
    assert marketplace.run("--url", "http://skills.example", "--insecure", "health").exit_code == 0


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "skills.example",
        "ftp://skills.example",
        "https://",
        "https://a.example/?x=1",
        "http://[::",
    ],
)
def test_an_unusable_address_is_a_sentence(marketplace: FakeMarketplace, url: str) -> None:
    result = marketplace.run("--url", url, "health")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: the URL")


def test_a_password_in_the_address_is_refused_and_not_shown(marketplace: FakeMarketplace) -> None:
    result = marketplace.run("--url", "https://admin:hunter22@skills.example", "health")
    assert result.exit_code == 2
    assert "hunter22" not in result.output


def test_key_and_token_together_are_refused(marketplace: FakeMarketplace) -> None:
    result = marketplace.run("health", env={"MARKETPLACE_TOKEN": TOKEN})
    assert result.exit_code == 2
    assert "not both" in result.stderr
    assert marketplace.requests == []


@pytest.mark.parametrize("key", [None, ""])
def test_no_credential_is_said_before_any_request(
    marketplace: FakeMarketplace, key: str | None
) -> None:
    result = marketplace.run("health", key=key)
    assert result.exit_code == 2
    assert "MARKETPLACE_KEY" in result.stderr
    assert marketplace.requests == []


@pytest.mark.parametrize("key", ["secret-with\nbreak", "secret with space", "secret-é", "sec\0ret"])
def test_a_key_that_no_header_can_carry_is_not_quoted(key: str) -> None:
    with pytest.raises(UsageProblem) as problem:
        check_access("https://skills.example", key=key, token=None, insecure=False)
    assert "sec" not in str(problem.value)
    assert problem.value.__context__ is None  # no library's message behind ours
