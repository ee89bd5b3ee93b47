"""The HTTP application: its routes, its limits and how its errors look."""

from http import HTTPStatus
from typing import Final

from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from marketplace.api import admin, skill_page, skills, submissions
from marketplace.api.answers import private
from marketplace.api.problems import LastResort, add_problem_handlers, problem

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
    """Refuses bodies that no route can want, before they are read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on unless it declares too large a body."""
        if scope["type"] == "http" and _declared_length(scope) > MAX_BODY_BYTES:
            refusal = problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The body must have at most {MAX_BODY_BYTES} bytes.",
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else MAX_BODY_BYTES + 1
    return 0
