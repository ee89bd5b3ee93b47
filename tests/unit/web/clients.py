"""HTTP clients of the application on a marketplace of doubles."""

from collections.abc import Mapping

import httpx
from starlette.types import Message, Receive, Scope, Send

from marketplace.ports.env import Settings
from marketplace.web.app import create_app
from tests.doubles.marketplace import Market

OPERATOR_KEY = "the-key-of-the-operator-ann-0123456789"
SCANNER_KEY = "the-key-of-a-scanner-0123456789abcdef"
KEYS = Settings(internal_keys=(f"ann:operator:{OPERATOR_KEY}", f"scan-1:scanner:{SCANNER_KEY}"))
OPERATOR: Mapping[str, str] = {"X-Internal-Key": OPERATOR_KEY}
SCANNER: Mapping[str, str] = {"X-Internal-Key": SCANNER_KEY}


def client_of(market: Market) -> httpx.AsyncClient:
    """A client, to be closed; each request gets the Env that the marketplace has then."""
    app = create_app()

    async def with_env(scope: Scope, receive: Receive, send: Send) -> None:
        scope["env"] = market.env
        scope["stream"] = receive

        async def as_bytes(message: Message) -> None:
            """An answer's stream is the double's: bytes."""
            stream = message.pop("stream", None)
            if stream is not None:
                message["body"] = stream
            await send(message)

        await app(scope, receive, as_bytes)

    transport = httpx.ASGITransport(app=with_env)
    return httpx.AsyncClient(transport=transport, base_url="https://skills.example")
