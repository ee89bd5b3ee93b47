"""The content of skills in the real Worker: up and down, without the bytes entering its heap."""

import hashlib
import os
import select
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import httpx
import pytest

from tests.worker.marketplace import SCANNER_KEY, Marketplace
from tests.worker.publishing import OPERATOR, report, submit, wait_published
from tests.worker.storage import health, without_postgres

SCANNER: Final = {"X-Internal-Key": SCANNER_KEY}
ZIP: Final = {"Content-Type": "application/zip"}
MARKDOWN: Final = {"Content-Type": "text/markdown"}
MIB: Final = 1024 * 1024
ROUNDS: Final = 10  # `tests/long` does more
GROWTH: Final = 2 * MIB  # that the heap may have


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(
    client: httpx.Client, data: bytes, digest: str | None = None, **headers: str
) -> httpx.Response:
    """Upload an archive as a scanner."""
    url = f"/api/v1/webhooks/content/{digest or digest_of(data)}"
    return client.put(url, content=data, headers=SCANNER | ZIP | headers)


def publish_with(
    client: httpx.Client, archive: bytes, markdown: bytes | None = None, license_: str = "MIT"
) -> str:
    """Publish a new skill that names this content; its slug."""
    name = f"kept-{uuid.uuid4().hex[:8]}"
    submission_id = submit(client, "keeper", name)["id"]
    skill_md = {} if markdown is None else {"skillMdDigest": digest_of(markdown)}
    facts = {"name": name, "license": license_, "version": "1.0.0"}
    receipt = report(
        client, submission_id, skill=facts, contentDigest=digest_of(archive), path=name, **skill_md
    )
    assert receipt["accepted"] == [submission_id]
    slug: str = wait_published(client, submission_id)["slug"]
    return slug


@pytest.fixture(scope="module")
def kept(marketplace: Marketplace) -> tuple[str, bytes, bytes]:
    """A skill whose content is uploaded: its slug, its archive and its SKILL.md."""
    archive, markdown = (
        os.urandom(100_000),
        b"---\nname: kept\n---\n# Kept\n" + os.urandom(8).hex().encode(),
    )
    with marketplace.client() as client:
        assert put(client, archive).status_code == 201
        url = f"/api/v1/webhooks/content/{digest_of(markdown)}"
        assert client.put(url, content=markdown, headers=SCANNER | MARKDOWN).status_code == 201
        return publish_with(client, archive, markdown), archive, markdown


def test_an_archive_comes_down_as_it_went_up(
    client: httpx.Client, kept: tuple[str, bytes, bytes]
) -> None:
    slug, archive, _ = kept

    leading = client.get(f"/api/v1/skills/{slug}/content")
    answer = client.get(leading.headers["location"])

    assert leading.status_code == 302
    assert (answer.status_code, answer.content) == (200, archive)
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-length"] == str(len(archive))
    assert answer.headers["etag"] == f'"{digest_of(archive)}"'
    assert answer.headers["content-disposition"] == f'attachment; filename="{slug}.zip"'
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["cache-control"] == "public, max-age=300, no-transform"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_skill_md_is_text(client: httpx.Client, kept: tuple[str, bytes, bytes]) -> None:
    slug, _, markdown = kept

    answer = client.get(f"/skills/{slug}/SKILL.md", follow_redirects=True)

    assert (answer.status_code, answer.content) == (200, markdown)
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"


def test_head_tells_the_same_without_the_body(
    client: httpx.Client, kept: tuple[str, bytes, bytes]
) -> None:
    slug, archive, _ = kept
    url = f"/content/{digest_of(archive)}"
    whole, head = client.get(url), client.head(url)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == whole.headers["etag"]
    assert head.headers["content-length"] == str(len(archive))
    assert client.head(f"/api/v1/skills/{slug}/content").status_code == 302
    assert client.head(f"/skills/{slug}/SKILL.md").status_code == 302


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [("0-9", 0, 10), ("99990-", 99_990, 100_000), ("-10", 99_990, 100_000), ("5-999999", 5, 10**5)],
)
def test_ranges(
    client: httpx.Client, kept: tuple[str, bytes, bytes], asked: str, begin: int, end: int
) -> None:
    _, archive, _ = kept
    answer = client.get(f"/content/{digest_of(archive)}", headers={"Range": f"bytes={asked}"})

    assert (answer.status_code, answer.content) == (206, archive[begin:end])
    assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/{len(archive)}"


