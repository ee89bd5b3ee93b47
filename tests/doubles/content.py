"""An archive of content in memory, as `ports.content` says R2 is."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from marketplace.ports.content import ContentPage, Span, StoredContent, Stream
from marketplace.ports.errors import ContentError, WrongDigest


@dataclass(slots=True)
class ContentDouble:
    """Its streams are bytes or, of a request, the ``receive`` of ASGI. ``away``: every call fails.
    ``page_size``: digests of one list call."""

    away: bool = False
    page_size: int = 1000
    calls: list[str] = field(default_factory=list)
    stored: dict[str, tuple[StoredContent, bytes]] = field(default_factory=dict)

    async def put(self, digest: str, stream: Stream, *, media_type: str) -> bool:
        self._call("put")
        data = stream if isinstance(stream, bytes) else await _received(stream)
        if digest in self.stored:
            return False
        if hashlib.sha256(data).hexdigest() != digest:
            raise WrongDigest(digest)
        self.stored[digest] = StoredContent(digest, len(data), media_type), data
        return True

    async def find(self, digest: str) -> StoredContent | None:
        self._call("find")
        return self.stored[digest][0] if digest in self.stored else None

    async def read(
        self, digest: str, span: Span | None = None
    ) -> tuple[StoredContent, Stream] | None:
        self._call("read")
        if digest not in self.stored:
            return None
        found, data = self.stored[digest]
        return found, data if span is None else data[span.offset : span.offset + span.length]

    async def purge(self, digest: str, *, at: str) -> None:
        self._call("purge")
        self.stored[digest] = StoredContent(digest, 0, "application/octet-stream", at), b""

    async def list_page(self, *, prefix: str, cursor: str | None = None) -> ContentPage:
        self._call("list")
        digests = [d for d in sorted(self.stored) if d.startswith(prefix) and d > (cursor or "")]
        page = digests[: self.page_size]
        sizes = [self.stored[digest][0].size for digest in page]
        return ContentPage(page, sizes, page[-1] if len(digests) > len(page) else None)

    def _call(self, operation: str) -> None:
        self.calls.append(operation)
        if self.away:
            raise ContentError("away")


async def _received(receive: Any) -> bytes:
    data, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ContentError("the body broke off")
        data += message.get("body", b"")
        more = message.get("more_body", False)
    return data
