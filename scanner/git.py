"""Reads commits of local git repositories, and clones remote ones.

A repository is a stranger's: its settings may name programs for git to run. So no hook, filter,
monitor, credential helper or further transfer is used, files are read from git's objects and never
checked out, submodules stay where they are, and each call ends in time.
"""

import os
import re
import resource
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scanner.tree import MAX_BYTES, MAX_ENTRIES, Entry, Kind, Refused, Unreadable

READ_SECONDS: Final = 60.0
CLONE_SECONDS: Final = 300.0
MAX_CLONE_BYTES: Final = 512 * 1024 * 1024  # of any one file that git writes
_MAX_LISTING_BYTES: Final = 128 * 1024 * 1024
_MAX_MESSAGE: Final = 300

_OPTIONS: Final = ("-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false")
_WAY: Final = (
    *("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO"),
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_KINDS: Final = {"100644": Kind.FILE, "100755": Kind.FILE, "120000": Kind.LINK}
_LISTED: Final = re.compile(
    rb"(?P<mode>\d{6}) (?P<type>\w+) (?P<key>[0-9a-f]+) +(?P<size>\d+|-)\t(?P<path>.+)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of a repository: its full id, and the branch if it is the head of one."""

    id: str
    branch: str | None


class CommitTree:
    """The files of a commit. Symbolic links and submodules are entries that are never read."""

    def __init__(self, repository: Path, commit: Commit) -> None:
        """Raises Refused, Unreadable."""
        self._repository: Final = repository
        self.commit: Final = commit
        self.entries: Sequence[Entry] = _list(repository, commit.id)

    def read(self, entries: Sequence[Entry]) -> Mapping[str, bytes]:
        """The contents by path. Raises Unreadable."""
        wanted = "".join(f"{entry.key}\n" for entry in entries).encode()
        output = _git(
            self._repository,
            *("cat-file", "--batch"),
            standard_input=wanted,
            at_most=MAX_BYTES + 200 * len(entries),
        )
        contents, start = {}, 0
        for entry in entries:
            end = output.index(b"\n", start)
            fields = output[start:end].split(b" ")
            if fields[1:] != [b"blob", b"%d" % entry.size]:
                raise Unreadable(f"git lacks the contents of {entry.path!r}")
            start = end + 1 + entry.size + 1
            contents[entry.path] = output[end + 1 : start - 1]
        return contents


def is_repository(path: Path) -> bool:
    """Whether a folder is a git repository's own, or the top of its work tree."""
    return (path / ".git").exists() or all(
        (path / name).exists() for name in ("HEAD", "objects", "refs")
    )


def find_commit(repository: Path, wanted: str | None = None) -> Commit:
    """The commit of that id, or of the head. Raises Unreadable."""
    if wanted is not None and not re.fullmatch(r"[0-9a-f]{7,64}", wanted):
        raise Unreadable("a commit is named by 7 to 64 hexadecimal digits")
    name = f"{wanted or 'HEAD'}^{{commit}}"
    found = _text(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", name)
    if not _COMMIT.fullmatch(found):
        raise Unreadable(f"the repository has no commit {wanted or 'yet'}")
    head = _text(repository, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    branch = _text(repository, "symbolic-ref", "--quiet", "--short", "HEAD")
    return Commit(found, branch or None if head == found else None)


@contextmanager
def cloned(url: str) -> Iterator[Path]:
    """A bare clone of the head of a remote repository's default branch, gone when the block ends.

    Raises Unreadable: it is not there, not public, too large or too slow.
    """
    if not url.startswith("https://"):
        raise Unreadable("only https:// addresses are cloned")
    with tempfile.TemporaryDirectory(prefix="scan-") as folder:
        target = Path(folder) / "repository.git"
        _git(
            None,
            *("clone", "--quiet", "--bare", "--depth=1", "--single-branch"),
            *("--no-tags", "--template=", "--", url, str(target)),
            seconds=CLONE_SECONDS,
            protocols="https",
        )
        yield target


def _list(repository: Path, commit: str) -> list[Entry]:
    """All entries of a commit, sorted by path. Raises Refused, Unreadable."""
    output = _git(
        repository, "ls-tree", "-r", "-z", "-l", "--full-tree", commit, at_most=_MAX_LISTING_BYTES
    )
    lines = output.split(b"\0")[:-1]
    if len(lines) > MAX_ENTRIES:
        raise Refused(f"the repository has more than {MAX_ENTRIES:,} files")
    return sorted(map(_entry, lines), key=lambda entry: entry.path)


def _entry(line: bytes) -> Entry:
    match = _LISTED.fullmatch(line)
    if match is None:
        raise Unreadable("git lists its files in an unknown form")
    mode, kind = match["mode"].decode(), match["type"]
    return Entry(
        path=match["path"].decode(errors="surrogateescape"),
        kind=Kind.SUBMODULE if kind == b"commit" else _KINDS.get(mode, Kind.OTHER),
        size=0 if match["size"] == b"-" else int(match["size"]),
        key=match["key"].decode(),
    )


def _text(repository: Path, *arguments: str) -> str:
    """What a question answers; empty where git finds nothing."""
    return _git(repository, *arguments, may_fail=True).decode(errors="replace").strip()


def _git(
    repository: Path | None,
    *arguments: str,
    standard_input: bytes = b"",
    at_most: int = 64 * 1024,
    seconds: float | None = None,
    protocols: str = "",
    may_fail: bool = False,
) -> bytes:
    """What git writes. With ``may_fail`` its exit code 1 is an empty answer. Raises Refused where
    it writes more than ``at_most`` bytes, Unreadable."""
    seconds = READ_SECONDS if seconds is None else seconds
    place = [] if repository is None else ["-C", str(repository)]
    # Output goes to a file, whose size the system itself limits.
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as source,
    ):
        source.write(standard_input)
        source.seek(0)
        limit = at_most if repository is not None else MAX_CLONE_BYTES
        try:
            done = subprocess.run(
                ["git", *_OPTIONS, *place, *arguments],  # noqa: S607 - wherever PATH finds it
                stdin=source,
                stdout=output,
                stderr=said,
                env=_environment(repository, protocols),
                timeout=seconds,
                check=False,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            )
        except subprocess.TimeoutExpired:
            raise Unreadable(f"git took more than {seconds:.0f} s") from None
        except FileNotFoundError:
            raise Unreadable("git is not installed") from None
        if done.returncode == 0:
            output.seek(0)
            return output.read()
        size = output.seek(0, os.SEEK_END)
        said.seek(0)
        message = said.read(_MAX_MESSAGE).decode(errors="replace").strip()
    if size >= limit or done.returncode == -signal.SIGXFSZ:
        raise Refused(f"git wrote more than {limit // 1024:,} KiB")
    if may_fail and done.returncode == 1:
        return b""
    raise Unreadable(message or f"git ended with {done.returncode}")


def _environment(repository: Path | None, protocols: str) -> dict[str, str]:
    """Nothing of the user's own settings for git; of the machine's, what leads to the network."""
    way = {name: os.environ[name] for name in _WAY if protocols and name in os.environ}
    return way | {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.devnull,
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        # None for reading: what a partial clone lacks is not fetched.
        "GIT_ALLOW_PROTOCOL": protocols,
        # A folder without a repository of its own does not belong to one further up.
        "GIT_CEILING_DIRECTORIES": "" if repository is None else str(repository.resolve().parent),
    }
