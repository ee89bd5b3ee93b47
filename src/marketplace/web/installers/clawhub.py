"""The npm program `clawhub`, whose registry is `/clawhub`. It shows the text of an error as it is.

A skill has no `latestVersion` here, so that the program asks the route `install` where it is: in
our archive, else in its repository on GitHub at the commit that was scanned.
"""

from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from marketplace.basics.timestamps import parse_timestamp
from marketplace.catalog import listings, lookup
from marketplace.catalog.answer import Answer
from marketplace.kv.files import Files
from marketplace.ports.env import Env
from marketplace.skills.listing_rules import (
    MAX_LIMIT,
    MAX_SEARCH_LENGTH,
    ListingQuery,
    SortField,
    decode_cursor,
    default_direction,
    default_order,
)
from marketplace.skills.scan import files_digest
from marketplace.skills.skill import Skill, SkillSummary
from marketplace.skills.slugs import github_repository
from marketplace.web.answers import NO_STORE, SKILLS_TAG, cacheable, private
from marketplace.web.characters import LOOKED_UP, SOUGHT
from marketplace.web.context import CurrentEnv
from marketplace.web.installers.artifacts import (
    Artifact,
    ArtifactKind,
    artifact_of,
    files_of,
    nothing_to_install,
)
from marketplace.web.installers.skills_client import MOST_ASKED
from marketplace.web.problems import (
    FailedScan,
    NotFound,
    Withheld,
    require_installable,
    require_shown,
)

router = APIRouter(tags=["installers"])

REGISTRY: Final = "/clawhub"
_API: Final = REGISTRY + "/api/v1"
_ORDERS: Final = {
    "createdAt": SortField.PUBLISHED_AT,
    "newest": SortField.PUBLISHED_AT,
    "updated": SortField.UPDATED_AT,
    "updatedAt": SortField.UPDATED_AT,
    "rating": SortField.CERT_SCORE,
    "downloads": SortField.INSTALLS,
    "installs": SortField.INSTALLS,
    "trending": SortField.TRENDING_SCORE_7D,
}

_Slug = Annotated[str, LOOKED_UP]
_Owner = Annotated[str | None, Query(alias="ownerHandle", max_length=300), LOOKED_UP]
_Limit = Annotated[int, Query(ge=1, le=MOST_ASKED)]


@router.get("/.well-known/clawhub.json")
async def discovery(request: Request) -> Response:
    """Where the registry is."""
    body = msgspec.json.encode({"apiBase": f"{str(request.base_url).rstrip('/')}{REGISTRY}"})
    return cacheable(request, body, tags=[SKILLS_TAG])


@router.get(_API + "/search")
async def search(
    request: Request,
    env: CurrentEnv,
    q: Annotated[str, Query(min_length=1, max_length=MAX_SEARCH_LENGTH), SOUGHT],
    limit: _Limit = 25,
) -> Response:
    """The best matches. ``score`` falls from 1 with the rank."""
    field, direction = default_order(q)
    query = ListingQuery(search=q, sort_by=field, sort_dir=direction, limit=min(limit, MAX_LIMIT))
    answer = await listings.get_skills(env, query)
    results = [
        {
            "score": 1 / (1 + rank),
            "slug": summary.name,
            "displayName": summary.display_name,
            "summary": summary.description,
            "version": summary.current_version,
            "ownerHandle": _handle(summary),
            "downloads": summary.installs,
            "updatedAt": _milliseconds(summary.updated_at),
        }
        for rank, summary in enumerate(answer.value.summaries())
    ]
    return _cacheable(request, answer, {"results": results})


@router.get(_API + "/skills")
async def explore(
    request: Request,
    env: CurrentEnv,
    limit: _Limit = 25,
    sort: Annotated[str, Query(max_length=40)] = "createdAt",
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
) -> Response:
    """A page of the listing. A cursor of another order is refused, never taken for the first."""
    field = _ORDERS.get(sort, SortField.PUBLISHED_AT)
    direction = default_direction(field)
    query = ListingQuery(
        sort_by=field,
        sort_dir=direction,
        limit=min(limit, MAX_LIMIT),
        cursor=decode_cursor(cursor, field, direction) if cursor else None,
    )
    answer = await listings.get_skills(env, query)
    items = [
        _described(summary)
        | {
            "latestVersion": {
                "version": summary.current_version,
                "createdAt": _milliseconds(summary.updated_at),
                "changelog": "",
            }
        }
        for summary in answer.value.summaries()
    ]
    return _cacheable(request, answer, {"items": items, "nextCursor": answer.value.next_cursor})


@router.get(_API + "/skills/{slug}")
async def skill(
    request: Request, env: CurrentEnv, slug: Annotated[_Slug, Path()], owner: _Owner = None
) -> Response:
    """One skill; where it is, the route `install` tells."""
    try:
        found = await _find(env, slug, owner)
    except (NotFound, Withheld) as error:
        return _told(error)
    handle = _handle(found.value)
    content: dict[str, object] = {
        "skill": _described(found.value),
        "latestVersion": None,
        "owner": None if handle is None else {"handle": handle},
        "moderation": None,
    }
    return _cacheable(request, found, content)


