"""What installers are handed out, and that an outage is never told as a removal."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import msgspec
import pytest

from marketplace.kv.files import keep_files
from marketplace.ports.content import ContentPage, Span, StoredContent, Stream
from marketplace.ports.database import DatabaseSession
from marketplace.ports.errors import ContentError
from marketplace.skills.scan import File
from marketplace.skills.skill import Skill
from marketplace.skills.tiers import Verdict
from tests.doubles.marketplace import Market, fault, make_skill, postgres_away
from tests.doubles.network import Fault

ARCHIVE, SKILL_MD, LIST = "a" * 64, "b" * 64, "c" * 64
COMMIT = "c0ffee" + "0" * 34
INDEX = "/skills/pdf-tools/.well-known/agent-skills/index.json"
RAW = f"https://raw.githubusercontent.com/octo/pdf-tools/{COMMIT}/skills/pdf%20tools/SKILL.md"


@dataclass
class Archive:
    """What is stored, by digest; None: the archive is away."""

    stored: dict[str, StoredContent] | None = field(default_factory=dict)

    def keep(self, *digests: str, purged_at: str | None = None) -> None:
        self.stored = {each: StoredContent(each, 9, "text/plain", purged_at) for each in digests}

    async def find(self, digest: str) -> StoredContent | None:
        if self.stored is None:
            raise ContentError("away")
        return self.stored.get(digest)

    async def put(self, digest: str, stream: Stream, *, media_type: str) -> bool:
        raise NotImplementedError

    async def read(self, digest: str, span: Span | None = None) -> Any:
        raise NotImplementedError

    async def purge(self, digest: str, *, at: str) -> None:
        raise NotImplementedError

    async def list_page(self, *, prefix: str, cursor: str | None = None) -> ContentPage:
        raise NotImplementedError


@pytest.fixture
def archive(market: Market) -> Archive:
    archive = Archive()
    market.env = replace(market.env, content=archive)
    return archive


def scanned(**fields: Any) -> Skill:
    told = {
        "license": "MIT",
        "commit": COMMIT,
        "content_digest": ARCHIVE,
        "skill_md_digest": SKILL_MD,
        "files_digest": LIST,
        "skill_path": "skills/pdf tools",
    }
    return msgspec.structs.replace(make_skill("pdf-tools"), **(told | fields))


async def fill(market: Market, skill: Skill, *paths: str) -> None:
    await market.fill([skill])
    await keep_files(market.env, LIST, [File(path=path, size=1, sha256=LIST) for path in paths])


async def indexed(client: httpx.AsyncClient) -> Sequence[str]:
    """Type, address and digest of what the index names."""
    answer = await client.get(INDEX)
    assert answer.status_code == 200, answer.text
    (entry,) = answer.json()["skills"]
    return entry["type"], entry["url"].partition("?")[0], entry["digest"]


async def test_the_archive_goes_before_the_repository(
    market: Market, archive: Archive, client: httpx.AsyncClient
) -> None:
    await fill(market, scanned(), "SKILL.md")
    archive.keep(ARCHIVE, SKILL_MD)
    assert await indexed(client) == ("archive", f"/content/{ARCHIVE}", f"sha256:{ARCHIVE}")
    archive.keep(SKILL_MD)
    assert await indexed(client) == ("skill-md", f"/content/{SKILL_MD}", f"sha256:{SKILL_MD}")
    archive.keep()
    assert await indexed(client) == ("skill-md", RAW, f"sha256:{SKILL_MD}")


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({}, ["SKILL.md", "more.md"]),
        ({}, ["skill.md"]),
        ({}, []),
        ({"files_digest": None}, ["SKILL.md"]),
        ({"files_digest": "d" * 64}, ["SKILL.md"]),
        ({"commit": None}, ["SKILL.md"]),
        ({"skill_md_digest": None}, ["SKILL.md"]),
        ({"repo_url": "https://git.example.org/octo/pdf-tools"}, ["SKILL.md"]),
    ],
)
async def test_what_is_not_kept_and_not_one_known_file_is_not_handed_out(
    market: Market,
    archive: Archive,
    client: httpx.AsyncClient,
    fields: dict[str, Any],
    paths: list[str],
) -> None:
    await fill(market, scanned(**fields), *paths)
    answer = await client.get(INDEX)
    assert answer.status_code == 404


@pytest.mark.parametrize("license_", [None, "LicenseRef-Own"])
async def test_what_is_not_licensed_comes_from_the_repository_alone(
    market: Market, archive: Archive, client: httpx.AsyncClient, license_: str | None
) -> None:
    await fill(market, scanned(license=license_), "SKILL.md")
    archive.keep(ARCHIVE, SKILL_MD)
    assert (await indexed(client))[1] == RAW


async def test_nobody_is_led_to_a_repository_that_is_gone(
    market: Market, archive: Archive, client: httpx.AsyncClient
) -> None:
    since = market.env.now()
    gone = scanned(verdict=Verdict.GONE, verdict_at=since, source_gone_at=since)
    await fill(market, gone, "SKILL.md")
    archive.keep(ARCHIVE)
    assert (await indexed(client))[1] == f"/content/{ARCHIVE}"
    archive.keep()
    answers = [
        await client.get(INDEX),
        await client.get("/clawhub/api/v1/skills/pdf-tools/install"),
    ]
    assert [answer.status_code for answer in answers] == [404, 409]
    for answer in answers:
        assert "its repository https://github.com/octo/pdf-tools is gone" in answer.text


async def test_what_was_purged_is_not_handed_out(
    market: Market, archive: Archive, client: httpx.AsyncClient
) -> None:
    await fill(market, scanned(), "SKILL.md", "more.md")
    archive.keep(ARCHIVE, purged_at=market.env.now())
    assert (await client.get(INDEX)).status_code == 404


async def test_what_cannot_be_looked_up_is_an_error_and_no_removal(
    market: Market, archive: Archive, client: httpx.AsyncClient
) -> None:
    await fill(market, scanned(), "SKILL.md", "more.md")
    archive.stored = None
    assert (await client.get(INDEX)).status_code == 503
    assert (await client.get("/clawhub/api/v1/skills/pdf-tools/install")).status_code == 503
    archive.keep(ARCHIVE)
    assert (await client.get(INDEX)).status_code == 200
    archive.keep()
    market.env = replace(market.env, database=DatabaseSession(postgres_away))
    market.kv.faults = fault(Fault.FAIL, "get", "get_many", "list")
    for url in (INDEX, "/clawhub/api/v1/skills/pdf-tools"):
        assert (await client.get(url)).status_code == 503


async def test_of_a_skill_that_only_the_index_tells_nobody_says_that_it_has_no_content(
    market: Market, archive: Archive, client: httpx.AsyncClient
) -> None:
    await market.index([scanned()])
    market.env = replace(market.env, database=DatabaseSession(postgres_away))
    assert (await client.get(INDEX)).status_code == 503


@pytest.mark.parametrize("url", [INDEX, "/clawhub/api/v1/skills/pdf-tools/install"])
async def test_a_record_without_postgres_tells_all(
    market: Market, archive: Archive, client: httpx.AsyncClient, url: str
) -> None:
    await fill(market, scanned(), "SKILL.md", "more.md")
    archive.keep(ARCHIVE)
    market.env = replace(market.env, database=DatabaseSession(postgres_away))
    answer = await client.get(url)
    assert (answer.status_code, ARCHIVE in answer.text) == (200, True)
