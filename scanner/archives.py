"""Reads zip and tar.gz archives into memory. Nothing is unpacked to the disk.

Sizes and numbers in an archive are claims of its author: what counts is what comes out while it is
read, and reading ends at the limit.
"""

import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from scanner.tree import (
    MAX_BYTES,
    MAX_FILES,
    Entry,
    Kind,
    Refused,
    Unreadable,
    require_fitting,
    require_safe_path,
)

MAX_ARCHIVE_BYTES: Final = 64 * 1024 * 1024  # as it lies there: what is not packed needs no more
MAX_MEMBERS: Final = 4 * MAX_FILES  # files, folders and whatever else
_MAX_DIRECTORY_BYTES: Final = 4 * 1024 * 1024  # of a zip: its list of members
_MAX_TAR_BYTES: Final = MAX_BYTES + MAX_MEMBERS * 2048 + 10_240  # with headers, padding, trailer
_CHUNK: Final = 64 * 1024
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 0x1
_DAMAGE: Final = (
    *(tarfile.TarError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError),
    # What the libraries also raise over bytes that are no archive, or one made to trouble them: a
    # RuntimeError is also too deep a recursion.
    *(EOFError, OSError, ValueError, OverflowError, struct.error),
    *(NotImplementedError, RuntimeError, IndexError, KeyError),
)


class ArchiveTree:
    """The files of an archive, which are in memory."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._contents: Final = contents
        self.entries: Sequence[Entry] = [
            Entry(path, Kind.FILE, len(contents[path])) for path in sorted(contents)
        ]

    def read(self, entries: Sequence[Entry]) -> Mapping[str, bytes]:
        """The contents by path."""
        return {entry.path: self._contents[entry.path] for entry in entries}

    @property
    def only_folder(self) -> str | None:
        """The one folder that everything is in, as forges make archives."""
        first = {path.partition("/")[0] for path in self._contents}
        return first.pop() if len(first) == 1 and not first & self._contents.keys() else None

    def below(self, folder: str) -> "ArchiveTree":
        """What is in a folder; ``.`` is all."""
        start = "" if folder.strip("/") in ("", ".") else folder.strip("/") + "/"
        inner = self._contents.items()
        return ArchiveTree({p.removeprefix(start): c for p, c in inner if p.startswith(start)})


def read_archive(path: Path) -> ArchiveTree:
    """All files of a zip or tar.gz archive. Raises Refused, Unreadable."""
    try:
        with _ArchiveFile(path.open("rb", buffering=0)) as file:
            start = file.read(4)
            file.seek(0)
            if path.stat().st_size > MAX_ARCHIVE_BYTES:
                raise Refused(f"the archive has more than {MAX_ARCHIVE_BYTES // 1024**2} MiB")
            if start.startswith(b"PK"):
                members = _zip_members(file)
            elif start.startswith(b"\x1f\x8b"):
                members = _tar_members(file)
            else:
                raise Unreadable(f"{path} is no folder, and no zip or tar.gz archive")
            contents = dict(_within_limits(members))
    except _DAMAGE as error:
        raise Unreadable(f"{path} cannot be read: {str(error) or type(error).__name__}") from None
    require_fitting(Entry(name, Kind.FILE, len(data)) for name, data in contents.items())
    return ArchiveTree(contents)


def _within_limits(members: Iterator[tuple[str, IO[bytes] | None]]) -> Iterator[tuple[str, bytes]]:
    """The files among the members, counted and measured as they come. Raises Refused."""
    seen: set[str] = set()
    left = MAX_BYTES
    for number, (member, content) in enumerate(members, 1):
        if number > MAX_MEMBERS:
            raise Refused(f"it has more than {MAX_MEMBERS:,} entries")
        name = member.removeprefix("./")  # as `tar c .` writes them
        if content is None and name in ("", "."):
            continue
        require_safe_path(name)
        if content is None:  # a folder
            continue
        if name in seen:
            raise Refused(f"{name!r} is in it twice")
        seen.add(name)
        data = _read_at_most(content, left)
        left -= len(data)
        yield name, data


def _read_at_most(content: IO[bytes], limit: int) -> bytes:
    data = bytearray()
    while chunk := content.read(min(_CHUNK, limit + 1 - len(data))):
        data += chunk
        if len(data) > limit:
            raise Refused(f"it has more than {MAX_BYTES // 1024**2} MiB unpacked")
    return bytes(data)


class _ArchiveFile(io.BufferedReader):
    """While it is guarding, it refuses the one long read by which zipfile takes a list of members,
    whose every entry would cost a thousand bytes of memory."""

    guarding = False

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.guarding:
            return super().read(size)
        # All that is left is asked for too, where that is no more than the end of the archive.
        bound = _MAX_DIRECTORY_BYTES + 1
        data = super().read(bound if size is None or size < 0 else min(size, bound))
        if len(data) > _MAX_DIRECTORY_BYTES:
            raise Refused("its list of members is too long")
        return data


def _zip_members(file: _ArchiveFile) -> Iterator[tuple[str, IO[bytes] | None]]:
    file.guarding = True
    archive = zipfile.ZipFile(file)
    file.guarding = False
    for info in archive.infolist():
        # `orig_filename`: what follows a NUL is not to be overlooked.
        name = info.orig_filename
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise Refused(f"{name!r} is a {'link' if kind == stat.S_IFLNK else 'special file'}")
        if info.flag_bits & _ENCRYPTED:
            raise Refused(f"{name!r} is encrypted")
        if info.compress_type not in _METHODS:
            raise Refused(f"{name!r} is packed by a method that is not taken")
        if name.endswith("/"):
            yield name.removesuffix("/"), None
            continue
        with archive.open(info) as content:
            yield name, content


class _Bounded(io.RawIOBase):
    """What comes out of a gzip stream, up to the limit: headers that lie are within it too."""

    def __init__(self, source: gzip.GzipFile) -> None:
        self._source: Final = source
        self._left = _MAX_TAR_BYTES

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        # One more than is left tells a stream that goes on from one that ends there.
        wanted = self._left + 1 if size < 0 else min(size, self._left + 1)
        data = self._source.read(wanted)
        self._left -= len(data)
        if self._left < 0:
            raise Refused(f"it has more than {MAX_BYTES // 1024**2} MiB unpacked")
        return data


def _tar_members(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes] | None]]:
    bounded = _Bounded(gzip.GzipFile(fileobj=file))
    # A stream is read once and forwards, so that no member is met twice.
    with tarfile.open(fileobj=bounded, mode="r|") as archive:
        for member in archive:
            name = member.name
            if member.isdir():
                yield name.removesuffix("/"), None
            elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse():
                content = archive.extractfile(member)
                assert content is not None  # noqa: S101 - it is a file
                yield name, content
            else:
                link = member.issym() or member.islnk()
                raise Refused(f"{name!r} is a {'link' if link else 'special file'}")
