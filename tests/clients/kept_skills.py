"""Skills with their content, published as a scanner does it."""

import hashlib
import io
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from tests.worker.marketplace import SCANNER_KEY
from tests.worker.publishing import report, submit, wait_published

SCANNER: Final = {"X-Internal-Key": SCANNER_KEY}
COMMIT: Final = "c0ffee" + "0" * 34


@dataclass(frozen=True)
class Kept:
    """A published skill; ``files`` by path."""

    slug: str
    name: str
    owner: str
    submission_id: str
    files: Mapping[str, bytes]

    @property
    def repository(self) -> str:
        """As GitHub would have it."""
        return f"{self.owner}/tools"


def new_name() -> str:
    """A name that no other test has."""
    return f"kept-{uuid.uuid4().hex[:8]}"


def skill_md(name: str, text: str = "Do it well.") -> bytes:
    """A SKILL.md that the programs take."""
    return f"---\nname: {name}\ndescription: Does {name}.\n---\n\n{text}\n".encode()


def archive_of(files: Mapping[str, bytes]) -> bytes:
    """A zip with the files at its root."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path), data)
    return buffer.getvalue()


def upload(client: httpx.Client, data: bytes, media_type: str = "application/zip") -> None:
    """Put content into the archive."""
    url = f"/api/v1/webhooks/content/{sha256(data)}"
    answer = client.put(url, content=data, headers=SCANNER | {"Content-Type": media_type})
    assert answer.status_code in (200, 201), answer.text


def publish_kept(
    client: httpx.Client,
    files: Mapping[str, bytes] | None = None,
    *,
    name: str | None = None,
    owner: str = "keeper",
    license_: str = "MIT",
    uploaded: bool = True,
    version: str = "1.0.0",
) -> Kept:
    """Publish a skill of these files at a new name, or another state of it."""
    name = name or new_name()
    files = files or {"SKILL.md": skill_md(name), "scripts/run.sh": b"echo run\n"}
    if uploaded:
        upload(client, archive_of(files))
    submission_id = submit(client, owner, name, version=version, rescan=True)["id"]
    receipt = report(client, submission_id, **told(name, files, license_, version))
    assert receipt["accepted"] == [submission_id]
    slug = wait_published(client, submission_id)["slug"]
    return Kept(slug, name, owner, submission_id, files)


def told(
    name: str, files: Mapping[str, bytes], license_: str = "MIT", version: str = "1.0.0"
) -> dict[str, Any]:
    """What a scanner tells of a skill of these files."""
    return {
        "skill": {
            "name": name,
            "description": f"Does {name}.",
            "license": license_,
            "version": version,
        },
        "path": f"skills/{name}",
        "commit": COMMIT,
        "contentDigest": sha256(archive_of(files)),
        "skillMdDigest": sha256(files["SKILL.md"]),
        "files": [
            {"path": path, "size": len(data), "sha256": sha256(data)}
            for path, data in files.items()
        ],
    }


def sha256(data: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
