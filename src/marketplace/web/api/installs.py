"""What installers report: that a skill was installed."""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from pydantic import Field
from starlette.responses import Response

from marketplace.catalog.lookup import get_skill_of_owner
from marketplace.installs.counting import Install, count_installs
from marketplace.skills.skill import MAX_REPO_URL_LENGTH
from marketplace.web.answers import private
from marketplace.web.api.documents import Document, documented
from marketplace.web.api.versions import MAX_NAME_LENGTH
from marketplace.web.characters import LOOKED_UP
from marketplace.web.context import Caller, CurrentEnv
from marketplace.web.problems import NotFound
from marketplace.web.rate_limits import limit_installs

router = APIRouter(prefix="/api/v1/skills", tags=["installs"])

MAX_INSTALLS: Final = 100  # of one call: as many as one client may report in a minute

_Segment = Annotated[str, Path(), LOOKED_UP]


class ReportedInstall(Document):
    """A skill that was installed: its slug or ``owner/repository/skill``, or what its repository
    calls it, with ``repoUrl``. Fields not named here are ignored."""

    skill_name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH), LOOKED_UP]
    repo_url: Annotated[str, Field(max_length=MAX_REPO_URL_LENGTH), LOOKED_UP] | None = None

    def to_install(self) -> Install:
        """As it is counted."""
        return Install(self.skill_name, self.repo_url or None)


class ReportedInstalls(Document):
    """The skills that a client has installed. One that is named twice was installed twice."""

    skills: Annotated[list[ReportedInstall], Field(min_length=1, max_length=MAX_INSTALLS)]


class CountedDocument(Document):
    """How many installs were counted, and how many name a skill that nobody knows."""

    counted: int
    unknown: int


@router.post("/installs", responses=documented(CountedDocument))
async def installs(
    request: Request, env: CurrentEnv, caller: Caller, body: ReportedInstalls
) -> Response:
    """Report installs of several skills; all known ones are counted, or 503 and none."""
    await limit_installs(request, caller, len(body.skills))
    known = await count_installs(env, [each.to_install() for each in body.skills])
    return private({"counted": sum(known), "unknown": len(known) - sum(known)})


@router.post("/{slug}/installs", responses=documented(CountedDocument))
async def install(request: Request, env: CurrentEnv, caller: Caller, slug: _Segment) -> Response:
    """Report an install of the skill of a slug. Anybody may, a limited number of times a minute."""
    return await _one(request, env, caller, slug)


@router.post("/{owner}/{skill}/installs", responses=documented(CountedDocument))
async def install_of_owner(
    request: Request, env: CurrentEnv, caller: Caller, owner: _Segment, skill: _Segment
) -> Response:
    """Report an install of the skill of this slug, or of ``{owner}-{skill}``, if it is theirs."""
    found = await get_skill_of_owner(env, owner, skill)
    return await _one(request, env, caller, found.value.name if found else f"{owner}/{skill}")


@router.post("/{owner}/{repo}/{skill}/installs", responses=documented(CountedDocument))
async def install_of_repository(
    request: Request,
    env: CurrentEnv,
    caller: Caller,
    owner: _Segment,
    repo: _Segment,
    skill: _Segment,
) -> Response:
    """Report an install of the skill that a GitHub repository calls by this name."""
    return await _one(request, env, caller, f"{owner}/{repo}/{skill}")


async def _one(request: Request, env: CurrentEnv, caller: Caller, name: str) -> Response:
    await limit_installs(request, caller, 1)
    (known,) = await count_installs(env, [Install(name)])
    if not known:
        raise NotFound(f"There is no skill {name!r:.300}.")
    return private({"counted": 1, "unknown": 0})
