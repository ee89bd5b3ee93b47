"""KV whose operations are counted, for work that has to stop before the platform stops it."""

from collections.abc import Mapping, Sequence

from marketplace.ports.kv import KV_LIST_LIMIT, KV_VALUE_LIMIT, KvListPage, KvNamespace


class CountingKv:
    """A ``KvNamespace`` on top of another."""

    def __init__(self, kv: KvNamespace) -> None:
        self._kv = kv
        self.operations = 0
        self.lists = 0  # the list calls among them

    async def get(self, key: str, *, max_bytes: int = KV_VALUE_LIMIT) -> bytes | None:
        self.operations += 1
        return await self._kv.get(key, max_bytes=max_bytes)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes | None]:
        self.operations += 1
        return await self._kv.get_many(keys)

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        metadata: str | None = None,
        expiration_ttl: int | None = None,
    ) -> None:
        self.operations += 1
        await self._kv.put(key, value, metadata=metadata, expiration_ttl=expiration_ttl)

    async def delete(self, key: str) -> None:
        self.operations += 1
        await self._kv.delete(key)

    async def list(
        self, *, prefix: str, cursor: str | None = None, limit: int = KV_LIST_LIMIT
    ) -> KvListPage:
        self.operations += 1
        self.lists += 1
        return await self._kv.list(prefix=prefix, cursor=cursor, limit=limit)
