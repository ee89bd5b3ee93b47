"""Submissions over HTTP: who may send them, what may be left out, what the answers carry."""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from marketplace.ports.env import Settings
from marketplace.skills.submission import Submission
from marketplace.web.app import create_app
from tests.doubles.loop import SimulatedLoop
from tests.doubles.marketplace import Market, make_skills

_KEY = "k" * 40
_OPERATOR = {"X-Internal-Key": _KEY}
_BODY = {"repoUrl": "https://github.com/octo/tools", "skillName": "Reader"}


@pytest.fixture
def settings() -> Settings:
    return Settings(internal_keys=(_KEY,))


@pytest.fixture
def client(loop: SimulatedLoop, market: Market) -> Iterator[httpx.AsyncClient]:
    app = create_app()

    async def with_env(scope: Scope, receive: Receive, send: Send) -> None:
        scope["env"] = market.env
        await app(scope, receive, send)

    transport = httpx.ASGITransport(app=with_env)
    client = httpx.AsyncClient(transport=transport, base_url="https://s.example")
    yield client
    loop.run_until_complete(client.aclose())


async def _submit(
    client: httpx.AsyncClient,
    body: Mapping[str, Any] = _BODY,
    *,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    return await client.post("/api/v1/submissions", json=body, headers=headers)


def _kept(market: Market) -> Submission:
    (key,) = market.kv.keys("sub:")
    return msgspec.json.decode(market.kv.peek(key) or b"", type=Submission)


@pytest.mark.parametrize("headers", [{}, _OPERATOR])
async def test_a_submission_does_not_tell_who_sent_it(
    market: Market, client: httpx.AsyncClient, headers: Mapping[str, str]
) -> None:
    """It points at a skill, whoever sends it; so nothing could be believed for that."""
    assert (await _submit(client, headers=headers)).status_code == 202
    kept = msgspec.structs.replace(_kept(market), id="")
    assert kept == Submission(
        id="",
        repo_url=_BODY["repoUrl"],
        skill_name="Reader",
        base_slug="reader",
        created_at=market.env.now(),
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Internal-Key": "x" * 40},
        {"X-Internal-Key": ""},
        {"Authorization": "Bearer a.b.c"},
        {"X-Internal-Key": _KEY, "Authorization": "Bearer a.b.c"},
    ],
)
async def test_a_wrong_credential_is_refused_as_everywhere(
    market: Market, client: httpx.AsyncClient, headers: Mapping[str, str]
) -> None:
    for body in (_BODY, {}):
        answer = await _submit(client, body, headers=headers)
        elsewhere = await client.get("/api/v1/admin/dead-letters", headers=headers)
        assert answer.status_code == 401
        assert answer.content == elsewhere.content
        assert answer.headers["www-authenticate"] == elsewhere.headers["www-authenticate"]
    assert market.kv.keys() == []


@pytest.mark.parametrize(
    "extra",
    [{"source": "cli"}, {"skilName": "typo"}, {"source": {"a": [{"b": None}]}, "x": [[]]}],
)
async def test_unknown_fields_are_ignored(
    market: Market, client: httpx.AsyncClient, extra: Mapping[str, Any]
) -> None:
    assert (await _submit(client, {**_BODY, **extra})).status_code == 202
    assert _kept(market).skill_name == "Reader"


async def test_unknown_fields_of_verdicts_are_ignored(client: httpx.AsyncClient) -> None:
    id_ = (await _submit(client)).json()["id"]
    result = {"submissionId": id_, "verdict": "FAIL", "score": 1, "engine": {"name": "x"}}
    answer = await client.post(
        "/api/v1/webhooks/scan-results",
        json={"results": [result], "batch": 7},
        headers=_OPERATOR,
    )
    assert answer.json() == {"accepted": [id_], "rejected": []}


@pytest.mark.parametrize("name", [{}, {"skillName": None}])
async def test_without_a_name_the_repositorys_name_serves(
    market: Market, client: httpx.AsyncClient, name: Mapping[str, Any]
) -> None:
    body = {"repoUrl": "https://github.com/octo/My.Tools.git", "source": "cli", **name}
    answer = (await _submit(client, body)).json()
    assert answer["skillName"] == "My.Tools"
    assert (_kept(market).skill_name, _kept(market).base_slug) == ("My.Tools", "my-tools")


@pytest.mark.parametrize(
    ("repository", "name"), [("x" * 100, "x" * 64), ("_", None), ("_" * 70 + "a", None)]
)
async def test_a_repositorys_name_that_is_no_skills_is_cut_or_asked_for(
    client: httpx.AsyncClient, repository: str, name: str | None
) -> None:
    answer = await _submit(client, {"repoUrl": f"https://github.com/octo/{repository}"})
    if name is not None:
        assert answer.json()["skillName"] == name
    else:
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == ["skillName"]


async def test_without_repository_and_name_the_repository_alone_is_asked_for(
    client: httpx.AsyncClient,
) -> None:
    urls: list[Any] = ["https://github.com/octo", 7, [{}], None]
    for body in ({}, *({"repoUrl": url} for url in urls)):
        answer = await _submit(client, body)
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == ["repoUrl"]


async def test_the_answers_carry_what_clients_read(
    market: Market, client: httpx.AsyncClient
) -> None:
    receipt = (await _submit(client)).json()
    id_ = _kept(market).id
    assert receipt == {
        "id": id_,
        "submissionId": id_,
        "state": "RECEIVED",
        "skillName": "Reader",
        "slug": None,
        "duplicate": False,
        "alreadyVerified": False,
        "blocked": False,
    }
    status = (await client.get(f"/api/v1/submissions/{id_}")).json()
    assert (status["id"], status["state"], status["status"]) == (id_, "RECEIVED", "RECEIVED")
    again = await _submit(client)
    assert again.status_code == 200
    assert again.json() == receipt | {"duplicate": True}


async def test_a_listed_skill_answers_a_stranger_with_its_slug(
    market: Market, client: httpx.AsyncClient
) -> None:
    (skill,) = make_skills(1)
    await market.fill([skill])
    body = {"repoUrl": skill.repo_url, "skillName": skill.base_slug}
    answer = await _submit(client, body)
    assert answer.status_code == 200
    assert answer.json() == {
        "id": None,
        "submissionId": None,
        "state": "PUBLISHED",
        "skillName": skill.base_slug,
        "slug": skill.name,
        "duplicate": False,
        "alreadyVerified": True,
        "blocked": False,
    }
    newer = await _submit(client, {**body, "version": "9.0.0"})
    assert (newer.status_code, newer.json()["state"]) == (202, "RECEIVED")


@pytest.mark.parametrize("version", ["1.\u0663.0", "\uff11.0.0", "1.0.0-\u0663", "\u0669"])
async def test_digits_of_other_scripts_make_no_version(
    market: Market, client: httpx.AsyncClient, version: str
) -> None:
    answer = await _submit(client, {**_BODY, "version": version})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["version"]
    assert market.kv.keys() == []
