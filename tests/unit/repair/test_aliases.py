"""Old links: repaired both ways by the rebuild, and never given to another skill."""

from collections.abc import Sequence

import pytest

from marketplace.catalog.lookup import get_skill_by_name
from marketplace.kv.aliases import mark_moved, write_alias
from marketplace.kv.records import read_record
from marketplace.ports.env import Settings
from marketplace.publishing.publish import publish_skills
from marketplace.skills.change import State
from marketplace.skills.skill import Skill
from tests.doubles.marketplace import Market, make_skill, make_skills, without_postgres
from tests.unit.repair.rebuilds import changes, numbers, rebuild

MOVED = make_skill("new-name", base_slug="moved", repo_url="https://github.com/first/tools")
OTHER = make_skill("moved", repo_url="https://github.com/second/tools", author="second")


async def _led(market: Market, slugs: Sequence[str]) -> list[list[str | None]]:
    """The repositories that slugs lead to, with PostgreSQL and without."""
    found = []
    for env in (market.env, without_postgres(market)):
        answers = [await get_skill_by_name(env, slug) for slug in slugs]
        found.append([None if a is None else a.value.repo_url for a in answers])
    return found


async def _published(market: Market, skill: Skill) -> Skill:
    await publish_skills(market.env, [State(skill)])
    return market.tables.rows[skill.identity].skill


@pytest.mark.parametrize("note", ["alias", "alias and note", "note", "chain"])
async def test_a_fresh_database_gives_no_old_link_to_another_skill(
    market: Market, note: str
) -> None:
    """The skill that moved is in KV alone, as PostgreSQL was set up anew."""
    await market.fill([MOVED], table=False)
    if note == "chain":
        await write_alias(market.env, "between", MOVED.name)
        await write_alias(market.env, "moved", "between")
    elif note == "alias":
        await write_alias(market.env, "moved", MOVED.name)
    else:
        await mark_moved(market.env, "moved", MOVED.name)
    if note == "note":
        market.kv.damage("skill:alias:moved", None)
    assert (await _published(market, OTHER)).name == "second-moved"
    real = await rebuild(market)
    assert real["prismaBackfilled"] == 1
    assert (
        await _led(market, ["moved", "new-name", "second-moved"])
        == [[MOVED.repo_url, MOVED.repo_url, OTHER.repo_url]] * 2
    )
    assert not any(changes(await rebuild(market)))


async def test_a_skill_whose_row_is_lost_keeps_the_slug_that_its_alias_leads_to(
    market: Market,
) -> None:
    await market.fill([MOVED], table=False)
    await write_alias(market.env, "moved", MOVED.name)
    assert (await _published(market, MOVED)).name == MOVED.name


async def test_an_old_link_of_which_nobody_can_tell_where_it_leads_is_given_to_nobody(
    market: Market,
) -> None:
    await write_alias(market.env, "moved", "nowhere")
    assert (await _published(market, OTHER)).name == "second-moved"


@pytest.mark.market(settings=Settings(kv_operation_budget=100), page_limit=7)
async def test_aliases_are_repaired_both_ways_in_steps(market: Market) -> None:
    skills = make_skills(60)
    await market.fill(skills)
    with await market.database() as database:
        await database.add_aliases({f"row-{s.name}": s.identity for s in skills[:30]})
        await database.add_aliases({"both": skills[0].identity, "gone": "nobody#x"})
    for skill in skills[30:]:
        await write_alias(market.env, f"key-{skill.name}", skill.name)
    await write_alias(market.env, "both", skills[1].name)  # the table has let it lead elsewhere
    dry = await rebuild(market, dry_run=True)
    assert len(market.tables.aliases) == 32
    real = await rebuild(market)
    assert numbers(dry) == numbers(real)
    assert real["aliasesRepaired"] == 30 + 30 + 1
    assert real["progress"]["maxKvOperations"] <= 100
    old = [*(f"row-{s.name}" for s in skills[:30]), *(f"key-{s.name}" for s in skills[30:]), "both"]
    wanted = [*(s.repo_url for s in skills), skills[0].repo_url]
    assert await _led(market, old) == [wanted, wanted]
    assert not any(changes(await rebuild(market)))


@pytest.mark.parametrize("lost", ["table", "kv"])
async def test_a_store_that_was_lost_gets_its_old_links_back(market: Market, lost: str) -> None:
    """The links of skills come back with them, in the same rebuild."""
    skills = make_skills(5)
    await market.fill(skills, kv=lost == "table", table=lost == "kv")
    for skill in skills:
        if lost == "table":
            await write_alias(market.env, f"old-{skill.name}", skill.name)
        else:
            market.tables.aliases[f"old-{skill.name}"] = skill.identity
    dry = await rebuild(market, dry_run=True)
    real = await rebuild(market)
    assert numbers(dry) == numbers(real)
    assert real["aliasesRepaired"] == 5
    wanted = [skill.repo_url for skill in skills]
    assert await _led(market, [f"old-{skill.name}" for skill in skills]) == [wanted, wanted]
    assert not any(changes(await rebuild(market)))


async def test_an_old_link_leads_on_where_only_the_rows_know_its_skill(market: Market) -> None:
    await market.fill([MOVED], kv=False)
    await write_alias(market.env, "moved", MOVED.name)
    real = await rebuild(market)
    assert (real["aliasesRepaired"], real["kvBackfilled"]) == (1, 1)
    assert market.tables.aliases == {"moved": MOVED.identity}
    assert not any(changes(await rebuild(market)))


async def test_a_note_that_leads_to_another_skill_is_mended(market: Market) -> None:
    """The record under the old slug was replaced by a note, which comes before the alias."""
    other = make_skill("elsewhere")
    await market.fill([MOVED, other])
    await mark_moved(market.env, "moved", other.name)
    market.tables.aliases["moved"] = MOVED.identity
    assert (await rebuild(market))["aliasesRepaired"] == 1
    assert await _led(market, ["moved"]) == [[MOVED.repo_url]] * 2
    assert not any(changes(await rebuild(market)))


async def test_an_alias_never_hides_a_skill_that_has_the_slug(market: Market) -> None:
    await market.fill([MOVED, OTHER])
    await write_alias(market.env, OTHER.name, MOVED.name)
    real = await rebuild(market)
    assert not any(changes(real))
    assert not market.tables.aliases
    assert await read_record(market.env, OTHER.name) == OTHER
    assert await _led(market, ["moved"]) == [[OTHER.repo_url]] * 2


async def test_a_record_under_an_old_slug_is_moved_and_its_alias_counted_once(
    market: Market,
) -> None:
    await market.fill([MOVED])
    await market.fill([OTHER], table=False)
    market.tables.aliases["moved"] = MOVED.identity
    dry = await rebuild(market, dry_run=True)
    real = await rebuild(market)
    assert numbers(dry) == numbers(real)
    assert (real["aliasesRepaired"], real["conflictsResolved"]) == (0, 1)
    assert not any(changes(await rebuild(market)))


@pytest.mark.parametrize("slug", ["x", "self"])
async def test_circles_end(market: Market, slug: str) -> None:
    await write_alias(market.env, "x", "y")
    await write_alias(market.env, "y", "x")
    market.kv.damage("skill:alias:self", b'"self"')
    real = await rebuild(market)
    assert (real["orphanedAliases"], real["aliasesRepaired"]) == (3, 0)
    new = await _published(market, make_skill(slug))
    assert new.name == f"octo-{slug}"
