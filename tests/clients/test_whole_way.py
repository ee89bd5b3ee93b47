"""From a git repository to somebody's project, and on after the repository is gone."""

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest

from local.host.control import KvEntry
from marketplace.basics.timestamps import shifted
from marketplace.kv.acceptance_log import key_of_verdict
from marketplace.skills.scan import Scan
from tests.clients.programs import Done, Person
from tests.unit.scanner.repositories import commit, skill_md
from tests.worker.marketplace import SCANNER_KEY, Marketplace
from tests.worker.publishing import eventually, listing, names
from tests.worker.storage import empty, keys, query
from tests.worker.test_command_line import run

OWNER: Final = "wholeway"
URL: Final = f"https://github.com/{OWNER}/skills"
COUNT: Final = 20
DAY: Final = 86_400.0
LONG_AGO: Final = "2026-01-01T00:00:00.000Z"

ONE_FILE, MANY_FILES = "wholeway-00", "wholeway-01"  # MIT, Apache-2.0
PROPRIETARY, WITHOUT_LICENSE = "wholeway-02", "wholeway-03"  # one file, many files
FREE: Final = (ONE_FILE, MANY_FILES)
CLOSED: Final = (PROPRIETARY, WITHOUT_LICENSE)
LICENSES: Final = ("license: MIT", "license: Apache-2.0", "license: Proprietary", "")


def files_of(number: int) -> Mapping[str, bytes]:
    """A skill of one of four licences, with or without further files."""
    license_ = LICENSES[number % len(LICENSES)]
    told = [line for line in (license_,) if line]
    files = {"SKILL.md": skill_md(f"wholeway-{number:02}", *told).encode()}
    if number % 2:
        files |= {
            "scripts/run.sh": b"#!/bin/sh\necho run\r\n",
            "assets/picture.bin": bytes(range(256)) * 40,
            "references/\u00e4.md": "Gr\u00fc\u00dfe\n".encode(),
        }
    return files


SKILLS: Final = {f"wholeway-{number:02}": files_of(number) for number in range(COUNT)}


@dataclass(frozen=True)
class Repository:
    """A git repository on this machine, and what the scanner printed of it."""

    folder: Path
    head: str
    told: Mapping[str, Any]


def scan(marketplace: Marketplace, *arguments: str) -> dict[str, Any]:
    """Run the scanner with a scanner's key; what it printed."""
    result = run(marketplace.url, "scan", *arguments, "--json", key=SCANNER_KEY)
    told: dict[str, Any] = json.loads(result.stdout or "{}")
    assert told, result.stderr
    return told


