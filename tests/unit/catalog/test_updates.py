"""Which installed skills have updates, from either source: all that was asked, or nothing."""

from dataclasses import replace

import pytest

from marketplace.catalog.answer import Answer, Source
from marketplace.catalog.lookup import get_skill_by_name
from marketplace.catalog.updates import check_updates
from marketplace.kv.aliases import write_alias
from marketplace.kv.outbox import write_outbox
from marketplace.kv.records import write_record
from marketplace.kv.withheld import read_withheld
from marketplace.ports.errors import KvError
from marketplace.publishing.acts import act_on, new_act
from marketplace.skills.acts import ActKind
from marketplace.skills.seed import read_seed
from marketplace.skills.updates import Installed, Update
from marketplace.skills.withholding import Standing
from tests.doubles.marketplace import (
    EARLIER,
    LATER,
    Market,
    fault,
    kv_away,
    make_skill,
    make_skills,
    without_postgres,
)
from tests.doubles.network import Fault

SEED = read_seed(
    b'[{"name": "seeded", "displayName": "S", "currentVersion": "2.0.0",'
    b' "repoUrl": "https://github.com/acme/seeded"}]'
)


def installed(name: str = "pdf-tools", version: str = "1.0.0", digits: str = "") -> Installed:
    return Installed(name=name, version=version, digits=digits)


async def _both(market: Market, *asked: Installed) -> list[Update]:
    """What PostgreSQL tells, which KV tells too."""
    whole = await check_updates(market.env, asked)
    assert (whole.source, whole.reasons) == (Source.POSTGRES, ())
    kept = await check_updates(without_postgres(market), asked)
    assert (kept.source, kept.reasons) == (
        Source.KV_ENUMERATION,
        ("postgres: unavailable",),
    )
    assert kept.value == whole.value
    return whole.value


def _latest(answer: Answer[list[Update]]) -> list[str]:
    return [update.latest for update in answer.value]


async def test_both_sources_tell_each_in_the_order_asked(market: Market) -> None:
    market.env = replace(market.env, seed=SEED)
    others = make_skills(250, current_version="1.5.0")
    await market.fill([make_skill(current_version="1.4.0"), *others])
    with await market.database() as database:
        await database.add_alias("pdf-old", make_skill().identity)
    await write_alias(market.env, "pdf-old", "pdf-tools")
    asked = [
        *(installed(skill.name, "1.5.0") for skill in others),
        installed("pdf-tools", "1.3.0"),
        installed("nobody"),
        installed("pdf-old", "0.9.0"),
        installed("octo/pdf-tools/PDF Tools"),
        installed("octo/other/pdf-tools"),
        installed("pdf-tools", "1.4.0"),
        installed("seeded", "1.9.9"),
        installed("acme/seeded/seeded", "2.0.0"),
    ]
    told = await _both(market, *asked)
    assert [update.name for update in told] == [each.name for each in asked]
    assert not any(update.update_available for update in told[:250])
    assert [(each.latest, each.version_bump, each.status.value) for each in told[250:]] == [
        ("1.4.0", "minor", "LISTED"),
        ("1.0.0", None, "UNKNOWN"),
        ("1.4.0", "major", "LISTED"),
        ("1.4.0", "minor", "LISTED"),
        ("1.0.0", None, "UNKNOWN"),
        ("1.4.0", None, "LISTED"),
        ("2.0.0", "major", "LISTED"),
        ("2.0.0", None, "LISTED"),
    ]
    assert await _both(market) == []


async def test_one_statement_answers_all(market: Market) -> None:
    await market.fill(make_skills(20))
    asked: list[str] = []

    async def note(operation: str) -> None:
        asked.append(operation)

    market.tables.before = note
    await check_updates(market.env, [installed(f"skill-{n:05d}") for n in range(500)])
    assert asked == ["connect", "find_installed"]


async def test_with_postgres_away_500_take_few_operations(market: Market) -> None:
    await market.fill(make_skills(10))
    before = market.kv.operations.total()
    names = [installed(f"skill-{n:05d}") for n in range(400)]
    names += [installed(f"octo/repo-{n}/skill") for n in range(100)]
    await check_updates(without_postgres(market), names)
    assert market.kv.operations.total() - before < 20


async def test_no_update_is_told_of_a_failed_or_withheld_skill(market: Market) -> None:
    skills = [
        make_skill("failed", current_version="9.0.0", scan_failed_at=LATER),
        make_skill("blocked", current_version="9.0.0"),
        make_skill("fine", current_version="9.0.0"),
    ]
    await market.fill(skills)
    found = await get_skill_by_name(market.env, "blocked")
    assert found is not None
    block = new_act(market.env, ActKind.BLOCK, reason="So.", by="ann", threat_type="malware")
    await act_on(market.env, found, block)
    asked = [installed(skill.name) for skill in skills]
    told = await _both(market, *asked)
    assert [(each.update_available, each.status) for each in told] == [
        (False, Standing.SCAN_FAILED),
        (False, Standing.BLOCKED),
        (True, Standing.LISTED),
    ]
    # The record may be a state from before; KV's list of withheld skills tells.
    await write_record(market.env, skills[1])
    assert list(await read_withheld(market.env)) == [skills[1].identity]
    kept = await check_updates(without_postgres(market), asked)
    assert kept.value == told


async def test_a_blocked_seed_skill_without_its_record_is_blocked(market: Market) -> None:
    market.env = replace(market.env, seed=SEED)
    found = await get_skill_by_name(market.env, "seeded")
    assert found is not None
    await act_on(market.env, found, new_act(market.env, ActKind.WITHDRAW, reason="So.", by="ann"))
    market.kv.damage("skill:seeded", None)
    (told,) = await _both(market, installed("seeded"))
    assert (told.update_available, told.status) == (False, Standing.WITHDRAWN)


async def test_what_waits_for_postgres_is_told_too(market: Market) -> None:
    market.env = replace(market.env, seed=SEED)
    await market.fill([make_skill(current_version="1.1.0"), make_skill("late", updated_at=LATER)])
    waiting = [
        make_skill(current_version="1.2.0", updated_at=LATER),
        make_skill("late", current_version="7.0.0", updated_at=EARLIER),
        make_skill("new", current_version="3.0.0"),
        make_skill("seeded", repo_url="https://github.com/acme/seeded", current_version="4.0.0"),
    ]
    for skill in waiting:
        await write_outbox(market.env, skill)
    asked = [installed(skill.name) for skill in waiting]
    answer = await check_updates(without_postgres(market), asked)
    assert _latest(answer) == ["1.2.0", "1.0.0", "3.0.0", "4.0.0"]


@pytest.mark.parametrize(
    "part", ["skill:old", "skill:alias:", "skills:withheld", "outbox:", "skill:octo-"]
)
async def test_with_a_part_of_kv_away_nothing_is_told(market: Market, part: str) -> None:
    await market.fill([make_skill()])
    asked = [installed(), installed("old"), installed("octo/other/pdf-tools")]
    await check_updates(without_postgres(market), asked)
    market.kv.faults = fault(Fault.FAIL, "get", "get_many", "list", key=part)
    with pytest.raises(KvError):
        await check_updates(without_postgres(market), asked)
    market.kv.faults = kv_away
    assert _latest(await check_updates(market.env, asked)) == ["1.0.0"] * 3


async def test_a_record_that_cannot_be_read_is_no_unknown_skill(market: Market) -> None:
    await market.fill([make_skill()])
    market.kv.damage("skill:pdf-tools", b"{")
    with pytest.raises(KvError):
        await check_updates(without_postgres(market), [installed()])
