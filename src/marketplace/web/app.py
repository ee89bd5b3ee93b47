"""The HTTP application: its routes and how its errors look."""

from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from marketplace.web.answers import private
from marketplace.web.api import (
    admin,
    admin_skills,
    audit,
    block_list,
    changes,
    content,
    installs,
    reports,
    restoring,
    rules,
    scan_requests,
    skills,
    submissions,
    versions,
)
from marketplace.web.installers import clawhub, skills_client
from marketplace.web.limits import BodyLimit
from marketplace.web.pages import skill_page
from marketplace.web.problems import LastResort, add_problem_handlers


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
    app.include_router(versions.router)
    app.include_router(installs.router)
    app.include_router(skills_client.router)
    app.include_router(clawhub.router)
    app.include_router(content.router)
    app.include_router(block_list.router)
    app.include_router(changes.router)
    app.include_router(submissions.router)
    app.include_router(scan_requests.router)
    app.include_router(skill_page.router)
    app.include_router(admin.router)
    app.include_router(audit.router)
    app.include_router(reports.router)
    app.include_router(admin_skills.router)
    app.include_router(rules.router)
    app.include_router(restoring.router)
    app.include_router(skills.last_router)
    app.add_api_route("/api/v1/health", _liveness, methods=["GET"], tags=["health"])
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyLimit)
    app.add_middleware(LastResort)
    return app


async def _liveness() -> Response:
    """That the Worker serves; asks no storage."""
    return private({"status": "ok"})


class HeadAsGet:
    """Answers HEAD as GET, which the routes know. The runtime sends no body for HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", "is_head": True}
        await self._app(scope, receive, send)
