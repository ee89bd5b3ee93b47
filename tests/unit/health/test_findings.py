"""Differences of members: what shows once it is no delay, and what never does."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import msgspec
import pytest

from cli.answers import Health as CliHealth
from marketplace.health.check import check_health
from marketplace.health.differences import MAX_SUSPECTS, Counts, Look
from marketplace.health.report import REBUILD_CALL, Health
from marketplace.health.walk import beginning, load_walk, save_walk, walk_on
from marketplace.kv.aliases import mark_moved, write_alias
from marketplace.kv.index.writing import add_to_published_index
from marketplace.kv.records import encode_skill, enumerate_published_skills, write_record
from marketplace.kv.summaries import encode_metadata
from marketplace.operations.reports import LAST_REPAIR, save_report
from marketplace.ports.database import DatabaseSession, SkillDatabase
from marketplace.ports.env import Env, Settings
from marketplace.ports.errors import KvError
from marketplace.publishing.publish import publish_skills
from marketplace.repair.cron import run_scheduled
from marketplace.skills.change import State
from marketplace.skills.skill import Skill
from tests.doubles.kv import KvConduct, KvOperation, KvOperationKind
from tests.doubles.marketplace import (
    LATER,
    Market,
    fault,
    make_skill,
    make_skills,
    run,
    without_postgres,
)
from tests.doubles.network import Fault, Network
from tests.unit.repair.rebuilds import rebuild

CHECK = "*/5 * * * *"
INDEX = "skills:published-index"

Looking = Callable[[Market], Awaitable[Health]]


async def asked(market: Market) -> Health:
    """An operator asks."""
    return await check_health(market.env)


async def checked(market: Market) -> Health:
    """Cron checks, which does not repair here: PostgreSQL takes no rebuild."""
    await run_scheduled(market.env, CHECK)
    market.maintenance.bodies.clear()
    return await check_health(market.env)


def kinds(health: Health) -> dict[str, int]:
    return {finding.kind: finding.number for finding in health.findings}


def exits_with_1(health: Health) -> bool:
    answer = msgspec.json.decode(msgspec.json.encode(health))
    return not msgspec.convert(answer, CliHealth).is_healthy


async def _healthy(market: Market, count: int = 100) -> list[Skill]:
    skills = make_skills(count)
    await market.fill(skills)
    await market.index(skills)
    return skills


@pytest.mark.parametrize("look", [asked, checked])
async def test_three_missing_records_are_a_finding_at_the_second_look(
    market: Market, look: Looking
) -> None:
    skills = await _healthy(market)
    market.lose_records(skills[5:8])
    first = await look(market)
    assert (kinds(first), first.status, exits_with_1(first)) == ({}, "ok", False)
    await asyncio.sleep(59)
    assert kinds(await asked(market)) == {}
    await asyncio.sleep(1)
    second = await asked(market)
    (finding,) = second.findings
    assert (finding.kind, finding.sources) == ("record-missing", ("postgres", "kv"))
    assert (finding.number, finding.examples) == (3, [skill.name for skill in skills[5:8]])
    assert (second.status, second.drift_detected) == ("ok", False)
    assert second.recommendations[0].call == REBUILD_CALL
    assert exits_with_1(second)

    await rebuild(market)
    mended = await asked(market)
    assert (kinds(mended), exits_with_1(mended)) == ({}, False)


async def test_a_check_with_findings_logs_them_once_and_begins_a_rebuild(market: Market) -> None:
    skills = await _healthy(market)
    market.lose_rows(skills[:3])
    await run_scheduled(market.env, CHECK)
    assert (market.maintenance.bodies, "sources-differ" in market.log.events()) == ([], False)
    await asyncio.sleep(300)
    await run_scheduled(market.env, CHECK)
    (line,) = [line for line in market.log.lines if line["event"] == "sources-differ"]
    assert line["findings"] == [
        {"kind": "row-missing", "number": 3, "first": [skill.name for skill in skills[:3]]}
    ]
    assert len(market.maintenance.bodies) == 1


def _newer(skill: Skill) -> Skill:
    return msgspec.structs.replace(skill, description="Newer.", updated_at=LATER)


async def _lose_entries(market: Market, skills: Sequence[Skill]) -> None:
    await market.index(skills[3:])


async def _damage_a_page(market: Market, _skills: Sequence[Skill]) -> None:
    (page,) = market.kv.keys(f"{INDEX}:")
    market.kv.damage(page, None)


async def _older_entry(market: Market, skills: Sequence[Skill]) -> None:
    await market.fill([_newer(skills[0])])
    await market.index(skills)


async def _older_record(market: Market, skills: Sequence[Skill]) -> None:
    newer = _newer(skills[0])
    await market.fill([newer], kv=False)
    await market.index([newer, *skills[1:]])


async def _older_row(market: Market, skills: Sequence[Skill]) -> None:
    newer = _newer(skills[0])
    await market.fill([newer], table=False)
    await market.index([newer, *skills[1:]])


async def _unreadable(market: Market, skills: Sequence[Skill]) -> None:
    for skill in skills[:2]:
        market.kv.damage(f"skill:{skill.name}", b"no json")


async def _another_skill(market: Market, skills: Sequence[Skill]) -> None:
    stranger = make_skill(skills[0].name, repo_url="https://github.com/zed/x")
    await write_record(market.env, stranger)


async def _under_another_slug(market: Market, skills: Sequence[Skill]) -> None:
    await write_record(market.env, skills[0].renamed("elsewhere"))
    market.lose_records(skills[:1])


async def _alias_in_kv_alone(market: Market, skills: Sequence[Skill]) -> None:
    await write_alias(market.env, "old", skills[0].name)


async def _alias_in_table_alone(market: Market, skills: Sequence[Skill]) -> None:
    await (await market.database()).add_alias("old", skills[0].identity)


async def _unknown_entry(market: Market, skills: Sequence[Skill]) -> None:
    await market.index([*skills, make_skill("unknown")])


_DAMAGES: dict[str, Callable[[Market, Sequence[Skill]], Awaitable[None]]] = {
    "index-entry-missing": _lose_entries,
    "index-page-unreadable": _damage_a_page,
    "index-entry-older": _older_entry,
    "index-entry-unknown": _unknown_entry,
    "record-older": _older_record,
    "row-older": _older_row,
    "record-unreadable": _unreadable,
    "taken-slug": _another_skill,
    "other-slug": _under_another_slug,
    "alias-missing-in-database": _alias_in_kv_alone,
    "alias-missing-in-kv": _alias_in_table_alone,
}
_WITH_IT = {"taken-slug": {"record-missing": 1}, "other-slug": {}}


@pytest.mark.parametrize("kind", _DAMAGES)
async def test_each_difference_of_members_is_a_finding(market: Market, kind: str) -> None:
    skills = await _healthy(market)
    await _DAMAGES[kind](market, skills)
    assert kinds(await asked(market)) == {}
    await asyncio.sleep(60)
    found = await asked(market)
    number = {"index-entry-missing": 3, "record-unreadable": 2}.get(kind, 1)
    assert kinds(found) == {kind: number, **_WITH_IT.get(kind, {})}
    assert all(finding.examples for finding in found.findings)
    assert exits_with_1(found)


async def _update(env: Env, skill: Skill) -> None:
    moment = env.now()
    newer = msgspec.structs.replace(skill, description=f"As of {moment}.", updated_at=moment)
    await publish_skills(env, [State(newer)])
    assert await add_to_published_index(env, [newer])


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("by_cron", [True, False])
def test_an_ordinary_update_just_before_each_of_20_checks_is_no_finding(
    same: bool, by_cron: bool
) -> None:
    async def scenario(market: Market) -> list[str]:
        skills = make_skills(30, updated_at="2025-01-01T08:00:00.000Z")
        await market.fill(skills)
        await market.index(skills)
        await asyncio.sleep(3600)
        late = KvConduct(stale_reads=1.0, blind_to_own=1.0)
        found: list[str] = []
        for number in range(20):
            here = market.kv.at("here", conduct=late, operations_limit=None)
            env = replace(market.env, submissions_kv=here)
            await _update(env, skills[0 if same else number])
            await asyncio.sleep(3)
            if by_cron:
                await run_scheduled(env, CHECK)
            health = await check_health(env)
            found += [finding.kind for finding in health.findings]
            found += [drift.message for drift in health.drifts]
            await asyncio.sleep(62 if number % 2 else 297)
        return found

    assert run(scenario) == []


async def test_a_difference_that_is_repaired_and_comes_back_is_found_anew(market: Market) -> None:
    skills = await _healthy(market)
    market.lose_records(skills[:1])
    await asked(market)
    await asyncio.sleep(100)
    await write_record(market.env, skills[0])
    assert kinds(await asked(market)) == {}
    market.lose_records(skills[:1])
    assert kinds(await asked(market)) == {}


async def test_what_the_index_lacks_is_added_by_the_next_check(market: Market) -> None:
    skills = await _healthy(market)
    await market.index(skills[3:])
    await checked(market)
    await asyncio.sleep(300)
    assert kinds(await asked(market)) == {"index-entry-missing": 3}
    await run_scheduled(market.env, CHECK)
    assert market.maintenance.bodies == []
    after = await asked(market)
    assert (kinds(after), after.kv_index_count) == ({}, 100)


async def test_known_findings_show_while_postgres_is_away(market: Market) -> None:
    skills = await _healthy(market)
    market.lose_records(skills[:3])
    await asked(market)
    await asyncio.sleep(60)
    await asked(market)
    health = await check_health(without_postgres(market))
    assert kinds(health) == {"record-missing": 3}


async def test_differences_that_cannot_be_kept_are_logged(market: Market) -> None:
    skills = await _healthy(market)
    market.lose_records(skills[:3])
    market.kv.faults = fault(Fault.FAIL, "put")
    assert kinds(await asked(market)) == {}
    assert "differences-not-kept" in market.log.events()


# --- too many for one request


def _store(market: Market, skills: Sequence[Skill]) -> None:
    """Put records into KV, quicker than by writing them."""
    for skill in skills:
        metadata = encode_metadata(skill)
        market.kv.damage(f"skill:{skill.name}", encode_skill(skill), metadata=metadata)


async def _large(market: Market, count: int) -> list[Skill]:
    skills = make_skills(count)
    _store(market, skills)
    with await market.database() as database:
        for start in range(0, count, 1000):
            await database.upsert_skills(skills[start : start + 1000])
    await market.mark(skills)
    await market.index(skills)
    return skills


def _slow(market: Market, seconds: float, **changes: object) -> Env:
    """KV takes so long for each call."""
    slow = KvConduct(network=Network(latency=(seconds, seconds)))
    kv = market.kv.at("here", conduct=slow)
    return replace(market.env, submissions_kv=kv, **changes)  # type: ignore[arg-type]


async def _checks(market: Market, number: int, seconds: float = 0.3) -> list[int]:
    """Checks 300 s apart with a slow KV; the KV operations of each."""
    used = []
    for _ in range(number):
        before = market.kv.operations.total()
        await run_scheduled(_slow(market, seconds), CHECK)
        used.append(market.kv.operations.total() - before)
        await asyncio.sleep(300)
    return used


async def _timed(env: Env) -> tuple[float, Health]:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    health = await check_health(env)
    return loop.time() - begun, health


async def _hangs() -> SkillDatabase:
    await asyncio.sleep(3600)
    raise AssertionError


async def test_health_answers_in_time_at_110_000_keys(market: Market) -> None:
    for number in range(110_000):
        market.kv.damage(f"skill:skill-{number:06}", b"{}")
    seconds, health = await _timed(_slow(market, 0.3))
    assert seconds < 3
    assert health.sources["kv"].reachable
    walk = Counts(begun_at=market.env.now(), records=110_000, rows=110_000)
    await save_walk(market.env, walk)
    seconds, health = await _timed(_slow(market, 0.3, database=DatabaseSession(_hangs)))
    assert seconds < 3
    assert (health.kv_enumerated_count, health.kv_operations["list"]) == (110_000, 1)


@pytest.mark.market(page_limit=100)
async def test_110_list_pages_are_walked_in_three_checks_and_health_answers_in_time(
    market: Market,
) -> None:
    """As many list calls as 110,000 skills take."""
    skills = await _large(market, 11_000)
    seconds, health = await _timed(_slow(market, 0.3))
    assert seconds < 3
    assert (health.kv_enumerated_count, health.sources["kv"].reachable) == (None, True)
    assert "not counted yet" in (health.sources["kv"].error or "")

    market.lose_records(skills[-3:])
    used = await _checks(market, 3)
    assert max(used) < 120
    seconds, health = await _timed(_slow(market, 0.3))
    assert seconds < 3
    assert (health.kv_enumerated_count, health.prisma_count) == (10_997, 11_000)
    assert (health.kv_index_count, health.drift_detected) == (11_000, False)
    assert health.counted_at["kv"] is not None
    assert health.counted_at["kv"] < health.counted_at["postgres"]  # type: ignore[operator]
    assert health.kv_operations["list"] == 1
    assert kinds(health) == {"record-missing": 3}

    env = _slow(market, 0.3, database=DatabaseSession(_hangs))
    seconds, health = await _timed(env)
    assert seconds < 3
    counts = (health.prisma_count, health.kv_enumerated_count, health.kv_index_count)
    assert counts == (None, 10_997, 11_000)
    assert (health.status, health.drifts) == ("failing", [])


@pytest.mark.market(page_limit=10)
async def test_what_is_published_during_a_walk_is_no_difference(market: Market) -> None:
    """With pages of ten keys, 900 records take three checks."""
    skills = await _large(market, 900)
    await _checks(market, 1, 0.01)
    early = make_skills(40, "a")  # before the place of the walk
    late = make_skills(40, "z")  # after it
    await market.fill([*early, *late])
    await market.index([*early, *skills, *late])
    await _checks(market, 2, 0.01)
    health = await check_health(market.env)
    assert (health.prisma_count, health.kv_enumerated_count) == (980, 940)
    assert (health.drifts, health.findings) == ([], [])
    await _checks(market, 3, 0.01)
    health = await check_health(market.env)
    assert (health.kv_enumerated_count, health.findings) == (980, [])


@pytest.mark.market(page_limit=10)
async def test_a_walk_that_failed_goes_on_and_finds_what_is_lost(market: Market) -> None:
    skills = await _large(market, 900)
    await _checks(market, 1, 0.01)
    market.lose_rows(skills[100:115])  # behind it: found by the next walk
    market.lose_rows(skills[700:703])
    lists = 0

    def breaks(operation: KvOperation) -> Fault | None:
        nonlocal lists
        lists += operation == KvOperation(KvOperationKind.LIST, "skill:")
        return Fault.FAIL if operation.kind is KvOperationKind.LIST and lists > 20 else None

    kv = market.kv.at("here", breaks)
    await run_scheduled(replace(market.env, submissions_kv=kv), CHECK)
    assert "walk-put-off" in market.log.events()
    await _checks(market, 2, 0.01)
    health = await check_health(market.env)
    assert (health.kv_enumerated_count, health.prisma_count) == (900, 882)
    assert kinds(health) == {"row-missing": 3}
    assert [drift.counts for drift in health.drifts] == [(882, 900)]


@pytest.mark.market(page_limit=10)
async def test_a_rebuild_counts_too_and_its_findings_go_at_once(market: Market) -> None:
    """A walk that began before a rebuild says nothing of what there is after it."""
    skills = await _large(market, 900)
    market.lose_rows(skills[100:115])
    await _checks(market, 3, 0.01)
    health = await check_health(market.env)
    assert [drift.sources for drift in health.drifts] == [
        ("postgres", "kv"), ("postgres", "kv_index")
    ]  # fmt: skip
    assert kinds(health) == {"row-missing": 15}
    await rebuild(market)
    health = await check_health(market.env)
    assert (health.drifts, health.findings) == ([], [])
    assert health.last_walk is not None
    assert (health.last_walk.records, health.last_walk.rows) == (900, 900)
    assert health.last_walk.begun_at > "2026-01-01T00:14"


@pytest.mark.market(page_limit=10)
async def test_a_walk_that_began_before_a_rebuild_is_no_drift(market: Market) -> None:
    await _large(market, 900)
    now = market.env.now()
    await save_walk(market.env, Counts(begun_at=now, records=900, rows=800))
    health = await check_health(market.env)
    assert [drift.counts for drift in health.drifts] == [(800, 900)]
    await save_report(market.env, LAST_REPAIR, {"ok": True})
    assert (await check_health(market.env)).drifts == []
    for seconds, is_drift in ((59, False), (1, True)):
        await asyncio.sleep(seconds)
        begun = Counts(begun_at=market.env.now(), records=900, rows=800)
        await save_walk(market.env, begun)
        assert bool((await check_health(market.env)).drifts) is is_drift


@pytest.mark.market(page_limit=10)
async def test_without_an_index_more_skills_than_a_listing_reads_are_a_finding(
    market: Market,
) -> None:
    settings = Settings(enumeration_page_budget=1)
    skills = await _large(market, 1_010)
    await save_walk(market.env, Counts(begun_at=market.env.now(), records=1_010, rows=1_010))
    env = replace(market.env, settings=settings)
    assert (await check_health(env)).findings == []
    market.kv.damage(INDEX, None)
    (finding,) = (await check_health(env)).findings
    assert (finding.kind, finding.number) == ("fallback-truncated", len(skills) - 1_000)


# --- bounds, and what is none


async def test_of_very_many_differences_some_are_kept_and_none_is_made_up(market: Market) -> None:
    skills = await _healthy(market, 400)
    market.lose_records(skills[:300])
    await asked(market)
    await asyncio.sleep(60)
    health = await asked(market)
    assert kinds(health) == {"record-missing": MAX_SUSPECTS}
    assert health.findings[0].examples == [skill.name for skill in skills[:20]]


async def test_of_one_page_a_bounded_number_of_rows_is_read(market: Market) -> None:
    skills = await _healthy(market, 400)
    market.lose_records(skills[:300])
    look = Look(market.env, await market.database(), beginning(market.env), None)
    async for page in enumerate_published_skills(market.env):
        await look.take(page)
    assert len(look.suspects) == 200
    assert (look.place.counts.records, look.place.counts.rows) == (100, 400)


async def test_entries_that_come_with_another_generation_are_found_no_more(market: Market) -> None:
    skills = await _healthy(market)
    await market.index(skills[3:])
    await asked(market)
    await asyncio.sleep(60)
    assert kinds(await asked(market)) == {"index-entry-missing": 3}
    await market.index(skills)
    assert kinds(await asked(market)) == {}


async def test_notes_broken_records_and_aliases_are_not_taken_for_something_else(
    market: Market,
) -> None:
    skills = make_skills(20)
    await market.fill(skills[1:])
    moved = skills[0].renamed("at-home")
    await market.fill([moved])
    await mark_moved(market.env, skills[0].name, "at-home")
    await (await market.database()).add_alias(skills[0].name, moved.identity)
    await market.index([*skills, moved])  # with the slug that the skill has left
    for broken in skills[1:3]:
        market.kv.damage(f"skill:{broken.name}", b"no json")
    market.lose_rows(skills[2:3])
    market.kv.damage("skill:alias:odd", b"[]")
    await (await market.database()).add_alias("odd", moved.identity)
    await asked(market)
    await asyncio.sleep(60)
    health = await asked(market)
    assert {finding.kind: finding.examples for finding in health.findings} == {
        "record-unreadable": [skill.name for skill in skills[1:3]]
    }


@pytest.mark.market(page_limit=10)
async def test_a_step_ends_where_records_take_too_many_operations(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketplace.health.walk._STEP_OPERATIONS", 20)
    skills = make_skills(200)
    for skill in skills:  # each page takes a bulk get besides its list call
        market.kv.damage(f"skill:{skill.name}", encode_skill(skill))
    before = market.kv.operations["list"]
    await walk_on(market.env)
    assert market.kv.operations["list"] - before < 12


@pytest.mark.market(page_limit=10)
async def test_a_rebuild_in_the_middle_of_a_walk_begins_it_anew(market: Market) -> None:
    await _large(market, 900)
    await walk_on(market.env)
    await asyncio.sleep(300)
    await save_walk(market.env, Counts(begun_at=market.env.now(), records=900, rows=900))
    await asyncio.sleep(300)
    begun = market.env.now()
    for _ in range(3):
        await walk_on(market.env)
    walk = await load_walk(market.env)
    assert walk is not None
    assert (walk.begun_at, walk.records) == (begun, 900)


@pytest.mark.market(page_limit=10)
async def test_a_walk_whose_place_kv_refuses_begins_anew(market: Market) -> None:
    await _large(market, 900)
    await walk_on(market.env)
    market.kv.faults = fault(Fault.FAIL, "list")
    with pytest.raises(KvError):
        await walk_on(market.env)
    market.kv.faults = None
    await asyncio.sleep(300)
    begun = market.env.now()
    for _ in range(3):
        await walk_on(market.env)
    walk = await load_walk(market.env)
    assert walk is not None
    assert (walk.begun_at, walk.records) == (begun, 900)


async def test_without_the_differences_kept_in_kv_health_answers_all_the_same(
    market: Market,
) -> None:
    skills = await _healthy(market)
    market.lose_records(skills[:3])
    await asked(market)
    market.kv.faults = fault(Fault.FAIL, "get_many")
    health = await asked(market)
    assert (kinds(health), health.status) == ({}, "ok")
    assert "differences-not-looked-at" in market.log.events()


async def test_health_waits_no_longer_for_differences_than_it_may(market: Market) -> None:
    skills = await _healthy(market)
    market.lose_records(skills[:3])
    await asked(market)
    market.kv.faults = fault(Fault.HANG, "get_many")
    seconds, health = await _timed(market.env)
    assert seconds < 3
    assert health.status == "ok"
    assert "differences-not-looked-at" in market.log.events()


async def test_a_check_lists_the_records_once(market: Market) -> None:
    await _healthy(market)
    lists = 0

    def count(operation: KvOperation) -> None:
        nonlocal lists
        lists += operation == KvOperation(KvOperationKind.LIST, "skill:")

    market.kv.faults = count
    await run_scheduled(market.env, CHECK)
    assert lists == 1
