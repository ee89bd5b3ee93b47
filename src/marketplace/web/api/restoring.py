"""Filling a marketplace from a mirror."""

from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from marketplace.operations import audit
from marketplace.repair.restoring import restore_skills
from marketplace.web.answers import private
from marketplace.web.context import CurrentEnv, Operator

router = APIRouter(prefix="/api/v1/admin/restore", tags=["admin"])

MAX_RESTORED: Final = 100  # skills of one call


class RestoreRequest(BaseModel):
    """Skills as ``GET /api/v1/changes`` tells them."""

    model_config = ConfigDict(extra="forbid")

    skills: Annotated[list[dict[str, Any]], Field(max_length=MAX_RESTORED)]


@router.post("")
async def restore(env: CurrentEnv, operator: Operator, body: RestoreRequest) -> Response:
    """Add skills of a mirror that are not here; those that are stay as they are.

    Afterwards a rebuild copies them to KV.
    """
    outcome = await restore_skills(env, body.skills)
    if outcome.restored:
        after = {"restored": outcome.restored, "present": outcome.present}
        await audit.record(env, operator, "restore-from-mirror", "skills", after=after)
    return private(outcome)
