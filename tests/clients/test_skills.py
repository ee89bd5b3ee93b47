"""The program `skills`: find, add, use and update, from this marketplace."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

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
    upload,
)
from tests.clients.programs import Done, Person, forge_with
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import OPERATOR, eventually, report, status, submit
from tests.worker.storage import without_postgres

KINDS: Final = ("agent-skills", "skills")
NOBODY: Final = "kept-by-nobody"


@pytest.fixture(scope="module")
def kept(marketplace: Marketplace) -> Kept:
    """A skill whose archive is kept here."""
    with marketplace.client() as client:
        return publish_kept(client)


def page(person: Person, kept: Kept) -> str:
    """What `skills add` is given."""
    return f"{person.url}/skills/{kept.slug}"


def add(person: Person, source: str) -> Done:
    """Install into the project of somebody who has Claude Code."""
    return person.skills("add", source, "-y", "-a", "claude-code")


def installed(person: Person, name: str) -> Mapping[str, bytes]:
    """The files of a skill as Claude Code finds them."""
    folder = person.project / ".claude" / "skills" / name
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def index(client: httpx.Client, path: str, kind: str = "agent-skills") -> httpx.Response:
    return client.get(f"{path}/.well-known/{kind}/index.json")


def test_find_leads_to_what_add_takes(client: httpx.Client, person: Person, kept: Kept) -> None:
    source = f"{page(person, kept)}@{kept.name}"
    eventually(lambda: person.skills("find", kept.name), lambda done: source in done.text)
    assert source in person.skills("find", kept.name, "--owner", kept.owner).text
    assert source not in person.skills("find", kept.name, "--owner", "nobody").text

    assert person.skills("add", page(person, kept), "--skill", kept.name, "-y").code == 0
    told = client.get("/api/search", params={"q": kept.name}).json()["skills"]
    assert [skill["installs"] for skill in told] == [0]


def test_add_installs_every_byte(person: Person, kept: Kept) -> None:
    done = add(person, page(person, kept))
    assert done.code == 0, done.text
    assert installed(person, kept.name) == kept.files


def test_add_by_the_repository_installs_the_same(person: Person, kept: Kept) -> None:
    done = add(person, f"{person.url}/skills/{kept.repository}/{kept.name}")
    assert done.code == 0, done.text
    assert installed(person, kept.name) == kept.files


def test_use_gives_out_the_text(person: Person, kept: Kept) -> None:
    done = person.skills("use", page(person, kept))
    assert done.code == 0, done.text
    assert kept.files["SKILL.md"].decode() in done.text


def test_update_brings_what_was_scanned_since(client: httpx.Client, person: Person) -> None:
    kept = publish_kept(client)
    assert add(person, page(person, kept)).code == 0
    assert "Updated" not in person.skills("update", "-p", "-y").text

    newer = {"SKILL.md": skill_md(kept.name, "Do it better."), "more.md": b"More.\n"}
    publish_kept(client, newer, name=kept.name, version="1.1.0")
    assert "Updated 1 skill" in person.skills("update", "-p", "-y").text
    assert installed(person, kept.name) == newer


def test_it_installs_and_updates_without_postgres(
    marketplace: Marketplace, client: httpx.Client, person: Person
) -> None:
    kept = publish_kept(client)
    with without_postgres(marketplace):
        assert add(person, page(person, kept)).code == 0
        done = person.skills("update", "-p", "-y")
    assert installed(person, kept.name) == kept.files
    assert "removed" not in done.text.lower()


def test_a_single_file_comes_from_its_repository_where_it_is_not_kept(
    client: httpx.Client, person: Person
) -> None:
    name = new_name()
    files = {"SKILL.md": skill_md(name)}
    kept = publish_kept(client, files, name=name, license_="LicenseRef-Own", uploaded=False)
    path = f"/{kept.repository}/{COMMIT}/skills/{name}/SKILL.md"
    with forge_with({path: files["SKILL.md"]}) as forge:
        assert add(replace(person, forge=forge), page(person, kept)).code == 0
    assert installed(person, name) == files


def test_what_the_repository_has_made_of_a_single_file_is_not_installed(
    client: httpx.Client, person: Person
) -> None:
    name = new_name()
    kept = publish_kept(client, {"SKILL.md": skill_md(name)}, name=name, uploaded=False)
    path = f"/{kept.repository}/{COMMIT}/skills/{name}/SKILL.md"
    with forge_with({path: skill_md(name, "Do something else.")}) as forge:
        add(replace(person, forge=forge), page(person, kept))
    assert installed(person, name) == {}


def test_a_single_file_that_is_kept_here_needs_no_repository(client: httpx.Client) -> None:
    name = new_name()
    files = {"SKILL.md": skill_md(name)}
    upload(client, files["SKILL.md"], "text/markdown")
    kept = publish_kept(client, files, name=name, uploaded=False)
    (entry,) = index(client, f"/skills/{kept.slug}").json()["skills"]
    assert (entry["type"], entry["digest"]) == ("skill-md", f"sha256:{sha256(files['SKILL.md'])}")
    assert client.get(entry["url"]).content == files["SKILL.md"]


def test_an_index_names_one_skill_and_its_digest(client: httpx.Client, kept: Kept) -> None:
    for kind in KINDS:
        for path in (f"/skills/{kept.slug}", f"/skills/{kept.repository}/{kept.name}"):
            answer = index(client, path, kind)
            assert answer.status_code == 200, answer.text
            (entry,) = answer.json()["skills"]
            assert (entry["name"], entry["type"]) == (kept.name, "archive")
            assert entry["digest"] == f"sha256:{sha256(archive_of(kept.files))}"
            content = client.get(entry["url"])
            assert sha256(content.content) == sha256(archive_of(kept.files))


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_itself_has_no_index(client: httpx.Client, kind: str) -> None:
    assert index(client, "", kind).status_code == 404
    assert index(client, f"/skills/{NOBODY}", kind).status_code == 404
    assert index(client, f"/skills/nobody/tools/{NOBODY}", kind).status_code == 404


def test_several_files_that_are_not_kept_are_not_handed_out(client: httpx.Client) -> None:
    kept = publish_kept(client, license_="LicenseRef-Own", uploaded=False)
    assert index(client, f"/skills/{kept.slug}").status_code == 404


def test_a_skill_without_content_leads_to_its_repository(
    client: httpx.Client, person: Person
) -> None:
    name = new_name()
    submission_id = submit(client, "keeper", name)["id"]
    report(client, submission_id, skill={"name": name})
    eventually(lambda: status(client, submission_id), lambda told: told["state"] == "PUBLISHED")
    (told,) = client.get("/api/search", params={"q": name}).json()["skills"]
    assert (told["name"], told["source"]) == (name, "keeper/tools")


def test_a_skill_that_failed_its_scan_is_locked(client: httpx.Client, person: Person) -> None:
    kept = publish_kept(client)
    submission_id = submit(client, kept.owner, kept.name, version="1.1.0", rescan=True)["id"]
    report(client, submission_id, verdict="FAIL", path=f"skills/{kept.name}", reason="It steals.")
    answer = eventually(
        lambda: index(client, f"/skills/{kept.slug}"), lambda answer: answer.status_code != 200
    )
    assert (answer.status_code, answer.json()["failedScan"]["reason"]) == (423, "It steals.")
    add(person, page(person, kept))
    assert installed(person, kept.name) == {}


@pytest.mark.parametrize(
    ("act", "told"),
    [("withdraw", {}), ("block", {"threatType": "malware", "severity": "HIGH"})],
)
def test_a_skill_that_is_withheld_is_gone(
    client: httpx.Client, person: Person, act: str, told: dict[str, str]
) -> None:
    kept = publish_kept(client)
    assert add(person, page(person, kept)).code == 0
    url = f"/api/v1/admin/skills/{kept.slug}/{act}"
    assert client.post(url, json={"reason": "Because."} | told, headers=OPERATOR).is_success
    assert index(client, f"/skills/{kept.slug}").status_code == 410
    person.skills("update", "-p", "-y")
    assert installed(person, kept.name) == kept.files  # nobody's files are deleted


def test_the_program_must_be_there(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.clients.programs.NODE_MODULES", Path("/nowhere"))
    with pytest.raises(AssertionError, match="npm has not installed skills"):
        person.skills("--version")
