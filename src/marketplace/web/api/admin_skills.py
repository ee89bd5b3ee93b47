"""What operators see of a skill, and what they do to it."""

from http import HTTPStatus
from typing import Annotated, Any, Self

import msgspec
from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field, model_validator
from starlette.responses import Response

from marketplace.catalog import lookup
from marketplace.catalog.answer import Answer
from marketplace.operations import audit
from marketplace.ports.env import Env
from marketplace.ports.principal import Principal
from marketplace.publishing.acts import NotInForce, Recorded, TooManyActs, act_on, new_act
from marketplace.publishing.skill_dossier import read_dossier
from marketplace.skills.acts import (
    MAX_ACT_REASON_LENGTH,
    MAX_EVIDENCE_URLS,
    Act,
    ActKind,
    Severity,
    lifted_by,
)
from marketplace.skills.skill import MAX_LABELS, Skill
from marketplace.skills.tiers import CertTier
from marketplace.web.answers import private
from marketplace.web.api.documents import Document
from marketplace.web.api.requests import Category, EvidenceUrl, ForgeId, Label, ThreatType
from marketplace.web.api.versions import told_version
from marketplace.web.characters import LOOKED_UP, PROSE
from marketplace.web.context import CurrentEnv, Operator
from marketplace.web.problems import FieldError, NotFound, problem

router = APIRouter(prefix="/api/v1/admin/skills", tags=["admin"])

_Slug = Annotated[str, Path(), LOOKED_UP]


class _ActRequest(Document):
    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, PROSE, Field(min_length=1, max_length=MAX_ACT_REASON_LENGTH)]


class Correction(_ActRequest):
    """What is listed instead of what the repository says, or the scanner."""

    category: Category | None = None
    labels: Annotated[list[Label], Field(max_length=MAX_LABELS)] | None = None
    cert_tier: CertTier | None = None

    @model_validator(mode="after")
    def _corrects_something(self) -> Self:
        if self.category is None and self.labels is None and self.cert_tier is None:
            raise ValueError("give category, labels or certTier")
        return self


class Withdrawal(_ActRequest):
    """A skill is not shown any more."""


class Block(_ActRequest):
    """A skill is a threat."""

    threat_type: ThreatType
    severity: Severity
    evidence_urls: Annotated[list[EvidenceUrl], Field(max_length=MAX_EVIDENCE_URLS)] = []  # noqa: RUF012 - Pydantic copies it


class Restoration(_ActRequest):
    """Acts are lifted: those of these ids, and no others."""

    acts: Annotated[
        list[Annotated[str, LOOKED_UP, Field(min_length=1, max_length=100)]],
        Field(min_length=1, max_length=100),
    ]


class OwnerAccepted(_ActRequest):
    """The forge's ids of repository or owner are other ones from now on."""

    repository_id: ForgeId | None = None
    owner_id: ForgeId | None = None

    @model_validator(mode="after")
    def _names_an_id(self) -> Self:
        if self.repository_id is None and self.owner_id is None:
            raise ValueError("give repositoryId or ownerId")
        return self


@router.get("/{slug}")
async def show(env: CurrentEnv, _operator: Operator, slug: _Slug) -> Response:
    """All that is known of a skill, whatever its status."""
    found = await _find(env, slug)
    known = await read_dossier(env, found)
    lifted = lifted_by(known.acts)
    document = {
        "skill": known.skill,
        "row": known.row,
        "record": known.record,
        "acts": [msgspec.to_builtins(act) | {"liftedBy": lifted.get(act.id)} for act in known.acts],
        "versions": [told_version(version) for version in known.versions],
        "verdicts": known.verdicts,
        "submissions": known.submissions,
        "source": found.source,
        "degraded": bool(known.reasons),
        "reasons": known.reasons,
    }
    return private(document)


@router.post("/{slug}/correct")
async def correct(env: CurrentEnv, operator: Operator, slug: _Slug, body: Correction) -> Response:
    """Set category, labels or tier; scans do not change them until the act is lifted."""
    labels = None if body.labels is None else tuple(body.labels)
    return await _act(
        env, operator, slug, ActKind.CORRECT, body,
        category=body.category, labels=labels, cert_tier=body.cert_tier,
    )  # fmt: skip


@router.post("/{slug}/withdraw")
async def withdraw(env: CurrentEnv, operator: Operator, slug: _Slug, body: Withdrawal) -> Response:
    """Take a skill down."""
    return await _act(env, operator, slug, ActKind.WITHDRAW, body)


@router.post("/{slug}/block")
async def block(env: CurrentEnv, operator: Operator, slug: _Slug, body: Block) -> Response:
    """Take a skill down as a threat, and enter it in the blocklist."""
    return await _act(
        env, operator, slug, ActKind.BLOCK, body,
        threat_type=body.threat_type,
        severity=body.severity,
        evidence_urls=tuple(body.evidence_urls),
    )  # fmt: skip


@router.post("/{slug}/restore")
async def restore(env: CurrentEnv, operator: Operator, slug: _Slug, body: Restoration) -> Response:
    """Lift acts."""
    lifts = tuple(dict.fromkeys(body.acts))
    return await _act(env, operator, slug, ActKind.RESTORE, body, lifts=lifts)


@router.post("/{slug}/accept-owner")
async def accept_owner(
    env: CurrentEnv, operator: Operator, slug: _Slug, body: OwnerAccepted
) -> Response:
    """Let a repository that changed hands go on as the same skill."""
    return await _act(
        env, operator, slug, ActKind.ACCEPT_OWNER, body,
        repository_id=body.repository_id, owner_id=body.owner_id,
    )  # fmt: skip


async def _find(env: Env, slug: str) -> Answer[Skill]:
    found = await lookup.get_skill_by_name(env, slug)
    if found is None:
        raise NotFound(f"There is no skill {slug!r:.300}.")
    return found


async def _act(
    env: Env,
    operator: Principal,
    slug: str,
    kind: ActKind,
    body: _ActRequest,
    **fields: Any,
) -> Response:
    found = await _find(env, slug)
    act = new_act(env, kind, reason=body.reason, by=operator.name, **fields)
    try:
        recorded = await act_on(env, found, act)
    except NotInForce as error:
        return problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"These acts are not in force on {found.value.name}: {error}.",
            errors=[FieldError("acts", str(error))],
        )
    except TooManyActs as error:
        return problem(
            HTTPStatus.CONFLICT,
            f"{found.value.name} has no room for a further act ({error}). "
            "For a rule of its identity there is.",
        )
    skill = recorded.skill
    await audit.record(
        env,
        operator,
        f"{kind.lower().replace('_', '-')}-skill",
        skill.name,
        before={"status": found.value.status},
        after={"status": skill.status, "act": _told(act)},
        reason=act.reason,
    )
    return private(_document(recorded))


def _document(recorded: Recorded) -> dict[str, Any]:
    skill, act = recorded.skill, recorded.act
    return {
        "slug": skill.name,
        "status": skill.status,
        "act": _told(act),
        "stores": recorded.stores,
        "acts": [each.id for each in skill.acts],
    }


def _told(act: Act) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(act)
    return told
