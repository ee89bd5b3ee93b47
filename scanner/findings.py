"""What is wrong with a skill, and where."""

from enum import StrEnum

import msgspec


class Severity(StrEnum):
    """ERROR: the skill does not pass. WARNING: it does."""

    ERROR = "error"
    WARNING = "warning"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence about a line (1 where none is meant) of a file of the repository."""

    path: str
    line: int
    severity: Severity
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.severity}: {self.message}"
