"""Mirrors follow the running marketplace through all that happens to it, and it is filled from
one."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from cli.errors import EXIT_FINDING, EXIT_OK
from tests.worker.marketplace import INTERNAL_KEY, Marketplace
from tests.worker.mirrors import (
    OWNER,
    catch_up,
    check_mirrors,
    following,
    items,
    publish_through_everything,
)
from tests.worker.publishing import listing, report, submit, wait_published
from tests.worker.storage import (
    empty,
    everything_listed,
    hanging_postgres,
    health,
    query,
    rebuild,
    records,
    refusing_postgres,
    rows,
    without_postgres,
)
from tests.worker.test_command_line import run

SKILLS: Final = 200
MIRRORS: Final = 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [tmp_path_factory.mktemp("mirrors") / str(number) for number in range(MIRRORS)]


@pytest.fixture(scope="module")
def mirrored(marketplace: Marketplace, folders: list[Path]) -> dict[str, Any]:
    """The marketplace with skills that mirrors have followed from the first one on."""
    empty(marketplace)
    with following(marketplace, folders) as codes:
        slugs = publish_through_everything(marketplace, SKILLS)
    return {"slugs": slugs, "codes": codes}


def test_mirrors_end_with_the_fingerprint_after_outage_restart_and_restore(
    marketplace: Marketplace, mirrored: dict[str, Any], folders: list[Path]
) -> None:
    assert all(EXIT_OK in codes for codes in mirrored["codes"].values())
    check_mirrors(marketplace, folders, mirrored["slugs"])


def test_an_empty_marketplace_is_filled_from_a_mirror(
    marketplace: Marketplace, mirrored: dict[str, Any], folders: list[Path], client: httpx.Client
) -> None:
    held = items(folders[0])
    before = everything_listed(client)
    result = run(marketplace.url, "restore", f"{folders[0]}")
    assert result.returncode != EXIT_OK
    assert "not empty" in result.stderr

    empty(marketplace)
    result = run(marketplace.url, "restore", f"{folders[0]}", "--json")
    assert result.returncode == EXIT_OK, result.stdout + result.stderr
    report = rebuild(client)
    assert report["ok"], report
    assert records(marketplace) == rows(marketplace)
    assert health(client)["drift_detected"] is False
    after = everything_listed(client)
    assert {skill["name"]: skill for skill in after["skills"]} == {
        skill["name"]: skill for skill in before["skills"]
    }
    for name, item in held.items():
        if item["status"] != "LISTED":
            gone = client.get(f"/api/v1/skills/{name}")
            assert gone.status_code == 410
            assert gone.json()["withheld"]["reason"] == item["reason"]
    for folder in folders:
        assert run(marketplace.url, "mirror", str(folder), key=None).returncode == EXIT_OK
    assert {name: item["digest"] for name, item in items(folders[1]).items()} == {
        name: item["digest"] for name, item in held.items()
    }
    (audit,) = query(marketplace, "select distinct action from audit where action like 'restore%'")
    assert audit == ("restore-from-mirror",)


@pytest.mark.parametrize("trouble", [without_postgres, refusing_postgres, hanging_postgres])
def test_without_postgres_the_feed_says_when_to_ask_again(
    marketplace: Marketplace, mirrored: dict[str, Any], client: httpx.Client, trouble: Any
) -> None:
    assert client.get("/api/v1/changes").status_code == 200
    with trouble(marketplace):
        answer = client.get("/api/v1/changes")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "changes" not in answer.json()
    assert listing(client, author=f"{OWNER}-0")["total"] > 0


def test_a_mirror_needs_no_key_and_a_restore_does(
    marketplace: Marketplace, mirrored: dict[str, Any], folders: list[Path], tmp_path: Path
) -> None:
    assert catch_up(marketplace, tmp_path / "new") == EXIT_OK
    result = run(marketplace.url, "restore", f"{tmp_path / 'new'}", key=None)
    assert result.returncode != EXIT_OK
    assert "MARKETPLACE_KEY" in result.stderr
    assert INTERNAL_KEY not in result.stderr


def name_content(client: httpx.Client, slug: str, license_: str) -> tuple[bytes, bytes]:
    """Publish a skill whose content nobody has uploaded: its archive and its SKILL.md."""
    archive, skill_md = os.urandom(50_000), f"# {slug}\n".encode() + os.urandom(8).hex().encode()
    submission_id = submit(client, "mirrored", slug)["id"]
    report(
        client,
        submission_id,
        skill={"name": slug, "license": license_},
        path=slug,
        contentDigest=hashlib.sha256(archive).hexdigest(),
        skillMdDigest=hashlib.sha256(skill_md).hexdigest(),
    )
    wait_published(client, submission_id)
    return archive, skill_md


def kept_content(folder: Path) -> dict[str, bytes]:
    """The content of a mirror, by its name."""
    return {file.name: file.read_bytes() for file in (folder / "content").iterdir()}


def mirrored_with_content(marketplace: Marketplace, folder: Path) -> dict[str, Any]:
    result = run(marketplace.url, "mirror", str(folder), "--content", "--json", key=None)
    assert result.returncode == EXIT_OK, result.stdout + result.stderr
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def test_a_marketplace_that_was_filled_from_a_mirror_serves_its_content(
    marketplace: Marketplace, client: httpx.Client, tmp_path: Path
) -> None:
    empty(marketplace)
    free = {slug: name_content(client, slug, "MIT") for slug in ("content-a", "content-b")}
    closed, _ = name_content(client, "content-closed", "LicenseRef-Own")
    before = mirrored_with_content(marketplace, tmp_path / "one")
    assert before["whyMissing"] == {"not there": 4, "its licence": 2}
    contents = {hashlib.sha256(c).hexdigest(): c for pair in free.values() for c in pair}
    for digest, content in contents.items():
        (tmp_path / "one" / "content" / digest).write_bytes(content)

    empty(marketplace)
    result = run(marketplace.url, "restore", f"{tmp_path / 'one'}", "--json")
    assert result.returncode == EXIT_OK, result.stdout + result.stderr
    told = json.loads(result.stdout)
    assert (told["uploaded"], told["missingContent"], told["equal"]) == (4, 2, True)
    for slug, (archive, skill_md) in free.items():
        url = f"/api/v1/skills/{slug}/content"
        assert client.get(url, follow_redirects=True).content == archive
        url = f"/skills/{slug}/SKILL.md"
        assert client.get(url, follow_redirects=True).content == skill_md

    after = mirrored_with_content(marketplace, tmp_path / "two")
    assert (after["digest"], after["count"]) == (before["digest"], before["count"])
    assert after["whyMissing"] == {"its licence": 2}
    assert kept_content(tmp_path / "two") == contents

    digest = hashlib.sha256(closed).hexdigest()
    (tmp_path / "one" / "content" / digest).write_bytes(closed)
    result = run(marketplace.url, "restore", f"{tmp_path / 'one'}", "--into-existing", "--json")
    assert result.returncode == EXIT_FINDING
    told = json.loads(result.stdout)
    assert (told["uploaded"], len(told["refused"])) == (4, 1)
    assert told["refused"][0].startswith(digest)
    assert "451" in told["refused"][0]
