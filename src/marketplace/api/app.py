"""The HTTP application."""

from fastapi import FastAPI


def create_app() -> FastAPI:
    """A new application; the bindings reach the routes through the request scope."""
    app = FastAPI(title="Skill marketplace")

    @app.get("/api/v1/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app
