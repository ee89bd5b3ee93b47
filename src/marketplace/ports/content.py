"""The archive of skills' content as a protocol: bytes by their SHA-256, written once.

The bytes never enter Python's heap. What is sent and received is a *stream*: an object of the
runtime, which the web layer hands on and nobody here looks into.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

MAX_CONTENT_BYTES: Final = 10 * 1024 * 1024
LIST_LIMIT: Final = 1000  # digests of one list call

Stream = Any


@dataclass(frozen=True, slots=True)
class StoredContent:
    """What is stored under a digest. ``purged_at``: when an operator removed the bytes, if one did;
    nothing else can be stored there then."""

    digest: str
    size: int  # bytes
    media_type: str
    purged_at: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the bytes."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ContentPage:
    """Up to LIST_LIMIT stored digests, in order."""

    digests: Sequence[str]
    sizes: Sequence[int]  # 0: it was purged
    cursor: str | None  # None on the last page


class ContentStore(Protocol):
    """R2. What was written is read at once, everywhere. Every method raises ContentError."""

    async def put(self, digest: str, stream: Stream, *, media_type: str) -> bool:
        """Store what the stream brings; False where something is stored, which stays as it is.

        Raises WrongDigest where the bytes have another SHA-256. Of a stream that breaks off
        nothing is stored.
        """

    async def find(self, digest: str) -> StoredContent | None:
        """What is stored, without its bytes."""

    async def read(
        self, digest: str, span: Span | None = None
    ) -> tuple[StoredContent, Stream] | None:
        """What is stored, and a stream of its bytes or of a span within them."""

    async def purge(self, digest: str, *, at: str) -> None:
        """Remove the bytes, if there are any, and store that they were."""

    async def list_page(self, *, prefix: str, cursor: str | None = None) -> ContentPage:
        """One list call of the digests that begin so."""
