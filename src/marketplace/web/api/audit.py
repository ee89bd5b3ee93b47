"""Who changed what."""

from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import AfterValidator, Field
from starlette.responses import Response

from marketplace.operations.audit import list_entries
from marketplace.ports.audit import AuditFilter
from marketplace.web.answers import private
from marketplace.web.api.documents import AuditDocument, documented
from marketplace.web.api.requests import moment
from marketplace.web.characters import LOOKED_UP
from marketplace.web.context import CurrentEnv, Operator

router = APIRouter(prefix="/api/v1/admin/audit", tags=["admin"])

MAX_ENTRIES: Final = 100

_Sought = Annotated[str | None, Query(max_length=200), LOOKED_UP]
_Since = Annotated[str, Field(max_length=40), AfterValidator(moment)]


@router.get("", responses=documented(AuditDocument))
async def list_audit(
    env: CurrentEnv,
    _operator: Operator,
    principal: _Sought = None,
    action: _Sought = None,
    target: _Sought = None,
    since: Annotated[_Since | None, Query()] = None,
    cursor: _Sought = None,
    limit: Annotated[int, Query(ge=1, le=MAX_ENTRIES)] = 50,
) -> Response:
    """What calls with a credential have changed, the newest first."""
    wanted = AuditFilter(principal=principal, action=action, target=target, since=since)
    entries = await list_entries(env, wanted, before=cursor, limit=limit)
    following = entries[-1].id if len(entries) == limit else None
    return private({"entries": entries, "nextCursor": following})
