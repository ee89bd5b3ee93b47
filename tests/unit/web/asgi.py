"""Requests as a server hands them to the application, byte by byte, and what it answers."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote

import msgspec
from starlette.types import Message, Scope

from marketplace.ports.database import DatabaseSession, SkillDatabase
from marketplace.ports.env import Settings
from marketplace.ports.errors import DatabaseError
from marketplace.ports.known_database import Expectation
from marketplace.web.app import create_app
from tests.doubles.marketplace import Market, run

APP: Final = create_app()
KEY: Final = "k" * 40
OPERATOR: Final = (b"x-internal-key", KEY.encode())
JSON: Final = (b"content-type", b"application/json")

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, and what was logged meanwhile."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    log: Sequence[Mapping[str, Any]]

    def problem(self) -> dict[str, Any]:
        """The problem that was answered; fails for anything else."""
        assert self.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        return document

    def fields(self) -> list[str]:
        """The fields that a problem names."""
        return [error["field"] for error in self.problem()["errors"]]


def ask(
    method: str,
    path: str,
    query: str = "",
    *,
    headers: Headers = (),
    body: bytes | Sequence[bytes] = b"",
    breaks_off: bool = False,
    forges: tuple[str, ...] = (),
) -> Answer:
    """Send one request to an empty marketplace; ``path`` and ``query`` are percent-encoded.

    Its stores take what PostgreSQL and KV take, and no more.
    """
    return run(
        lambda market: _exchange(
            market, method, path, query, headers, [body] if isinstance(body, bytes) else body,
            breaks_off=breaks_off,
        ),
        settings=Settings(internal_keys=(KEY,), jwt_secrets=("s" * 40,), forges=forges),
    )  # fmt: skip


def ask_json(path: str, document: object, *, forges: tuple[str, ...] = ()) -> Answer:
    """Post a document as an operator. Halves of surrogate pairs in it are escaped."""
    body = json.dumps(document).encode()
    return ask("POST", path, headers=[JSON, OPERATOR], body=body, forges=forges)


async def _exchange(
    market: Market,
    method: str,
    path: str,
    query: str,
    headers: Headers,
    chunks: Sequence[bytes],
    *,
    breaks_off: bool,
) -> Answer:
    async def connect() -> SkillDatabase:
        return _AsPostgres(await market.database())

    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]
    if not breaks_off:
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "server": ("skills.example", 443),
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": headers,
        "env": dataclasses.replace(market.env, database=DatabaseSession(connect)),
    }
    await APP(scope, receive, send)
    start, *bodies = sent
    return Answer(
        int(start["status"]),
        {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]},
        b"".join(message["body"] for message in bodies),
        market.log.lines,
    )


class _AsPostgres:
    """A session on the double that refuses, as PostgreSQL and its client do, the texts that it
    cannot hold."""

    def __init__(self, database: SkillDatabase) -> None:
        self._database = database

    def __enter__(self) -> Self:
        self._database.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._database.__exit__(kind, error, traceback)

    def limit_statements(self, seconds: float | None) -> None:
        """As the session does."""
        self._database.limit_statements(seconds)

    def hold_to(self, expectation: Expectation) -> None:
        """As the session does."""
        self._database.hold_to(expectation)

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._database, name)

        async def checked(*positional: Any, **named: Any) -> Any:
            if b"\\u0000" in msgspec.json.encode([positional, named]):
                raise DatabaseError("invalid byte sequence for encoding UTF8: 0x00")
            return await operation(*positional, **named)

        return checked