def test_a_range_beyond_the_end_and_a_known_etag(
    client: httpx.Client, kept: tuple[str, bytes, bytes]
) -> None:
    _, archive, _ = kept
    url = f"/content/{digest_of(archive)}"

    beyond = client.get(url, headers={"Range": "bytes=100000-"})
    known = client.get(url, headers={"If-None-Match": f'"{digest_of(archive)}"'})

    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */100000")
    assert (known.status_code, known.content) == (304, b"")


def test_writing_twice_is_harmless(client: httpx.Client, kept: tuple[str, bytes, bytes]) -> None:
    _, archive, _ = kept

    again = put(client, archive)

    assert (again.status_code, again.json()["created"]) == (200, False)
    assert client.get(f"/content/{digest_of(archive)}").content == archive


def test_a_wrong_digest_is_refused_and_leaves_nothing(client: httpx.Client) -> None:
    data = os.urandom(1000)
    named = digest_of(os.urandom(1000))
    slug = publish_with(client, data)

    assert put(client, b"another" + data, digest_of(data)).status_code == 422
    assert client.get(f"/api/v1/skills/{slug}/content").status_code == 404
    assert put(client, data, named).status_code == 422
    assert put(client, data).status_code == 201


def test_what_is_no_upload_is_refused(client: httpx.Client) -> None:
    data = os.urandom(100)
    url = f"/api/v1/webhooks/content/{digest_of(data)}"

    def chunks() -> Iterator[bytes]:
        yield data

    assert client.put(url, content=chunks(), headers=SCANNER | ZIP).status_code == 411
    assert put(client, b"", digest_of(b"")).status_code == 422
    assert put(client, data, **{"Content-Type": "text/html"}).status_code == 415
    assert put(client, b"0" * (10 * MIB + 1)).status_code == 413
    assert put(client, data, "A" * 64).status_code == 422
    assert client.put(url, content=data, headers=ZIP).status_code == 401
    assert client.get(f"/content/{digest_of(data)}").status_code == 404


