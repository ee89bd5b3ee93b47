"""What is read of an archive, and what is refused: shown with real archives."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from scanner import archives
from scanner.archives import ArchiveTree, read_archive
from scanner.tree import MAX_FILES, Refused, Unreadable

MIB = 1024 * 1024
Make = Callable[[Path, Iterable[tuple[str, bytes]]], Path]


def make_zip(folder: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    path = folder / "made.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it is: the library would mend it
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def make_tar(folder: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    path = folder / "made.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(content))
    return path


both = pytest.mark.parametrize("make", [make_zip, make_tar])


def contents(tree: ArchiveTree) -> dict[str, bytes]:
    return dict(tree.read(tree.entries))


@both
def test_files_are_read_by_path(tmp_path: Path, make: Make) -> None:
    files = {"b/SKILL.md": b"text", "./a.txt": b"", "b/c/d.bin": bytes(range(256)) * 300}
    tree = read_archive(make(tmp_path, files.items()))
    assert contents(tree) == {name.removeprefix("./"): data for name, data in files.items()}
    assert [entry.path for entry in tree.entries] == ["a.txt", "b/SKILL.md", "b/c/d.bin"]


def test_archives_of_git_are_read_whole_or_from_their_folder(tmp_path: Path) -> None:
    tree = read_archive(make_tar(tmp_path, [("repo-1/SKILL.md", b"x"), ("repo-1/a/b", b"y")]))
    assert tree.only_folder == "repo-1"
    assert contents(tree.below("repo-1/")) == {"SKILL.md": b"x", "a/b": b"y"}
    assert contents(tree.below(".")) == contents(tree)
    assert read_archive(make_zip(tmp_path, [("a", b""), ("b/c", b"")])).only_folder is None
    assert read_archive(make_zip(tmp_path, [("a", b"")])).only_folder is None


@both
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil", "leads out"),
        ("a/../../evil", "leads out"),
        ("/etc/passwd", "absolute"),
        ("C:/evil", "absolute"),
        ("\\\\host\\evil", "absolute"),
        ("a\\b", "character"),
        ("a//b", "no plain path"),
        ("a/./b", "no plain path"),
        ("a\nb", "character"),
        ("a\u202eb", "character"),
        ("a/" + "x" * 260, "more than 256"),
    ],
)
def test_paths_that_lead_out_are_refused(
    tmp_path: Path, make: Make, name: str, reason: str
) -> None:
    with pytest.raises(Refused, match=reason):
        read_archive(make(tmp_path, [("good", b""), (name, b"x")]))


def test_what_follows_a_nul_is_not_overlooked(tmp_path: Path) -> None:
    path = make_zip(tmp_path, [("SKILL.mdX/../../evil", b"")])
    path.write_bytes(path.read_bytes().replace(b"SKILL.mdX", b"SKILL.md\0"))
    with pytest.raises(Refused, match="leads out"):
        read_archive(path)


@both
def test_a_path_that_is_there_twice_is_refused(tmp_path: Path, make: Make) -> None:
    with pytest.warns(UserWarning, match="Duplicate") if make is make_zip else _nothing():
        path = make(tmp_path, [("a", b"1"), ("a", b"2")])
    with pytest.raises(Refused, match="twice"):
        read_archive(path)


class _nothing:  # noqa: N801 - stands beside pytest.warns
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


@both
@pytest.mark.parametrize("names", [("README", "readme"), ("\u00e9", "e\u0301"), ("ss", "\u00df")])
def test_names_that_some_machines_take_for_one_are_refused(
    tmp_path: Path, make: Make, names: tuple[str, str]
) -> None:
    with pytest.raises(Refused, match="one name on some machines"):
        read_archive(make(tmp_path, [(name, b"") for name in names]))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_special_files_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "made.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("a")
        info.type, info.linkname = kind, "b"
        archive.addfile(info)
    expected = "is a link" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else "is a special file"
    with pytest.raises(Refused, match=expected):
        read_archive(path)


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_special_files_in_a_zip_are_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a")
        info.external_attr = (mode | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    expected = "is a link" if mode == stat.S_IFLNK else "is a special file"
    with pytest.raises(Refused, match=expected):
        read_archive(path)


@both
def test_a_thousand_files_are_taken_and_one_more_is_not(tmp_path: Path, make: Make) -> None:
    files = [(f"{number}", b"") for number in range(MAX_FILES + 1)]
    assert len(read_archive(make(tmp_path, files[:-1])).entries) == MAX_FILES
    with pytest.raises(Refused, match="1,000 files"):
        read_archive(make(tmp_path, files))


@both
def test_folders_are_counted_too(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    folders = [(f"folder{number}/", b"") for number in range(11)]
    with pytest.raises(Refused, match="10 entries"):
        read_archive(make(tmp_path, folders))


@both
def test_fifty_mib_are_taken_and_a_byte_more_is_not(tmp_path: Path, make: Make) -> None:
    zeros = bytes(25 * MIB)
    assert len(contents(read_archive(make(tmp_path, [("a", zeros), ("b", zeros)])))) == 2
    with pytest.raises(Refused, match="50 MiB unpacked"):
        read_archive(make(tmp_path, [("a", zeros), ("b", zeros), ("c", b"1")]))


def test_a_tar_of_headers_alone_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library reads for itself, as a name of many MiB, is measured as well."""
    monkeypatch.setattr(archives, "_MAX_TAR_BYTES", MIB)
    path = tmp_path / "made.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("x" * 2 * MIB))
    with pytest.raises(Refused, match="50 MiB"):
        read_archive(path)


