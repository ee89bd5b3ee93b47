"""Rules: what operators withhold by identity, owner or content, now and in future."""

from http import HTTPStatus
from typing import Annotated, Final, Self

import msgspec
from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field, model_validator
from starlette.responses import Response

from marketplace.operations import audit, rules
from marketplace.operations.rules import KeptRule
from marketplace.ports.env import Env
from marketplace.repair.rule_application import apply_at_once
from marketplace.skills.acts import MAX_ACT_REASON_LENGTH, MAX_EVIDENCE_URLS, Severity
from marketplace.skills.rules import Matches, Rule, RuleKind, Target, read_target
from marketplace.skills.slugs import MAX_REPOSITORY_URL_LENGTH
from marketplace.web.answers import private
from marketplace.web.api.documents import Document, RuleReceiptDocument, RulesDocument, documented
from marketplace.web.api.requests import EvidenceUrl, ThreatType
from marketplace.web.characters import LOOKED_UP, ONE_LINE, PROSE
from marketplace.web.context import CurrentEnv, Operator
from marketplace.web.problems import FieldError, NotFound, problem

router = APIRouter(prefix="/api/v1/admin/rules", tags=["admin"])

MAX_RULES: Final = 100

_Id = Annotated[str, Path(), Field(max_length=100), LOOKED_UP]
_Cursor = Annotated[str | None, Query(max_length=100), LOOKED_UP]
_Reason = Annotated[str, PROSE, Field(min_length=1, max_length=MAX_ACT_REASON_LENGTH)]


class NewRule(Document):
    """What is withheld, and why. A BLOCK needs the threat."""

    model_config = ConfigDict(extra="forbid")

    kind: RuleKind
    matches: Matches
    value: Annotated[str, ONE_LINE, Field(min_length=1, max_length=MAX_REPOSITORY_URL_LENGTH)]
    reason: _Reason
    threat_type: ThreatType | None = None
    severity: Severity | None = None
    evidence_urls: Annotated[list[EvidenceUrl], Field(max_length=MAX_EVIDENCE_URLS)] = []  # noqa: RUF012 - Pydantic copies it

    @model_validator(mode="after")
    def _threat_of_a_block(self) -> Self:
        if self.kind is RuleKind.BLOCK and (self.threat_type is None or self.severity is None):
            raise ValueError("a BLOCK needs threatType and severity")
        return self


class Lift(Document):
    """A rule is in force no longer."""

    model_config = ConfigDict(extra="forbid")

    reason: _Reason


@router.get("", responses=documented(RulesDocument))
async def list_rules(
    env: CurrentEnv,
    _operator: Operator,
    cursor: _Cursor = None,
    limit: Annotated[int, Query(ge=1, le=MAX_RULES)] = 50,
) -> Response:
    """All rules, the newest first, those that are lifted too."""
    found = await rules.list_rules(env, before=cursor, limit=limit)
    following = found[-1].id if len(found) == limit else None
    return private({"rules": found, "nextCursor": following})


@router.post("", status_code=201, responses=documented(RuleReceiptDocument, 201))
async def add_rule(env: CurrentEnv, operator: Operator, body: NewRule) -> Response:
    """Withhold every skill that matches, also those to come. 201: a new rule; 200: one of this
    kind is in force on the target, and stays as it is."""
    try:
        target = read_target(body.matches, body.value)
    except ValueError as error:
        return problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "Change these fields: value.",
            errors=[FieldError("value", str(error))],
        )
    kept = await _add(env, operator.name, target, body)
    if not kept.stores:
        return await _receipt(env, kept)
    rule = kept.rule
    await audit.record(env, operator, "add-rule", rule.id, after=_told(rule), reason=rule.reason)
    return await _receipt(env, kept, status=HTTPStatus.CREATED)


@router.post("/{rule_id}/lift", responses=documented(RuleReceiptDocument))
async def lift_rule(env: CurrentEnv, operator: Operator, rule_id: _Id, body: Lift) -> Response:
    """Lift a rule, and the acts by which it was applied. One that is lifted stays as it is."""
    kept = await rules.lift_rule(env, rule_id, reason=body.reason, by=operator.name)
    if kept is None:
        raise NotFound(f"There is no rule {rule_id!r:.100}.")
    if kept.stores:
        told = {"matches": kept.rule.matches, "value": kept.rule.value}
        await audit.record(env, operator, "lift-rule", rule_id, after=told, reason=body.reason)
    return await _receipt(env, kept)


async def _add(env: Env, by: str, target: Target, body: NewRule) -> KeptRule:
    return await rules.add_rule(
        env,
        target,
        body.kind,
        reason=body.reason,
        by=by,
        threat_type=body.threat_type,
        severity=body.severity,
        evidence_urls=tuple(body.evidence_urls),
    )


async def _receipt(env: Env, kept: KeptRule, *, status: HTTPStatus = HTTPStatus.OK) -> Response:
    applied = await apply_at_once(env, kept.rule)
    document = {
        "rule": _told(kept.rule),
        "stores": kept.stores,
        "applied": applied.skills,
        "complete": applied.place is None and kept.stores.get("postgres", True),
    }
    return private(document, status=status)


def _told(rule: Rule) -> dict[str, object]:
    told: dict[str, object] = msgspec.to_builtins(rule)
    return told
