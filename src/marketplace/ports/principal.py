"""Who is calling, as the web layer has found out by the credential."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    OPERATOR = "operator"
    SCANNER = "scanner"


@dataclass(frozen=True, slots=True)
class Principal:
    """``name`` is the key's, or the subject of a token."""

    name: str
    role: Role
