"""Answers as HTTP responses: JSON bytes, freshness and entity tags."""

import hashlib
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import Request
from starlette.responses import Response

JSON_TYPE: Final = "application/json"
NO_STORE: Final = {"Cache-Control": "no-store"}

# The HTTP cache in front of the Worker is the one place that decides freshness. Nothing purges it:
# these times alone bound how old an answer may be.
_FRESHNESS: Final = "public, max-age=10, stale-while-revalidate=60, stale-if-error=600"
SKILLS_TAG: Final = "skills"


def cacheable(
    request: Request,
    body: bytes,
    *,
    tags: Sequence[str],
    degraded: bool = False,
    media_type: str = JSON_TYPE,
) -> Response:
    """A public answer. A degraded one is never stored as if it were good."""
    headers = {"Access-Control-Allow-Origin": "*"}
    if degraded:
        return Response(body, media_type=media_type, headers=headers | NO_STORE)
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers |= {"Cache-Control": _FRESHNESS, "ETag": etag, "Cache-Tag": ",".join(tags)}
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, media_type=media_type, headers=headers)


def matches(if_none_match: str | None, etag: str) -> bool:
    """Weak comparison, as RFC 9110 section 13.1.2 asks for."""
    if if_none_match is None:
        return False
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in ("*", etag) for tag in tags)


def private(content: Any, *, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """An answer for its receiver alone; ``content`` is anything that JSON can hold."""
    return Response(
        msgspec.json.encode(content), status_code=status, media_type=JSON_TYPE, headers=NO_STORE
    )
