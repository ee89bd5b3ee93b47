"""The limits that callers are told: what is just inside is taken, one more is refused."""

import json
from typing import Any, Final

import pytest

from tests.unit.web.asgi import JSON, OPERATOR, Answer, ask, ask_json

SUBMISSION: Final[dict[str, Any]] = {"repoUrl": "https://github.com/o/r", "skillName": "Some"}
VERDICT: Final[dict[str, Any]] = {"submissionId": "a", "verdict": "PASS", "score": 1}


def submit(field: str, value: object) -> Answer:
    return ask_json("/api/v1/submissions", SUBMISSION | {field: value})


def report(*verdicts: dict[str, Any]) -> Answer:
    return ask_json("/api/v1/webhooks/scan-results", {"results": verdicts})


@pytest.mark.parametrize(
    ("field", "longest"),
    [
        ("skillName", 64),
        ("displayName", 100),
        ("skillPath", 256),
        ("description", 1024),
        ("category", 40),
        ("license", 64),
    ],
)
def test_a_text_of_a_submission_has_a_longest(field: str, longest: int) -> None:
    assert submit(field, "a" * longest).status == 202
    assert submit(field, "a" * (longest + 1)).fields() == [field]


def test_an_address_has_a_longest() -> None:
    address = "https://github.com/o/r?"
    assert submit("repoUrl", address.ljust(256, "q")).status == 202
    assert submit("repoUrl", address.ljust(257, "q")).fields() == ["repoUrl"]


def test_a_version_has_a_longest() -> None:
    version = "1.0.0-"
    assert submit("version", version.ljust(64, "a")).status == 202
    assert submit("version", version.ljust(65, "a")).fields() == ["version"]


@pytest.mark.parametrize(
    ("field", "most", "longest"), [("labels", 16, 32), ("extensionPoints", 32, 64)]
)
def test_a_list_of_a_submission_has_a_most_and_a_longest(
    field: str, most: int, longest: int
) -> None:
    assert submit(field, ["a" * longest] * most).status == 202
    assert submit(field, ["a"] * (most + 1)).fields() == [field]
    assert submit(field, ["a" * (longest + 1)]).fields() == [f"{field}[0]"]
    assert submit(field, [""]).fields() == [f"{field}[0]"]


@pytest.mark.parametrize("field", ["displayName", "category"])
def test_a_text_that_is_given_is_not_empty(field: str) -> None:
    assert submit(field, "a").status == 202
    assert submit(field, "").fields() == [field]


@pytest.mark.parametrize(("field", "longest"), [("reason", 500), ("submissionId", 64)])
def test_a_text_of_a_verdict_has_a_longest(field: str, longest: int) -> None:
    assert report(VERDICT | {field: "a" * longest}).status == 202
    assert report(VERDICT | {field: "a" * (longest + 1)}).fields() == [f"results[0].{field}"]


def test_a_score_goes_from_0_to_100() -> None:
    assert report(*(VERDICT | {"score": score} for score in (0, 100))).status == 202
    for score in (-1, 101):
        assert report(VERDICT | {"score": score}).fields() == ["results[0].score"]


def test_a_call_brings_1_to_100_verdicts() -> None:
    assert report(VERDICT).status == report(*[VERDICT] * 100).status == 202
    assert report().fields() == report(*[VERDICT] * 101).fields() == ["results"]


@pytest.mark.parametrize(
    ("path", "parameter", "least", "most"),
    [
        ("/api/v1/skills", "limit", 1, 100),
        ("/api/v1/skills", "offset", 0, 1_000_000),
        ("/api/v1/admin/dead-letters", "limit", 1, 100),
    ],
)
def test_a_number_of_a_query_has_a_least_and_a_most(
    path: str, parameter: str, least: int, most: int
) -> None:
    def status(number: int) -> int:
        return ask("GET", path, f"{parameter}={number}", headers=[OPERATOR]).status

    assert status(least) == status(most) == 200
    assert status(least - 1) == status(most + 1) == 422


@pytest.mark.parametrize(
    ("parameter", "longest"), [("search", 200), ("author", 100), ("category", 100)]
)
def test_a_filter_has_a_longest(parameter: str, longest: int) -> None:
    assert ask("GET", "/api/v1/skills", f"{parameter}={'a' * longest}").status == 200
    assert ask("GET", "/api/v1/skills", f"{parameter}={'a' * (longest + 1)}").status == 422


def test_a_page_of_the_listing_has_24_skills_unless_asked_otherwise() -> None:
    answer = ask("GET", "/api/v1/skills")
    assert json.loads(answer.body)["limit"] == 24


def test_a_body_has_at_most_256_kib() -> None:
    headers = [JSON, OPERATOR]
    whole = b'{"results": []}'
    for size, status in ((256 * 1024, 422), (256 * 1024 + 1, 413)):
        answer = ask(
            "POST", "/api/v1/webhooks/scan-results", headers=headers, body=whole.ljust(size)
        )
        assert answer.status == status
