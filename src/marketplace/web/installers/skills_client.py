"""The npm program `skills`: its search, and one discovery index for each skill.

The program downloads every artifact of an index before it looks which skill was wanted. So each
skill has an index of its own, below its page's path, and the host has none. A skill that an index
lacks counts as removed, and the program offers to delete it: so an index is whole or an error.
"""

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from marketplace.catalog import listings, lookup
from marketplace.catalog.answer import Answer
from marketplace.skills.listing_rules import MAX_LIMIT, MAX_SEARCH_LENGTH, ListingQuery
from marketplace.skills.listing_rules import default_order as order_of
from marketplace.skills.skill import Skill, SkillSummary
from marketplace.skills.slugs import github_repository
from marketplace.web.answers import SKILLS_TAG, cacheable
from marketplace.web.characters import LOOKED_UP, SOUGHT
from marketplace.web.context import CurrentEnv
from marketplace.web.installers.artifacts import artifact_of, nothing_to_install
from marketplace.web.problems import NotFound, require_installable

router = APIRouter(tags=["installers"])

INDEX_SCHEMA: Final = "https://schemas.agentskills.io/discovery/0.2.0/schema.json"
MOST_ASKED: Final = 10_000
"""The programs show an error as "nothing found", so a greater limit than ours is taken for ours."""
_INDEX: Final = ".well-known/{kind}/index.json"

_Segment = Annotated[str, Path(), LOOKED_UP]
_Kind = Annotated[
    str, Path(alias="kind", pattern="^(agent-)?skills$")
]  # the second is the older one


@router.get("/api/search")
async def search(
    request: Request,
    env: CurrentEnv,
    q: Annotated[str, Query(max_length=MAX_SEARCH_LENGTH), SOUGHT] = "",
    limit: Annotated[int, Query(ge=1, le=MOST_ASKED)] = 20,
    owner: Annotated[str, Query(max_length=100), LOOKED_UP] = "",
) -> Response:
    """Skills for `skills find`. ``source`` is what `skills add` takes, ``name`` the skill in it."""
    field, direction = order_of(q)
    query = ListingQuery(
        search=q or None,
        author=owner or None,
        sort_by=field,
        sort_dir=direction,
        limit=min(limit, MAX_LIMIT),
    )
    answer = await listings.get_skills(env, query)
    summaries = answer.value.summaries()
    kept = await lookup.rows_of(env, [summary.identity for summary in summaries])
    skills = [
        {
            "id": summary.name,
            "name": summary.base_slug,
            "source": _source(request, summary, kept.get(summary.identity)),
            "installs": summary.installs,
            "description": summary.description,
        }
        for summary in summaries
    ]
    body = msgspec.json.encode({"skills": skills, "count": len(skills)})
    return cacheable(request, body, tags=[SKILLS_TAG], degraded=answer.degraded)


@router.get("/skills/{slug}/" + _INDEX)
async def index(request: Request, env: CurrentEnv, slug: _Segment, _kind: _Kind) -> Response:
    """The discovery index of one skill; an old slug has it too. 410, 423: it is not handed out."""
    return await _index(request, await lookup.get_skill_by_name(env, slug), slug)


@router.get("/skills/{owner}/{repo}/{skill}/" + _INDEX)
async def index_of_repository(
    request: Request,
    env: CurrentEnv,
    owner: _Segment,
    repo: _Segment,
    skill: _Segment,
    _kind: _Kind,
) -> Response:
    """The discovery index of the skill that a GitHub repository calls by this name."""
    found = await lookup.get_skill_by_identity(env, owner, repo, skill)
    return await _index(request, found, f"{owner}/{repo}/{skill}")


async def _index(request: Request, found: Answer[Skill] | None, wanted: str) -> Response:
    if found is None:
        raise NotFound(f"There is no skill {wanted!r:.300}.")
    skill = found.value
    require_installable(skill)
    artifact = await artifact_of(request.scope["env"], found)
    if artifact is None:
        raise NotFound(nothing_to_install(skill))
    entry: dict[str, Any] = {
        "name": skill.base_slug,
        "description": skill.description or skill.display_name,
        "type": artifact.kind,
        "url": artifact.url,
        "digest": f"sha256:{artifact.digest}",
    }
    body = msgspec.json.encode({"$schema": INDEX_SCHEMA, "skills": [entry]})
    tags = [SKILLS_TAG, f"skill-{skill.name}"]
    return cacheable(request, body, tags=tags, degraded=found.degraded)


def _source(request: Request, summary: SkillSummary, row: Skill | None) -> str:
    """Its repository on GitHub, unless an archive of it was scanned: then the page here."""
    is_archived = row is not None and row.content_digest is not None
    repository = None if is_archived else github_repository(summary.repo_url)
    return repository or f"{request.base_url}skills/{summary.name}"
