"""Handing out work to scanners."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from marketplace.operations import audit
from marketplace.publishing import scan_requests
from marketplace.publishing.scan_requests import MAX_HANDED_OUT, HandedOut
from marketplace.web.answers import private
from marketplace.web.api.documents import HandedOutScan, ScanRequestsDocument, documented
from marketplace.web.context import CurrentEnv, OperatorOrScanner

router = APIRouter(prefix="/api/v1/webhooks", tags=["submissions"])


@router.post("/scan-requests", responses=documented(ScanRequestsDocument))
async def hand_out_scan_requests(
    env: CurrentEnv,
    principal: OperatorOrScanner,
    limit: Annotated[int, Query(ge=1, le=MAX_HANDED_OUT)] = 20,
) -> Response:
    """Take work: what to read next, the caller's alone until ``leaseExpiresAt``.

    A result on its submission closes a request. One without a result is handed out again.
    """
    handed_out = await scan_requests.hand_out(env, limit)
    if handed_out:
        counts = {"handedOut": len(handed_out)}
        await audit.record(env, principal, "scan-requests", "submissions", after=counts)
    return private({"requests": [_document(each) for each in handed_out]})


def _document(handed_out: HandedOut) -> HandedOutScan:
    request = handed_out.request
    return HandedOutScan(
        submission_id=request.submission_id,
        repo_url=request.submission.repo_url,
        skill_path=request.submission.skill_path,
        skill_name=request.submission.skill_name,
        reason=request.reason,
        requested_at=request.requested_at,
        lease_expires_at=handed_out.lease_expires_at,
        attempt=request.attempts,
        identity=request.identity,
    )
