"""Errors as problem details (RFC 9457). A client learns what to change, never how we failed."""

import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marketplace.content.archive import Purged, TooManyUploads
from marketplace.ports.errors import StorageError, WrongDigest
from marketplace.repair.rebuild import DatabaseNeeded
from marketplace.skills.forges import UnknownForge
from marketplace.skills.listing_rules import InvalidQuery
from marketplace.skills.skill import Skill, Status
from marketplace.skills.submission import OtherName
from marketplace.skills.withholding import ScanFailure, Withholding, failure_of, withholding_of
from marketplace.web.answers import NO_STORE
from marketplace.web.auth import Forbidden, Unauthenticated
from marketplace.web.context import env_of
from marketplace.web.rate_limits import TooManyCalls

PROBLEM_JSON: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = "10"
_ROUTED_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")

Handler = Callable[[Request, Exception], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field; ``field`` is its path, for example ``results[0].score``."""

    field: str
    message: str


def problem(
    status: HTTPStatus,
    detail: str,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
) -> Response:
    """``members``: what the answer has besides those of every problem."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": _encodable(detail),
        **(members or {}),
    }
    if errors:
        body["errors"] = [
            FieldError(_encodable(error.field), _encodable(error.message)) for error in errors
        ]
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type=PROBLEM_JSON,
        headers=NO_STORE | dict(headers or {}),
    )


def _encodable(text: str) -> str:
    """UTF-8 cannot hold halves of surrogate pairs, and a client may name a field with one."""
    return text.encode(errors="backslashreplace").decode()


def misconfigured() -> Response:
    """The answer of a Worker that lacks a binding, whatever was asked."""
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "The marketplace is not configured. It has been logged."
    )


class NotFound(Exception):
    """There is no such thing; the message says what was looked for."""


class Withheld(Exception):
    """There is such a skill, and it is not shown."""

    def __init__(self, name: str, told: Withholding) -> None:
        super().__init__(withheld_detail(name, told))
        self.told = told


def withheld_detail(name: str, told: Withholding, *, what: str = "skill") -> str:
    """Why a skill is not shown, as a sentence or two."""
    how = "blocked as a threat" if told.status is Status.BLOCKED else "withdrawn"
    when = f" on {told.at[:10]}" if told.at else ""
    return f"The {what} {name} was {how}{when}." + (f" {told.reason}" if told.reason else "")


class WithheldContent(Withheld):
    """A rule forbids this content, whichever skill names it."""

    def __init__(self, digest: str, told: Withholding) -> None:
        super().__init__(digest, told)
        self.args = (withheld_detail(digest, told, what="content"),)


class NotLicensed(Exception):
    """Its licence does not let the marketplace hand the content on (451)."""

    def __init__(self, digest: str, license_: str | None) -> None:
        super().__init__(
            f"The licence of the content {digest} ({license_ or 'not stated':.100}) does not let"
            " the marketplace hand it on. Only the digest is kept; the skill's repository has it."
        )
        self.license = license_


class FailedScan(Exception):
    """There is such a skill, it is shown, and installers are not handed it."""

    def __init__(self, name: str, told: ScanFailure) -> None:
        reason = f" {told.reason}" if told.reason else ""
        super().__init__(f"The skill {name} failed its scan on {told.at[:10]}.{reason}")
        self.told = told


def require_shown(skill: Skill) -> None:
    """Raises Withheld."""
    withholding = withholding_of(skill)
    if withholding is not None:
        raise Withheld(skill.name, withholding)


def require_installable(skill: Skill) -> None:
    """What every route asks that hands a skill to an installer. Raises Withheld, FailedScan."""
    require_shown(skill)
    failure = failure_of(skill)
    if failure is not None:
        raise FailedScan(skill.name, failure)


class DamagedRecord(Exception):
    """What is stored cannot be read; the message says why."""


