"""What operators watch and repair with."""

from fastapi import APIRouter
from starlette.responses import Response

from marketplace.api.answers import private
from marketplace.api.context import CurrentEnv, Operator
from marketplace.health import check_health

router = APIRouter(prefix="/api/v1/admin", tags=["admin"])


@router.get("/health/skills")
async def health(env: CurrentEnv, _operator: Operator) -> Response:
    """Counts of all sources, where they disagree, and what repairs it."""
    return private(await check_health(env))
