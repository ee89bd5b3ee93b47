"""What a source holds: files by path, read when they are asked for, within the limits."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

MAX_FILES: Final = 1_000
MAX_BYTES: Final = 50 * 1024 * 1024
MAX_PATH_LENGTH: Final = 256  # what the marketplace keeps
MAX_ENTRIES: Final = 500_000  # of a whole repository, whose contents are not all read

# Control characters, and those that turn the reading direction of all that follows.
_UNFIT: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_DRIVE: Final = re.compile(r"[A-Za-z]:")


class Refused(Exception):
    """What is read breaks a rule that keeps its reader safe; a sentence."""


class Unreadable(Exception):
    """The source is no folder, repository or archive, or reading it failed; a sentence."""


class Kind(StrEnum):
    """What an entry is; only files are ever read."""

    FILE = "file"
    LINK = "link"
    SUBMODULE = "submodule"
    OTHER = "special file"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a tree. ``path`` is relative, with slashes; ``size`` in bytes; ``key`` is what
    the tree finds it by."""

    path: str
    kind: Kind
    size: int
    key: str = ""


class Tree(Protocol):
    """A repository's files at one state, sorted by path; the source's own limits are checked."""

    entries: Sequence[Entry]

    def read(self, entries: Sequence[Entry]) -> Mapping[str, bytes]:
        """The contents of files by path. Raises Refused where there is more than was claimed,
        Unreadable."""
        ...


def shown(path: str) -> str:
    """A path as it can be printed and reported, whatever bytes it has."""
    return path.encode("utf-8", "backslashreplace").decode()


def require_safe_path(path: str) -> None:
    """Refuse a path that leads out of its folder, or that not every machine can keep as it is.
    Raises Refused."""
    told = shown(path[:200])
    if path.startswith(("/", "\\")) or _DRIVE.match(path):
        raise Refused(f"{told!r} is an absolute path")
    parts = path.split("/")
    if ".." in parts:
        raise Refused(f"{told!r} leads out of its folder")
    if "" in parts or "." in parts:
        raise Refused(f"{told!r} is no plain path")
    if "\\" in path or _UNFIT.search(path):
        raise Refused(f"{told!r} has a character that a path must not have")
    if len(path) > MAX_PATH_LENGTH:
        raise Refused(f"{told!r} has more than {MAX_PATH_LENGTH} characters")


def require_fitting(entries: Iterable[Entry]) -> None:
    """Refuse entries that cannot become one archive. Raises Refused.

    A reviewer reads one of two names that a file system takes for the same, and an agent the other.
    """
    known: dict[str, str] = {}
    size = 0
    for number, entry in enumerate(entries, 1):
        require_safe_path(entry.path)
        if entry.kind is not Kind.FILE:
            raise Refused(f"{entry.path!r} is a {entry.kind}; only files and folders are taken")
        other = known.setdefault(_folded(entry.path), entry.path)
        if number != len(known):
            raise Refused(f"{entry.path!r} and {other!r} are one name on some machines")
        size += entry.size
        if number > MAX_FILES:
            raise Refused(f"it has more than {MAX_FILES:,} files")
        if size > MAX_BYTES:
            raise Refused(f"it has more than {MAX_BYTES // 1024**2} MiB")


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())
