"""Acts come back: from the record, from the log, and into the log."""

from dataclasses import replace
from typing import Any

import pytest

from marketplace.catalog.lookup import get_skill_by_name
from marketplace.kv.acceptance_log import read_acts
from marketplace.kv.records import read_record, write_record
from marketplace.kv.withheld import read_withheld
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Env
from marketplace.publishing.acts import Recorded, act_on, new_act
from marketplace.repair.light_repair import run_light_repair
from marketplace.repair.rebuild import start_rebuild
from marketplace.skills.acts import ActKind
from marketplace.skills.skill import Skill, Status
from tests.doubles.database import Held
from tests.doubles.marketplace import (
    Market,
    fault,
    kv_away,
    make_skill,
    make_skills,
    postgres_away,
)
from tests.doubles.network import Fault
from tests.unit.publishing.scans import publish, scan


async def _act(env: Env, slug: str, kind: ActKind = ActKind.BLOCK, **fields: Any) -> Recorded:
    found = await get_skill_by_name(env, slug)
    assert found is not None
    return await act_on(env, found, new_act(env, kind, reason="So.", by="operator", **fields))


async def _repair(market: Market, how: str) -> None:
    if how == "rebuild":
        job = await start_rebuild(market.env, wait_seconds=20)
        assert job.complete
    else:
        assert (await run_light_repair(market.env)).errors == []


def _row(market: Market, identity: str) -> Skill:
    return market.tables.rows[identity].skill


def _restore_the_table(market: Market, *skills: Skill) -> None:
    """As it was before anybody acted, with what it knew of KV then."""
    for skill in skills:
        market.tables.put(Held.of(skill, skill.revision))


async def test_a_rebuild_brings_acts_back_from_the_record(market: Market) -> None:
    skill = make_skill()
    await market.fill([skill])
    acts = (await _act(market.env, skill.name)).skill.acts
    _restore_the_table(market, skill)
    for key in market.kv.keys("act:"):
        market.kv.damage(key, None)
    await _repair(market, "rebuild")
    assert _row(market, skill.identity).acts == acts
    assert _row(market, skill.identity).status is Status.BLOCKED


@pytest.mark.parametrize("how", ["rebuild", "check"])
async def test_a_repair_brings_acts_back_from_the_log(market: Market, how: str) -> None:
    skill, other = make_skill(), make_skill("other")
    await market.fill([skill, other, *make_skills(5)])
    acts = (await _act(market.env, skill.name)).skill.acts
    restored = await _act(market.env, other.name)
    restored = await _act(market.env, other.name, ActKind.RESTORE, lifts=(restored.act.id,))
    _restore_the_table(market, skill, other)
    for each in (skill, other):
        await write_record(market.env, each)
    market.kv.damage("skills:withheld", None)

    await _repair(market, how)

    assert _row(market, skill.identity).acts == acts
    assert _row(market, other.identity).acts == restored.skill.acts
    assert _row(market, other.identity).status is Status.LISTED
    record = await read_record(market.env, skill.name)
    assert isinstance(record, Skill)
    assert record.status is Status.BLOCKED
    assert list(await read_withheld(market.env)) == [skill.identity]


async def test_an_act_that_the_log_alone_took_comes_into_both_stores(market: Market) -> None:
    skill = make_skill()
    await market.fill([skill])
    away = replace(market.env, database=DatabaseSession(postgres_away))
    market.kv.faults = fault(Fault.FAIL, "put", key="outbox:")
    told = await _act(away, skill.name)
    assert told.stores == {"log": True, "postgres": False, "kv": False}
    assert told.skill.status is Status.BLOCKED
    market.kv.faults = None
    await _repair(market, "check")
    assert _row(market, skill.identity).acts == (told.act,)


async def test_an_act_that_kv_did_not_take_comes_into_the_log(market: Market) -> None:
    skill = make_skill()
    await market.fill([skill])
    market.kv.faults = kv_away
    told = await _act(market.env, skill.name)
    market.kv.faults = None
    await _repair(market, "check")
    assert await read_acts(market.env, skill.identity) == [told.act]


async def test_acts_on_skills_that_are_not_there_hold_up_no_others(market: Market) -> None:
    skills = make_skills(150)
    await market.fill(skills)
    for skill in skills:
        await _act(market.env, skill.name, ActKind.WITHDRAW)
    market.lose_rows(skills[:-1])
    market.lose_records(skills[:-1])
    _restore_the_table(market, skills[-1])
    await write_record(market.env, skills[-1])
    for _ in range(3):
        await _repair(market, "check")
    assert _row(market, skills[-1].identity).status is Status.WITHDRAWN


async def test_a_scan_that_did_not_see_the_block_does_not_lift_it(market: Market) -> None:
    await publish(market, await scan(market, "first"))
    waiting = await scan(market, "second")
    told = await _act(market.env, "pdf-tools")
    await publish(market, waiting)
    await _repair(market, "rebuild")
    row = _row(market, told.skill.identity)
    assert row.acts == (told.act,)
    assert row.status is Status.BLOCKED


async def test_a_second_repair_changes_nothing(market: Market) -> None:
    await market.fill([make_skill()])
    await _act(market.env, "pdf-tools")
    await _repair(market, "check")
    before = {key: market.kv.peek(key) for key in market.kv.keys("")}
    await _repair(market, "check")
    assert {key: market.kv.peek(key) for key in market.kv.keys("")} == before
