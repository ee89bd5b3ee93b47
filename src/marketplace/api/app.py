"""The HTTP application: its routes, its limits and how its errors look."""

from http import HTTPStatus
from typing import Final

from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marketplace.api import admin, skill_page, skills, submissions
from marketplace.api.answers import private
from marketplace.api.problems import LastResort, add_problem_handlers, problem
from marketplace.json_text import is_too_deep

MAX_BODY_BYTES: Final = 256 * 1024  # the largest valid body, 100 verdicts, has a quarter of this


def create_app() -> FastAPI:
    """A new application. The invocation's Env reaches the routes in the request's scope."""
    app = FastAPI(
        title="Skill marketplace",
        description="A registry of AI-agent skills.",
        version="1",
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    add_problem_handlers(app)
    app.include_router(skills.router)
    app.include_router(submissions.router)
    app.include_router(skill_page.router)
    app.include_router(admin.router)
    app.add_api_route("/api/v1/health", _liveness, methods=["GET"], tags=["health"])
    app.add_middleware(BodyLimit)
    app.add_middleware(LastResort)
    return app


async def _liveness() -> Response:
    """That the Worker serves; asks no storage."""
    return private({"status": "ok"})


class BodyLimit:
    """Refuses bodies that no route can want: too large ones, read no further than the limit,
    and JSON of bottomless depth, which would end the isolate when it is decoded."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its whole body, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = None if _declared_length(scope) > MAX_BODY_BYTES else await _read_body(receive)
        if body is None:
            refusal = problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The body must have at most {MAX_BODY_BYTES} bytes.",
            )
            await refusal(scope, receive, send)
        elif is_too_deep(body):
            refusal = problem(HTTPStatus.BAD_REQUEST, "The body is nested too deeply.")
            await refusal(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)


async def _read_body(receive: Receive) -> bytes | None:
    """The body, or None when there is more of it than MAX_BODY_BYTES, declared or not."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        more = message.get("more_body", False)
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body that was read, then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else MAX_BODY_BYTES + 1
    return 0
