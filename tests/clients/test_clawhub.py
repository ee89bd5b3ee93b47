"""The program `clawhub`: search, explore, install and update, from this marketplace."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import replace

import httpx
import pytest

from tests.clients.kept_skills import (
    COMMIT,
    Kept,
    archive_of,
    new_name,
    publish_kept,
    sha256,
    skill_md,
)
from tests.clients.programs import Person, forge_with
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import OPERATOR, eventually, report, submit
from tests.worker.storage import without_postgres


@pytest.fixture(scope="module")
def kept(marketplace: Marketplace) -> Kept:
    """A skill whose archive is kept here."""
    with marketplace.client() as client:
        return publish_kept(client, owner="hubber")


def installed(person: Person, slug: str) -> Mapping[str, bytes]:
    """The files of a skill, without the program's own."""
    folder = person.project / "skills" / slug
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".clawhub" not in path.parts
    }


def test_the_registry_is_found_from_the_site(client: httpx.Client, person: Person) -> None:
    told = client.get("/.well-known/clawhub.json").json()
    assert told == {"apiBase": f"{person.url}/clawhub"}


def test_search_and_explore_show_it(person: Person, kept: Kept) -> None:
    found = eventually(
        lambda: person.clawhub("search", kept.name), lambda done: kept.slug in done.text
    )
    assert f"@{kept.owner}" in found.text
    assert "v1.0.0" in found.text
    assert kept.slug in person.clawhub("explore", "--limit", "200").text
    for sort in ("newest", "updated", "rating", "downloads", "installs", "trending"):
        assert person.clawhub("explore", "--sort", sort).code == 0


def test_a_page_leads_to_the_next_and_a_wrong_cursor_nowhere(client: httpx.Client) -> None:
    url = "/clawhub/api/v1/skills"
    first = client.get(url, params={"limit": 2, "sort": "trending"}).json()
    cursor = first["nextCursor"]
    second = client.get(url, params={"limit": 2, "sort": "trending", "cursor": cursor}).json()
    slugs = [item["slug"] for item in first["items"] + second["items"]]
    assert len(set(slugs)) == 4
    assert client.get(url, params={"sort": "updated", "cursor": cursor}).status_code == 422


def test_install_brings_every_byte_and_update_what_is_new(
    client: httpx.Client, person: Person
) -> None:
    kept = publish_kept(client)
    done = person.clawhub("install", kept.slug)
    assert done.code == 0, done.text
    assert installed(person, kept.slug) == kept.files
    assert "up to date" in person.clawhub("update", "--all").text

    newer = {"SKILL.md": skill_md(kept.name, "Do it better."), "more.md": b"More.\n"}
    publish_kept(client, newer, name=kept.name, version="1.1.0")
    assert "v1.1.0" in person.clawhub("update", kept.slug).text
    assert installed(person, kept.slug) == newer


def test_install_of_an_owners_skill_is_never_anothers(person: Person, kept: Kept) -> None:
    assert "There is no skill" in person.clawhub("install", f"@nobody/{kept.slug}").text
    assert installed(person, kept.slug) == {}
    done = person.clawhub("install", f"@{kept.owner}/{kept.slug}")
    assert done.code == 0, done.text


def test_it_installs_without_postgres(
    marketplace: Marketplace, client: httpx.Client, person: Person
) -> None:
    kept = publish_kept(client)
    with without_postgres(marketplace):
        done = person.clawhub("install", kept.slug)
    assert done.code == 0, done.text
    assert installed(person, kept.slug) == kept.files


def test_what_is_not_kept_comes_from_github_at_its_commit(
    client: httpx.Client, person: Person
) -> None:
    kept = publish_kept(client, license_="LicenseRef-Own", uploaded=False)
    told = client.get(f"/clawhub/api/v1/skills/{kept.slug}/install").json()
    lines = [f"{path}\0{len(data)}\0{sha256(data)}" for path, data in sorted(kept.files.items())]
    assert told["github"] == {
        "repo": kept.repository,
        "path": f"skills/{kept.name}",
        "commit": COMMIT,
        "contentHash": sha256("\n".join(lines).encode()),
        "sourceUrl": f"https://github.com/{kept.repository}/tree/{COMMIT}/skills/{kept.name}",
    }
    root = f"tools-{COMMIT}/skills/{kept.name}"
    archive = archive_of({f"{root}/{path}": data for path, data in kept.files.items()})
    with forge_with({f"/{kept.repository}/zip/{COMMIT}": archive}) as forge:
        done = replace(person, forge=forge).clawhub("install", kept.slug)
    assert done.code == 0, done.text
    assert installed(person, kept.slug) == kept.files


def test_a_download_is_the_listed_version_or_none(client: httpx.Client, kept: Kept) -> None:
    def download(**parameters: str) -> httpx.Response:
        asked = {"slug": kept.slug} | parameters
        url = "/clawhub/api/v1/download"
        return client.get(url, params=asked, follow_redirects=True)

    archive = zipfile.ZipFile(io.BytesIO(download(version="1.0.0").content))
    assert {name: archive.read(name) for name in archive.namelist()} == kept.files
    assert download(version="0.9.0").status_code == 404
    assert download(ownerHandle="nobody").status_code == 404


def test_a_skill_that_failed_its_scan_is_not_installed(
    client: httpx.Client, person: Person
) -> None:
    kept = publish_kept(client)
    submission_id = submit(client, kept.owner, kept.name, version="1.1.0", rescan=True)["id"]
    report(client, submission_id, verdict="FAIL", path=f"skills/{kept.name}", reason="It steals.")
    url = f"/clawhub/api/v1/skills/{kept.slug}/install"
    refused = eventually(lambda: client.get(url), lambda answer: answer.status_code == 423)
    assert refused.json()["reason"] == "github_scan_failed"
    assert "It steals." in person.clawhub("install", kept.slug).text
    assert client.get(f"/clawhub/api/v1/download?slug={kept.slug}").status_code == 423
    assert installed(person, kept.slug) == {}


def test_a_blocked_skill_is_neither_installed_nor_updated(
    client: httpx.Client, person: Person
) -> None:
    kept = publish_kept(client)
    assert person.clawhub("install", kept.slug).code == 0
    act = {"reason": "It steals keys.", "threatType": "malware", "severity": "HIGH"}
    url = f"/api/v1/admin/skills/{kept.slug}/block"
    assert client.post(url, json=act, headers=OPERATOR).is_success

    told = client.get(f"/clawhub/api/v1/skills/{kept.slug}/install")
    assert (told.status_code, told.json()["ok"]) == (410, False)
    assert client.get(f"/clawhub/api/v1/download?slug={kept.slug}").status_code == 410
    assert "It steals keys." in person.clawhub("install", kept.slug, "--force").text
    assert "It steals keys." in person.clawhub("update", kept.slug).text
    assert kept.slug not in person.clawhub("search", kept.name).text


def test_what_is_nowhere_is_told(client: httpx.Client, person: Person) -> None:
    name = new_name()
    submission_id = submit(client, "keeper", name)["id"]
    report(client, submission_id, skill={"name": name})
    url = f"/clawhub/api/v1/skills/{name}/install"
    told = eventually(lambda: client.get(url), lambda answer: answer.status_code == 409).json()
    assert told["reason"] == "github_source_missing"
    assert "https://github.com/keeper/tools" in person.clawhub("install", name).text
