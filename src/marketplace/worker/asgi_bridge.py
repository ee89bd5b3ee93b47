"""From a Workers request to the ASGI application and back. Importable only in Pyodide.

The SDK's adapter takes a JavaScript view of each response body and never releases it: measured,
every answer leaves its size behind in the heap, which can only grow (workers-runtime-sdk 1.9.5).
Here the body is copied into JavaScript's memory. Request scopes are still the SDK's work.

What need not enter Python does not: the scope has the request's body as ``stream``, for a route
that hands it on unread, and an answer's message may have a ``stream`` in place of its body.
"""

from http import HTTPStatus
from typing import Any, Final

import asgi
from js import Array, Response
from pyodide.ffi import JsException, to_js
from starlette.types import ASGIApp, Message

_BODILESS: Final = {HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED}


class _Exchange:
    def __init__(self, body: Any) -> None:
        """``body`` is JavaScript's stream of the request's body, or None. Nobody else can read it
        once `receive` was called."""
        self._body = body
        self._reader: Any = None
        self._ended = False
        self.status = HTTPStatus.INTERNAL_SERVER_ERROR.value
        self.headers: list[tuple[str, str]] = []
        self.chunks: list[bytes] = []
        self.stream: Any = None

    async def receive(self) -> Message:
        """The body as it comes, so that the application can stop before its end."""
        if self._ended:
            return {"type": "http.disconnect"}
        try:
            if self._reader is None and self._body:
                self._reader = self._body.getReader()
            chunk = None if self._reader is None else await self._reader.read()
        except JsException:  # the connection went away, or the body's framing is broken
            self._ended = True
            return {"type": "http.disconnect"}
        if chunk is None or chunk.done:
            self._ended = True
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.request", "body": chunk.value.to_bytes(), "more_body": True}

    async def send(self, message: Message) -> None:
        """Collect the answer; what Python makes is small."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in message["headers"]
            ]
        elif message["type"] == "http.response.body":
            self.chunks.append(message.get("body", b""))
            self.stream = message.get("stream")

    def response(self) -> Any:
        body = self.stream or to_js(b"".join(self.chunks))
        body = None if self.status in _BODILESS else body
        headers = Array.new(*(to_js(list(pair)) for pair in self.headers))
        return Response.new(body, status=self.status, headers=headers)


async def serve(app: ASGIApp, request: Any, env: object) -> Any:
    """Let the application answer a request; ``env`` is what its scope carries as ``env``."""
    # Of the SDK's own request the scope would ask the method, and it knows only some of them.
    original = request.js_object
    exchange = _Exchange(original.body)
    scope = asgi.request_to_scope(original, env) | {"stream": original.body}
    await app(scope, exchange.receive, exchange.send)
    return exchange.response()
