"""What waits in the outbox is listed beside PostgreSQL's rows, as long as it is newer."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from marketplace.catalog.answer import Source
from marketplace.catalog.listings import get_skill_categories, get_skill_count, get_skills
from marketplace.catalog.lookup import get_skill_by_identity, get_skill_by_name
from marketplace.catalog.waiting import GOOD_FOR, READ_EVERY
from marketplace.kv.keys import OUTBOX_PREFIX
from marketplace.kv.outbox import clear_outbox, write_outbox
from marketplace.ports.env import Env
from marketplace.ports.isolate import FallbackCache
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.listing_rules import ListingQuery, SortField, decode_cursor
from marketplace.skills.merging import as_listed
from marketplace.skills.seed import read_seed
from marketplace.skills.skill import Skill, Status
from tests.doubles.marketplace import EARLIER, LATER, Market, fault, make_skill, make_skills
from tests.doubles.network import Fault

_ORDER = (SortField.NAME, ListingQuery(sort_by=SortField.NAME).sort_dir)
BY_NAME = ListingQuery(limit=100, sort_by=SortField.NAME)


def newer(skill: Skill, **fields: Any) -> Skill:
    return as_listed(msgspec.structs.replace(skill, updated_at=LATER, read_at=LATER, **fields))


def acted(skill: Skill, kind: ActKind, **fields: Any) -> Skill:
    act = Act(id=f"{kind}", kind=kind, reason="because", at=EARLIER, by="ops", **fields)
    return as_listed(msgspec.structs.replace(skill, acts=(act,)))


async def page(env: Env, query: ListingQuery = BY_NAME) -> list[dict[str, Any]]:
    answer = await get_skills(env, query)
    assert answer.source is Source.POSTGRES
    return [msgspec.json.decode(item) for item in answer.value.items]


async def shown(env: Env, query: ListingQuery = BY_NAME) -> dict[str, str]:
    """Descriptions by slug, all of which are counted, and found one by one."""
    skills = await page(env, query)
    total = (await get_skill_count(env, query)).value
    assert total.count == len(skills) == (await get_skills(env, query)).value.total
    for skill in skills:
        found = await get_skill_by_name(env, skill["name"])
        assert found is not None
        assert found.value.description == skill["description"]
    return {skill["name"]: skill["description"] for skill in skills}


async def test_what_waits_is_listed_counted_and_found(market: Market) -> None:
    rows = make_skills(5)
    await market.fill(rows)
    waits = make_skill("waits", category="writing", description="It waits.")
    await write_outbox(market.env, waits)
    assert set(await shown(market.env)) == {"waits", *(row.name for row in rows)}
    writing = replace(BY_NAME, category="writing")
    assert await shown(market.env, writing) == {"waits": "It waits."}
    found = await shown(market.env, ListingQuery(search="waits", limit=100))
    assert list(found) == ["waits"]
    assert (await get_skill_categories(market.env)).value == {"development": 5, "writing": 1}
    by_identity = await get_skill_by_identity(market.env, "octo", "waits", "waits")
    assert by_identity is not None
    assert not (await get_skills(market.env, BY_NAME)).degraded


async def test_newer_facts_stand_in_for_the_row_under_its_slug(market: Market) -> None:
    row = make_skill("a-moved", base_slug="moved", category="data", description="Old.")
    await market.fill([row, *make_skills(3)])
    state = newer(row, category="writing", description="New.").renamed("octo-moved-moved-1234")
    await write_outbox(market.env, state)
    assert (await shown(market.env))["a-moved"] == "New."
    assert await shown(market.env, replace(BY_NAME, category="data")) == {}
    assert await shown(market.env, replace(BY_NAME, category="writing")) == {"a-moved": "New."}
    assert (await get_skill_categories(market.env)).value == {"development": 3, "writing": 1}


@pytest.mark.parametrize(
    ("row", "state"),
    [
        pytest.param(newer(make_skill()), make_skill(), id="the row has newer facts"),
        pytest.param(
            acted(make_skill(), ActKind.CORRECT, category="data"),
            newer(make_skill()),
            id="the row was corrected",
        ),
        pytest.param(
            acted(make_skill(), ActKind.BLOCK), newer(make_skill()), id="the row is blocked"
        ),
        pytest.param(
            make_skill(skill_path="a"), newer(make_skill(skill_path="b")), id="another folder"
        ),
    ],
)
async def test_the_row_stands(market: Market, row: Skill, state: Skill) -> None:
    await market.fill([row])
    before = await shown(market.env)
    await write_outbox(market.env, msgspec.structs.replace(state, description="Waits."))
    assert await shown(market.env) == before


async def test_an_act_that_waits_hides_the_row(market: Market) -> None:
    row = make_skill()
    await market.fill([row, make_skill("other")])
    act = Act(id="x", kind=ActKind.BLOCK, reason="because", at=LATER, by="ops")
    await write_outbox(market.env, as_listed(msgspec.structs.replace(row, acts=(act,))))
    assert set(await shown(market.env)) == {"other"}
    found = await get_skill_by_name(market.env, row.name)
    assert found is not None
    assert found.value.status is Status.BLOCKED


async def test_a_slug_that_another_row_has_is_not_shown_twice(market: Market) -> None:
    taker = make_skill("pdf", repo_url="https://github.com/first/x")
    await market.fill([taker])
    await write_outbox(market.env, make_skill("pdf", repo_url="https://github.com/second/x"))
    assert len(await page(market.env)) == 1


async def test_the_seed_gives_way_to_what_waits(market: Market) -> None:
    seeded, neighbour = make_skill("seeded"), make_skill("pdf", author="other")
    seed = read_seed(msgspec.json.encode([seeded, neighbour]))
    env = replace(market.env, seed=seed)
    await write_outbox(env, newer(seeded, description="Published."))
    await write_outbox(env, make_skill("pdf", repo_url="https://github.com/second/x"))
    skills = await page(env)
    assert sorted(s["description"] for s in skills if s["name"] == "seeded") == ["Published."]
    assert len({skill["name"] for skill in skills}) == len(skills) == 3


@pytest.mark.parametrize("limit", [1, 2, 7])
@pytest.mark.parametrize("by_cursor", [True, False])
async def test_pages_show_each_skill_once(market: Market, limit: int, by_cursor: bool) -> None:
    rows = make_skills(12)
    await market.fill(rows)
    for number in (0, 5, 11):
        await write_outbox(market.env, newer(rows[number], display_name=f"Z {number}"))
    for name in ("a-first", "skill-00003-and", "zz-last"):
        await write_outbox(market.env, make_skill(name))
    everything = [skill["name"] for skill in await page(market.env)]
    assert len(everything) == 15
    query, seen = replace(BY_NAME, limit=limit), list[str]()
    while True:
        answer = await get_skills(market.env, query)
        seen += [msgspec.json.decode(item)["name"] for item in answer.value.items]
        if answer.value.next_cursor is None:
            break
        query = (
            replace(query, cursor=decode_cursor(answer.value.next_cursor, *_ORDER))
            if by_cursor
            else replace(query, offset=len(seen))
        )
    assert seen == everything


async def test_an_isolate_asks_kv_once_in_some_seconds(market: Market) -> None:
    await market.fill(make_skills(3))
    asked: list[object] = []
    market.kv.faults = lambda operation: (
        asked.append(operation) if operation.key == OUTBOX_PREFIX else None
    )
    env = replace(market.env, fallback_cache=FallbackCache())
    for _ in range(5):
        await page(env)
    assert len(asked) == 1
    await write_outbox(market.env, make_skill("waits"))
    await asyncio.sleep(READ_EVERY)
    await asyncio.gather(*(page(env) for _ in range(5)))
    assert len(asked) == 2
    assert "waits" in await shown(env)
    await clear_outbox(env, market.kv.keys(OUTBOX_PREFIX))


@pytest.mark.parametrize("failing", [Fault.FAIL, Fault.HANG])
async def test_without_kv_the_answer_says_what_it_may_lack(market: Market, failing: Fault) -> None:
    await market.fill(make_skills(3))
    env = replace(market.env, fallback_cache=FallbackCache())
    assert not (await get_skills(env, BY_NAME)).degraded
    market.kv.faults = fault(failing, "list", key=OUTBOX_PREFIX)
    await asyncio.sleep(READ_EVERY)
    assert not (await get_skills(env, BY_NAME)).degraded  # it was told a while ago
    await asyncio.sleep(GOOD_FOR)
    answer = await get_skills(env, BY_NAME)
    assert (answer.source, answer.degraded, answer.value.total) == (Source.POSTGRES, True, 3)
    assert answer.reasons[0].startswith("outbox: ")
    begun = asyncio.get_running_loop().time()
    await get_skills(env, BY_NAME)
    assert asyncio.get_running_loop().time() == begun  # it is not asked again at once


@pytest.mark.market(page_limit=3)
async def test_more_than_one_list_call_tells_is_marked(market: Market) -> None:
    for skill in make_skills(5):
        await write_outbox(market.env, skill)
    answer = await get_skills(market.env, BY_NAME)
    assert answer.reasons == ("outbox: truncated",)
    for skill in make_skills(5):
        found = await get_skill_by_name(market.env, skill.name)
        assert found is not None
    assert await get_skill_by_name(market.env, "nobody") is None
