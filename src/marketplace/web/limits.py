"""What a request's body may be: neither too large nor nested too deeply."""

from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marketplace.basics.json_text import is_too_deep
from marketplace.web.problems import problem

STREAMED_TO: Final = "/api/v1/webhooks/content/"
"""Bodies that are put below this address are handed on unread; its route looks after their size."""

MAX_BODY_BYTES: Final = 256 * 1024  # 100 verdicts, or 500 installed skills, have a quarter of this


class _UnusableBody(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class BodyLimit:
    """Refuses bodies that no route can want: too large ones, read no further than the limit,
    broken off ones, and JSON of bottomless depth, which would end the isolate when it is decoded.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_streamed(scope):
            await self._app(scope, receive, send)
            return
        try:
            body = await _read_body(scope, receive)
        except _UnusableBody as error:
            await problem(error.status, str(error))(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)


def _is_streamed(scope: Scope) -> bool:
    path: str = scope.get("path", "")
    return scope.get("method") == "PUT" and path.startswith(STREAMED_TO)


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    too_large = _UnusableBody(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body must have at most {MAX_BODY_BYTES} bytes."
    )
    if _declares_too_much(scope):
        raise too_large
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _UnusableBody(HTTPStatus.BAD_REQUEST, "The body broke off before its end.")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise too_large
        more = message.get("more_body", False)
    if not _is_text(body):
        raise _UnusableBody(HTTPStatus.BAD_REQUEST, "The body must be text in UTF-8.")
    if is_too_deep(bytes(body)):
        raise _UnusableBody(HTTPStatus.BAD_REQUEST, "The body is nested too deeply.")
    return bytes(body)


def _is_text(body: bytearray) -> bool:
    """Whether this is UTF-8. Python's decoder of JSON takes UTF-16 and UTF-32 too, in which the
    brackets cannot be counted as bytes; either has NUL characters, read as UTF-8."""
    try:
        return "\0" not in body.decode()
    except UnicodeDecodeError:
        return False


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body that was read, then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _declares_too_much(scope: Scope) -> bool:
    declared = Headers(scope=scope).get("content-length", "0")
    # Python reads no numbers of thousands of digits.
    return not declared.isdecimal() or int(declared[:20]) > MAX_BODY_BYTES
