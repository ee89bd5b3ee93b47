"""Installs: counted by day, and what is made of the counts."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Final

import msgspec

from marketplace.ports.database import DatabaseConnector, MeasuredRows, SkillDatabase
from marketplace.skills.change import State
from marketplace.skills.skill import Skill
from tests.contract.postgres import PostgresServer
from tests.examples import FEBRUARY, change, publish, skill

TODAY: Final = date(2026, 12, 1)


def _day(ago: int) -> str:
    return (TODAY - timedelta(days=ago)).isoformat()


async def _measure(db: SkillDatabase, *, ago: int = 0, limit: int = 100) -> int:
    """As if today were so many days ago; how many rows changed."""
    after, changed = "", 0
    while True:
        found = await db.measure_installs(
            after=after, limit=limit, week=_day(ago + 6), month=_day(ago + 29)
        )
        changed += found.changed
        if found.after is None:
            return changed
        after = found.after


async def _measured(db: SkillDatabase, *skills: Skill) -> Mapping[str, tuple[int, float, float]]:
    rows = await db.get_skills([each.identity for each in skills])
    return {
        row.name: (row.installs, row.trending_score_7d, row.trending_score_30d)
        for row in rows.values()
    }


async def test_trends_and_totals_are_what_brute_force_adds_up(connect: DatabaseConnector) -> None:
    chance = random.Random(7)
    skills = [skill(f"skill-{number}") for number in range(25)]
    told: Counter[tuple[str, int]] = Counter()
    with await connect() as db:
        for each in skills:
            await publish(db, each)
        for now in range(50, -1, -1):  # a day after the other, measured on most of them
            for _ in range(chance.randrange(3)):
                some = Counter(each.identity for each in chance.choices(skills, k=9))
                await db.add_installs(some, day=_day(now))
                told.update({(identity, now): count for identity, count in some.items()})
            if chance.random() < 0.8:
                await _measure(db, ago=now, limit=7)
        await _measure(db, limit=7)

        def total(identity: str, days: int) -> int:
            return sum(n for (each, ago), n in told.items() if each == identity and ago < days)

        assert await _measured(db, *skills) == {
            each.name: tuple(total(each.identity, days) for days in (999, 7, 30)) for each in skills
        }
        assert await _measure(db) == 0


async def test_a_part_of_the_table_is_measured_at_a_time(connect: DatabaseConnector) -> None:
    skills = [skill(name) for name in ("a", "b", "c")]
    with await connect() as db:
        for each in skills:
            await publish(db, each)
        await db.add_installs({each.identity: 2 for each in skills}, day=_day(0))
        await db.add_installs({skills[0].identity: 1}, day=_day(0))

        found = await db.measure_installs(after="", limit=2, week=_day(6), month=_day(29))
        assert found == MeasuredRows(2, skills[1].identity)
        assert await _measured(db, *skills) == {"a": (3, 3, 3), "b": (2, 2, 2), "c": (0, 0, 0)}
        found = await db.measure_installs(
            after=skills[1].identity, limit=2, week=_day(6), month=_day(29)
        )
        assert found == MeasuredRows(1, None)


async def test_what_is_measured_belongs_to_no_state_of_a_skill(connect: DatabaseConnector) -> None:
    first = skill()
    with await connect() as db:
        await publish(db, first)
        standing = await db.note_complete()
        await db.add_installs({first.identity: 4}, day=_day(0))
        await _measure(db)

        row = await db.get_skill(first.name)
        assert row is not None
        assert (row.revision, row.updated_at) == (first.revision, first.updated_at)
        assert await db.note_complete() == standing, "the number of the last change"
        newer = msgspec.structs.replace(first, description="Newer.", updated_at=FEBRUARY)
        await change(db, State(newer), row=first)  # as it was read before it was measured
        assert await _measured(db, first) == {first.name: (4, 4, 4)}


async def test_a_total_never_falls_though_the_counts_were_lost(connect: DatabaseConnector) -> None:
    known = skill(installs=500, trending_score_7d=20, trending_score_30d=90)
    with await connect() as db:
        await publish(db, known)  # as it comes back from KV
        await db.add_installs({known.identity: 3}, day=_day(0))
        await _measure(db)
        assert await _measured(db, known) == {known.name: (500, 3, 3)}


async def test_what_kv_lacks_is_told_until_it_is_known_to_have_that(
    connect: DatabaseConnector,
) -> None:
    first, other = skill("a"), skill("b")
    with await connect() as db:
        await publish(db, first)
        await publish(db, other)
        assert await db.list_measured(after="", limit=9) == []
        await db.add_installs({first.identity: 4, other.identity: 1}, day=_day(0))
        await _measure(db)
        before = await db.list_measured(after="", limit=9)
        assert [row.name for row in before] == ["a", "b"]
        assert [row.name for row in await db.list_measured(after="", limit=1)] == ["a"]
        later = await db.list_measured(after=first.identity, limit=9)
        assert [row.name for row in later] == ["b"]

        await db.add_installs({first.identity: 1}, day=_day(0))
        await _measure(db)
        await db.note_measured(before)
        assert [row.installs for row in await db.list_measured(after="", limit=9)] == [5]
        await db.note_measured(await db.list_measured(after="", limit=9))
        assert await db.list_measured(after="", limit=9) == []


async def test_installs_that_come_at_once_all_count(postgres: DatabaseConnector) -> None:
    skills = [skill("a"), skill("b")]
    with await postgres() as db:
        for each in skills:
            await publish(db, each)

    async def report(number: int) -> None:
        some = {each.identity: 1 for each in (skills if number % 2 else skills[::-1])}
        with await postgres() as db:
            await db.add_installs(some, day=_day(0))
            if number % 10 == 0:
                await _measure(db)

    await asyncio.gather(*(report(number) for number in range(40)))
    with await postgres() as db:
        await _measure(db)
        assert await _measured(db, *skills) == {"a": (40, 40, 40), "b": (40, 40, 40)}


async def test_days_that_no_trend_counts_are_kept_together(
    postgres_server: PostgresServer, database: str, postgres: DatabaseConnector
) -> None:
    some = skill()
    with await postgres() as db:
        await publish(db, some)
        for ago in range(40):
            await db.add_installs({some.identity: 1}, day=_day(ago))
        await _measure(db)
        assert await _measured(db, some) == {some.name: (40, 7, 30)}
    with await postgres_server.connect(database) as connection:
        rows = (await connection.query("select day, count from skill_install order by day")).rows
    assert rows[0] == ("", "10")
    assert [day for day, _ in rows[1:]] == [_day(ago) for ago in range(29, -1, -1)]
