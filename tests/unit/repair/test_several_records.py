"""Several records of one skill, and what waits besides: a rebuild does what its dry run said, and
the second one nothing."""

import random
from typing import Any

import msgspec
import pytest

from marketplace.kv.aliases import write_alias
from marketplace.kv.outbox import write_outbox
from marketplace.skills.skill import Skill
from marketplace.skills.slugs import assignable_candidates
from tests.doubles.marketplace import EARLIER, LATER, Market, make_skill, make_skills
from tests.unit.repair.rebuilds import changes, numbers, rebuild

COUNT = 72
LATEST = "2026-12-02T08:00:00.000Z"


async def _repaired(market: Market) -> dict[str, Any]:
    """What a rebuild reports, which is what its dry run did, and all that there is to do."""
    rows, aliases, keys = dict(market.tables.rows), dict(market.tables.aliases), market.kv.keys("")
    dry = await rebuild(market, dry_run=True)
    assert (market.tables.rows, market.tables.aliases) == (rows, aliases)
    assert set(market.kv.keys("")) == set(keys)
    real = await rebuild(market)
    assert numbers(dry) == numbers(real)
    again = await rebuild(market)
    assert not any(changes(again))
    assert again["rebuilt"] == real["rebuilt"] == len(market.tables.rows)
    return real


def _newer(skill: Skill, **fields: Any) -> Skill:
    return msgspec.structs.replace(skill, updated_at=LATER, **fields)


@pytest.mark.parametrize("page_limit", [7, 1000])
@pytest.mark.parametrize("newer", [None, "first", "second"])
@pytest.mark.parametrize("second", ["{}-too", "a-{}", "digest"])
async def test_two_records_of_one_skill_in_kv_alone(
    market: Market, newer: str | None, second: str
) -> None:
    skills = make_skills(COUNT)
    others = [
        s.renamed(
            assignable_candidates(s.repo_url, s.base_slug)[-1]
            if second == "digest"
            else second.format(s.name)
        )
        for s in skills
    ]
    lower, upper = (skills, others) if second.startswith("{") else (others, skills)
    if newer == "first":
        lower = [_newer(skill, description="Newer.") for skill in lower]
    if newer == "second":
        upper = [_newer(skill, description="Newer.") for skill in upper]
    await market.fill([*lower, *upper], table=False)
    real = await _repaired(market)
    assert real["rebuilt"] == real["conflictsResolved"] == COUNT
    assert real["prismaBackfilled"] == COUNT * (2 if newer == "second" else 1)
    assert {row.skill.description for row in market.tables.rows.values()} == {
        skill.description for skill in (upper if newer == "second" else lower)
    }


@pytest.mark.parametrize("page_limit", [20, 1000])
@pytest.mark.parametrize("placed", ["record", "row", "nowhere"])
async def test_a_record_and_what_waits_in_the_outbox(market: Market, placed: str) -> None:
    skills = make_skills(COUNT)
    if placed != "nowhere":
        await market.fill(skills, table=placed == "row")
    for skill in skills:
        await write_outbox(market.env, _newer(skill, description="Newer."))
    real = await _repaired(market)
    assert (real["rebuilt"], real["prismaBackfilled"]) == (COUNT, COUNT)
    assert not market.kv.keys("outbox:")
    assert {row.skill.description for row in market.tables.rows.values()} == {"Newer."}


@pytest.mark.parametrize("page_limit", [7, 1000])
@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("to", ["another slug of the skill", "another skill"])
async def test_a_record_and_an_alias_under_one_slug(market: Market, to: str, table: bool) -> None:
    """Cut off between the alias and the note, a move leaves both."""
    skills = make_skills(20)
    await market.fill(skills, table=table)
    for skill in skills:
        left = f"x-{skill.name}"
        mine = to != "another skill"
        record = skill.renamed(left) if mine else make_skill(left)
        await market.fill([record], table=False)
        await write_alias(market.env, left, skill.name)
    await _repaired(market)


@pytest.mark.parametrize("page_limit", [1, 1000])
async def test_a_record_elsewhere_and_a_newer_one_under_the_slug_of_the_row(market: Market) -> None:
    skill = make_skill("m")
    await market.fill([skill.renamed("y-m")])
    certified = msgspec.structs.replace(skill, certified_at=LATER, cert_score=90)
    await market.fill([certified.renamed("y-m")], table=False)
    newest = msgspec.structs.replace(skill, updated_at=LATEST)
    await market.fill([newest.renamed("b-m")], table=False)
    real = await _repaired(market)
    assert (real["errors"], real["conflictsResolved"]) == (0, 1)


@pytest.mark.parametrize("page_limit", [1, 1000])
async def test_a_record_under_the_slug_of_another_skill_and_one_under_its_own(
    market: Market,
) -> None:
    other = make_skill("a", repo_url="https://github.com/first/x")
    mine = make_skill("a", repo_url="https://github.com/second/x")
    await market.fill([other], kv=False)
    await market.fill([mine, mine.renamed("second-a")], table=False)
    real = await _repaired(market)
    assert (real["rebuilt"], real["prismaBackfilled"]) == (2, 1)


async def _anything(market: Market, chance: random.Random) -> None:
    """Each skill in any source or several, under slugs that it may have."""
    for number in range(chance.randint(3, 12)):
        base = chance.choice("amz") + str(number)
        skill = make_skill(base, repo_url=f"https://github.com/{chance.choice('acz')}/x")
        slugs = [*assignable_candidates(skill.repo_url, base), f"b-{base}", f"y-{base}"]
        for slug in chance.sample(slugs, chance.choice([0, 1, 1, 2, 3])):
            state = chance.choice([skill, _newer(skill), _newer(skill, description="Newer.")])
            if chance.random() < 0.3:
                state = state.renamed(slug, published_at=chance.choice([EARLIER, LATER]))
            await market.fill([state.renamed(slug)], table=False)
        if chance.random() < 0.3:
            await market.fill([skill.renamed(chance.choice(slugs))], kv=False)
        elif chance.random() < 0.3:
            state = _newer(skill, description="Waiting.")
            await write_outbox(market.env, state.renamed(chance.choice([slugs[0], slugs[-3]])))
        if chance.random() < 0.3:
            await write_alias(market.env, *chance.sample(slugs, 2))
        if chance.random() < 0.3:
            with await market.database() as database:
                await database.add_alias(f"old-{base}", skill.identity)


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_there_is(market: Market, seed: int) -> None:
    await _anything(market, random.Random(seed))
    await _repaired(market)
