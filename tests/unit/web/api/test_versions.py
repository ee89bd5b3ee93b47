"""The versions of a skill and the updates of installed ones, over HTTP."""

from dataclasses import replace
from http import HTTPStatus
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from marketplace.catalog.versions import MAX_VERSIONS
from marketplace.kv.acceptance_log import log_verdict
from marketplace.ports.database import DatabaseSession
from marketplace.skills.skill import Skill, Status
from marketplace.skills.tiers import CertTier, Verdict
from marketplace.web.problems import add_problem_handlers, require_installable
from tests.doubles.marketplace import LATER, Market, kv_away, make_skill, postgres_away
from tests.unit.catalog.test_versions import scan
from tests.unit.web.clients import KEYS, OPERATOR

VERSIONS = "/api/v1/skills/pdf-tools/versions"
UPDATES = "/api/v1/skills/check-updates"

pytestmark = pytest.mark.market(settings=KEYS)


async def _list(market: Market, count: int = 2) -> None:
    for number in range(1, count + 1):
        moment = f"2026-11-{number:02d}T08:00:00.000Z"
        skill = make_skill(
            current_version=f"1.{number}.0",
            content_digest=f"{number % 10}" * 64,
            commit="c" * 40,
            cert_score=80 + number,
            cert_tier=CertTier.VERIFIED,
            updated_at=moment,
        )
        await market.fill([skill])


def _away(market: Market) -> None:
    market.env = replace(market.env, database=DatabaseSession(postgres_away))


async def test_versions_come_newest_first_with_all_that_clients_read(
    client: httpx.AsyncClient, market: Market
) -> None:
    await _list(market)
    answer = await client.get(VERSIONS)
    assert answer.status_code == 200
    assert answer.json() == {
        "versions": [
            {
                "version": "1.2.0",
                "certTier": "VERIFIED",
                "createdAt": "2026-11-02T08:00:00.000Z",
                "contentHash": "2" * 64,
                "skillMdDigest": None,
                "license": None,
                "certScore": 82,
                "diffSummary": "Version 1.1.0 → 1.2.0; files changed.",
                "commit": "c" * 40,
            },
            {
                "version": "1.1.0",
                "certTier": "VERIFIED",
                "createdAt": "2026-11-01T08:00:00.000Z",
                "contentHash": "1" * 64,
                "skillMdDigest": None,
                "license": None,
                "certScore": 81,
                "diffSummary": "First listed as version 1.1.0.",
                "commit": "c" * 40,
            },
        ],
        "nextCursor": None,
        "source": "postgres",
        "degraded": False,
        "reasons": [],
    }
    of_repository = await client.get("/api/v1/skills/octo/pdf-tools/pdf-tools/versions")
    assert of_repository.json() == answer.json()


