"""What operators watch and repair with."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from marketplace.api.answers import private
from marketplace.api.context import CurrentEnv, Operator
from marketplace.api.problems import NotFound
from marketplace.health import check_health
from marketplace.rebuild import describe, get_rebuild, start_rebuild

router = APIRouter(prefix="/api/v1/admin", tags=["admin"])


@router.get("/health/skills")
async def health(env: CurrentEnv, _operator: Operator) -> Response:
    """Counts of all sources, where they disagree, and what repairs it."""
    return private(await check_health(env))


@router.post("/rebuild-index")
async def rebuild_index(
    env: CurrentEnv,
    _operator: Operator,
    dry_run: Annotated[bool, Query(alias="dryRun")] = False,
    wait: Annotated[float, Query(ge=0, le=60)] = 0,
) -> Response:
    """Reconcile PostgreSQL and KV both ways and rewrite the index; 202 while it goes on."""
    job = await start_rebuild(env, dry_run=dry_run, wait_seconds=wait)
    status = HTTPStatus.OK if job.complete else HTTPStatus.ACCEPTED
    return private(describe(env, job), status=status)


@router.get("/rebuild-index/{job_id}")
async def rebuild_progress(env: CurrentEnv, _operator: Operator, job_id: str) -> Response:
    """A rebuild's report, as far as it has come."""
    job = await get_rebuild(env, job_id)
    if job is None:
        raise NotFound(f"There is no rebuild {job_id!r:.100}.")
    return private(describe(env, job))
