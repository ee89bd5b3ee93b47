"""A rebuild with PostgreSQL away: the index from KV, nothing dropped, and a report that says so."""

import zlib
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from marketplace.basics.timestamps import EPOCH
from marketplace.health.check import check_health
from marketplace.kv.aliases import mark_moved
from marketplace.kv.index.blocks import Block, entry_of, iterate, merge
from marketplace.kv.index.manifest import Manifest, PageRef, encode_page, page_digest
from marketplace.kv.index.reading import read_index
from marketplace.kv.keys import INDEX_KEY, index_page_key
from marketplace.ports.env import Env, Settings
from marketplace.repair.rebuild import BRING_IT_BACK, DatabaseNeeded, start_rebuild
from marketplace.skills.fingerprint import Fingerprint
from tests.doubles.marketplace import Market, fault, make_skills, without_postgres
from tests.doubles.network import Fault


async def _report(env: Env) -> dict[str, Any]:
    return (await start_rebuild(env)).report(env.now())


async def _indexed(env: Env) -> list[str]:
    return [entry.summary.name for entry in iterate(merge((await read_index(env)).layers()))]


async def test_the_index_is_written_and_the_report_says_what_was_not_done(market: Market) -> None:
    await market.fill(make_skills(20))
    market.kv.damage("skill:broken", b"no json")
    env = without_postgres(market)
    report = await _report(env)
    assert (report["complete"], report["ok"], report["rebuilt"]) == (True, False, 20)
    assert [error.key for error in report["errorDetails"]] == ["postgres", "skill:broken"]
    assert "nothing else done" in report["errorDetails"][0].reason
    assert BRING_IT_BACK in report["errorDetails"][0].reason
    assert len(await _indexed(env)) == 20
    assert market.maintenance.bodies == []
    assert (await check_health(env)).last_repair["jobId"] == report["jobId"]


@pytest.mark.parametrize("budget", [900, 20])
@pytest.mark.market(page_limit=2)
async def test_what_only_postgres_had_stays_listed(market: Market, budget: int) -> None:
    """With 20 operations only the first records are read."""
    market.env = replace(market.env, settings=Settings(kv_operation_budget=budget))
    skills, news = make_skills(30), make_skills(3, "unlisted")
    await market.fill(skills)
    await market.index(skills)
    market.lose_records(skills[:10])
    await market.fill(news, table=False)
    env = without_postgres(market)
    before = market.kv.operations.total()
    report = await _report(env)
    names = await _indexed(env)
    assert set(names) >= {skill.name for skill in skills}
    assert report["rebuilt"] == len(names)
    is_all = budget == 900
    assert (len(names) == 33) is is_all
    assert ("kv" in [error.key for error in report["errorDetails"]]) is not is_all
    assert is_all or market.kv.operations.total() - before <= 30


async def test_a_moved_skill_is_listed_once_and_never_dropped(market: Market) -> None:
    seen, unseen = make_skills(2)
    await market.fill([seen, unseen])
    await market.index([seen, unseen])
    await market.fill([seen.renamed("seen-now")], table=False)
    await mark_moved(market.env, seen.name, "seen-now")
    await mark_moved(market.env, unseen.name, "unseen-now")  # its record is not shown yet
    env = without_postgres(market)
    await start_rebuild(env)
    assert await _indexed(env) == ["seen-now", unseen.name]


async def test_a_damaged_index_is_written_anew(market: Market) -> None:
    await market.fill(make_skills(5))
    market.kv.damage(INDEX_KEY, b'{"a":')
    env = without_postgres(market)
    assert (await _report(env))["rebuilt"] == 5
    assert len(await _indexed(env)) == 5


def _damage_a_line(market: Market, names: list[str]) -> None:
    """An index whose one page is whole, but for a line between the first and the last."""
    first, last = (entry_of(skill.published_summary())[1] for skill in make_skills(2))
    data = zlib.compress(b"\n".join([first, b"no summary", last]))
    block = Block(names[0], names[1], 3, data)
    value = encode_page(block)
    page = PageRef(index_page_key("g", 0, 0), 3, block.first, block.last, page_digest(value))
    manifest = Manifest(
        generation="g",
        written_at=EPOCH,
        rebuilt_at=EPOCH,
        count=3,
        fingerprint=Fingerprint(3, "0" * 16),
        pages=[page],
    )
    market.kv.damage(page.key, value)
    market.kv.damage(INDEX_KEY, msgspec.json.encode(manifest))


@pytest.mark.parametrize("budget", [900, 20])
@pytest.mark.market(page_limit=2)
async def test_a_damaged_line_is_mended_only_where_all_records_were_read(
    market: Market, budget: int
) -> None:
    market.env = replace(market.env, settings=Settings(kv_operation_budget=budget))
    skills = make_skills(30)
    await market.fill(skills)
    _damage_a_line(market, [skill.name for skill in skills[:2]])
    damaged = market.kv.peek(INDEX_KEY)
    env = without_postgres(market)
    if budget == 900:
        assert (await _report(env))["rebuilt"] == 30
        return
    with pytest.raises(DatabaseNeeded):
        await start_rebuild(env)
    assert market.kv.peek(INDEX_KEY) == damaged


@pytest.mark.parametrize("operations", [("list",), ("get",), ("put",)])
async def test_without_kv_the_operator_is_told_to_bring_postgres_back(
    market: Market, operations: tuple[str, ...]
) -> None:
    skills = make_skills(5)
    await market.fill(skills)
    await market.index(skills)
    market.kv.faults = fault(Fault.FAIL, *operations)
    env = without_postgres(market)
    with pytest.raises(DatabaseNeeded, match=BRING_IT_BACK):
        await start_rebuild(env)
    market.kv.faults = None
    assert len(await _indexed(env)) == 5


async def test_a_dry_run_needs_postgres(market: Market) -> None:
    with pytest.raises(DatabaseNeeded, match=BRING_IT_BACK):
        await start_rebuild(without_postgres(market), dry_run=True)
