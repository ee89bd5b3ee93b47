"""The content of skills, byte for byte: uploaded by scanners, served to everybody.

The bytes go from the request into the archive, and from there into the answer, without Python.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request
from pydantic import ConfigDict, Field
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from marketplace.basics.json_text import Unreadable
from marketplace.catalog import lookup
from marketplace.catalog.answer import Answer
from marketplace.content import archive, serving
from marketplace.content.archive import Purged
from marketplace.content.serving import Named
from marketplace.content.skill_content import Availability, Kept, SkillContent, content_of
from marketplace.kv.files import read_files
from marketplace.operations import audit
from marketplace.ports.content import MAX_CONTENT_BYTES, Span, StoredContent, Stream
from marketplace.ports.env import Env
from marketplace.skills.acts import MAX_ACT_REASON_LENGTH
from marketplace.skills.licenses import is_open
from marketplace.skills.rules import RuleKind
from marketplace.skills.skill import Skill, Status
from marketplace.skills.withholding import Withholding
from marketplace.web.answers import NO_STORE, SKILLS_TAG, cacheable, matches, private
from marketplace.web.api.documents import Document, FilesDocument, documented
from marketplace.web.byte_ranges import Unsatisfiable, wanted_span
from marketplace.web.characters import LOOKED_UP, PROSE
from marketplace.web.content_addresses import content_url
from marketplace.web.context import CurrentEnv, Operator, OperatorOrScanner
from marketplace.web.problems import (
    DamagedRecord,
    NotFound,
    NotLicensed,
    WithheldContent,
    problem,
    require_installable,
    require_shown,
)

router = APIRouter(tags=["content"])

ARCHIVE_TYPE: Final = "application/zip"
SKILL_MD_TYPE: Final = "text/markdown"

_MAX_AGE: Final = "public, max-age=300, no-transform"
"""No longer: a block must stop what caches serve within ten minutes."""
_HEADERS: Final = {
    "Accept-Ranges": "bytes",
    "Access-Control-Allow-Origin": "*",
    "Cache-Control": _MAX_AGE,
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
}

_Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
_Segment = Annotated[str, Path(), LOOKED_UP]
_Slug = Annotated[str | None, Query(max_length=600), LOOKED_UP]


class Purge(Document):
    """Content is removed for good."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, PROSE, Field(min_length=1, max_length=MAX_ACT_REASON_LENGTH)]


class StoredDocument(Document):
    """Content that is stored. ``created``: whether this call has stored it."""

    digest: str
    created: bool


class PurgedDocument(Document):
    """Content that is gone for good. ``bytes``: how many this call has removed."""

    digest: str
    bytes: int


