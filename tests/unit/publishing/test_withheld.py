"""KV's list of withheld skills: what it has, and that no fallback lists them."""

import asyncio
from dataclasses import replace
from typing import Any

from marketplace.catalog.answer import Source
from marketplace.catalog.listings import get_skill_count, get_skills
from marketplace.catalog.lookup import get_skill_by_identity, get_skill_by_name
from marketplace.kv.records import write_record
from marketplace.kv.withheld import read_withheld, write_withheld
from marketplace.ports.env import Env
from marketplace.publishing.acts import act_on, new_act
from marketplace.repair.light_repair import run_light_repair
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.seed import read_seed
from marketplace.skills.skill import Status
from marketplace.skills.tiers import Verdict
from marketplace.skills.withholding import WithheldKey, key_of
from tests.doubles.kv import KvConduct
from tests.doubles.marketplace import Market, fault, make_skill, make_skills, without_postgres
from tests.doubles.network import Fault
from tests.unit.publishing.scans import publish, scan

SEED = read_seed(
    b'[{"name": "pdf-tools", "displayName": "P", "repoUrl": "https://github.com/octo/pdf-tools"}]'
)


async def _act(env: Env, slug: str, kind: ActKind = ActKind.WITHDRAW, **fields: Any) -> Act:
    found = await get_skill_by_name(env, slug)
    assert found is not None
    act = new_act(env, kind, reason="So.", by="operator", **fields)
    await act_on(env, found, act)
    return act


async def _names(env: Env) -> tuple[Source, list[bytes]]:
    answer = await get_skills(env, ListingQuery())
    count = await get_skill_count(env, ListingQuery())
    assert count.value.count == answer.value.total == len(answer.value.items)
    return answer.source, [item for item in answer.value.items if b"pdf-tools" in item]


async def test_a_record_and_an_index_from_before_are_not_listed(market: Market) -> None:
    skill = make_skill()
    await market.fill([skill, *make_skills(3)])
    await market.index([skill, *make_skills(3)])
    await _act(market.env, "pdf-tools")
    await write_record(market.env, skill)
    await market.index([skill, *make_skills(3)])

    env = without_postgres(market)
    assert await _names(env) == (Source.KV_ENUMERATION, [])
    for found in (
        await get_skill_by_name(env, "pdf-tools"),
        await get_skill_by_identity(env, "octo", "pdf-tools", "pdf-tools"),
    ):
        assert found is not None
        assert found.value.status is Status.WITHDRAWN


async def test_a_seed_skill_is_not_listed_either(market: Market) -> None:
    market.env = replace(market.env, seed=SEED)
    await _act(market.env, "pdf-tools", ActKind.BLOCK)
    market.kv.damage("skill:pdf-tools", None)
    await market.fill(make_skills(3))
    env = without_postgres(market)
    await market.index(make_skills(3))
    assert (await _names(env))[1] == []
    found = await get_skill_by_name(env, "pdf-tools")
    assert found is not None
    assert found.value.status is Status.BLOCKED


async def test_what_waits_under_another_slug_is_not_listed_either(market: Market) -> None:
    """PostgreSQL was away for the first publication, and has lost it since."""
    env = market.env = without_postgres(market)
    await publish(market, await scan(market, "first"))
    assert len((await _names(env))[1]) == 1
    found = await get_skill_by_identity(env, "octo", "pdf-tools", "pdf-tools")
    assert found is not None
    assert found.value.name != "pdf-tools"
    await write_withheld(env, [WithheldKey("pdf-tools", found.value.identity, Status.BLOCKED)])
    assert (await _names(env))[1] == []


async def test_a_listing_that_cannot_read_the_list_says_so(market: Market) -> None:
    await market.fill(make_skills(3))
    market.kv.faults = fault(Fault.FAIL, "get", key="skills:withheld")
    answer = await get_skills(without_postgres(market), ListingQuery())
    assert "withheld: unavailable" in answer.reasons
    assert answer.value.total == 3


async def test_an_act_without_postgres_changes_the_list_that_stands(market: Market) -> None:
    await market.fill([make_skill(), make_skill("other")])
    other = await _act(market.env, "other")
    env = without_postgres(market)
    await _act(env, "pdf-tools")
    assert {key.name for key in (await read_withheld(env)).values()} == {"other", "pdf-tools"}
    await _act(env, "other", ActKind.RESTORE, lifts=(other.id,))
    assert {key.name for key in (await read_withheld(env)).values()} == {"pdf-tools"}


async def test_of_two_acts_at_once_the_list_has_both(market: Market) -> None:
    skills = make_skills(6)
    await market.fill(skills)
    await asyncio.gather(*(_act(market.env, skill.name) for skill in skills))
    assert {key.name for key in (await read_withheld(market.env)).values()} == {
        skill.name for skill in skills
    }


async def test_verdicts_change_the_list_too(market: Market) -> None:
    await publish(market, await scan(market, "first"))
    assert await read_withheld(market.env) == {}
    await asyncio.sleep(5)
    await publish(market, await scan(market, "second", Verdict.WITHDRAWN))
    (key,) = (await read_withheld(market.env)).values()
    assert (key.name, key.status) == ("pdf-tools", Status.WITHDRAWN)
    await asyncio.sleep(5)
    await publish(market, await scan(market, "third"))
    assert await read_withheld(market.env) == {}


async def test_a_check_writes_the_list_that_was_lost_or_damaged(market: Market) -> None:
    await market.fill([make_skill()])
    await _act(market.env, "pdf-tools")
    (row,) = market.tables.rows.values()
    for damage in (None, b"nonsense"):
        market.kv.damage("skills:withheld", damage)
        report = await run_light_repair(market.env)
        assert report.errors == []
        assert await read_withheld(market.env) == {row.identity: key_of(row.skill)}


async def test_whether_the_list_is_written_is_not_told_from_a_stale_read(market: Market) -> None:
    await market.fill([make_skill()])
    elsewhere = market.kv.at("elsewhere", conduct=KvConduct(stale_reads=1.0, blind_to_own=1.0))
    env = replace(market.env, submissions_kv=elsewhere)
    for _ in range(5):
        act = await _act(env, "pdf-tools")
        assert len(market.kv.peek_json("skills:withheld")) == 1
        await _act(env, "pdf-tools", ActKind.RESTORE, lifts=(act.id,))
        assert market.kv.peek_json("skills:withheld") == []


async def test_another_skill_that_kv_has_under_the_slug_is_listed(market: Market) -> None:
    """As after PostgreSQL has lost its row, and given the slug away."""
    other = make_skill(repo_url="https://github.com/bob/tools")
    await write_record(market.env, other)
    key = key_of(make_skill())
    assert key.name == other.name
    await write_withheld(market.env, [key])

    source, listed = await _names(without_postgres(market))
    assert source is Source.KV_ENUMERATION
    assert len(listed) == 1
