"""Asking to be listed, and reporting verdicts."""

from http import HTTPStatus
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from marketplace.basics.json_text import Unreadable
from marketplace.operations import audit
from marketplace.publishing import submissions
from marketplace.skills.forges import require_known_forge
from marketplace.skills.submission import new_submission_id
from marketplace.web.answers import private
from marketplace.web.api.documents import (
    ReceiptDocument,
    ResultsReceiptDocument,
    StatusDocument,
    documented,
)
from marketplace.web.api.requests import ScanResults, SubmissionRequest
from marketplace.web.characters import LOOKED_UP
from marketplace.web.context import Caller, CurrentEnv, OperatorOrScanner
from marketplace.web.problems import DamagedRecord, NotFound
from marketplace.web.rate_limits import limit_submissions

router = APIRouter(prefix="/api/v1", tags=["submissions"])


@router.post("/submissions", status_code=202, responses=documented(ReceiptDocument, 202))
async def submit(
    request: Request, env: CurrentEnv, caller: Caller, body: SubmissionRequest
) -> Response:
    """Ask for a skill to be listed. 202: taken; 200: an earlier request or listing stands, or
    the skill is blocked; 409: the repository's skill of that slug has another name.

    Anybody may, a limited number of times a minute: what the skill is called and does is read in
    the repository. With a credential there is no limit. ``rescan`` asks for another scan of a
    listed skill, as a newer ``version`` does; of each skill there is one an hour.
    """
    require_known_forge(body.repo_url, env.settings.forges)
    await limit_submissions(request, caller, body.repo_url)
    submission = body.to_submission(new_submission_id(), env.now())
    receipt = await submissions.submit(env, submission, rescan=body.rescan)
    stands = receipt.duplicate or receipt.already_verified or receipt.blocked
    document = {
        "id": receipt.id,
        "submissionId": receipt.id,
        "state": receipt.state,
        "skillName": submission.skill_name,
        "slug": receipt.slug,
        "duplicate": receipt.duplicate,
        "alreadyVerified": receipt.already_verified,
        "blocked": receipt.blocked,
    }
    return private(document, status=HTTPStatus.OK if stands else HTTPStatus.ACCEPTED)


@router.get("/submissions/{submission_id}", responses=documented(StatusDocument))
async def get_submission(
    env: CurrentEnv, submission_id: Annotated[str, Path(), LOOKED_UP]
) -> Response:
    """Where a submission stands."""
    status = await submissions.get_submission_status(env, submission_id)
    if isinstance(status, Unreadable):
        raise DamagedRecord(str(status))
    if status is None:
        raise NotFound(f"There is no submission {submission_id!r:.100}.")
    return private(msgspec.to_builtins(status) | {"status": status.state})


@router.post(
    "/webhooks/scan-results", status_code=202, responses=documented(ResultsReceiptDocument, 202)
)
async def report_scan_results(
    env: CurrentEnv, principal: OperatorOrScanner, body: ScanResults
) -> Response:
    """Report verdicts; what passed is published. Each is accepted or rejected for itself."""
    receipt = await submissions.record_scan_results(
        env, [result.to_report() for result in body.results], by=principal.name
    )
    if receipt.accepted:
        counts = {"accepted": len(receipt.accepted), "rejected": len(receipt.rejected)}
        await audit.record(env, principal, "scan-results", "submissions", after=counts)
    document = {
        "accepted": receipt.accepted,
        "rejected": [
            {"submissionId": refused.submission_id, "reason": refused.reason}
            for refused in receipt.rejected
        ],
    }
    return private(document, status=HTTPStatus.ACCEPTED)