@contextmanager
def half_an_upload(marketplace: Marketplace, data: bytes) -> Iterator[socket.socket]:
    """A connection that has sent the half of an upload."""
    url = httpx.URL(marketplace.url)
    head = (
        f"PUT /api/v1/webhooks/content/{digest_of(data)} HTTP/1.1\r\nHost: {url.host}\r\n"
        f"X-Internal-Key: {SCANNER_KEY}\r\nContent-Type: application/zip\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.sendall(head.encode() + data[: len(data) // 2])
        yield connection


def test_two_uploads_at_a_time(marketplace: Marketplace, client: httpx.Client) -> None:
    with ExitStack() as stack:
        halves = {
            stack.enter_context(half_an_upload(marketplace, data)): data
            for data in (os.urandom(200_000) for _ in range(3))
        }
        (refused,), _, _ = select.select(list(halves), [], [], 30)  # whichever came last
        answer = refused.recv(10_000).decode().lower()
        assert " 429 " in answer.splitlines()[0]
        assert 1 <= int(answer.split("retry-after: ")[1].split()[0]) <= 60
        left = halves.pop(refused)
        for connection, data in halves.items():
            connection.sendall(data[len(data) // 2 :])
            assert b" 201 " in connection.recv(1000).split(b"\r\n")[0]

    assert put(client, left).status_code == 201


def test_a_broken_upload_leaves_nothing_and_can_be_made_again(
    marketplace: Marketplace, client: httpx.Client
) -> None:
    data = os.urandom(200_000)
    slug = publish_with(client, data)

    with half_an_upload(marketplace, data):
        pass

    assert client.get(f"/api/v1/skills/{slug}/content").status_code == 404
    assert put(client, data).status_code == 201
    assert client.get(f"/content/{digest_of(data)}").content == data


def test_without_an_open_licence_the_digest_alone_is_kept(client: httpx.Client) -> None:
    before, after = os.urandom(1000), os.urandom(1000)
    assert put(client, before).status_code == 201  # before anybody named it
    slug = publish_with(client, before, license_="LicenseRef-Proprietary")
    publish_with(client, after, license_="LicenseRef-Proprietary")

    assert client.get(f"/content/{digest_of(before)}").status_code == 451
    assert client.get(f"/api/v1/skills/{slug}/content").status_code == 451
    assert put(client, after).status_code == 451
    assert "does not let" in client.get(f"/skills/{slug}").text


def test_what_was_purged_is_gone_for_good(client: httpx.Client) -> None:
    data = os.urandom(1000)
    assert put(client, data).status_code == 201
    slug = publish_with(client, data)
    url = f"/api/v1/admin/content/{digest_of(data)}/purge"

    assert client.post(url, json={"reason": "Asked for."}, headers=SCANNER).status_code == 403
    purged = client.post(url, json={"reason": "Asked for."}, headers=OPERATOR)

    assert purged.json() == {"digest": digest_of(data), "bytes": len(data)}
    assert client.get(f"/content/{digest_of(data)}").status_code == 410
    assert (
        client.get(f"/content/{digest_of(data)}", headers={"Range": "bytes=0-"}).status_code == 410
    )
    assert put(client, data).status_code == 410
    assert client.get(f"/api/v1/skills/{slug}").json()["contentDigest"] == digest_of(data)


def test_content_is_served_while_postgres_is_away_and_a_block_holds(
    marketplace: Marketplace, client: httpx.Client, kept: tuple[str, bytes, bytes]
) -> None:
    slug, archive, _ = kept
    evil = os.urandom(1000)
    assert put(client, evil).status_code == 201
    blocked = publish_with(client, evil)
    rule = {
        "kind": "BLOCK", "matches": "contentDigest", "value": digest_of(evil), "reason": "Malware.",
        "threatType": "malware", "severity": "HIGH",
    }  # fmt: skip
    made = client.post("/api/v1/admin/rules", json=rule, headers=OPERATOR)
    assert made.status_code == 201, made.text
    assert client.get(f"/content/{digest_of(evil)}").status_code == 410

    with without_postgres(marketplace):
        answer = client.get(f"/api/v1/skills/{slug}/content", follow_redirects=True)
        assert (answer.status_code, answer.content) == (200, archive)
        assert client.get(f"/content/{digest_of(archive)}").status_code == 503
        there = client.get(f"/content/{digest_of(evil)}", params={"skill": blocked})
        assert there.status_code == 410
        assert there.json()["withheld"]["reason"] == "Malware."


def heap(client: httpx.Client) -> int:
    bytes_: int = health(client)["heap"]["bytes"]
    return bytes_


def up_and_down(client: httpx.Client, rounds: int) -> int:
    """10 MiB up and down so often; by how many bytes the heap grew after the first round."""
    before = 0
    for number in range(rounds + 1):
        data = os.urandom(64) * (10 * MIB // 64)
        assert put(client, data).status_code == 201
        publish_with(client, data)
        assert client.get(f"/content/{digest_of(data)}").content == data
        if number == 0:
            before = heap(client)
    return heap(client) - before


def test_large_content_does_not_enter_the_heap(client: httpx.Client) -> None:
    assert up_and_down(client, ROUNDS) < GROWTH


def test_files_and_provenance_are_told(client: httpx.Client) -> None:
    name = f"told-{uuid.uuid4().hex[:8]}"
    files: list[dict[str, Any]] = [
        {"path": f"docs/{number:04}-of-the-files.md", "size": number, "sha256": f"{number:064x}"}
        for number in range(1000)
    ]
    submission_id = submit(client, "keeper", name)["id"]
    told = {
        "skill": {"name": name, "license": "MIT"}, "path": name, "commit": "c" * 40,
        "repositoryId": "17", "contentDigest": "d" * 64, "skillMdDigest": "e" * 64, "files": files,
    }  # fmt: skip
    body = {"results": [{"submissionId": submission_id, "verdict": "PASS", "score": 90} | told]}
    response = client.post("/api/v1/webhooks/scan-results", json=body, headers=SCANNER)
    assert response.json()["accepted"] == [submission_id]
    slug = wait_published(client, submission_id)["slug"]

    skill = client.get(f"/api/v1/skills/{slug}").json()
    listed = client.get(f"/api/v1/skills/{slug}/files").json()

    assert skill["scannedBy"] == "scan-1"
    assert skill["readAt"] is not None
    fields = ("commit", "repositoryId", "contentDigest", "skillMdDigest")
    assert [skill[field] for field in fields] == [told[field] for field in fields]
    assert (skill["license"], skill["skillPath"]) == ("MIT", name)
    assert listed["files"] == files
    assert listed["filesDigest"] == skill["filesDigest"]
    page = client.get(f"/skills/{slug}").text
    assert "scan-1" in page
    assert "c" * 40 in page
