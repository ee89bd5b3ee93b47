"""The admin routes: who may, and the shapes that the command line reads."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from cli import answers
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Settings
from marketplace.web.app import create_app
from tests.doubles.loop import SimulatedLoop
from tests.doubles.marketplace import Market, make_skills, postgres_away

_KEY = "k" * 40
_HEADERS = {"X-Internal-Key": _KEY}


def _client(market: Market) -> httpx.AsyncClient:
    app = create_app()

    async def with_env(scope: Scope, receive: Receive, send: Send) -> None:
        scope["env"] = market.env
        await app(scope, receive, send)

    transport = httpx.ASGITransport(app=with_env)
    return httpx.AsyncClient(transport=transport, base_url="https://skills.example")


@pytest.fixture
def client(loop: SimulatedLoop, market: Market) -> Iterator[httpx.AsyncClient]:
    client = _client(market)
    yield client
    loop.run_until_complete(client.aclose())


@pytest.mark.market(settings=Settings(internal_keys=(_KEY,)))
async def test_no_admin_route_opens_without_a_key(client: httpx.AsyncClient) -> None:
    for method, path in (
        ("GET", "health/skills"),
        ("POST", "rebuild-index"),
        ("GET", "rebuild-index/some"),
        ("GET", "dead-letters"),
        ("POST", "dead-letters/redrive"),
    ):
        answer = await client.request(method, f"/api/v1/admin/{path}", json={"all": True})
        assert answer.status_code == 401, path


@pytest.mark.market(settings=Settings(internal_keys=("short",)))
async def test_a_door_that_is_locked_for_want_of_a_secret_says_so_in_the_log(
    market: Market,
) -> None:
    async with _client(market) as client:
        answer = await client.get("/api/v1/admin/dead-letters", headers={"X-Internal-Key": ""})
    assert answer.status_code == 401
    assert "secret" not in answer.text
    assert [line["detail"] for line in market.log.lines] == [
        "INTERNAL_KEY: secret 1 of 1 is shorter than 32 bytes and counts as unset",
        "INTERNAL_KEY: no usable secret, every such credential is refused",
        "JWT_SECRET: no usable secret, every such credential is refused",
    ]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (Settings(), ["INTERNAL_KEY: no usable", "JWT_SECRET: no usable"]),
        (Settings(internal_keys=("short",), jwt_secrets=("s" * 32,)), ["INTERNAL_KEY: secret 1"]),
        (Settings(internal_keys=(_KEY,), jwt_secrets=("s" * 32,)), []),
    ],
)
async def test_a_refusal_logs_which_secrets_count_as_unset_and_answers_nothing_of_it(
    market: Market, settings: Settings, named: list[str]
) -> None:
    async with _client(market) as client:
        answer = await client.get(
            "/api/v1/admin/health/skills", headers={"X-Internal-Key": "wrong" * 10}
        )
    assert answer.status_code == 401
    assert "unset" not in answer.text
    sentences = [line["detail"] for line in market.log.lines]
    assert all(any(start in sentence for sentence in sentences) for start in named)
    assert bool(sentences) == bool(named)
    assert "short" not in str(sentences).replace("shorter", "")


@pytest.mark.market(settings=Settings(internal_keys=(_KEY,)))
async def test_the_answers_are_what_the_command_line_reads(
    market: Market, client: httpx.AsyncClient
) -> None:
    await market.fill(make_skills(5), table=False)
    url = "/api/v1/admin"
    answer = await client.get(f"{url}/health/skills", headers=_HEADERS)
    assert answer.headers["cache-control"] == "no-store"
    assert msgspec.convert(answer.json(), answers.Health).drift_detected
    first = await client.post(
        f"{url}/rebuild-index", params={"dryRun": "true", "wait": "5"}, headers=_HEADERS
    )
    assert msgspec.convert(first.json(), answers.Rebuild).prisma_backfilled == 5
    begun: dict[str, Any] = (await client.post(f"{url}/rebuild-index", headers=_HEADERS)).json()
    assert begun["complete"] is False
    again = await client.get(f"{url}/rebuild-index/{begun['jobId']}", headers=_HEADERS)
    assert again.json()["jobId"] == begun["jobId"]
    following = await client.post(f"{url}/rebuild-index", headers=_HEADERS)
    assert (following.status_code, following.json()["complete"]) == (202, False)
    job_id = following.json()["jobId"]
    assert job_id != begun["jobId"]
    later = await client.get(f"{url}/rebuild-index/{job_id}", headers=_HEADERS)
    assert msgspec.convert(later.json(), answers.Rebuild).resumed == 0
    unknown = await client.get(f"{url}/rebuild-index/unknown", headers=_HEADERS)
    assert unknown.status_code == 404
    letters = await client.get(f"{url}/dead-letters", headers=_HEADERS)
    assert letters.json() == {"deadLetters": [], "nextCursor": None}
    redriven = await client.post(
        f"{url}/dead-letters/redrive", json={"all": True}, headers=_HEADERS
    )
    assert redriven.json() == {"results": [], "remaining": 0}


@pytest.mark.market(settings=Settings(internal_keys=(_KEY,)))
async def test_a_dry_run_without_postgres_answers_503_and_says_what_to_do(market: Market) -> None:

    market.env = replace(market.env, database=DatabaseSession(postgres_away))
    async with _client(market) as client:
        url = "/api/v1/admin/rebuild-index?dryRun=true"
        answer = await client.post(url, headers=_HEADERS)
    assert answer.status_code == 503
    assert "Bring PostgreSQL back" in answer.json()["detail"]
    assert answer.headers["retry-after"]
