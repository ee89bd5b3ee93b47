"""Bodies that no route can want are refused, however they are sent, and before they do harm."""

from collections.abc import Iterable

import pytest
from starlette.types import Message, Receive, Scope, Send

from marketplace.web.limits import MAX_BODY_BYTES, BodyLimit

_CHUNK = b" " * 1024


class _Upload:
    """A request whose body comes in chunks, with or without a declared length."""

    def __init__(self, chunks: Iterable[bytes], *headers: tuple[bytes, bytes]) -> None:
        self.received = 0
        self.status = 0
        self.body: bytes | None = None  # as the application got it
        self.scope: Scope = {"type": "http", "headers": list(headers)}
        self._chunks = iter(chunks)

    async def send_through_limit(self) -> None:
        await BodyLimit(self._application)(self.scope, self._receive, self._take)

    async def _receive(self) -> Message:
        chunk = next(self._chunks, None)
        if chunk is None:
            return {"type": "http.request", "body": b"", "more_body": False}
        self.received += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def _application(self, _scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        assert not message["more_body"]
        self.body = message["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def _take(self, message: Message) -> None:
        self.status = message.get("status", self.status)


async def upload(chunks: Iterable[bytes], *headers: tuple[bytes, bytes]) -> _Upload:
    """The request, after it went through the limit."""
    request = _Upload(chunks, *headers)
    await request.send_through_limit()
    return request


def endless() -> Iterable[bytes]:
    while True:
        yield _CHUNK


async def test_a_body_without_declared_length_is_read_no_further_than_the_limit() -> None:
    request = await upload(endless())
    assert (request.status, request.body) == (413, None)
    assert request.received <= MAX_BODY_BYTES + len(_CHUNK)


@pytest.mark.parametrize("length", [b"262145", b"99999999999", b"-1", b"many", b""])
async def test_a_declared_length_beyond_the_limit_is_refused_unread(length: bytes) -> None:
    request = await upload(endless(), (b"content-length", length))
    assert (request.status, request.body, request.received) == (413, None, 0)


async def test_a_declared_length_that_lies_helps_nobody() -> None:
    request = await upload(endless(), (b"content-length", b"10"))
    assert (request.status, request.body) == (413, None)


async def test_a_body_up_to_the_limit_arrives_whole() -> None:
    chunks = [b"a", b"", b"b" * (MAX_BODY_BYTES - 2), b"c"]
    request = await upload(chunks)
    assert (request.status, request.body) == (200, b"".join(chunks))
    assert (await upload([])).body == b""


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"skillName": [{"x":'])
async def test_a_body_of_bottomless_depth_is_refused_before_it_is_decoded(opening: bytes) -> None:
    request = await upload([opening * 10_000])
    assert (request.status, request.body) == (400, None)
