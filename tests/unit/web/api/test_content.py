"""Content over HTTP: who may put what, and who is served what."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any, Final

import httpx
import pytest

from marketplace.catalog.lookup import get_skill_by_name
from marketplace.operations.rules import add_rule, lift_rule
from marketplace.ports.content import MAX_CONTENT_BYTES
from marketplace.ports.database import DatabaseSession
from marketplace.ports.isolate import FallbackCache
from marketplace.ports.uploads import AT_ONCE, UPLOAD_SECONDS
from marketplace.publishing.acts import act_on, new_act
from marketplace.skills.acts import ActKind, Severity
from marketplace.skills.rules import Matches, RuleKind, Target, under_rules
from marketplace.skills.skill import Skill
from marketplace.skills.tiers import Verdict
from tests.doubles.loop import SimulatedLoop
from tests.doubles.marketplace import LATER, Market, fault, kv_away, make_skill, postgres_away
from tests.doubles.network import Fault
from tests.unit.web.clients import KEYS, OPERATOR, SCANNER, client_of

pytestmark = pytest.mark.market(settings=KEYS)

DATA: Final = b"PK the archive"
DIGEST: Final = hashlib.sha256(DATA).hexdigest()
TEXT: Final = b"# Reads"
TEXT_DIGEST: Final = hashlib.sha256(TEXT).hexdigest()
AS_SCANNER: Final = dict(SCANNER)
ZIP: Final = {"Content-Type": "application/zip"}
URL: Final = f"/content/{DIGEST}"
PUT: Final = f"/api/v1/webhooks/content/{DIGEST}"
PURGE: Final = f"/api/v1/admin/content/{DIGEST}/purge"
ARCHIVE: Final = "/api/v1/skills/pdf-tools/content"
SKILL_MD: Final = "/skills/pdf-tools/SKILL.md"


@pytest.fixture
def client(loop: SimulatedLoop, market: Market) -> Iterator[httpx.AsyncClient]:
    market.env = replace(market.env, fallback_cache=FallbackCache())
    client = client_of(market)
    yield client
    loop.run_until_complete(client.aclose())


def kept_skill(**fields: Any) -> Skill:
    told = {"content_digest": DIGEST, "skill_md_digest": TEXT_DIGEST, "license": "MIT"}
    return make_skill(**(told | fields))


async def store(market: Market) -> None:
    await market.content.put(DIGEST, DATA, media_type="application/zip")
    await market.content.put(TEXT_DIGEST, TEXT, media_type="text/markdown")


async def listed(market: Market, **fields: Any) -> Skill:
    """A skill whose content is stored."""
    skill = kept_skill(**fields)
    await market.fill([skill])
    await store(market)
    return skill


def away(market: Market) -> None:
    market.env = replace(market.env, database=DatabaseSession(postgres_away))


async def block_digest(market: Market) -> str:
    kept = await add_rule(
        market.env,
        Target(Matches.CONTENT_DIGEST, DIGEST),
        RuleKind.BLOCK,
        reason="Malware.",
        by="ann",
        threat_type="malware",
        severity=Severity.HIGH,
    )
    return kept.rule.id


async def test_a_scanner_uploads_once(client: httpx.AsyncClient, market: Market) -> None:
    first = await client.put(PUT, content=DATA, headers=AS_SCANNER | ZIP)
    again = await client.put(PUT, content=DATA, headers=AS_SCANNER | ZIP)

    assert (first.status_code, first.json()) == (201, {"digest": DIGEST, "created": True})
    assert (again.status_code, again.json()) == (200, {"digest": DIGEST, "created": False})
    assert market.content.stored[DIGEST][1] == DATA
    entries = [entry.action for entry in market.tables.audit.values()]
    assert entries == ["upload-content"]


async def test_what_is_no_upload_is_refused(client: httpx.AsyncClient, market: Market) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield DATA

    async def status(content: Any = DATA, url: str = PUT, **headers: str) -> int:
        answer = await client.put(url, content=content, headers=AS_SCANNER | ZIP | headers)
        return answer.status_code

    too_long = {"Content-Length": str(MAX_CONTENT_BYTES + 1)}
    assert await status(chunks()) == 411
    assert await status(**too_long) == 413
    assert await status(**{"Content-Length": "1" * 5000}) == 413
    assert await status(b"") == 422
    assert await status(**{"Content-Type": "text/html"}) == 415
    assert await status(b"other") == 422
    assert await status(url=f"/api/v1/webhooks/content/{DIGEST.upper()}") == 422
    assert (await client.put(PUT, content=DATA, headers=ZIP)).status_code == 401
    assert market.content.stored == {}


async def test_a_body_of_the_greatest_length_is_taken(
    client: httpx.AsyncClient, market: Market
) -> None:
    data = b"0" * MAX_CONTENT_BYTES
    url = f"/api/v1/webhooks/content/{hashlib.sha256(data).hexdigest()}"
    answer = await client.put(
        url, content=data, headers=AS_SCANNER | {"Content-Type": "text/markdown"}
    )
    assert answer.status_code == 201


async def test_a_third_upload_waits_and_one_that_ends_badly_gives_its_place_back(
    client: httpx.AsyncClient, market: Market
) -> None:
    cache = market.env.fallback_cache
    assert cache is not None
    for _ in range(AT_ONCE + 1):
        assert (await client.put(PUT, content=b"x", headers=AS_SCANNER | ZIP)).status_code == 422
    for _ in range(AT_ONCE):
        cache.uploads.take()

    refused = await client.put(PUT, content=DATA, headers=AS_SCANNER | ZIP)

    assert (refused.status_code, refused.headers["retry-after"]) == (429, str(int(UPLOAD_SECONDS)))
    await asyncio.sleep(UPLOAD_SECONDS)
    assert (await client.put(PUT, content=DATA, headers=AS_SCANNER | ZIP)).status_code == 201


async def test_what_skills_name_under_no_open_licence_is_not_taken(
    client: httpx.AsyncClient, market: Market
) -> None:
    await market.fill([kept_skill(license="LicenseRef-Mine")])
    refused = await client.put(PUT, content=DATA, headers=AS_SCANNER | ZIP)
    assert refused.status_code == 451
    assert refused.json()["license"] == "LicenseRef-Mine"
    assert market.content.stored == {}

    away(market)
    assert (await client.put(PUT, content=DATA, headers=AS_SCANNER | ZIP)).status_code == 201
    assert "license-not-checked" in market.log.events()


async def test_content_is_served_with_what_caches_and_browsers_need(
    client: httpx.AsyncClient, market: Market
) -> None:
    await listed(market)
    answer = await client.get(URL)
    assert (answer.status_code, answer.content) == (200, DATA)
    assert dict(answer.headers) == {
        "accept-ranges": "bytes",
        "access-control-allow-origin": "*",
        "cache-control": "public, max-age=300, no-transform",
        "cache-tag": f"skills,skill-pdf-tools,content-{DIGEST}",
        "content-disposition": 'attachment; filename="pdf-tools.zip"',
        "content-length": str(len(DATA)),
        "content-security-policy": "default-src 'none'; sandbox",
        "content-type": "application/zip",
        "etag": f'"{DIGEST}"',
        "x-content-type-options": "nosniff",
    }
    text = await client.get(f"/content/{TEXT_DIGEST}")
    assert text.headers["content-type"] == "text/markdown; charset=utf-8"
    assert text.headers["content-disposition"] == 'attachment; filename="pdf-tools.md"'


async def test_ranges_etags_and_head(client: httpx.AsyncClient, market: Market) -> None:
    await listed(market)
    part = await client.get(URL, headers={"Range": "bytes=3-5"})
    assert (part.status_code, part.content) == (206, DATA[3:6])
    assert part.headers["content-range"] == f"bytes 3-5/{len(DATA)}"
    assert part.headers["content-length"] == "3"
    whole = await client.get(URL, headers={"Range": "bytes=3-5", "If-Range": '"other"'})
    assert (whole.status_code, whole.content) == (200, DATA)
    beyond = await client.get(URL, headers={"Range": "bytes=99-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(DATA)}")

    market.content.calls.clear()
    known = await client.get(URL, headers={"If-None-Match": f'W/"{DIGEST}"'})
    head = await client.head(URL)
    assert (known.status_code, known.content) == (304, b"")
    assert known.headers["etag"] == f'"{DIGEST}"'
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(DATA))
    assert market.content.calls == ["find", "find"]


async def test_a_skill_leads_to_its_archive_and_its_text(
    client: httpx.AsyncClient, market: Market
) -> None:
    await listed(market)
    archive, text = await client.get(ARCHIVE), await client.get(SKILL_MD)
    assert (archive.status_code, text.status_code) == (302, 302)
    assert archive.headers["location"] == f"{URL}?skill=pdf-tools"
    assert text.headers["location"] == f"/content/{TEXT_DIGEST}?skill=pdf-tools"
    of_repository = await client.get("/api/v1/skills/octo/pdf-tools/pdf-tools/content")
    assert of_repository.headers["location"] == archive.headers["location"]
    assert (await client.get("/api/v1/skills/nobody/content")).status_code == 404


async def test_what_no_skill_names_or_nobody_uploaded_is_not_found(
    client: httpx.AsyncClient, market: Market
) -> None:
    await store(market)
    assert (await client.get(URL)).status_code == 404
    market.content.stored.clear()
    await market.fill([kept_skill()])
    assert (await client.get(URL)).status_code == 404
    assert (await client.get(URL, headers={"Range": "bytes=0-"})).status_code == 404
    assert (await client.get(ARCHIVE)).status_code == 404
    await market.fill([make_skill("bare")])
    assert (await client.get("/api/v1/skills/bare/content")).status_code == 404


async def test_an_earlier_version_is_served_under_its_own_licence(
    client: httpx.AsyncClient, market: Market
) -> None:
    await store(market)
    newer = {"content_digest": "2" * 64, "read_at": LATER, "updated_at": LATER}
    await market.fill([kept_skill()])
    await market.fill([kept_skill(**newer, license="LicenseRef-Mine")])
    assert (await client.get(URL)).content == DATA

    await market.fill([kept_skill(name="other", base_slug="other", license="LicenseRef-Mine")])
    assert (await client.get(URL)).content == DATA


@pytest.mark.parametrize("without_database", [False, True])
async def test_the_licence_decides(
    client: httpx.AsyncClient, market: Market, *, without_database: bool
) -> None:
    await listed(market, license="LicenseRef-Mine")
    if without_database:
        away(market)
    answer = await client.get(f"{URL}?skill=pdf-tools")
    assert (answer.status_code, answer.json()["license"]) == (451, "LicenseRef-Mine")
    assert (await client.get(ARCHIVE)).status_code == 451


async def act(market: Market, kind: ActKind, **fields: Any) -> None:
    found = await get_skill_by_name(market.env, "pdf-tools")
    assert found is not None
    await act_on(market.env, found, new_act(market.env, kind, reason="So.", by="ann", **fields))


@pytest.mark.parametrize("without_database", [False, True])
@pytest.mark.parametrize("kind", [ActKind.BLOCK, ActKind.WITHDRAW])
async def test_what_is_withheld_is_gone(
    client: httpx.AsyncClient, market: Market, kind: ActKind, *, without_database: bool
) -> None:
    await listed(market)
    await act(market, kind)
    if without_database:
        away(market)
    for url in (f"{URL}?skill=pdf-tools", ARCHIVE, SKILL_MD):
        answer = await client.get(url)
        assert (answer.status_code, "withheld" in answer.json()) == (410, True), url


@pytest.mark.parametrize("without_database", [False, True])
async def test_what_failed_its_latest_scan_is_locked(
    client: httpx.AsyncClient, market: Market, *, without_database: bool
) -> None:
    await listed(market, verdict=Verdict.FAIL, verdict_at=LATER, scan_failed_at=LATER)
    if without_database:
        away(market)
    for url in (f"{URL}?skill=pdf-tools", ARCHIVE, SKILL_MD):
        assert (await client.get(url)).status_code == 423, url


async def test_a_listed_skill_lets_content_be_served_that_others_name_too(
    client: httpx.AsyncClient, market: Market
) -> None:
    await listed(market)
    await act(market, ActKind.WITHDRAW)
    await market.fill(
        [kept_skill(name="other", base_slug="other", repo_url="https://github.com/a/b")]
    )
    assert (await client.get(URL)).content == DATA


@pytest.mark.parametrize("without_database", [False, True])
async def test_a_blocked_digest_is_served_for_no_skill_and_no_version(
    client: httpx.AsyncClient, market: Market, *, without_database: bool
) -> None:
    await listed(market)
    if not without_database:
        newer = {"content_digest": "2" * 64, "read_at": LATER, "updated_at": LATER}
        await market.fill([kept_skill(**newer)])
    assert (await client.get(URL)).status_code == 200
    rule = await block_digest(market)
    if without_database:
        away(market)

    answer = await client.get(f"{URL}?skill=pdf-tools")

    assert answer.status_code == 410
    assert answer.json()["withheld"]["threatType"] == "malware"
    assert DIGEST in answer.json()["detail"]
    if not without_database:
        await lift_rule(market.env, rule, reason="It was none.", by="ann")
        assert (await client.get(URL)).status_code == 200


async def test_an_exception_of_a_skill_from_a_rule_counts(
    client: httpx.AsyncClient, market: Market
) -> None:
    skill = await listed(market)
    rule = await block_digest(market)
    ruled = under_rules(skill, [r for r in market.tables.rules.values() if r.id == rule])
    market.lose_rows([skill])
    await market.fill([ruled])
    assert (await client.get(URL)).status_code == 410

    await act(market, ActKind.RESTORE, lifts=(ruled.acts[0].id,))

    assert (await client.get(URL)).status_code == 200


async def test_without_postgres_the_skill_that_the_address_names_tells(
    client: httpx.AsyncClient, market: Market
) -> None:
    await listed(market)
    away(market)
    assert (await client.get(f"{URL}?skill=pdf-tools")).content == DATA
    assert (await client.get(URL)).status_code == 503
    assert (await client.get(f"/content/{'9' * 64}?skill=pdf-tools")).status_code == 503
    leading = await client.get(ARCHIVE)
    assert (await client.get(leading.headers["location"])).content == DATA


async def test_without_any_source_nothing_is_served(
    client: httpx.AsyncClient, market: Market
) -> None:
    await listed(market)
    away(market)
    market.kv.faults = fault(Fault.FAIL, "list", key="rule:")
    assert (await client.get(f"{URL}?skill=pdf-tools")).status_code == 503
    market.kv.faults = kv_away
    assert (await client.get(f"{URL}?skill=pdf-tools")).status_code == 503


async def test_without_the_archive_skills_are_told_all_the_same(
    client: httpx.AsyncClient, market: Market
) -> None:
    await listed(market)
    market.content.away = True
    assert (await client.get(URL)).status_code == 503
    assert (await client.get(ARCHIVE)).status_code == 302
    assert (await client.get("/api/v1/skills/pdf-tools")).status_code == 200
    page = await client.get("/skills/pdf-tools")
    assert (page.status_code, page.headers["cache-control"]) == (200, "no-store")
    assert "cannot be told now" in page.text

    market.env = replace(market.env, content=None)
    assert (await client.get(URL)).status_code == 503
    assert (await client.put(PUT, content=DATA, headers=AS_SCANNER | ZIP)).status_code == 503
    assert (await client.get("/skills/pdf-tools")).status_code == 200


async def test_a_purge_is_for_good_and_audited_once(
    client: httpx.AsyncClient, market: Market
) -> None:
    await listed(market)
    body = {"reason": "Its author asked."}
    assert (await client.post(PURGE, json=body, headers=SCANNER)).status_code == 403
    assert (await client.post(PURGE, json={}, headers=OPERATOR)).status_code == 422

    purged = await client.post(PURGE, json=body, headers=OPERATOR)
    again = await client.post(PURGE, json=body, headers=OPERATOR)

    assert purged.json() == {"digest": DIGEST, "bytes": len(DATA)}
    assert again.json() == {"digest": DIGEST, "bytes": 0}
    (entry,) = market.tables.audit.values()
    assert (entry.action, entry.target, entry.reason) == ("purge-content", DIGEST, body["reason"])
    assert DATA not in [data for _, data in market.content.stored.values()]
    for headers in ({}, {"Range": "bytes=0-1"}, {"If-None-Match": f'"{DIGEST}"'}):
        assert (await client.get(URL, headers=headers)).status_code == 410
    assert (await client.put(PUT, content=DATA, headers=AS_SCANNER | ZIP)).status_code == 410
    told = (await client.get("/api/v1/skills/pdf-tools")).json()
    assert told["contentDigest"] == DIGEST
    leading = await client.get(ARCHIVE)
    assert (await client.get(leading.headers["location"])).status_code == 410


async def test_what_was_never_uploaded_can_be_purged_too(
    client: httpx.AsyncClient, market: Market
) -> None:
    purged = await client.post(PURGE, json={"reason": "Known malware."}, headers=OPERATOR)
    assert purged.json() == {"digest": DIGEST, "bytes": 0}
    assert (await client.put(PUT, content=DATA, headers=AS_SCANNER | ZIP)).status_code == 410


async def test_files_of_a_skill_without_any_are_not_found(
    client: httpx.AsyncClient, market: Market
) -> None:
    await market.fill([kept_skill(), kept_skill(name="b", base_slug="b", files_digest="f" * 64)])
    assert (await client.get("/api/v1/skills/pdf-tools/files")).status_code == 404
    assert (await client.get("/api/v1/skills/b/files")).status_code == 404
    assert (await client.get("/api/v1/skills/nobody/files")).status_code == 404
    await act(market, ActKind.WITHDRAW)
    assert (await client.get("/api/v1/skills/pdf-tools/files")).status_code == 410
