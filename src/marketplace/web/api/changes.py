"""The feed of changes, which mirrors follow."""

from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from marketplace.catalog.changes import MAX_CHANGES, FeedRestarted, read_changes
from marketplace.web.answers import JSON_TYPE, NO_STORE
from marketplace.web.api.documents import Document, documented
from marketplace.web.characters import LOOKED_UP
from marketplace.web.context import CurrentEnv
from marketplace.web.problems import problem

router = APIRouter(prefix="/api/v1/changes", tags=["changes"])

RESTART: Final = "/api/v1/changes?since=0"
MAX_NUMBER: Final = 2**62


class FingerprintDocument(Document):
    """How many skills the marketplace has, and the sum modulo 2**64, as 16 hexadecimal digits, of
    the first 8 bytes (big-endian) of the SHA-256 of each one's name, a space and its revision; of
    a withheld one the status stands for the revision."""

    count: int
    digest: str


class FeedDocument(Document):
    """Changes in their order, each skill once, at its latest change."""

    changes: list[dict[str, Any]]
    next: int = Field(description="The number to go on after, as ``since``.")
    head: int = Field(description="The number of the last change; equal to ``next`` at the end.")
    generation: str
    fingerprint: FingerprintDocument | None = Field(description="Of all skills; at the end only.")


@router.get("", responses=documented(FeedDocument))
async def changes(
    env: CurrentEnv,
    since: Annotated[int, Query(ge=0, le=MAX_NUMBER)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_CHANGES)] = MAX_CHANGES,
    generation: Annotated[str | None, Query(max_length=100), LOOKED_UP] = None,
) -> Response:
    """What has changed since a number; from 0 on everything. Whole, or 503.

    410 with ``restart``: the number says nothing here, as of another ``generation``.
    """
    try:
        feed = await read_changes(env, since=since, limit=limit, generation=generation or None)
    except FeedRestarted as error:
        members = {"restart": RESTART, "generation": error.feed.generation, "head": error.feed.head}
        return problem(HTTPStatus.GONE, str(error), members=members)
    # Nobody may get an older one than was read before, so none is kept on the way.
    headers = NO_STORE | {"Access-Control-Allow-Origin": "*"}
    return Response(msgspec.json.encode(feed), media_type=JSON_TYPE, headers=headers)
