"""A client of the application on a marketplace in memory."""

import httpx
from starlette.types import Receive, Scope, Send

from marketplace.web.app import create_app
from tests.doubles.marketplace import Market

KEY = "k" * 40
HEADERS = {"X-Internal-Key": KEY}


def client_of(market: Market) -> httpx.AsyncClient:
    app = create_app()

    async def with_env(scope: Scope, receive: Receive, send: Send) -> None:
        scope["env"] = market.env
        await app(scope, receive, send)

    transport = httpx.ASGITransport(app=with_env)
    return httpx.AsyncClient(transport=transport, base_url="https://skills.example")
