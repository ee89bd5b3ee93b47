"""Messages that cannot be published: kept with their reason, hindering no neighbour, redriven."""

import json
import re
from typing import Any, Final

import httpx
import pytest

from local.host.control import DEAD_LETTERS, KvEntry
from tests.worker.log import log_until_now
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import OPERATOR, eventually, status, submit, wait_published
from tests.worker.storage import empty, health, keys, query, without_postgres

OWNER: Final = "letters"
LETTERS: Final = "/api/v1/admin/dead-letters"
UNKNOWN: Final = "f" * 32
LIGHT_CHECK: Final = "*/5 * * * *"
SCANNED_AT: Final = "2026-11-24T08:00:00.000Z"
LATER: Final = "2026-11-24T09:00:00.000Z"

NO_MESSAGE: Final[dict[str, Any]] = {
    "a text": "just text",
    "a number": 7,
    "null": None,
    "a list": [{"submissionId": UNKNOWN}],
    "no id": {"other": 1},
    "an empty id": {"submissionId": ""},
    "an id that is a number": {"submissionId": 5},
    "an id that is an object": {"submissionId": {"$ne": 1}},
    "an id of 60,000 characters": {"submissionId": "x" * 60_000},
    "nested deeply": {"nested": json.loads("[" * 30 + "]" * 30)},
    "NUL": {"submissionId": None, "text": "nul \x00 and \x1b[31m"},
}


@pytest.fixture(autouse=True)
def no_letters(marketplace: Marketplace) -> None:
    """Every test begins without anything stored."""
    empty(marketplace)


def submitted(client: httpx.Client, name: str) -> str:
    submission_id: str = submit(client, OWNER, name)["id"]
    return submission_id


def give_verdict(marketplace: Marketplace, *ids: str, verdict: str = "PASS", **fields: Any) -> None:
    """Keep a verdict as a report does, but send no message."""
    control = marketplace.worker.control
    for id_ in ids:
        entry = control.kv_get(f"sub:{id_}")
        assert entry is not None
        submission = json.loads(entry.value)
        scan = {
            "submissionId": id_,
            "verdict": verdict,
            "score": 90,
            "scannedAt": SCANNED_AT,
            **{field: submission[field] for field in ("repoUrl", "skillName", "baseSlug")},
        }
        control.kv_put([KvEntry(f"scan:{id_}", json.dumps(scan | fields))])


def send(marketplace: Marketplace, *ids: str) -> None:
    marketplace.worker.control.send(*({"submissionId": i} for i in ids))


def letters(client: httpx.Client, **parameters: Any) -> dict[str, Any]:
    response = client.get(LETTERS, params=parameters, headers=OPERATOR)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    answer: dict[str, Any] = response.json()
    return answer


def wait_for_letters(client: httpx.Client, count: int) -> list[dict[str, Any]]:
    """The letters, once there are ``count``."""
    answer = eventually(
        lambda: letters(client, limit=100), lambda found: len(found["deadLetters"]) >= count
    )
    assert len(answer["deadLetters"]) == count
    found: list[dict[str, Any]] = answer["deadLetters"]
    return found


def retried(log: str) -> int:
    """How many messages the publish consumer has sent back to the queue."""
    return sum(int(number) for number in re.findall(r'"retried": ?(\d+)', log))


