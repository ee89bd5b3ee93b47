"""Finds the skills of a tree, and reads each: what it says, what is wrong, and its archive."""

import posixpath
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from scanner.findings import Finding, Severity
from scanner.licenses import MAX_TEXT_BYTES, is_license_file, license_of
from scanner.packing import MAX_UPLOAD_BYTES, pack, sha256
from scanner.specification import Reading, read_skill_md
from scanner.tree import (
    Entry,
    Kind,
    Refused,
    Tree,
    Unreadable,
    require_fitting,
    require_safe_path,
    shown,
)

SKILL_MD: Final = "SKILL.md"
MAX_SKILLS: Final = 2_000
WARNING_COSTS: Final = 5
LOWEST_SCORE: Final = 50  # of a skill that passes


class Verdict(StrEnum):
    """What the marketplace is told of a skill."""

    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    WITHDRAWN = "WITHDRAWN"
    GONE = "GONE"


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a skill's folder: path within it, size in bytes, SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


class ScannedSkill(msgspec.Struct, kw_only=True, rename="camel"):
    """What was read of one skill's folder. ``path`` is "" for the repository's root.

    Digests and files are there unless the folder was refused. ``score`` counts warnings, nothing
    else.
    """

    path: str
    verdict: Verdict
    name: str = ""
    description: str = ""
    version: str | None = None
    license: str | None = None
    category: str | None = None
    labels: list[str] = []
    score: int = 0
    content_digest: str | None = None
    skill_md_digest: str | None = None
    archive_size: int = 0
    files: list[File] = []
    findings: list[Finding] = []

    @property
    def errors(self) -> list[Finding]:
        """Why it does not pass."""
        return [finding for finding in self.findings if finding.severity is Severity.ERROR]

    @property
    def may_be_kept(self) -> bool:
        """Whether the marketplace may take its archive."""
        return (
            self.verdict is Verdict.PASS
            and self.license is not None
            and 0 < self.archive_size <= MAX_UPLOAD_BYTES
        )


Advance = Callable[[int, int], None]
"""Told how many skills of how many are read."""


def _nothing(done: int, total: int) -> None:
    pass


def find_skills(tree: Tree) -> list[str]:
    """The folders with a SKILL.md, sorted. One within another skill's folder belongs to that skill,
    unless the outer one is the repository's root."""
    found: list[str] = []
    folders = sorted(
        posixpath.dirname(entry.path)
        for entry in tree.entries
        if posixpath.basename(entry.path) == SKILL_MD and entry.kind is Kind.FILE
    )
    known: set[str] = set()
    for folder in folders:
        if not any(parent in known for parent in _parents(folder)):
            known.add(folder)
            found.append(folder)
    return found


def scan(
    tree: Tree, *, only: Sequence[str] | None = None, advance: Advance = _nothing
) -> list[ScannedSkill]:
    """Read all skills of a tree, or those of the folders ``only``. Raises Refused where there are
    more than MAX_SKILLS, Unreadable."""
    folders = find_skills(tree) if only is None else list(only)
    if len(folders) > MAX_SKILLS:
        raise Refused(f"it has more than {MAX_SKILLS:,} skills")
    above = _license_texts(tree, [e for e in tree.entries if "/" not in e.path])
    skills = []
    for number, folder in enumerate(folders):
        advance(number, len(folders))
        skills.append(_scan(tree, folder, _members(tree, folder), above))
    advance(len(folders), len(folders))
    return skills


def archive_of(tree: Tree, skill: ScannedSkill) -> tuple[bytes, bytes]:
    """The archive of a skill that was read of this tree, and its SKILL.md. Raises Refused if the
    source has changed since, Unreadable."""
    contents = _contents(tree, skill.path, _members(tree, skill.path))
    archive = pack(contents)
    if sha256(archive) != skill.content_digest:
        raise Refused(f"{skill.path or '.'!r} changed while it was reported")
    return archive, contents[SKILL_MD]


