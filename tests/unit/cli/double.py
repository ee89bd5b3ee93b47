"""A marketplace that answers from a script, and the tool run against it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from typer.testing import CliRunner, Result

from cli.access import DEFAULT_URL, check_access
from cli.app import app
from cli.client import MarketplaceClient, Surroundings

KEY = "an-internal-key-that-nobody-may-see-42"
TOKEN = "head.a-token-that-nobody-may-see.sign"

Answer = httpx.Response | Exception


@dataclass
class FakeMarketplace:
    """Answers each route with its scripted answers in turn, the last one for ever."""

    scripts: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    after_sleep: Callable[[], None] = lambda: None

    def on(self, method: str, path: str, *answers: Answer | Mapping[str, Any]) -> None:
        """Script a route; a plain mapping is a 200 with that body."""
        self.scripts[method, path] = [
            httpx.Response(200, json=answer) if isinstance(answer, Mapping) else answer
            for answer in answers
        ]

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        script = self.scripts.get((request.method, request.url.path))
        if script is None:
            return httpx.Response(404, json={"title": "Not found", "status": 404})
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, Exception):
            raise answer
        # A fresh copy each time: a response that was read cannot be handed out again.
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def bodies(self, path: str) -> list[Any]:
        """The JSON bodies sent to a path."""
        return [json.loads(r.content) for r in self.requests if r.url.path == path]

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.after_sleep()

    def surroundings(self) -> Surroundings:
        """Time that passes only while the tool sleeps, and this marketplace as the network."""
        return Surroundings(
            transport=httpx.MockTransport(self.handle),
            sleep=self.sleep,
            monotonic=lambda: sum(self.slept),
        )

    def client(self) -> MarketplaceClient:
        """A client of this marketplace, without the command line."""
        access = check_access(DEFAULT_URL, key=KEY, token=None, insecure=False)
        return MarketplaceClient(access, self.surroundings())

    def run(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        key: str | None = KEY,
        stdin: str | None = None,
    ) -> Result:
        """Run the tool; nothing of the machine's own settings gets in."""
        variables: dict[str, str | None] = {
            "MARKETPLACE_URL": None,
            "MARKETPLACE_KEY": key,
            "MARKETPLACE_TOKEN": None,
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "FORCE_COLOR": None,
        } | dict(env or {})
        return CliRunner().invoke(
            app, list(args), env=variables, obj=self.surroundings(), input=stdin
        )
