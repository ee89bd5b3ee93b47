"""From submission to listing, through the real queue, PostgreSQL and KV."""

import json
import time
from typing import Any

import httpx
import pytest

from marketplace.kv.keys import identity_key, verdict_prefix
from marketplace.skills.slugs import identity_of
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import (
    eventually,
    listing,
    names,
    publish,
    report,
    status,
    submit,
    wait_published,
)
from tests.worker.storage import keys, query


def test_a_passed_submission_is_listed_stored_and_in_kv(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    published = publish(client, "path-one", "My Path Skill 1", description="Walks a path.")

    assert published["slug"] == "my-path-skill-1"
    assert "my-path-skill-1" in names(listing(client, author="path-one"))
    rows = query(marketplace, "select name from skill where author_lower = $1", "path-one")
    assert rows == [("my-path-skill-1",)]
    record = marketplace.worker.control.kv_get("skill:my-path-skill-1")
    assert record is not None
    assert json.loads(record.value)["description"] == "Walks a path."


def test_the_skill_is_found_by_slug_by_repository_and_by_search(client: httpx.Client) -> None:
    publish(client, "path-two", "Findable thing", description="Frobnicates quuxes.")

    for path in ("/api/v1/skills/findable-thing", "/api/v1/skills/path-two/tools/findable-thing"):
        assert client.get(path).json()["author"] == "path-two"
    found = client.get("/api/v1/skills/search", params={"q": "frobnic quux"}).json()
    assert names(found) == {"findable-thing"}


def test_skills_of_one_name_from_two_repositories_keep_apart(client: httpx.Client) -> None:
    first = publish(client, "path-three", "Same name")
    second = publish(client, "path-four", "Same name")

    assert (first["slug"], second["slug"]) == ("same-name", "path-four-same-name")


def test_a_submission_under_way_answers_a_repeat_as_duplicate(client: httpx.Client) -> None:
    first = submit(client, "path-five", "Waiting")
    again = submit(client, "path-five", "Waiting")

    assert (again["id"], again["duplicate"]) == (first["id"], True)


def test_a_published_skill_answers_a_repeat_as_already_verified(client: httpx.Client) -> None:
    publish(client, "path-six", "Settled")

    again = submit(client, "path-six", "Settled")

    assert (again["alreadyVerified"], again["slug"]) == (True, "settled")


def test_a_newer_version_replaces_the_older_one(client: httpx.Client) -> None:
    publish(client, "path-seven", "Growing", version="1.2.0")
    publish(client, "path-seven", "Growing", version="1.10.0")

    skill = eventually(
        lambda: client.get("/api/v1/skills/growing").json(),
        lambda answer: answer["currentVersion"] == "1.10.0",
    )
    assert skill["name"] == "growing"


@pytest.mark.parametrize("facts", [{}, {"skill": {"name": "Mine", "description": "As I say."}}])
def test_what_a_stranger_says_is_never_listed(
    marketplace: Marketplace, client: httpx.Client, facts: dict[str, Any]
) -> None:
    owner = f"path-ten-{len(facts)}"
    slug = publish(client, owner, "Mine", description="As I say.")["slug"]

    for version in ("9.0.0", "9999999999.0.0"):
        lies = {"version": version, "description": "As they say.", "category": "ai"}
        stranger = submit(client, owner, "Mine", **lies)["id"]
        report(client, stranger, **facts)
        assert wait_published(client, stranger)["slug"] == slug
    skill = client.get(f"/api/v1/skills/{slug}").json()
    assert skill["description"] == "As I say."
    assert (skill["currentVersion"], skill["category"]) == ("1.0.0", "development")
    rows = query(marketplace, "select description from skill where name = $1", slug)
    assert rows == [("As I say.",)]


def test_a_skill_that_passed_without_facts_is_provisional(client: httpx.Client) -> None:
    submission_id = submit(client, "path-eleven", "Bare", description="As they say.")["id"]
    report(client, submission_id)

    slug = wait_published(client, submission_id)["slug"]
    skill = client.get(f"/api/v1/skills/{slug}").json()
    assert (skill["provisional"], skill["description"]) == (True, "")


def test_a_submission_expires_and_its_verdict_does_not(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    submission_id = submit(client, "path-twelve", "Fleeting")["id"]
    control = marketplace.worker.control
    identity = identity_of("https://github.com/path-twelve/tools", "fleeting")
    for key in (f"sub:{submission_id}", identity_key(identity)):
        expires_at = control.kv_expiration(key)
        assert expires_at is not None, key
        assert 29.9 < (expires_at - time.time()) / 86_400 <= 30, key

    report(client, submission_id)
    wait_published(client, submission_id)

    entries = keys(marketplace, verdict_prefix(identity))
    assert len(entries) == 1
    for key in (*entries, f"scan:{submission_id}", f"published:{submission_id}"):
        assert control.kv_get(key) is not None, key
        assert control.kv_expiration(key) is None, key
    assert not [key for key in keys(marketplace, "pending:") if key.endswith(submission_id)]


def test_a_failed_scan_rejects_and_lists_nothing(client: httpx.Client) -> None:
    submission_id = submit(client, "path-eight", "Hopeless")["id"]

    report(client, submission_id, verdict="FAIL")

    assert status(client, submission_id)["state"] == "REJECTED"
    assert client.get("/api/v1/skills/hopeless").status_code == 404


def test_a_verdict_on_an_unknown_submission_is_refused_and_the_rest_taken(
    client: httpx.Client,
) -> None:
    submission_id = submit(client, "path-nine", "Known")["id"]

    outcome = report(client, submission_id, "f" * 32)

    assert outcome["accepted"] == [submission_id]
    assert outcome["rejected"] == [{"submissionId": "f" * 32, "reason": "unknown-submission"}]


def test_every_seed_skill_is_listed_once_page_by_page(client: httpx.Client) -> None:
    seen: list[str] = []
    cursor = None
    while True:
        parameters = {"limit": 50, "sortBy": "name"} | ({"cursor": cursor} if cursor else {})
        page = listing(client, **parameters)
        seen += [skill["name"] for skill in page["skills"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break

    assert seen == sorted(set(seen))
    assert {"pdf", "aws-cdk", "openai-skill-creator"} <= set(seen)
    assert len(seen) == page["total"] >= 118
