"""What the scan command is asked to read, and what it found."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cli.errors import UsageProblem
from cli.reporting import Repository
from scanner.archives import ArchiveTree
from scanner.findings import Finding
from scanner.skills import ScannedSkill, Verdict
from scanner.sources import Source, open_source
from scanner.tree import Refused, Unreadable

WHAT_IT_IS: Final = (
    "A check of form, not an audit: it reads what skills say and runs nothing; "
    "a skill that passes may still be harmful."
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTarget:
    """Which state of a source is read, and which repository it is of."""

    repo_url: str | None = None
    commit: str | None = None
    root: str | None = None
    as_it_lies: bool = False
    repository_id: str | None = None
    owner_id: str | None = None

    def open(self, path: Path, *, report: bool) -> Source:
        """Raises UsageProblem where a report could not name what was read; Refused,
        Unreadable."""
        if report and self.repo_url is None:
            raise UsageProblem("--report needs --repo-url")
        if report and self.as_it_lies:
            raise UsageProblem("--report tells of a commit; --as-it-lies reads none")
        source = open_source(path, commit=self.commit, as_it_lies=self.as_it_lies, root=self.root)
        if report and not _COMMIT.fullmatch(source.commit or ""):
            raise UsageProblem("--report needs the whole id of the commit: --commit")
        folder = source.tree.only_folder if isinstance(source.tree, ArchiveTree) else None
        if report and folder is not None and self.root is None:
            raise UsageProblem(
                f"all of the archive is in {folder}/: give --root {folder} if that is the "
                "repository, else --root ."
            )
        return source

    def repository(self) -> Repository:
        """Whose skills are reported. Raises UsageProblem."""
        if self.repo_url is None:
            raise UsageProblem("--report needs --repo-url")
        return Repository(self.repo_url, self.repository_id, self.owner_id)


@dataclass(frozen=True, slots=True)
class Scanned:
    """A source and its skills; ``findings`` are about files that belong to none. ``at`` is when it
    was opened."""

    source: Source
    skills: Sequence[ScannedSkill]
    findings: Sequence[Finding]
    at: datetime

    @property
    def is_good(self) -> bool:
        """Whether there is a skill, and none fails."""
        return bool(self.skills) and all(each.verdict is not Verdict.FAIL for each in self.skills)


@contextmanager
def readable() -> Iterator[None]:
    """Turns what stops the reading of a source into a sentence for the caller."""
    try:
        yield
    except (Refused, Unreadable) as error:
        raise UsageProblem(str(error)) from None
