"""Skills of other forges than GitHub: their authors and slugs, and those from before."""

import msgspec
import pytest

from marketplace.catalog.lookup import find_by_identity
from marketplace.kv.records import encode_skill, read_record
from marketplace.kv.summaries import decode_for_matching, decode_summary, encode_summary
from marketplace.ports.env import Env
from marketplace.publishing.publish import publish_skills
from marketplace.skills.change import State
from marketplace.skills.skill import PublishedSummary, Skill
from marketplace.skills.slugs import known_slugs
from marketplace.skills.stored import read_skill
from tests.doubles.marketplace import LATER, Market, make_skill, without_postgres
from tests.unit.publishing.reports import items
from tests.unit.repair.rebuilds import changes, rebuild

ON_GITHUB = make_skill("reader", repo_url="https://github.com/zeta/tools", author="zeta")
BEFORE = make_skill("reader", repo_url="https://gitlab.com/Acme/sub/tools", author="Acme/sub")
"""As it was stored before authors had the forge in front."""
NOW = msgspec.structs.replace(BEFORE, author="gitlab.com/Acme/sub")
REVISION = "1a1961f5c00|000|1a1961f5c00|00000000000|1a1961f5c00|0efc36b482c209a4"


def _summary(skill: Skill) -> bytes:
    return encode_summary(skill.published_summary())


async def _by_author(env: Env, author: str) -> list[str]:
    return [item["name"] for item in await items(env, author=author)]


def test_a_record_from_before_is_read_with_the_forge_and_its_revision_stays() -> None:
    assert read_skill(msgspec.json.decode(encode_skill(BEFORE))) == NOW
    assert NOW.revision == BEFORE.revision == REVISION
    assert decode_summary(_summary(BEFORE)) == PublishedSummary(NOW.summary(), NOW.revision)
    assert decode_for_matching(_summary(BEFORE)).author == NOW.author
    named = msgspec.structs.replace(BEFORE, author="acme")
    assert decode_summary(_summary(named)).summary.author == NOW.author


async def test_an_author_is_found_with_the_forge_in_every_source(market: Market) -> None:
    await market.fill([BEFORE], table=False)
    await market.fill([NOW], kv=False)
    await market.fill([make_skill("writer", author="acme/sub")])
    for env in (market.env, without_postgres(market)):
        assert await _by_author(env, "gitlab.com/acme/sub") == ["reader"]
        assert await _by_author(env, "acme/sub") == ["writer"]
    assert not any(changes(await rebuild(market)))


async def test_no_owner_of_another_forge_takes_a_slug_of_an_owner_on_github(market: Market) -> None:
    here = make_skill("reader", repo_url="https://github.com/acme/tools", author="acme")
    there = make_skill("reader", repo_url="https://gitlab.com/acme/tools")
    for skill in (ON_GITHUB, there, here):
        await publish_skills(market.env, [State(skill)])
    names = [market.tables.rows[skill.identity].name for skill in (ON_GITHUB, there, here)]
    assert names == ["reader", "gitlab-com-acme-reader", "acme-reader"]


@pytest.mark.parametrize("place", [-3, -2, -1])
async def test_a_slug_from_before_stays_and_is_found(market: Market, place: int) -> None:
    """With its row lost, KV alone knows it."""
    old = BEFORE.renamed(known_slugs(BEFORE.repo_url, BEFORE.base_slug)[place])
    await market.fill([ON_GITHUB])
    await market.fill([old], table=False)
    for env in (market.env, without_postgres(market)):
        found = await find_by_identity(env, old.repo_url, old.base_slug)
        assert found is not None
        assert (found.value.name, found.value.author) == (old.name, NOW.author)
    newer = msgspec.structs.replace(NOW, updated_at=LATER, description="New.")
    await publish_skills(without_postgres(market), [State(newer)])
    await publish_skills(market.env, [State(newer)])
    assert market.tables.rows[old.identity].name == old.name
    record = await read_record(market.env, old.name)
    assert isinstance(record, Skill)
    assert (record.updated_at, record.author) == (LATER, NOW.author)
