"""Workers KV as a protocol, and its limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

KV_BULK_GET_LIMIT: Final = 100  # keys a bulk get, counted as one operation
KV_LIST_LIMIT: Final = 1000  # keys a list page
KV_METADATA_LIMIT: Final = 1024  # bytes of serialised JSON
KV_VALUE_LIMIT: Final = 25 * 1024 * 1024  # bytes
KV_WRITE_INTERVAL: Final = 1.0  # seconds between two writes to one key; KV refuses quicker ones


@dataclass(frozen=True, slots=True)
class KvKey:
    name: str
    metadata: Any = None  # decoded JSON


@dataclass(frozen=True, slots=True)
class KvListPage:
    keys: Sequence[KvKey]  # up to KV_LIST_LIMIT in UTF-8 order; none does not mean the last page
    cursor: str | None  # None on the last page


class KvNamespace(Protocol):
    """Workers KV. Reads and lists may be 60 s stale. Every method raises KvError."""

    async def get(self, key: str, *, max_bytes: int = KV_VALUE_LIMIT) -> bytes | None:
        """The value, or None. Raises KvValueTooLarge beyond ``max_bytes``."""

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes | None]:
        """Values of up to KV_BULK_GET_LIMIT keys in one operation; None where there is none."""

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        metadata: str | None = None,
        expiration_ttl: int | None = None,
    ) -> None:
        """Write a value (UTF-8 text). ``metadata`` is stored as a JSON string; ttl in seconds."""

    async def delete(self, key: str) -> None:
        """No error when there is none."""

    async def list(
        self, *, prefix: str, cursor: str | None = None, limit: int = KV_LIST_LIMIT
    ) -> KvListPage:
        """One page of the keys that start with ``prefix``."""