async def test_they_are_cached_as_the_skill_is(client: httpx.AsyncClient, market: Market) -> None:
    await _list(market)
    answer = await client.get(VERSIONS)
    skill = await client.get("/api/v1/skills/pdf-tools")
    for header in ("Cache-Control", "Cache-Tag", "Access-Control-Allow-Origin"):
        assert answer.headers[header] == skill.headers[header]
    again = await client.get(VERSIONS, headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304
    _away(market)
    kept = await client.get(VERSIONS)
    assert kept.headers["Cache-Control"] == "no-store"
    assert kept.json()["degraded"] is True


async def test_a_cursor_leads_through_all_and_a_wrong_one_is_refused(
    client: httpx.AsyncClient, market: Market
) -> None:
    await _list(market, 5)
    told: list[str] = []
    parameters: dict[str, Any] = {"limit": 2}
    for _ in range(3):
        page = (await client.get(VERSIONS, params=parameters)).json()
        told += [version["version"] for version in page["versions"]]
        parameters["cursor"] = page["nextCursor"]
    assert told == ["1.5.0", "1.4.0", "1.3.0", "1.2.0", "1.1.0"]
    assert parameters["cursor"] is None
    for wrong in ({"cursor": "2"}, {"cursor": ""}, {"limit": 0}, {"limit": MAX_VERSIONS + 1}):
        assert (await client.get(VERSIONS, params=wrong)).status_code == 422


async def test_an_old_slug_works_and_an_unknown_one_does_not(
    client: httpx.AsyncClient, market: Market
) -> None:
    await _list(market)
    with await market.database() as database:
        await database.add_alias("pdf-old", make_skill().identity)
    for name in ("pdf-old", "octo/pdf-tools/pdf-tools"):
        answer = await client.get(f"/api/v1/skills/{name}/versions")
        assert answer.json() == (await client.get(VERSIONS)).json()
    for name in ("nobody", "No%20Slug", "octo/pdf-tools/other"):
        assert (await client.get(f"/api/v1/skills/{name}/versions")).status_code == 404


@pytest.mark.parametrize("act", ["withdraw", "block"])
async def test_a_withheld_skill_answers_410_and_keeps_its_versions(
    client: httpx.AsyncClient, market: Market, act: str
) -> None:
    await _list(market)
    body = {"reason": "Steals keys."}
    body |= {"threatType": "malware", "severity": "HIGH"} if act == "block" else {}
    acts = f"/api/v1/admin/skills/pdf-tools/{act}"
    answer = await client.post(acts, json=body, headers=OPERATOR)
    assert answer.status_code == 200
    for path in (VERSIONS, "/api/v1/skills/octo/pdf-tools/pdf-tools/versions"):
        gone = await client.get(path)
        assert gone.status_code == 410
        assert gone.json() == (await client.get("/api/v1/skills/pdf-tools")).json()
    shown = await client.get("/api/v1/admin/skills/pdf-tools", headers=OPERATOR)
    assert [version["version"] for version in shown.json()["versions"]] == ["1.2.0", "1.1.0"]


async def test_with_every_source_away_nothing_is_told(
    client: httpx.AsyncClient, market: Market
) -> None:
    await _list(market)
    market.kv.faults = kv_away
    _away(market)
    for answer in (
        await client.get(VERSIONS),
        await client.post(UPDATES, json={"skills": [{"name": "pdf-tools"}]}),
    ):
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers


async def test_operators_are_told_what_could_not_be_read(
    client: httpx.AsyncClient, market: Market
) -> None:
    await _list(market)
    await log_verdict(market.env, scan(1, "0.1.0"))
    market.kv.faults = kv_away
    shown = (await client.get("/api/v1/admin/skills/pdf-tools", headers=OPERATOR)).json()
    assert len(shown["versions"]) == 2
    assert (shown["record"], shown["verdicts"]) == (None, [])
    assert shown["reasons"] == ["outbox: unavailable", "kv: unavailable"]
    market.kv.faults = None
    _away(market)
    shown = (await client.get("/api/v1/admin/skills/pdf-tools", headers=OPERATOR)).json()
    assert [version["version"] for version in shown["versions"]] == ["1.2.0", "0.1.0"]
    assert (shown["row"], shown["record"]["name"], len(shown["verdicts"])) == (None, "pdf-tools", 1)
    assert shown["reasons"] == ["postgres: unavailable", "row: unavailable"]


async def test_updates_are_told_with_all_that_clients_read(
    client: httpx.AsyncClient, market: Market
) -> None:
    await _list(market)
    asked = [
        {"name": "pdf-tools", "currentVersion": "1.1.0", "sha": "1" * 64, "source": "ignored"},
        {"name": "nobody", "currentVersion": "1.0.0", "sha": "x"},
        {"name": "pdf-tools", "currentVersion": None, "sha": None},
        {"name": "pdf-tools", "currentVersion": "1.2.0", "sha": "SHA256:" + "1" * 12},
    ]
    answer = await client.post(UPDATES, json={"skills": asked, "more": 1})
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    newest = {"name": "pdf-tools", "latest": "1.2.0", "certTier": "VERIFIED", "status": "LISTED"}
    assert answer.json() == {
        "results": [
            newest | {"installed": "1.1.0", "updateAvailable": True, "versionBump": "minor"},
            {
                "name": "nobody",
                "installed": "1.0.0",
                "latest": "1.0.0",
                "updateAvailable": False,
                "versionBump": None,
                "certTier": None,
                "status": "UNKNOWN",
            },
            newest | {"installed": "", "updateAvailable": True, "versionBump": None},
            newest | {"installed": "1.2.0", "updateAvailable": True, "versionBump": None},
        ],
        "source": "postgres",
        "degraded": False,
        "reasons": [],
    }


@pytest.mark.parametrize("version", ["9999999999", "v1", "", "9" * 200, "🦊", "1.0.0-" + "a" * 90])
async def test_no_version_is_too_absurd_to_be_told(
    client: httpx.AsyncClient, market: Market, version: str
) -> None:
    await _list(market)
    asked = {"skills": [{"name": "pdf-tools", "currentVersion": version}] * 500}
    for _ in range(2):
        results = (await client.post(UPDATES, json=asked)).json()["results"]
        assert len(results) == 500
        assert (results[0]["installed"], results[0]["latest"]) == (version, "1.2.0")
        assert results[0]["updateAvailable"] is (version != "9999999999")
        _away(market)


@pytest.mark.parametrize(
    "body",
    [
        {"skills": [{"name": "a"}] * 501},
        {"skills": [{"currentVersion": "1.0.0"}]},
        {"skills": [{"name": "a" * 301}]},
        {"skills": [{"name": "a", "currentVersion": "9" * 201}]},
        {"skills": [{"name": "a", "sha": "a\nb"}]},
        {"skills": {}},
        {},
        [],
    ],
)
async def test_what_is_no_list_of_installed_skills_is_refused(
    client: httpx.AsyncClient, body: Any
) -> None:
    assert (await client.post(UPDATES, json=body)).status_code == 422


async def _installing(skill: Skill) -> httpx.Response:
    """The answer of a route that hands a skill to an installer."""
    app = FastAPI()
    add_problem_handlers(app)

    @app.get("/install")
    async def _install() -> str:
        require_installable(skill)
        return skill.name

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="https://s.example") as asking:
        return await asking.get("/install")


async def test_an_installer_is_handed_what_is_listed() -> None:
    assert (await _installing(make_skill())).status_code == 200


async def test_an_installer_is_told_423_of_what_failed_its_latest_scan() -> None:
    failed = make_skill(verdict=Verdict.FAIL, verdict_reason="Reads secrets.", scan_failed_at=LATER)
    answer = await _installing(failed)
    assert answer.status_code == HTTPStatus.LOCKED
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Locked",
        "status": 423,
        "detail": "The skill pdf-tools failed its scan on 2026-12-01. Reads secrets.",
        "failedScan": {"status": "SCAN_FAILED", "reason": "Reads secrets.", "at": LATER},
    }


@pytest.mark.parametrize("status", [Status.WITHDRAWN, Status.BLOCKED])
async def test_an_installer_is_told_410_of_what_is_withheld(status: Status) -> None:
    answer = await _installing(make_skill(status=status, scan_failed_at=LATER))
    assert answer.status_code == HTTPStatus.GONE
    assert answer.json()["withheld"]["status"] == status