def by_submission(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {letter["body"]["submissionId"]: letter for letter in found}


def redrive(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = client.post(f"{LETTERS}/redrive", json=body, headers=OPERATOR)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def outcomes(answer: dict[str, Any]) -> dict[str, str]:
    return {result["id"]: result["outcome"] for result in answer["results"]}


def test_what_is_no_message_becomes_a_letter_and_its_neighbours_are_published(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    good = [submitted(client, f"Neighbour {number}") for number in range(len(NO_MESSAGE) + 1)]
    give_verdict(marketplace, *good)
    mixed: list[Any] = [{"submissionId": good[0]}]
    for poison, neighbour in zip(NO_MESSAGE.values(), good[1:], strict=True):
        mixed += [poison, {"submissionId": neighbour}]

    marketplace.worker.control.send(*mixed)

    found = wait_for_letters(client, len(NO_MESSAGE))
    assert {letter["reason"] for letter in found} == {"invalid-message"}
    assert {letter["queue"] for letter in found} == {"skill-publish"}
    assert {letter["attempts"] for letter in found} == {1}
    bodies = [letter["body"] for letter in found]
    assert [body for body in NO_MESSAGE.values() if body not in bodies] == []
    for submission_id in good:
        wait_published(client, submission_id)


@pytest.fixture
def refused(marketplace: Marketplace, client: httpx.Client) -> dict[str, str]:
    """Submissions whose messages were refused, by reason."""
    listed = submitted(client, "Listed")
    facts: dict[str, Any] = {"skill": {"name": "Listed"}, "path": "a/b", "ownerId": "1"}
    give_verdict(marketplace, listed, **facts)
    send(marketplace, listed)
    wait_published(client, listed)
    reasons = ("not-scanned", "other-path", "changed-hands", "invalid-record")
    ids = {reason: submitted(client, f"Refused {reason}") for reason in reasons}
    facts |= {"skillName": "Listed", "baseSlug": "listed"}
    give_verdict(marketplace, ids["other-path"], **facts | {"path": "elsewhere"})
    give_verdict(marketplace, ids["changed-hands"], **facts | {"ownerId": "2", "scannedAt": LATER})
    marketplace.worker.control.kv_put([KvEntry(f"scan:{ids['invalid-record']}", '{"id": 7}')])
    send(marketplace, *ids.values())
    wait_for_letters(client, len(ids))
    return ids


def test_each_letter_tells_its_reason_and_detail(
    refused: dict[str, str], client: httpx.Client
) -> None:
    found = by_submission(letters(client)["deadLetters"])

    assert {reason: found[id_]["reason"] for reason, id_ in refused.items()} == {
        reason: reason for reason in refused
    }
    assert all(letter["detail"] for letter in found.values())
    counts = health(client)["dead_letters"]
    assert counts == {"total": 4, "by_reason": dict.fromkeys(refused, 1)}


def test_letters_are_paged_and_filtered_by_reason(
    refused: dict[str, str], client: httpx.Client
) -> None:
    pages = []
    cursor: str | None = None
    while True:
        page = letters(client, limit=3, **({"cursor": cursor} if cursor else {}))
        pages.append([letter["id"] for letter in page["deadLetters"]])
        cursor = page["nextCursor"]
        if cursor is None:
            break

    assert [len(page) for page in pages] == [3, 1]
    assert len({id_ for page in pages for id_ in page}) == 4
    (only,) = letters(client, reason="not-scanned")["deadLetters"]
    assert only["body"] == {"submissionId": refused["not-scanned"]}
    assert letters(client, reason="no-such-reason")["deadLetters"] == []


def test_a_redriven_message_is_published_once_its_cause_is_gone(
    refused: dict[str, str], marketplace: Marketplace, client: httpx.Client
) -> None:
    submission_id = refused["not-scanned"]
    letter = by_submission(letters(client)["deadLetters"])[submission_id]["id"]
    give_verdict(marketplace, submission_id)

    answer = redrive(client, ids=[letter])

    assert (outcomes(answer), answer["remaining"]) == ({letter: "redriven"}, 3)
    wait_published(client, submission_id)
    assert submission_id not in by_submission(letters(client)["deadLetters"])
    again = redrive(client, ids=[letter, letter])
    assert (outcomes(again), len(again["results"])) == ({letter: "already-redriven"}, 1)


def test_several_are_redriven_each_with_its_outcome(
    refused: dict[str, str], marketplace: Marketplace, client: httpx.Client
) -> None:
    marketplace.worker.control.send("no message at all")
    found = {letter["reason"]: letter["id"] for letter in wait_for_letters(client, 5)}

    answer = redrive(client, ids=[found["other-path"], found["invalid-message"], "unknown-id"])

    assert outcomes(answer) == {
        found["other-path"]: "redriven",
        found["invalid-message"]: "failed",
        "unknown-id": "unknown",
    }
    returned = eventually(
        lambda: by_reason(client), lambda letters_: letters_.get("other-path", 0) == 1
    )
    assert returned["invalid-message"] == 0


def by_reason(client: httpx.Client) -> dict[str, int]:
    """How often the letters that wait were redriven, by reason."""
    return {each["reason"]: each["redrives"] for each in letters(client)["deadLetters"]}


def test_all_of_a_reason_or_all_are_redriven(
    refused: dict[str, str], marketplace: Marketplace, client: httpx.Client
) -> None:
    give_verdict(marketplace, refused["not-scanned"])

    some = redrive(client, all=True, reason="not-scanned")
    assert list(outcomes(some).values()) == ["redriven"]
    assert some["remaining"] == 0
    wait_published(client, refused["not-scanned"])

    rest = redrive(client, all=True)
    assert list(outcomes(rest).values()) == ["redriven"] * 3
    again = eventually(lambda: by_reason(client), lambda found: len(found) == 3)
    assert set(again.values()) == {1}  # what still cannot be published is back, and counted


def test_what_cannot_be_published_in_an_outage_waits_in_the_queue_and_is_a_letter_after_it(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    submission_id = submitted(client, "Night letter")
    before = retried(log_until_now(marketplace, client))
    with without_postgres(marketplace):
        send(marketplace, submission_id, UNKNOWN)
        marketplace.worker.control.send("no message in the outage")
        eventually(marketplace.log, lambda log: retried(log) >= before + 3)
        assert client.get(LETTERS, headers=OPERATOR).status_code == 503
        assert keys(marketplace, "dead-letter:") == []
    found = wait_for_letters(client, 3)
    assert sorted(letter["reason"] for letter in found) == [
        "invalid-message",
        "not-scanned",
        "not-scanned",
    ]


def test_what_the_queue_gave_up_becomes_a_letter_that_can_be_redriven(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    submission_id = submitted(client, "Given up")
    give_verdict(marketplace, submission_id)
    marketplace.worker.control.send({"submissionId": submission_id}, binding=DEAD_LETTERS)
    (letter,) = wait_for_letters(client, 1)
    assert (letter["queue"], letter["reason"]) == ("skill-publish", "retries-exhausted")
    assert letter["body"] == {"submissionId": submission_id}
    assert letter["detail"]

    assert outcomes(redrive(client, all=True, reason="retries-exhausted")) == {
        letter["id"]: "redriven"
    }

    wait_published(client, submission_id)
    assert letters(client)["deadLetters"] == []


def test_cron_sends_again_what_passed_and_closes_its_letter(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    submission_id = submitted(client, "Given up twice")
    give_verdict(marketplace, submission_id)
    scan = marketplace.worker.control.kv_get(f"scan:{submission_id}")
    assert scan is not None
    mark = KvEntry(f"pending:{SCANNED_AT}:{submission_id}", scan.value)
    marketplace.worker.control.kv_put([mark])
    message = {"submissionId": submission_id, "scannedAt": SCANNED_AT}
    marketplace.worker.control.send(message, binding=DEAD_LETTERS)
    wait_for_letters(client, 1)
    # Of what failed within the last seconds nobody can tell whether it was before the sending.
    query(marketplace, "update dead_letter set failed_at = $1", SCANNED_AT)

    assert marketplace.worker.control.fire_scheduled(LIGHT_CHECK) == "ok"

    wait_published(client, submission_id)
    eventually(lambda: letters(client)["deadLetters"], lambda found: not found)


@pytest.mark.parametrize(
    "body",
    [{}, {"ids": []}, {"ids": ["a"], "all": True}, {"ids": ["a"], "reason": "x"}, {"ids": "a"},
     {"all": True, "more": 1}, {"ids": ["a"] * 101}, []],
)  # fmt: skip
def test_an_unclear_redrive_is_refused_and_changes_nothing(client: httpx.Client, body: Any) -> None:
    response = client.post(f"{LETTERS}/redrive", json=body, headers=OPERATOR)

    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"


def test_what_failed_its_scan_and_what_has_none_is_told_apart(
    refused: dict[str, str], marketplace: Marketplace, client: httpx.Client
) -> None:
    failed = submitted(client, "Failed")
    give_verdict(marketplace, failed, verdict="FAIL")
    assert status(client, failed)["state"] == "REJECTED"
    assert status(client, refused["not-scanned"])["state"] == "RECEIVED"


def test_a_repository_that_changed_hands_is_taken_once_its_owner_is_accepted(
    refused: dict[str, str], client: httpx.Client
) -> None:
    letter = by_submission(letters(client)["deadLetters"])[refused["changed-hands"]]["id"]
    accepted = client.post(
        "/api/v1/admin/skills/listed/accept-owner",
        json={"ownerId": "2", "reason": "They wrote to us."},
        headers=OPERATOR,
    )
    assert accepted.status_code == 200, accepted.text

    redrive(client, ids=[letter])

    wait_published(client, refused["changed-hands"])
    assert client.get("/api/v1/skills/listed").json()["ownerId"] == "2"
