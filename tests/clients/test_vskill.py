"""The calls of the program `vskill`, replayed: what it reads is there."""

from typing import Any

import httpx
import pytest

from tests.clients.kept_skills import COMMIT, Kept, archive_of, new_name, publish_kept, sha256
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import OPERATOR, eventually
from tests.worker.storage import without_postgres

API = "/api/v1"


@pytest.fixture(scope="module")
def kept(marketplace: Marketplace) -> Kept:
    """A skill whose archive is kept here."""
    with marketplace.client() as client:
        return publish_kept(client, owner="vskiller")


def read(client: httpx.Client, url: str, **parameters: Any) -> dict[str, Any]:
    answer = client.get(f"{API}{url}", params=parameters)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.parametrize("limit", ["10", "NaN"])
def test_search(client: httpx.Client, kept: Kept, limit: str) -> None:
    found = eventually(
        lambda: read(client, "/skills/search", q=kept.name, limit=limit),
        lambda answer: answer["results"],
    )
    assert found["pagination"] == {"hasMore": False}
    assert found["results"] == [
        {
            "name": kept.slug,
            "author": kept.owner,
            "repoUrl": f"https://github.com/{kept.repository}",
            "certTier": "SCANNED",
            "trustScore": 90,
            "trustTier": "T2",
            "description": f"Does {kept.name}.",
            "vskillInstalls": 0,
            "githubStars": 0,
            "currentVersion": "1.0.0",
            "ownerSlug": kept.owner,
            "repoSlug": "tools",
            "skillSlug": kept.name,
            "alternateRepos": [],
            "isBlocked": False,
            "isTainted": False,
            "threatType": None,
            "severity": None,
        }
    ]


def test_more_than_a_page_is_told(client: httpx.Client) -> None:
    assert read(client, "/skills/search", q="skill", limit=1)["pagination"] == {"hasMore": True}


def test_one_skill_by_each_of_its_names(client: httpx.Client, kept: Kept) -> None:
    owner = kept.owner
    for name in (
        kept.slug,
        f"{owner}%2F{kept.name}",
        f"{owner}/tools/{kept.name}",
        f"{owner}%2Ftools%2F{kept.name}",
    ):
        skill = read(client, f"/skills/{name}")
        told = {field: skill[field] for field in ("name", "author", "certTier", "certScore")}
        expected = {"name": kept.slug, "author": owner, "certTier": "SCANNED", "certScore": 90}
        assert told == expected
        assert (skill["currentVersion"], skill["sha"]) == ("1.0.0", COMMIT)
        assert (skill["trustTier"], skill["trustScore"]) == ("T2", 90)
        assert skill["provenanceVerified"] is True
        assert {"description", "updatedAt", "repoUrl"} <= skill.keys()


@pytest.mark.parametrize("name", ["nobody", "nobody%2Fnone", "nobody/tools/none"])
def test_another_is_not_found(client: httpx.Client, kept: Kept, name: str) -> None:
    assert client.get(f"{API}/skills/{name}").status_code == 404
    assert client.get(f"{API}/skills/nobody%2F{kept.name}").status_code == 404


def test_a_submission_without_a_name_and_where_it_stands(client: httpx.Client) -> None:
    repository = new_name()
    body = {"repoUrl": f"https://github.com/vskiller/{repository}", "source": "cli"}
    receipt = client.post(f"{API}/submissions", json=body)
    assert receipt.status_code == 202, receipt.text
    told = receipt.json()
    assert {"id", "state", "duplicate", "alreadyVerified", "skillName", "blocked"} <= told.keys()
    assert (told["skillName"], told["submissionId"]) == (repository, told["id"])
    status = read(client, f"/submissions/{told['id']}")
    assert (status["id"], status["status"]) == (told["id"], "RECEIVED")
    again = client.post(f"{API}/submissions", json=body | {"skillName": repository})
    assert (again.json()["id"], again.json()["duplicate"]) == (told["id"], True)


def test_versions_and_updates(client: httpx.Client, kept: Kept) -> None:
    (version,) = read(client, f"/skills/{kept.slug}/versions")["versions"]
    digest = sha256(archive_of(kept.files))
    assert (version["version"], version["contentHash"]) == ("1.0.0", digest)
    assert {"certTier", "createdAt", "certScore", "diffSummary"} <= version.keys()
    asked = {"skills": [{"name": kept.slug, "currentVersion": "0.9.0", "sha": ""}]}
    (update,) = client.post(f"{API}/skills/check-updates", json=asked).json()["results"]
    assert (update["latest"], update["updateAvailable"]) == ("1.0.0", True)
    assert {"name", "installed", "versionBump", "certTier"} <= update.keys()


def test_the_blocklist_and_a_check(client: httpx.Client) -> None:
    kept = publish_kept(client, owner="vskiller")
    act = {"reason": "It steals.", "threatType": "malware", "severity": "HIGH"}
    url = f"{API}/admin/skills/{kept.slug}/block"
    assert client.post(url, json=act, headers=OPERATOR).is_success
    answer = client.get(f"{API}/blocklist")
    (entry,) = [each for each in answer.json()["entries"] if each["skillName"] == kept.slug]
    assert answer.headers["etag"]
    assert {"contentHash", "threatType", "severity", "reason", "discoveredAt"} <= entry.keys()
    repo_url = f"https://github.com/{kept.repository}"
    told = read(client, "/blocklist/check", name=kept.name, repoUrl=repo_url)
    assert (told["blocked"], told["entry"]["skillName"]) == (True, kept.slug)
    found = read(client, "/skills/search", q=kept.name)
    assert found["results"] == []


def test_five_hundred_installs_from_ten_addresses_count_five_hundred(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    kept = publish_kept(client, owner="vskiller")
    for number in range(10):
        headers = {"CF-Connecting-IP": f"198.51.100.{number}"}
        several = {"skills": [{"skillName": kept.slug, "version": "1.0.0"}] * 49}
        answer = client.post(f"{API}/skills/installs", json=several, headers=headers)
        assert answer.json() == {"counted": 49, "unknown": 0}
        url = f"{API}/skills/{kept.owner}%2Ftools%2F{kept.name}/installs"
        assert client.post(url, headers=headers).status_code == 200
    headers = {"CF-Connecting-IP": "198.51.100.0"}
    url = f"{API}/skills/{kept.slug}/installs"
    answers = [client.post(url, headers=headers) for _ in range(51)]
    assert answers[-1].status_code == 429
    more = sum(answer.status_code == 200 for answer in answers)

    marketplace.worker.control.fire_scheduled("*/5 * * * *")
    skill = read(client, f"/skills/{kept.slug}")
    counts = [skill[each] for each in ("installs", "trendingScore7d", "trendingScore30d")]
    assert counts == [500 + more] * 3
    assert f"{500 + more}" in client.get(f"/skills/{kept.slug}").text
    first = read(client, "/skills", sortBy="installs", limit=1)["skills"][0]
    assert (first["name"], first["installs"]) == (kept.slug, 500 + more)
    with without_postgres(marketplace):
        assert read(client, f"/skills/{kept.slug}")["installs"] == 500 + more
        assert client.post(url).status_code == 503


def test_what_nobody_knows_is_not_counted(client: httpx.Client) -> None:
    assert client.post(f"{API}/skills/nobody/installs").status_code == 404
    answer = client.post(f"{API}/skills/installs", json={"skills": [{"skillName": "nobody"}]})
    assert (answer.status_code, answer.json()) == (200, {"counted": 0, "unknown": 1})
