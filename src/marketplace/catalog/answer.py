"""An answer, and the source that it came from."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Source(StrEnum):
    """Where an answer came from, in order of trust."""

    POSTGRES = "postgres"
    KV_ENUMERATION = "kv-enumeration"
    KV_INDEX = "kv-index"
    SEED = "seed"


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """An answer and where it came from. ``reasons`` tell what failed or is missing, if anything."""

    value: T
    source: Source
    reasons: tuple[str, ...] = ()

    @property
    def degraded(self) -> bool:
        """Whether a source that is trusted more could not answer."""
        return bool(self.reasons)