def add_problem_handlers(app: FastAPI) -> None:
    handlers: dict[type[Exception], Any] = {
        RequestValidationError: _invalid_request,
        InvalidQuery: _invalid_field,
        UnknownForge: _invalid_field,
        OtherName: _other_name,
        NotFound: _telling(HTTPStatus.NOT_FOUND),
        Withheld: _withheld,
        FailedScan: _failed_scan,
        NotLicensed: _not_licensed,
        Purged: _telling(HTTPStatus.GONE),
        TooManyUploads: _too_many_calls,
        WrongDigest: _wrong_digest,
        Unauthenticated: _telling(
            HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Bearer realm="skill-marketplace"'}
        ),
        Forbidden: _telling(HTTPStatus.FORBIDDEN),
        TooManyCalls: _too_many_calls,
        StorageError: _storage_failed,
        DamagedRecord: _damaged_record,
        HTTPException: _http_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _telling(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Handler:
    async def handle(_request: Request, error: Exception) -> Response:
        return problem(status, str(error), headers=headers)

    return handle


async def _invalid_request(_request: Request, error: RequestValidationError) -> Response:
    details = error.errors()
    if any(detail["type"] == "json_invalid" for detail in details):
        return problem(HTTPStatus.BAD_REQUEST, "The body is not valid JSON.")
    if isinstance(error.body, bytes):  # left as it came, having another type
        return problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "Send the body as JSON, with the header Content-Type: application/json.",
            errors=[FieldError("body", "must be of the type application/json")],
        )
    errors = [FieldError(_path(detail["loc"]), detail["msg"]) for detail in details]
    fields = ", ".join(dict.fromkeys(error.field for error in errors))
    return problem(
        HTTPStatus.UNPROCESSABLE_ENTITY, f"Change these fields: {fields}.", errors=errors
    )


def _path(location: Sequence[str | int]) -> str:
    """``("body", "results", 0, "score")`` as ``results[0].score``; the body itself as ``body``."""
    path = ""
    for part in location[1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or str(location[0])


async def _invalid_field(_request: Request, error: InvalidQuery | UnknownForge) -> Response:
    return problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        f"Change these fields: {error.field}.",
        errors=[FieldError(error.field, str(error))],
    )


def log_storage_failure(request: Request, error: Exception) -> None:
    env_of(request).log(
        "request-failed",
        level="error",
        path=request.scope["path"],
        reason=getattr(error, "reason", "unavailable"),
        detail=str(error),
    )


async def _storage_failed(request: Request, error: Exception) -> Response:
    log_storage_failure(request, error)
    detail = "Storage is unavailable at the moment; nothing was changed. Try again."
    if isinstance(error, DatabaseNeeded):
        detail = str(error)
    retry = {"Retry-After": RETRY_AFTER_SECONDS}
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=retry)


async def _too_many_calls(_request: Request, error: TooManyCalls | TooManyUploads) -> Response:
    retry = {"Retry-After": str(error.retry_after)}
    return problem(HTTPStatus.TOO_MANY_REQUESTS, str(error), headers=retry)


async def _other_name(_request: Request, error: OtherName) -> Response:
    listed = {"name": error.name, "slug": error.slug}
    return problem(HTTPStatus.CONFLICT, str(error), members={"listed": listed})


async def _withheld(_request: Request, error: Withheld) -> Response:
    """As a member `withheld`: a problem's own `status` is the number."""
    return problem(HTTPStatus.GONE, str(error), members={"withheld": error.told})


async def _failed_scan(_request: Request, error: FailedScan) -> Response:
    """As a member `failedScan`, as in `_withheld`."""
    return problem(HTTPStatus.LOCKED, str(error), members={"failedScan": error.told})


async def _not_licensed(_request: Request, error: NotLicensed) -> Response:
    members = {"license": error.license}
    return problem(HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS, str(error), members=members)


async def _wrong_digest(_request: Request, _error: WrongDigest) -> Response:
    return problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "The body has another SHA-256 than its address names. Nothing was stored.",
        errors=[FieldError("sha256", "must be the SHA-256 of the body")],
    )


async def _damaged_record(request: Request, error: Exception) -> Response:
    env_of(request).log(
        "request-met-damaged-record", level="error", path=request.scope["path"], detail=str(error)
    )
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "The stored record is damaged.")


async def _http_error(request: Request, error: HTTPException) -> Response:
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(_allowed_methods(request))
        detail = f"This address takes {allowed}."
        return problem(HTTPStatus.METHOD_NOT_ALLOWED, detail, headers={"Allow": allowed})
    return problem(HTTPStatus(error.status_code), str(error.detail), headers=error.headers)


def _allowed_methods(request: Request) -> list[str]:
    """The router itself names those of the first route alone that has the address."""
    allowed = {
        method
        for method in _ROUTED_METHODS
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }
    return sorted(allowed | {"HEAD"} if "GET" in allowed else allowed)


class LastResort:
    """Answers a defect with a problem and one log line, where Starlette would raise it again."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def observed(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            if scope["type"] != "http" or started:
                raise
            where = traceback.extract_tb(error.__traceback__)[-1]
            env_of(Request(scope)).log(
                "request-met-defect",
                level="error",
                path=scope["path"],
                method=scope["method"],
                detail=str(error),
                where=f"{where.filename}:{where.lineno}",
                error=type(error).__name__,
            )
            answer = problem(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "This should not have happened. It has been logged.",
            )
            await answer(scope, receive, send)
