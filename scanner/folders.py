"""Reads a folder as it lies on the disk: no link in it is followed."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from scanner.tree import MAX_ENTRIES, Entry, Kind, Refused, Unreadable

_GIT: Final = ".git"
_KINDS: Final = {stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.LINK}


class FolderTree:
    """The files below a folder, without git's own."""

    def __init__(self, root: Path) -> None:
        """Raises Refused, Unreadable."""
        self._root: Final = root
        self.entries: Sequence[Entry] = sorted(_walk(root), key=lambda entry: entry.path)

    def read(self, entries: Sequence[Entry]) -> Mapping[str, bytes]:
        """The contents by path. Raises Refused, Unreadable."""
        return {entry.path: self._read(entry) for entry in entries}

    def _read(self, entry: Entry) -> bytes:
        # It may have become a link, a pipe or a longer file since the folder was listed.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            with os.fdopen(os.open(self._root / entry.path, flags), "rb") as file:
                data = file.read(entry.size + 1)
        except (OSError, ValueError) as error:
            raise Unreadable(f"{entry.path!r} cannot be read: {error}") from None
        if len(data) != entry.size:
            raise Refused(f"{entry.path!r} changed while it was read")
        return data


def _walk(root: Path) -> Iterator[Entry]:
    """All that is no folder, by path. Raises Refused, Unreadable."""
    folders, number = [""], 0
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as found:
                for item in found:
                    number += 1
                    if number > MAX_ENTRIES:
                        raise Refused(f"the folder has more than {MAX_ENTRIES:,} entries")
                    path = f"{folder}/{item.name}" if folder else item.name
                    if item.is_dir(follow_symlinks=False):
                        folders += [path] if item.name != _GIT else []
                    elif item.name != _GIT:  # a file in a work tree that git made beside another
                        status = item.stat(follow_symlinks=False)
                        kind = _KINDS.get(stat.S_IFMT(status.st_mode), Kind.OTHER)
                        yield Entry(path, kind, status.st_size)
        except OSError as error:
            raise Unreadable(f"{folder or str(root)!r} cannot be read: {error}") from None