@router.get(_API + "/skills/{slug}/install")
async def install(
    env: CurrentEnv, slug: Annotated[_Slug, Path()], owner: _Owner = None
) -> Response:
    """Where a skill is; or why it is not handed out (409, 410, 423)."""
    try:
        found = await _find(env, slug, owner)
        require_installable(found.value)
    except NotFound as error:
        return _told(error)
    except Withheld as error:
        return _refused(slug, "github_upstream_removed", str(error), HTTPStatus.GONE)
    except FailedScan as error:
        return _refused(slug, "github_scan_failed", str(error), HTTPStatus.LOCKED)
    name, artifact = found.value.name, await artifact_of(env, found)
    if artifact is not None and artifact.kind is ArtifactKind.ARCHIVE:
        version = found.value.current_version
        archive = {"version": version, "downloadUrl": artifact.url}
        return private({"ok": True, "slug": name, "installKind": "archive", "archive": archive})
    source = _on_github(found.value, await files_of(env, found.value))
    if source is None:
        message = nothing_to_install(found.value)
        return _refused(name, "github_source_missing", message, HTTPStatus.CONFLICT)
    return private({"ok": True, "slug": name, "installKind": "github", "github": source})


@router.get(_API + "/download")
async def download(
    env: CurrentEnv,
    slug: Annotated[_Slug, Query(max_length=300)],
    owner: _Owner = None,
    version: Annotated[str | None, Query(max_length=100), LOOKED_UP] = None,
) -> Response:
    """Leads to the archive of the version that is listed, the only one that is handed out."""
    try:
        found = await _find(env, slug, owner)
        require_installable(found.value)
        artifact = await _archive(env, found, version)
    except (NotFound, Withheld, FailedScan) as error:
        return _told(error)
    return RedirectResponse(artifact.url, HTTPStatus.FOUND, headers=NO_STORE)


@router.get(_API + "/resolve")
async def resolve(
    request: Request,
    env: CurrentEnv,
    slug: Annotated[_Slug, Query(max_length=300)],
    owner: _Owner = None,
) -> Response:
    """The version that is listed. Which one is installed the program knows itself."""
    try:
        found = await _find(env, slug, owner)
    except (NotFound, Withheld) as error:
        return _told(error)
    latest = {"version": found.value.current_version}
    return _cacheable(request, found, {"match": None, "latestVersion": latest})


async def _find(env: Env, slug: str, owner: str | None) -> Answer[Skill]:
    """Of an owner's skills, where one is named: never another's. Raises NotFound, Withheld."""
    if owner is None:
        found = await lookup.get_skill_by_name(env, slug)
    else:
        found = await lookup.get_skill_of_owner(env, owner, slug)
    if found is None:
        of = "" if owner is None else f" of {owner:.100}"
        raise NotFound(f"There is no skill {slug!r:.300}{of}.")
    require_shown(found.value)
    return found


async def _archive(env: Env, found: Answer[Skill], version: str | None) -> Artifact:
    artifact = await artifact_of(env, found)
    name, current = found.value.name, found.value.current_version
    if version not in (None, current):
        raise NotFound(f"The version of {name} here is {current}.")
    if artifact is None or artifact.kind is not ArtifactKind.ARCHIVE:
        raise NotFound(f"No archive of {name} is kept here.")
    return artifact


def _described(skill: SkillSummary) -> dict[str, Any]:
    return {
        "slug": skill.name,
        "displayName": skill.display_name,
        "summary": skill.description,
        "tags": {"latest": skill.current_version},
        "stats": {"downloads": skill.installs, "installsAllTime": skill.installs},
        "createdAt": _milliseconds(skill.published_at),
        "updatedAt": _milliseconds(skill.updated_at),
    }


def _on_github(skill: Skill, files: Files) -> dict[str, str] | None:
    if skill.source_gone_at is not None or not (skill.commit and files):
        return None
    repository = github_repository(skill.repo_url)
    if repository is None:
        return None
    address = f"https://github.com/{repository}/tree/{skill.commit}/{skill.skill_path}"
    return {
        "repo": repository,
        "path": skill.skill_path,
        "commit": skill.commit,
        "contentHash": files_digest(files),
        "sourceUrl": address.rstrip("/"),
    }


def _handle(skill: SkillSummary) -> str | None:
    """The program takes no handle with a slash, as owners on other forges than GitHub have."""
    return None if "/" in skill.author else skill.author


def _milliseconds(moment: str) -> int:
    return round(parse_timestamp(moment).timestamp() * 1000)


def _told(error: NotFound | Withheld | FailedScan) -> Response:
    statuses = {Withheld: HTTPStatus.GONE, FailedScan: HTTPStatus.LOCKED}
    status = statuses.get(type(error), HTTPStatus.NOT_FOUND)
    return PlainTextResponse(str(error), status, headers=NO_STORE)


def _refused(slug: str, reason: str, message: str, status: HTTPStatus) -> Response:
    told = {"ok": False, "slug": slug, "reason": reason, "message": message, "status": status}
    return private(told, status=status)


def _cacheable(request: Request, answer: Answer[Any], content: dict[str, object]) -> Response:
    body = msgspec.json.encode(content)
    return cacheable(request, body, tags=[SKILLS_TAG], degraded=answer.degraded)
