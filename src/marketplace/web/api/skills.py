"""Browsing and searching: ``/api/v1/skills``."""

from dataclasses import replace
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BeforeValidator
from starlette.responses import Response

from marketplace.catalog import listings, lookup
from marketplace.catalog.answer import Answer
from marketplace.catalog.listing_page import Page
from marketplace.skills.listing_rules import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    MAX_OFFSET,
    MAX_SEARCH_LENGTH,
    MAX_SEARCH_OFFSET,
    InvalidQuery,
    ListingQuery,
    SortDirection,
    SortField,
    decode_cursor,
    default_direction,
    default_order,
)
from marketplace.skills.skill import INTERNAL, Skill
from marketplace.skills.tiers import CertTier
from marketplace.web.answers import SKILLS_TAG, cacheable
from marketplace.web.api.documents import (
    CategoriesDocument,
    CountDocument,
    ListingDocument,
    SearchDocument,
    SkillDocument,
    documented,
)
from marketplace.web.characters import LOOKED_UP, SOUGHT
from marketplace.web.context import CurrentEnv
from marketplace.web.installers import vskill
from marketplace.web.problems import NotFound, require_shown

router = APIRouter(prefix="/api/v1/skills", tags=["skills"])
last_router = APIRouter(prefix="/api/v1/skills", tags=["skills"])
"""Of a path that others fit too: ``{slug}/versions`` is no skill of an owner."""

_Filter = Annotated[str, Query(max_length=100), LOOKED_UP]
_Search = Annotated[str, Query(max_length=MAX_SEARCH_LENGTH), SOUGHT]
_Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
_Segment = Annotated[str, Path(), LOOKED_UP]


def _number(limit: object) -> object:
    """What a widely used client sends for a limit that it was not given is the default."""
    return DEFAULT_LIMIT if limit == "NaN" else limit


async def _filters(
    category: _Filter | None = None,
    cert_tier: Annotated[CertTier | None, Query(alias="certTier")] = None,
    author: _Filter | None = None,
    extensible: bool | None = None,
    search: _Search | None = None,
) -> ListingQuery:
    return ListingQuery(
        category=category or None,
        cert_tier=cert_tier,
        author=author or None,
        extensible=extensible,
        search=search or None,
    )


Filters = Annotated[ListingQuery, Depends(_filters)]


async def _listing_query(
    filters: Filters,
    sort_by: Annotated[SortField | None, Query(alias="sortBy")] = None,
    sort_dir: Annotated[SortDirection | None, Query(alias="sortDir")] = None,
    limit: _Limit = DEFAULT_LIMIT,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
) -> ListingQuery:
    field = sort_by or default_order(filters.search)[0]
    direction = sort_dir or default_direction(field)
    if filters.search and offset > MAX_SEARCH_OFFSET:
        raise InvalidQuery("offset", f"beyond {MAX_SEARCH_OFFSET} in a search; follow nextCursor")
    return replace(
        filters,
        sort_by=field,
        sort_dir=direction,
        limit=limit,
        offset=offset,
        cursor=decode_cursor(cursor, field, direction) if cursor else None,
    )


@router.get("", responses=documented(ListingDocument))
async def list_skills(
    request: Request, env: CurrentEnv, query: Annotated[ListingQuery, Depends(_listing_query)]
) -> Response:
    """One page of the listing. Follow ``nextCursor`` for the next one."""
    return _listing(request, query, await listings.get_skills(env, query))


@router.get("/count", responses=documented(CountDocument))
async def count_skills(request: Request, env: CurrentEnv, filters: Filters) -> Response:
    """How many skills match the filters."""
    answer = await listings.get_skill_count(env, filters)
    total = answer.value
    return _document(request, answer, {"count": total.count, "countIsExact": total.is_exact})


@router.get("/categories", responses=documented(CategoriesDocument))
async def list_categories(request: Request, env: CurrentEnv) -> Response:
    """The categories and how many skills each has, the largest first."""
    answer = await listings.get_skill_categories(env)
    categories = [{"name": name, "count": count} for name, count in answer.value.items()]
    return _document(request, answer, {"categories": categories})


@router.get("/search", responses=documented(SearchDocument))
async def search_skills(
    request: Request,
    env: CurrentEnv,
    q: Annotated[_Search, Query(min_length=1)],
    limit: Annotated[_Limit, BeforeValidator(_number)] = DEFAULT_LIMIT,
) -> Response:
    """The best matches. Every word of ``q`` must begin a word of the skill. ``results`` has them
    once more, as the program `vskill` reads them."""
    field, direction = default_order(q)
    query = ListingQuery(search=q, sort_by=field, sort_dir=direction, limit=limit)
    answer = await listings.get_skills(env, query)
    as_vskill_reads = {
        "results": [vskill.found(summary) for summary in answer.value.summaries()],
        "pagination": {"hasMore": answer.value.next_cursor is not None},
    }
    return _listing(request, query, answer, **as_vskill_reads)


@router.get("/{slug}", responses=documented(SkillDocument))
async def get_skill(request: Request, env: CurrentEnv, slug: _Segment) -> Response:
    """One skill, whole. A slug that the skill had before works too."""
    return _skill(request, await lookup.get_skill_by_name(env, slug), slug)


@router.get("/{owner}/{repo}/{skill}", responses=documented(SkillDocument))
async def get_skill_of_repository(
    request: Request, env: CurrentEnv, owner: _Segment, repo: _Segment, skill: _Segment
) -> Response:
    """The skill that a GitHub repository calls by this name, whatever slug it has here."""
    answer = await lookup.get_skill_by_identity(env, owner, repo, skill)
    return _skill(request, answer, f"{owner}/{repo}/{skill}")


@last_router.get("/{owner}/{skill}", responses=documented(SkillDocument))
async def get_skill_of_owner(
    request: Request, env: CurrentEnv, owner: _Segment, skill: _Segment
) -> Response:
    """The skill of this slug, or of ``{owner}-{skill}``, if it is the owner's."""
    answer = await lookup.get_skill_of_owner(env, owner, skill)
    return _skill(request, answer, f"{owner}/{skill}")


def _listing(
    request: Request, query: ListingQuery, answer: Answer[Page], **more: object
) -> Response:
    page = answer.value
    document = {
        "skills": [msgspec.Raw(item) for item in page.items],
        "total": page.total,
        "totalIsExact": page.total_is_exact,
        "limit": query.limit,
        "offset": None if query.cursor is not None else query.offset,
        "nextCursor": page.next_cursor,
    }
    return _document(request, answer, document | more)


def _skill(request: Request, answer: Answer[Skill] | None, wanted: str) -> Response:
    if answer is None:
        raise NotFound(f"There is no skill {wanted!r:.300}.")
    require_shown(answer.value)
    skill = msgspec.to_builtins(msgspec.structs.replace(answer.value, said=None, acts=()))
    content = {field: value for field, value in skill.items() if field not in INTERNAL}
    content |= vskill.told(answer.value)
    return _document(request, answer, content, f"skill-{answer.value.name}")


def _document(
    request: Request, answer: Answer[Any], content: dict[str, object], *tags: str
) -> Response:
    told = {"source": answer.source, "degraded": answer.degraded, "reasons": answer.reasons}
    body = msgspec.json.encode(content | told)
    return cacheable(request, body, tags=[SKILLS_TAG, *tags], degraded=answer.degraded)