def test_a_size_that_a_zip_understates_does_not_count(tmp_path: Path) -> None:
    path = make_zip(tmp_path, [("a", b"x" * 1000)])
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<L", 1000), struct.pack("<L", 10)))
    with pytest.raises(Unreadable, match="CRC"):
        read_archive(path)


def test_parts_of_a_zip_that_overlap_are_counted_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of members that all lead to one content: small, and huge when unpacked."""
    path = make_zip(tmp_path, [("aaaa", bytes(MIB))])
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    entry, end = data[start:-22], bytearray(data[-22:])
    end[8:16] = struct.pack("<HHL", 60, 60, 60 * len(entry))
    path.write_bytes(data[:start] + entry * 60 + end)
    monkeypatch.setattr(archives, "MAX_BYTES", MIB // 2)
    with pytest.raises(Refused):
        read_archive(path)


def test_a_long_list_of_members_is_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip(tmp_path, [(f"{number:0100}", b"") for number in range(100)])
    monkeypatch.setattr(archives, "_MAX_DIRECTORY_BYTES", 10_000)
    with pytest.raises(Refused, match="list of members"):
        read_archive(path)


def test_an_archive_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 100)
    with pytest.raises(Refused, match="the archive has more"):
        read_archive(make_zip(tmp_path, [("a", b""), ("b", b"")]))


def test_an_encrypted_zip_and_other_methods_are_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path, [("a", b"x")])
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(Refused, match="encrypted"):
        read_archive(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", "x")
    with pytest.raises(Refused, match="method"):
        read_archive(path)


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "made.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("a")
        info.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(info)
    with pytest.raises(Refused, match="special file"):
        read_archive(path)


def test_a_sparse_file_that_looks_like_any_other_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "made.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a")
        info.size = 512
        told = {"major": "1", "minor": "0", "name": "a", "realsize": str(MIB)}
        info.pax_headers = {f"GNU.sparse.{name}": value for name, value in told.items()}
        archive.addfile(info, io.BytesIO(b"0\n".ljust(512, b"\0")))
    with pytest.raises(Refused, match="special file"):
        read_archive(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"PK\x03\x04 and no more",
        b"\x1f\x8b and no more",
        gzip.compress(b"no tar"),
        gzip.compress(tarfile.TarInfo("a").tobuf())[:-10],
    ],
    # Of the bytes no id is made: a gzip file has the second in which it was made.
    ids=["empty", "text", "begun-zip", "begun-gzip", "no-tar", "cut-off-tar"],
)
def test_what_is_no_archive_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "made"
    path.write_bytes(data)
    with pytest.raises(Unreadable, match="made"):
        read_archive(path)


def test_long_names_without_end_are_a_sentence(tmp_path: Path) -> None:
    """The library goes a level deeper with each."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
    path = tmp_path / "made.tar.gz"
    path.write_bytes(gzip.compress((info.tobuf() + b"a\0".ljust(512, b"\0")) * 5_000))
    with pytest.raises(Unreadable):
        read_archive(path)
