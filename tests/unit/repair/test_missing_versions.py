"""Skills from before there were versions get their present one, in bounded steps."""

import pytest

from marketplace.repair import missing_versions
from marketplace.repair.light_repair import run_light_repair
from tests.doubles.marketplace import Market, make_skills


async def test_a_check_fills_what_lacks_and_the_next_one_finds_nothing(market: Market) -> None:
    skills = make_skills(5, current_version="1.2.0")
    await market.fill(skills)
    kept = market.tables.versions.pop(skills[0].identity)
    market.tables.versions.clear()
    market.tables.versions[skills[0].identity] = kept

    report = await run_light_repair(market.env)
    assert (report.versions_added, report.errors) == (4, [])
    for skill in skills:
        (version,) = market.tables.versions[skill.identity].values()
        assert version.version == "1.2.0"
        assert version.diff_summary == "First listed as version 1.2.0."
    assert (await run_light_repair(market.env)).versions_added == 0


async def test_checks_go_on_where_the_last_one_stopped_and_then_begin_again(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing_versions, "_ROWS", 3)
    monkeypatch.setattr(missing_versions, "_STATEMENTS", 2)
    skills = make_skills(10)
    await market.fill(skills)
    market.tables.versions.clear()

    # A step that adds ends the check; the rest is the next one's.
    assert [await missing_versions.fill_versions(market.env) for _ in range(4)] == [3, 3, 3, 1]
    lost = skills[7].identity
    del market.tables.versions[lost]
    assert [await missing_versions.fill_versions(market.env) for _ in range(2)] == [0, 1]
    assert lost in market.tables.versions


async def test_a_check_looks_at_a_bounded_part_of_the_table(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing_versions, "_ROWS", 2)
    await market.fill(make_skills(50))
    asked: list[str] = []

    async def note(operation: str) -> None:
        asked.append(operation)

    market.tables.before = note
    await missing_versions.fill_versions(market.env)
    assert asked.count("without_versions") == missing_versions._STATEMENTS
