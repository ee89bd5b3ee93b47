"""A KV in memory: no delay, no fault and no staleness, so that only the code on it is measured."""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from marketplace.ports.errors import KvValueTooLarge
from marketplace.ports.kv import KV_LIST_LIMIT, KV_VALUE_LIMIT, KvKey, KvListPage, KvNamespace


class MemoryKv(KvNamespace):
    """Counts its operations. Nothing expires."""

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()
        self._values: dict[str, bytes] = {}
        self._metadata: dict[str, Any] = {}
        self._names: list[str] = []  # sorted

    def store(self, key: str, value: bytes, metadata: Any = None) -> None:
        """Write without counting."""
        if key not in self._values:
            insort(self._names, key)
        self._values[key], self._metadata[key] = value, metadata

    def sizes(self, prefix: str) -> list[int]:
        """The size of each value whose key has the prefix, without counting."""
        return [len(self._values[name]) for name in self._names if name.startswith(prefix)]

    async def get(self, key: str, *, max_bytes: int = KV_VALUE_LIMIT) -> bytes | None:
        self.operations["get"] += 1
        value = self._values.get(key)
        if value is not None and len(value) > max_bytes:
            raise KvValueTooLarge(f"{key!r} has {len(value)} bytes, allowed are {max_bytes}")
        return value

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes | None]:
        self.operations["get_many"] += 1
        return {key: self._values.get(key) for key in keys}

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        metadata: str | None = None,
        expiration_ttl: int | None = None,  # noqa: ARG002 - a run is shorter than any
    ) -> None:
        self.operations["put"] += 1
        self.store(key, value, metadata)

    async def delete(self, key: str) -> None:
        self.operations["delete"] += 1
        if self._values.pop(key, None) is not None:
            self._names.remove(key)

    async def list(
        self, *, prefix: str, cursor: str | None = None, limit: int = KV_LIST_LIMIT
    ) -> KvListPage:
        """The cursor is the last name of the batch before."""
        self.operations["list"] += 1
        names = self._names
        start = bisect_left(names, prefix) if cursor is None else bisect_right(names, cursor)
        batch = [name for name in names[start : start + limit + 1] if name.startswith(prefix)]
        following = batch[limit - 1] if len(batch) > limit else None
        return KvListPage([KvKey(n, self._metadata[n]) for n in batch[:limit]], following)
