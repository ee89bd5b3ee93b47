"""What operators watch and repair with."""

from http import HTTPStatus
from typing import Annotated, Final, Self

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from marketplace.health.check import check_health
from marketplace.kv.acknowledged import repairing
from marketplace.operations import audit
from marketplace.operations.redrive import (
    MAX_REDRIVEN,
    RedriveOutcome,
    count_letters,
    list_letters,
    redrive_all,
    redrive_ids,
)
from marketplace.repair.rebuild import get_rebuild, start_rebuild
from marketplace.web.answers import private
from marketplace.web.characters import LOOKED_UP
from marketplace.web.context import CurrentEnv, Operator
from marketplace.web.problems import NotFound

router = APIRouter(prefix="/api/v1/admin", tags=["admin"])

MAX_ID_LENGTH: Final = 100  # of letters and rebuilds; those that there are have a third of it

_CHANGING_OUTCOMES: Final = (RedriveOutcome.REDRIVEN, RedriveOutcome.FAILED)
"""After a failure the queue may have the message all the same."""

_Id = Annotated[str, Field(max_length=MAX_ID_LENGTH), LOOKED_UP]
_Reason = Annotated[str, Field(max_length=100), LOOKED_UP]


@router.get("/health/skills")
async def health(env: CurrentEnv, _operator: Operator) -> Response:
    """Counts of all sources, where they disagree, and what repairs it."""
    return private(await check_health(env))


@router.post("/rebuild-index")
async def rebuild_index(
    env: CurrentEnv,
    operator: Operator,
    dry_run: Annotated[bool, Query(alias="dryRun")] = False,
    wait: Annotated[float, Query(ge=0, le=60, allow_inf_nan=False)] = 0,
    adopt: Annotated[bool, Query()] = False,
) -> Response:
    """Reconcile PostgreSQL and KV both ways and rewrite the index; 202 while it goes on.

    With adopt=true PostgreSQL may be another database than before, which this takes over.
    """
    job = await start_rebuild(env, dry_run=dry_run, wait_seconds=wait, adopt=adopt)
    if not dry_run:
        action, after = "adopt-database" if adopt else "rebuild", {"complete": job.complete}
        await audit.record(repairing(env, adopt=adopt), operator, action, job.id, after=after)
    status = HTTPStatus.OK if job.complete else HTTPStatus.ACCEPTED
    return private(job.report(env.now()), status=status)


@router.get("/rebuild-index/{job_id}")
async def rebuild_progress(
    env: CurrentEnv, _operator: Operator, job_id: Annotated[_Id, Path()]
) -> Response:
    """A rebuild's report, as far as it has come."""
    job = await get_rebuild(env, job_id)
    if job is None:
        raise NotFound(f"There is no rebuild {job_id!r:.100}.")
    return private(job.report(env.now()))


class RedriveRequest(BaseModel):
    """Which letters: some by id, or all (of one reason)."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[_Id], Field(max_length=MAX_REDRIVEN)] = []
    all: bool = False
    reason: _Reason | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.ids) == self.all:
            raise ValueError("give ids, or all")
        if self.reason is not None and not self.all:
            raise ValueError("reason goes with all")
        return self


@router.get("/dead-letters")
async def dead_letters(
    env: CurrentEnv,
    _operator: Operator,
    reason: Annotated[_Reason | None, Query()] = None,
    cursor: Annotated[_Id | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_REDRIVEN)] = 50,
) -> Response:
    """The messages that could not be processed and were not redriven, by id."""
    letters = await list_letters(env, reason=reason, after=cursor, limit=limit)
    following = letters[-1].id if len(letters) == limit else None
    return private({"deadLetters": letters, "nextCursor": following})


@router.post("/dead-letters/redrive")
async def redrive(env: CurrentEnv, operator: Operator, body: RedriveRequest) -> Response:
    """Send dead letters on their way again; at most MAX_REDRIVEN a call, each with its outcome."""
    if body.all:
        results = await redrive_all(env, reason=body.reason)
    else:
        results = await redrive_ids(env, body.ids)
    tried = {
        result.id: result.outcome for result in results if result.outcome in _CHANGING_OUTCOMES
    }
    if tried:
        await audit.record(env, operator, "redrive", body.reason or "dead-letters", after=tried)
    return private({"results": results, "remaining": await count_letters(env, body.reason)})
