"""The blocklist, which installers ask before they install."""

from http import HTTPStatus
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from marketplace.operations.block_list import find_blocked, read_block_list
from marketplace.skills.acts import Severity
from marketplace.skills.skill import MAX_REPO_URL_LENGTH
from marketplace.web.answers import cacheable, private
from marketplace.web.api.documents import Document, documented
from marketplace.web.characters import LOOKED_UP
from marketplace.web.context import CurrentEnv
from marketplace.web.problems import FieldError, problem

router = APIRouter(prefix="/api/v1/blocklist", tags=["blocklist"])

BLOCK_LIST_TAG = "blocklist"


class BlockedDocument(Document):
    """A blocked skill. ``contentHash``: of the content that was last read, if any."""

    skill_name: str
    content_hash: str | None
    threat_type: str
    severity: Severity
    reason: str
    evidence_urls: list[str]
    discovered_at: str
    repo_url: str


class BlockListDocument(Document):
    """Every blocked skill."""

    entries: list[BlockedDocument]
    count: int
    last_updated: str | None


class BlockCheckDocument(Document):
    """Whether a skill is blocked, and its entry if it is."""

    blocked: bool
    entry: BlockedDocument | None


@router.get("", responses=documented(BlockListDocument))
async def block_list(request: Request, env: CurrentEnv) -> Response:
    """Every blocked skill, or 503: never a part of the list."""
    found = await read_block_list(env)
    document = {
        "entries": found.entries,
        "count": len(found.entries),
        "lastUpdated": found.last_updated,
    }
    body = msgspec.json.encode(document)
    return cacheable(request, body, tags=[BLOCK_LIST_TAG], degraded=bool(found.reasons))


@router.get("/check", responses=documented(BlockCheckDocument))
async def check(
    env: CurrentEnv,
    name: Annotated[str, Query(max_length=300), LOOKED_UP, Field(min_length=1)],
    repo_url: Annotated[
        str | None, Query(alias="repoUrl", max_length=MAX_REPO_URL_LENGTH), LOOKED_UP
    ] = None,
) -> Response:
    """Whether a skill is blocked: by its slug, or by its repository and what that calls it."""
    try:
        entry = await find_blocked(env, name, repo_url or None)
    except ValueError as error:
        return problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "Change these fields: repoUrl.",
            errors=[FieldError("repoUrl", str(error))],
        )
    return private({"blocked": entry is not None, "entry": entry})
