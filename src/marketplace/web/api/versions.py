"""The versions of skills, and which installed skills have updates."""

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request
from pydantic import Field
from starlette.responses import Response

from marketplace.catalog import lookup
from marketplace.catalog.answer import Answer
from marketplace.catalog.updates import check_updates
from marketplace.catalog.versions import MAX_VERSIONS, versions_of
from marketplace.ports.env import Env
from marketplace.skills.skill import Skill
from marketplace.skills.updates import Installed, digits_of
from marketplace.skills.version_history import PLACE_PATTERN, SkillVersion
from marketplace.web.answers import SKILLS_TAG, cacheable, private
from marketplace.web.api.documents import Document, UpdatesDocument, VersionsDocument, documented
from marketplace.web.characters import LOOKED_UP
from marketplace.web.context import CurrentEnv
from marketplace.web.problems import NotFound, require_shown

router = APIRouter(prefix="/api/v1/skills", tags=["versions"])

MAX_INSTALLED: Final = 500  # skills of one call
MAX_NAME_LENGTH: Final = 300  # the longest slug, or owner/repository/skill
MAX_TOLD_LENGTH: Final = 200  # of a version or a digest, which may be anything

_Segment = Annotated[str, Path(), LOOKED_UP]
_Limit = Annotated[int, Query(ge=1, le=MAX_VERSIONS)]
_Cursor = Annotated[str | None, Query(pattern=PLACE_PATTERN)]
_Told = Annotated[str, Field(max_length=MAX_TOLD_LENGTH), LOOKED_UP]


class InstalledSkill(Document):
    """A skill that somebody has: its slug or ``owner/repository/skill``, the version, and the
    commit or digest that it was installed from. Fields not named here are ignored."""

    name: Annotated[str, Field(max_length=MAX_NAME_LENGTH), LOOKED_UP]
    current_version: _Told | None = None
    sha: _Told | None = None

    def to_installed(self) -> Installed:
        """As the rules take it."""
        return Installed(
            name=self.name, version=self.current_version or "", digits=digits_of(self.sha)
        )


class InstalledSkills(Document):
    """The skills that an installer asks about in one call."""

    skills: Annotated[list[InstalledSkill], Field(max_length=MAX_INSTALLED)]


@router.post("/check-updates", responses=documented(UpdatesDocument))
async def updates(env: CurrentEnv, body: InstalledSkills) -> Response:
    """Which installed skills have updates, each told in the order asked."""
    answer = await check_updates(env, [skill.to_installed() for skill in body.skills])
    return private({"results": answer.value} | _told_of(answer))


@router.get("/{slug}/versions", responses=documented(VersionsDocument))
async def versions(
    request: Request,
    env: CurrentEnv,
    slug: _Segment,
    limit: _Limit = MAX_VERSIONS,
    cursor: _Cursor = None,
) -> Response:
    """The versions of a skill that were listed, the newest first."""
    found = await lookup.get_skill_by_name(env, slug)
    return await _versions(request, env, _shown(found, slug), limit, cursor)


@router.get("/{owner}/{repo}/{skill}/versions", responses=documented(VersionsDocument))
async def versions_of_repository(
    request: Request,
    env: CurrentEnv,
    owner: _Segment,
    repo: _Segment,
    skill: _Segment,
    limit: _Limit = MAX_VERSIONS,
    cursor: _Cursor = None,
) -> Response:
    """The same, of the skill that a GitHub repository calls by this name."""
    found = await lookup.get_skill_by_identity(env, owner, repo, skill)
    return await _versions(request, env, _shown(found, f"{owner}/{repo}/{skill}"), limit, cursor)


def _shown(found: Answer[Skill] | None, wanted: str) -> Answer[Skill]:
    """Raises NotFound, Withheld."""
    if found is None:
        raise NotFound(f"There is no skill {wanted!r:.300}.")
    require_shown(found.value)
    return found


async def _versions(
    request: Request, env: Env, found: Answer[Skill], limit: int, cursor: str | None
) -> Response:
    answer = await versions_of(env, found, before=cursor, limit=limit)
    document = {
        "versions": [told_version(version) for version in answer.value.versions],
        "nextCursor": answer.value.next_cursor,
    }
    body = msgspec.json.encode(document | _told_of(answer))
    tags = [SKILLS_TAG, f"skill-{found.value.name}"]
    return cacheable(request, body, tags=tags, degraded=answer.degraded)


def told_version(version: SkillVersion) -> dict[str, Any]:
    """A version as everybody is told it."""
    return {
        "version": version.version,
        "certTier": version.cert_tier,
        "createdAt": version.created_at,
        "contentHash": version.content_digest,
        "skillMdDigest": version.skill_md_digest,
        "license": version.license,
        "certScore": version.cert_score,
        "diffSummary": version.diff_summary,
        "commit": version.commit,
    }


def _told_of(answer: Answer[Any]) -> dict[str, object]:
    return {"source": answer.source, "degraded": answer.degraded, "reasons": answer.reasons}
