"""The archive of a skill is a good zip, and always the same."""

import io
import os
import stat
import zipfile
from pathlib import Path

import pytest

from scanner.folders import FolderTree
from scanner.packing import pack, sha256
from scanner.skills import ScannedSkill, scan
from scanner.sources import open_source
from tests.unit.scanner.repositories import commit, git, skill_md, write

FILES: dict[str, str | bytes] = {
    "csv/SKILL.md": skill_md("csv"),
    "csv/scripts/run.sh": "#!/bin/sh\necho x\n",
    "csv/b\u00e9.txt": "y\r\n",
    "csv/Z": b"\0\1\2",
    "csv/a/empty": "",
}
DIGEST = "a567f0438659"  # of the archive of FILES


def only(path: Path, *, as_it_lies: bool = False) -> ScannedSkill:
    (skill,) = scan(open_source(path, as_it_lies=as_it_lies).tree)
    return skill


def test_the_archive_is_a_zip_with_skill_md_at_its_root() -> None:
    files = {"SKILL.md": b"text", "a/b\u00e9": bytes(1000)}
    with zipfile.ZipFile(io.BytesIO(pack(files))) as archive:
        assert archive.testzip() is None
        assert {info.filename: archive.read(info) for info in archive.infolist()} == files
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.external_attr >> 16 == stat.S_IFREG | 0o644


def test_its_bytes_never_change(tmp_path: Path) -> None:
    """Other bytes would be another content of every skill that is listed."""
    write(tmp_path, FILES)
    assert str(only(tmp_path).content_digest).startswith(DIGEST)
    assert sha256(pack({})) == sha256(b"PK\x05\x06" + bytes(18))


def test_order_is_of_bytes_and_not_of_insertion() -> None:
    files = {"b": b"1", "a/c": b"2", "a": b"3", "\u00e9": b"4", "Z": b"5"}
    assert pack(files) == pack(dict(reversed(files.items())))


def test_umask_times_order_and_git_change_nothing(tmp_path: Path) -> None:
    first, second, repository = (tmp_path / name for name in ("first", "second", "repository"))
    write(first, FILES)
    before = os.umask(0o077)
    try:
        write(second, dict(reversed(FILES.items())))
    finally:
        os.umask(before)
    (second / "csv/scripts/run.sh").chmod(0o777)
    for path in second.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    commit(repository, FILES)
    skills = [only(first), only(first), only(second), only(repository)]
    assert len({skill.content_digest for skill in skills}) == 1
    assert all(skill.files == skills[0].files for skill in skills)


def test_a_work_tree_with_other_line_ends_is_the_same_commit(tmp_path: Path) -> None:
    commit(tmp_path, FILES)
    before = only(tmp_path)
    git(tmp_path, "config", "core.autocrlf", "true")
    (tmp_path / "csv/SKILL.md").write_bytes(skill_md("csv").replace("\n", "\r\n").encode())
    assert only(tmp_path).content_digest == before.content_digest
    assert only(tmp_path, as_it_lies=True).content_digest != before.content_digest


@pytest.mark.parametrize("name", ["csv/SKILL.md", "csv/Z", "csv/scripts/run.sh"])
def test_every_byte_counts(tmp_path: Path, name: str) -> None:
    write(tmp_path, FILES)
    before = only(tmp_path)
    with (tmp_path / name).open("ab") as file:
        file.write(b"\n")
    assert only(tmp_path).content_digest != before.content_digest
    assert FolderTree(tmp_path).entries  # and nothing was written there