class Streamed(Response):
    """An answer whose body Python does not see."""

    def __init__(self, stream: Stream, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=status, headers=headers)
        self._stream = stream

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send(start | {"headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"", "stream": self._stream})


@router.put(
    "/api/v1/webhooks/content/{sha256}",
    status_code=201,
    responses=documented(StoredDocument, 201),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in (SKILL_MD_TYPE, ARCHIVE_TYPE)
            },
        }
    },
)
async def upload(
    request: Request, env: CurrentEnv, principal: OperatorOrScanner, sha256: _Digest
) -> Response:
    """Store a SKILL.md (``text/markdown``) or an archive (``application/zip``) of at most 10 MiB
    by its SHA-256. 201: stored; 200: it was stored already; 422: the body has another digest."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    refusal = _refusal_of_body(request.headers, media_type)
    if refusal is not None:
        return refusal
    forbidden = await serving.find_forbidden(env, sha256)
    if forbidden is not None:
        raise NotLicensed(sha256, forbidden.license)
    stream = request.scope["stream"]
    is_new = await archive.upload(env, sha256, stream, media_type=media_type)
    if is_new:
        told = {"mediaType": media_type, "bytes": int(request.headers["content-length"])}
        await audit.record(env, principal, "upload-content", sha256, after=told)
    status = HTTPStatus.CREATED if is_new else HTTPStatus.OK
    return private({"digest": sha256, "created": is_new}, status=status)


def _refusal_of_body(headers: Headers, media_type: str) -> Response | None:
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return problem(HTTPStatus.LENGTH_REQUIRED, "Send Content-Length.")
    if int(length[:20]) > MAX_CONTENT_BYTES:  # Python reads no numbers of thousands of digits
        detail = f"The body must have at most {MAX_CONTENT_BYTES} bytes."
        return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
    if int(length) == 0:
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "The body is empty.")
    if media_type not in (ARCHIVE_TYPE, SKILL_MD_TYPE):
        detail = f"Send {ARCHIVE_TYPE} or {SKILL_MD_TYPE}."
        return problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
    return None


@router.get("/content/{sha256}", response_class=Response)
async def get_content(
    request: Request, env: CurrentEnv, sha256: _Digest, skill: _Slug = None
) -> Response:
    """Content by its SHA-256, where a listed skill names it under an open licence. ``skill``: the
    slug of one that does, which tells so while PostgreSQL is away."""
    named = await serving.find_named(env, sha256, slug=skill)
    if named is None:
        raise NotFound(f"No skill names the content {sha256}.")
    _require_served(env, sha256, named)
    range_, if_range = request.headers.get("range"), request.headers.get("if-range")
    is_known = matches(request.headers.get("if-none-match"), _etag(sha256))
    if is_known or range_ is not None or request.scope.get("is_head"):
        stored, stream = _stored(await archive.find(env, sha256), sha256), None
    else:
        stored, stream = await _read(env, sha256)
    headers = _headers(stored, named.skill)
    if is_known:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    try:
        span = wanted_span(range_, if_range, headers["ETag"], stored.size)
    except Unsatisfiable:
        told = {"Content-Range": f"bytes */{stored.size}"}
        detail = f"The content has {stored.size} bytes."
        return problem(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, detail, headers=told)
    length = stored.size
    status = HTTPStatus.OK
    if span is not None:
        length, status = span.length, HTTPStatus.PARTIAL_CONTENT
        last = span.offset + span.length - 1
        headers["Content-Range"] = f"bytes {span.offset}-{last}/{stored.size}"
    headers["Content-Length"] = str(length)
    if request.scope.get("is_head"):
        return Response(status_code=status, headers=headers)
    if stream is None:
        _, stream = await _read(env, sha256, span)
    return Streamed(stream, status, headers)


def _require_served(env: Env, digest: str, named: Named) -> None:
    """Raises Withheld, FailedScan, NotLicensed."""
    rule = named.rule
    if rule is not None:
        told = Withholding(
            status=Status.BLOCKED if rule.kind is RuleKind.BLOCK else Status.WITHDRAWN,
            reason=rule.reason,
            at=rule.at,
            threat_type=rule.threat_type,
            severity=rule.severity,
            evidence_urls=rule.evidence_urls,
        )
        raise WithheldContent(digest, told)
    require_installable(named.skill)
    if not is_open(named.license, env.settings.content_licenses):
        raise NotLicensed(digest, named.license)


def _stored(found: StoredContent | None, digest: str) -> StoredContent:
    """Raises NotFound, Purged."""
    if found is None:
        raise NotFound(f"The content {digest} was never uploaded.")
    if found.purged_at is not None:
        raise Purged(digest, found.purged_at)
    return found


async def _read(env: Env, digest: str, span: Span | None = None) -> tuple[StoredContent, Stream]:
    """Raises NotFound, Purged."""
    stored, stream = await archive.read(env, digest, span) or (None, None)
    return _stored(stored, digest), stream


def _etag(digest: str) -> str:
    return f'"{digest}"'


def _headers(stored: StoredContent, skill: Skill) -> dict[str, str]:
    is_archive = stored.media_type == ARCHIVE_TYPE
    name = f"{skill.name}.zip" if is_archive else f"{skill.name}.md"
    return _HEADERS | {
        "ETag": _etag(stored.digest),
        "Cache-Tag": f"{SKILLS_TAG},skill-{skill.name},content-{stored.digest}",
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Type": ARCHIVE_TYPE if is_archive else f"{SKILL_MD_TYPE}; charset=utf-8",
    }


@router.get("/api/v1/skills/{slug}/content", status_code=302, response_class=RedirectResponse)
async def skill_archive(env: CurrentEnv, slug: _Segment) -> Response:
    """Leads to the archive of a skill."""
    found = await _content(env, await lookup.get_skill_by_name(env, slug), slug)
    return _leads_to(found, found.value.archive)


@router.get(
    "/api/v1/skills/{owner}/{repo}/{skill}/content",
    status_code=302,
    response_class=RedirectResponse,
)
async def skill_archive_of_repository(
    env: CurrentEnv, owner: _Segment, repo: _Segment, skill: _Segment
) -> Response:
    """The same, of the skill that a GitHub repository calls by this name."""
    named = await lookup.get_skill_by_identity(env, owner, repo, skill)
    found = await _content(env, named, f"{owner}/{repo}/{skill}")
    return _leads_to(found, found.value.archive)


@router.get("/skills/{slug}/SKILL.md", status_code=302, response_class=RedirectResponse)
async def skill_md(env: CurrentEnv, slug: _Segment) -> Response:
    """Leads to the SKILL.md of a skill."""
    found = await _content(env, await lookup.get_skill_by_name(env, slug), slug)
    return _leads_to(found, found.value.skill_md)


@router.get("/api/v1/skills/{slug}/files", responses=documented(FilesDocument))
async def skill_files(request: Request, env: CurrentEnv, slug: _Segment) -> Response:
    """The files of a skill as they were scanned last, each with its size and SHA-256."""
    found = await lookup.get_skill_by_name(env, slug)
    if found is None:
        raise NotFound(f"There is no skill {slug!r:.300}.")
    require_shown(found.value)
    digest = found.value.files_digest
    files = None if digest is None else await read_files(env, digest)
    if isinstance(files, Unreadable):
        raise DamagedRecord(str(files))
    if files is None:
        raise NotFound(f"No files of {found.value.name} are known.")
    document = {
        "filesDigest": digest,
        "contentDigest": found.value.content_digest,
        "files": files,
        "source": found.source,
        "degraded": found.degraded,
        "reasons": found.reasons,
    }
    body = msgspec.json.encode(document)
    tags = [SKILLS_TAG, f"skill-{found.value.name}"]
    return cacheable(request, body, tags=tags, degraded=found.degraded)


async def _content(env: Env, found: Answer[Skill] | None, wanted: str) -> Answer[SkillContent]:
    """Raises NotFound, Withheld, FailedScan."""
    if found is None:
        raise NotFound(f"There is no skill {wanted!r:.300}.")
    require_installable(found.value)
    return Answer(await content_of(env, found.value), found.source, found.reasons)


def _leads_to(found: Answer[SkillContent], kept: Kept) -> Response:
    """Raises NotFound, NotLicensed, Purged. What the archive does not tell now its own address
    will."""
    skill = found.value.skill
    match kept.availability:
        case Availability.NOT_NAMED:
            raise NotFound(f"No scan has told the content of {skill.name}.")
        case Availability.NOT_LICENSED:
            raise NotLicensed(str(kept.digest), skill.license)
        case Availability.NOT_UPLOADED:
            raise NotFound(f"The content {kept.digest} was never uploaded.")
        case _:
            return RedirectResponse(content_url(kept, skill.name), HTTPStatus.FOUND, NO_STORE)


@router.post(
    "/api/v1/admin/content/{sha256}/purge",
    tags=["admin"],
    responses=documented(PurgedDocument),
)
async def purge(env: CurrentEnv, operator: Operator, sha256: _Digest, body: Purge) -> Response:
    """Remove content for good, uploaded or not; nobody can upload it again. Its digest stays."""
    before = await archive.purge(env, sha256)
    removed = 0 if before is None else before.size
    if before is None or before.purged_at is None:
        after = {"bytes": removed}
        await audit.record(env, operator, "purge-content", sha256, after=after, reason=body.reason)
    return private({"digest": sha256, "bytes": removed})