def misnamed(tree: Tree) -> Iterator[Finding]:
    """Files that would make a skill if their name had the right letter case."""
    for entry in tree.entries:
        name = posixpath.basename(entry.path)
        if name != SKILL_MD and name.lower() == SKILL_MD.lower():
            message = f"it must be called {SKILL_MD} to make a skill"
            yield Finding(
                path=shown(entry.path), line=1, severity=Severity.WARNING, message=message
            )


def _parents(folder: str) -> Iterator[str]:
    """The folders that a folder is in, without the root."""
    while parent := posixpath.dirname(folder):
        yield parent
        folder = parent


def _members(tree: Tree, folder: str) -> Sequence[Entry]:
    """What lies in a folder: one stretch of the entries, which are sorted."""
    if not folder:
        return tree.entries
    start, end = (
        bisect_left(tree.entries, folder + separator, key=lambda entry: entry.path)
        for separator in ("/", chr(ord("/") + 1))
    )
    return tree.entries[start:end]


def _scan(
    tree: Tree, folder: str, entries: Sequence[Entry], above: Mapping[str, bytes]
) -> ScannedSkill:
    path = posixpath.join(folder, SKILL_MD)
    try:
        if folder:
            require_safe_path(folder)
        contents = _contents(tree, folder, entries)
    except (Refused, Unreadable) as error:
        finding = Finding(path=shown(path), line=1, severity=Severity.ERROR, message=str(error))
        return ScannedSkill(path=shown(folder), verdict=Verdict.FAIL, findings=[finding])
    reading = read_skill_md(path, contents[SKILL_MD])
    archive = pack(contents)
    skill = ScannedSkill(
        path=folder,
        verdict=Verdict.FAIL,
        name=reading.name,
        description=reading.description,
        version=reading.version,
        license=_license(reading, path, contents, above),
        category=reading.category,
        labels=reading.labels,
        content_digest=sha256(archive),
        skill_md_digest=sha256(contents[SKILL_MD]),
        archive_size=len(archive),
        files=[
            File(path=name, size=len(content), sha256=sha256(content))
            for name, content in contents.items()
        ],
        findings=reading.findings,
    )
    if len(archive) > MAX_UPLOAD_BYTES:
        size = MAX_UPLOAD_BYTES // 1024**2
        _warn(skill, path, 1, f"its archive has more than {size} MiB: only its digests are kept")
    _judge(skill, reading)
    return skill


def _judge(skill: ScannedSkill, reading: Reading) -> None:
    if reading.is_withdrawn:
        skill.verdict = Verdict.WITHDRAWN
    elif not skill.errors:
        skill.verdict = Verdict.PASS
        skill.score = max(100 - WARNING_COSTS * len(skill.findings), LOWEST_SCORE)


def _license(
    reading: Reading, path: str, contents: Mapping[str, bytes], above: Mapping[str, bytes]
) -> str | None:
    own = {name: text for name, text in contents.items() if is_license_file(name)}
    declared = reading.license
    known, unclear = license_of((declared.text or "").strip() if declared else None, own, above)
    if unclear is not None:
        line = declared.line if declared else 1
        message = f"{unclear}: the marketplace keeps its digests, not its content"
        reading.findings.append(
            Finding(path=path, line=line, severity=Severity.WARNING, message=message)
        )
    return known


def _warn(skill: ScannedSkill, path: str, line: int, message: str) -> None:
    skill.findings.append(Finding(path=path, line=line, severity=Severity.WARNING, message=message))


def _contents(tree: Tree, folder: str, entries: Sequence[Entry]) -> Mapping[str, bytes]:
    """The files of a folder by their path in it, sorted. Raises Refused, Unreadable."""
    start = len(folder) + 1 if folder else 0
    inner = [Entry(entry.path[start:], entry.kind, entry.size) for entry in entries]
    require_fitting(inner)
    read = tree.read(entries)
    return {path[start:]: read[path] for path in sorted(read, key=str.encode)}


def _license_texts(tree: Tree, entries: Sequence[Entry]) -> Mapping[str, bytes]:
    """The licence files among entries."""
    wanted = [
        entry
        for entry in entries
        if entry.kind is Kind.FILE
        and entry.size <= MAX_TEXT_BYTES
        and is_license_file(posixpath.basename(entry.path))
    ]
    return tree.read(wanted)
