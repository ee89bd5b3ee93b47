"""Reporting a skill, and what operators do with reports."""

from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field
from starlette.responses import Response

from marketplace.catalog.lookup import get_skill_by_name
from marketplace.operations import skill_reports
from marketplace.ports.skill_report import ReportPlace, SkillReport
from marketplace.web.answers import private
from marketplace.web.api.documents import (
    ReportReceiptDocument,
    ReportsDocument,
    SkillReportDocument,
    documented,
)
from marketplace.web.api.requests import ReportRequest, ResolveRequest
from marketplace.web.characters import LOOKED_UP
from marketplace.web.context import Caller, CurrentEnv, Operator
from marketplace.web.problems import NotFound
from marketplace.web.rate_limits import limit_reports

router = APIRouter(prefix="/api/v1", tags=["reports"])

MAX_REPORTS: Final = 100

_Slug = Annotated[str, Path(), LOOKED_UP]
_Id = Annotated[str, Path(), Field(max_length=100), LOOKED_UP]
_Cursor = Annotated[str, Field(max_length=100, pattern="^(open|resolved):"), LOOKED_UP]


@router.post(
    "/skills/{slug}/reports", status_code=201, responses=documented(ReportReceiptDocument, 201)
)
async def report_skill(
    request: Request, env: CurrentEnv, caller: Caller, slug: _Slug, body: ReportRequest
) -> Response:
    """Report a skill to the operators. Anybody may, a limited number of times a minute."""
    await limit_reports(request, caller)
    found = await get_skill_by_name(env, slug)
    if found is None:
        raise NotFound(f"There is no skill {slug!r:.100}.")
    report = await skill_reports.add_report(env, found.value, body.reason, body.text)
    return private({"id": report.id, "slug": report.slug}, status=HTTPStatus.CREATED)


@router.get("/admin/reports", responses=documented(ReportsDocument))
async def list_reports(
    env: CurrentEnv,
    _operator: Operator,
    cursor: Annotated[_Cursor | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_REPORTS)] = 50,
) -> Response:
    """What visitors reported: the open reports first, each kind by age."""
    after = None if cursor is None else _place(cursor)
    reports = await skill_reports.list_reports(env, after=after, limit=limit)
    following = _cursor(reports[-1]) if len(reports) == limit else None
    return private({"reports": reports, "nextCursor": following})


@router.post("/admin/reports/{report_id}/resolve", responses=documented(SkillReportDocument))
async def resolve_report(
    env: CurrentEnv, operator: Operator, report_id: _Id, body: ResolveRequest
) -> Response:
    """Close a report. One that is resolved already keeps its first resolution."""
    report = await skill_reports.resolve_report(env, operator, report_id, body.reason)
    if report is None:
        raise NotFound(f"There is no report {report_id!r:.100}.")
    return private(report)


def _cursor(report: SkillReport) -> str:
    return f"{'resolved' if report.place.resolved else 'open'}:{report.id}"


def _place(cursor: str) -> ReportPlace:
    kind, _, id_ = cursor.partition(":")
    return ReportPlace(kind == "resolved", id_)
