"""What the marketplace relies on in KV, held against every implementation of the port.

Another implementation, such as a real KV behind a control channel, joins by an entry in
``IMPLEMENTATIONS``: a factory of an empty namespace, as an asynchronous context manager.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from marketplace.ports.errors import KvValueTooLarge
from marketplace.ports.kv import KvNamespace
from tests.doubles.kv import SimulatedKv

Factory = Callable[[], AbstractAsyncContextManager[KvNamespace]]


@asynccontextmanager
async def _simulated() -> AsyncIterator[KvNamespace]:
    yield SimulatedKv()


IMPLEMENTATIONS: dict[str, Factory] = {"simulated": _simulated}


@pytest.fixture(params=IMPLEMENTATIONS)
def new_kv(request: pytest.FixtureRequest) -> Factory:
    """Makes an empty namespace."""
    return IMPLEMENTATIONS[request.param]


WithKv = Callable[[Callable[[KvNamespace], Awaitable[None]]], None]


async def test_what_is_put_is_got(new_kv: Factory) -> None:
    async with new_kv() as kv:
        assert await kv.get("k") is None
        await kv.put("k", "väl\0ue".encode())
        assert await kv.get("k") == "väl\0ue".encode()
        await kv.put("k", b"")
        assert await kv.get("k") == b""


async def test_a_deleted_key_is_gone_and_may_be_deleted_again(new_kv: Factory) -> None:
    async with new_kv() as kv:
        await kv.put("k", b"v")
        await kv.delete("k")
        await kv.delete("k")
        assert await kv.get("k") is None
        assert (await kv.list(prefix="")).keys == []


async def test_many_are_got_at_once_missing_ones_as_none(new_kv: Factory) -> None:
    async with new_kv() as kv:
        keys = [f"k{number}" for number in range(100)]
        for key in keys[:50]:
            await kv.put(key, key.encode())
        values = await kv.get_many(keys)
        assert dict(values) == {k: k.encode() if k in keys[:50] else None for k in keys}


async def test_a_value_beyond_the_readers_limit_is_refused(new_kv: Factory) -> None:
    async with new_kv() as kv:
        await kv.put("k", b"12345")
        assert await kv.get("k", max_bytes=5) == b"12345"
        with pytest.raises(KvValueTooLarge):
            await kv.get("k", max_bytes=4)


async def test_metadata_comes_with_the_list_as_the_text_it_was(new_kv: Factory) -> None:
    async with new_kv() as kv:
        await kv.put("a", b"v", metadata='["s1","ü \\" \\n"]')
        await kv.put("b", b"v")
        page = await kv.list(prefix="")
        assert [(key.name, key.metadata) for key in page.keys] == [
            ("a", '["s1","ü \\" \\n"]'),
            ("b", None),
        ]
        await kv.put("a", b"w")
        page = await kv.list(prefix="a")
        assert page.keys[0].metadata is None


async def test_a_list_has_the_keys_of_its_prefix_in_utf8_order(new_kv: Factory) -> None:
    async with new_kv() as kv:
        inside = ["p:", "p:-", "p:a", "p:a:b", "p:b", "p:é", "p:\uffee", "p:\U0001f600"]
        for key in [*reversed(inside), "p", "o:z", "q:a", "P:a"]:
            await kv.put(key, b"v")
        page = await kv.list(prefix="p:")
        assert [key.name for key in page.keys] == inside
        assert page.cursor is None


async def test_pages_bring_every_key_once(new_kv: Factory) -> None:
    async with new_kv() as kv:
        names = [f"k{number:03}" for number in range(25)]
        for name in names:
            await kv.put(name, b"v")
        seen: list[str] = []
        cursor = None
        while True:
            page = await kv.list(prefix="k", cursor=cursor, limit=10)
            assert len(page.keys) <= 10
            seen += [key.name for key in page.keys]
            cursor = page.cursor
            if cursor is None:
                break
        assert seen == names


async def test_a_key_of_512_bytes_is_taken(new_kv: Factory) -> None:
    async with new_kv() as kv:
        key = "é" * 256
        await kv.put(key, b"v")
        assert await kv.get(key) == b"v"