@pytest.fixture(scope="module")
def repository(marketplace: Marketplace, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Scanned, reported and published."""
    empty(marketplace)
    folder = tmp_path_factory.mktemp("forge") / "skills"
    head = commit(
        folder,
        {
            f"skills/{name}/{path}": data
            for name, files in SKILLS.items()
            for path, data in files.items()
        },
    )
    told = scan(marketplace, str(folder), "--report", "--repo-url", URL)
    with marketplace.client() as client:
        eventually(lambda: listing(client, author=OWNER), lambda told: told["total"] == COUNT)
    return Repository(folder, head, told)


@pytest.fixture(scope="module")
def deleted(marketplace: Marketplace, repository: Repository) -> Repository:
    """The repository, after it was deleted and two scans a day apart have not found it."""
    shutil.rmtree(repository.folder)
    follow = ["--follow", "--once", "--map", f"{URL}={repository.folder}"]
    stored = query(marketplace, "select identity, verdict_at from skill")
    read_at = json.dumps({str(identity): moment for identity, moment in stored})
    query(marketplace, "update skill set verdict_at = $1::text", LONG_AGO)
    query(marketplace, "update scan_request set requested_at = $1::text", LONG_AGO)
    assert scan(marketplace, *follow)["outcomes"] == {"reported": COUNT}
    query(
        marketplace,
        "update skill set verdict_at = told.value from json_each_text($1::json) as told"
        " where identity = told.key",
        read_at,
    )
    with marketplace.client() as client:
        skill = client.get(f"/api/v1/skills/{ONE_FILE}").json()
        assert skill.get("sourceGoneAt") is None  # once is not enough
    a_day_passes(marketplace)
    assert scan(marketplace, *follow)["outcomes"] == {"reported": COUNT}
    with marketplace.client() as client:
        for name in SKILLS:
            eventually(
                lambda name=name: client.get(f"/api/v1/skills/{name}").json(),  # type: ignore[misc]
                lambda skill: skill.get("sourceGoneAt") is not None,
            )
    return repository


def a_day_passes(marketplace: Marketplace) -> None:
    """Let what was logged be older by a day, and what waits for tomorrow be handed out."""
    control = marketplace.worker.control
    before = keys(marketplace, "verdict:")
    older = []
    for key in before:
        entry = control.kv_get(key)
        assert entry is not None
        scan = msgspec.json.decode(entry.value, type=Scan)
        scan = msgspec.structs.replace(scan, scanned_at=shifted(scan.scanned_at, -DAY - 60))
        text = msgspec.json.encode(scan).decode()
        older.append(KvEntry(key_of_verdict(scan), text, entry.metadata))
    control.kv_put(older)
    control.kv_delete(before)
    query(marketplace, "update scan_request set free_at = $1::text", LONG_AGO)


def add(person: Person, name: str) -> Done:
    return person.skills("add", f"{person.url}/skills/{name}", "-y", "-a", "claude-code")


def added(person: Person, name: str) -> Mapping[str, bytes]:
    """What `skills` has installed."""
    return _files(person.project / ".claude" / "skills" / name)


def installed(person: Person, name: str) -> Mapping[str, bytes]:
    """What `clawhub` has installed, without its own notes."""
    return _files(person.project / "skills" / name)


def _files(folder: Path) -> Mapping[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".clawhub" not in path.parts
    }


def check_installs(person: Person, name: str) -> None:
    """That both programs install a skill, byte for byte."""
    done = add(person, name)
    assert added(person, name) == SKILLS[name], done.text
    done = person.clawhub("install", name)
    assert installed(person, name) == SKILLS[name], done.text


def test_twenty_skills_are_scanned_published_and_kept_as_far_as_their_licence_allows(
    repository: Repository, client: httpx.Client
) -> None:
    assert repository.told["error"] is None
    reported = repository.told["reported"]
    assert [(one["outcome"], one.get("content")) for one in reported] == [("reported", None)] * 20
    assert names(listing(client, author=OWNER, limit=100)) == set(SKILLS)
    for number, name in enumerate(SKILLS):
        skill = client.get(f"/api/v1/skills/{name}").json()
        kept = client.get(f"/api/v1/skills/{name}/content", follow_redirects=True)
        license_, status = (("MIT", 200), ("Apache-2.0", 200), (None, 451), (None, 451))[number % 4]
        assert (skill["commit"], skill["skillPath"]) == (repository.head, f"skills/{name}")
        assert (skill.get("license"), kept.status_code) == (license_, status), name


def test_both_programs_find_all(
    marketplace: Marketplace, repository: Repository, person: Person
) -> None:
    def is_found(name: str) -> bool:
        return f"{person.url}/skills/{name}@{name}" in person.skills("find", name).text

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(SKILLS, pool.map(is_found, SKILLS), strict=True))
    assert all(found.values()), found
    by_clawhub = person.clawhub("search", OWNER, "--limit", "50").text
    assert [name for name in SKILLS if name not in by_clawhub] == []


@pytest.mark.parametrize("name", FREE)
def test_what_is_installed_is_the_repository_byte_for_byte(
    repository: Repository, person: Person, name: str
) -> None:
    check_installs(person, name)


@pytest.mark.parametrize("name", FREE)
def test_after_its_repository_is_deleted_it_still_installs(
    deleted: Repository, person: Person, client: httpx.Client, name: str
) -> None:
    assert not deleted.folder.exists()
    assert "Its repository is gone" in client.get(f"/skills/{name}").text
    check_installs(person, name)


@pytest.mark.parametrize("name", CLOSED)
def test_without_an_open_licence_nothing_is_left_and_that_is_said(
    deleted: Repository, person: Person, client: httpx.Client, name: str
) -> None:
    told = client.get(f"/skills/{name}/.well-known/agent-skills/index.json")
    assert told.status_code == 404
    assert "is gone" in told.json()["detail"]
    assert add(person, name).code != 0
    assert added(person, name) == {}

    told = client.get(f"/clawhub/api/v1/skills/{name}/install")
    assert (told.status_code, told.json()["ok"]) == (409, False)
    assert f"{URL} is gone" in person.clawhub("install", name).text
    assert installed(person, name) == {}

    assert client.get(f"/api/v1/skills/{name}/content").status_code == 451
    page = client.get(f"/skills/{name}").text
    assert "Its repository is gone" in page
    assert "skills add" not in page
