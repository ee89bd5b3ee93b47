"""The feed's rows: each skill once, at its latest change; who follows the numbers misses none."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

import pytest

from marketplace.ports.database import ChangedSkill, Changes, DatabaseConnector, SkillDatabase
from marketplace.ports.known_database import Expectation, Standing
from marketplace.postgres.db import PostgresSkillDatabase
from marketplace.postgres.queries import LIST_CHANGES
from marketplace.skills.acts import ActKind
from marketplace.skills.change import Acted
from marketplace.skills.fingerprint import NO_SKILLS, Fingerprint, add_items
from marketplace.skills.seed import EMPTY_SEED, Claim, load_seed
from marketplace.skills.skill import Skill, Status
from pgwire import Connection, Statement
from tests.contract.conftest import ROWS
from tests.contract.plans import nodes_of, root_of
from tests.contract.postgres import PostgresServer
from tests.examples import FEBRUARY, MARCH, act, publish, random_skills, seed_of, skill

MOST_BUFFERS: Final = 12_000
"""A thousand skills, their old slugs, and what the seed gives way to: 4,000 to 8,000."""


async def changes(db: SkillDatabase, since: int = 0, limit: int = 1000) -> Changes:
    return await db.list_changes(since=since, limit=limit, seed=EMPTY_SEED)


async def names(db: SkillDatabase, since: int = 0) -> list[str]:
    return [row.skill.name for row in (await changes(db, since)).rows]


def three() -> list[Skill]:
    return [skill(name) for name in ("a", "b", "c")]


async def test_each_skill_comes_once_at_its_latest_change(connect: DatabaseConnector) -> None:
    a, b, c = three()
    with await connect() as db:
        for each in (c, a, b):
            await publish(db, each)
        assert await names(db) == ["c", "a", "b"]
        seen = (await changes(db)).head
        await publish(db, skill("a", updated_at=FEBRUARY))
        found = await changes(db)
        assert [row.skill.name for row in found.rows] == ["c", "b", "a"]
        numbers = [row.number for row in found.rows]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] <= found.head
        assert found.rows[-1].skill.revision == skill("a", updated_at=FEBRUARY).revision
        assert await names(db, seen) == ["a"]
        assert await names(db, found.head) == []


async def _block(db: SkillDatabase) -> None:
    identity = skill("b").identity
    await db.upsert_skill(Acted(identity, (act(ActKind.BLOCK),)), candidates=["b"])


async def _restore(db: SkillDatabase) -> None:
    block = act(ActKind.BLOCK)
    lift = act(ActKind.RESTORE, MARCH, lifts=(block.id,))
    await db.upsert_skill(Acted(skill("b").identity, (block, lift)), candidates=["b"])


CHANGED: Final[dict[str, Any]] = {
    "a new version": lambda db: publish(db, skill("b", updated_at=MARCH)),
    "many at once": lambda db: db.upsert_skills([skill("b", updated_at=MARCH)]),
    "an earlier first publication": lambda db: publish(
        db, skill("b", published_at="2025-01-01T00:00:00.000Z")
    ),
    "a block": _block,
    "a block and its lift": _restore,
    "a slug that it has left": lambda db: db.add_alias("old-b", skill("b").identity),
    "slugs that skills have left": lambda db: db.add_aliases({"old-b": skill("b").identity}),
}


@pytest.mark.parametrize("what", CHANGED)
async def test_whatever_changes_what_is_told_of_a_skill_takes_a_number(
    connect: DatabaseConnector, what: str
) -> None:
    with await connect() as db:
        await db.upsert_skills(three())
        seen = (await changes(db)).head
        await CHANGED[what](db)
        assert await names(db, seen) == ["b"]


async def test_what_changes_nothing_takes_no_number(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await db.upsert_skills(three())
        await db.add_alias("old-b", skill("b").identity)
        seen = (await changes(db)).head
        await publish(db, skill("b"))
        await db.upsert_skills(three())
        await db.check_skills([skill("b", updated_at=MARCH)])
        await db.add_alias("old-b", skill("b").identity)
        await db.add_alias("nobodys", skill("not-there").identity)
        assert (await changes(db)).head == seen
        assert await names(db, seen) == []


async def test_what_is_withheld_and_what_was_left_is_told(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await db.upsert_skills(three())
        await _block(db)
        await db.add_aliases({"old-c": skill("c").identity, "c-before": skill("c").identity})
        found = {row.skill.name: row for row in (await changes(db)).rows}
        assert found["b"].skill.status is Status.BLOCKED
        assert found["c"].aliases == ("c-before", "old-c")
        assert found["a"].aliases == ()


@pytest.mark.parametrize("limit", [1, 2, 7, 60])
async def test_parts_together_are_the_whole(connect: DatabaseConnector, limit: int) -> None:
    skills = random_skills(random.Random(limit), 40)
    with await connect() as db:
        await db.upsert_skills(skills[:25])
        for each in skills[25:]:
            await publish(db, each)
        whole = await changes(db)
        parts: list[ChangedSkill] = []
        since, fingerprint = 0, None
        while fingerprint is None:
            part = await changes(db, since, limit)
            assert len(part.rows) <= limit
            assert part.head == whole.head
            parts += part.rows
            since, fingerprint = (part.rows or parts)[-1].number, part.fingerprint
        assert parts == list(whole.rows)
        assert {row.skill.identity for row in parts} == {each.identity for each in skills}


async def test_the_fingerprint_is_that_of_all_listed_or_withheld(
    connect: DatabaseConnector,
) -> None:
    skills = random_skills(random.Random(3), 60)
    with await connect() as db:
        await db.upsert_skills(skills)
        found = await changes(db)
        assert any(row.skill.status is not Status.LISTED for row in found.rows)
        digest = add_items(NO_SKILLS.digest, (row.skill for row in found.rows))
        assert found.fingerprint == Fingerprint(60, digest)
        assert (await changes(db, limit=59)).fingerprint is None
        assert (await changes(db, limit=60)).fingerprint == found.fingerprint
        assert (await changes(db, found.head)).fingerprint == found.fingerprint


async def test_it_tells_what_the_seed_gives_way_to_and_when(connect: DatabaseConnector) -> None:
    seed = seed_of(skill("b", repository="other/tools"), skill("c"), skill("d"))
    with await connect() as db:
        await db.upsert_skills(three())
        await db.add_alias("d", skill("a").identity)
        found = await db.list_changes(since=0, limit=1, seed=seed)
        number = {
            row.skill.name: row.number
            for row in (await db.list_changes(since=0, limit=9, seed=seed)).rows
        }
        expected = [
            (number["b"], Claim("b", skill("b").identity)),
            (number["c"], Claim("c", skill("c").identity)),
            (number["a"], Claim("d", skill("a").identity)),
        ]
        assert sorted(found.claims) == sorted(expected)


async def test_a_repair_of_what_was_lost_is_another_generation(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await db.upsert_skills(three())
        before = await changes(db)
        db.hold_to(Expectation(repairing=True))
        await db.note_complete()
        assert (await changes(db)).generation == before.generation
        await db.note_missing(Standing("another", 10))
        await db.note_complete()
        assert (await changes(db)).generation != before.generation


# --- PostgreSQL alone -------------------------------------------------------------------------


BY_HAND: Final = {
    "another slug": "update skill set name = 'b-2' where name = 'b'",
    "another revision": "update skill set revision = revision || '0' where name = 'b'",
    "withheld": "update skill set status = 'WITHDRAWN' where name = 'b'",
    "first published": "update skill set published_at = '2020-01-01T00:00:00.000Z'"
    " where name = 'b'",
    "as an earlier version does": """
        with written as (
            insert into skill as stored (
                identity, name, base_slug, repository, display_name, description, summary, author,
                author_lower, repo_url, published_at, updated_at, revision, title_terms,
                search_terms
            )
            select identity, name, base_slug, repository, 'B', description, summary, author,
                author_lower, repo_url, published_at, updated_at, revision || '1', title_terms,
                search_terms
            from skill where name = 'b'
            on conflict (identity) do update set revision = excluded.revision
            returning identity
        )
        update instance set changes = changes + 1 where (select count(*) from written) > 0
    """,
}
COPIED_BY_HAND: Final = """
    insert into skill (
        identity, name, base_slug, repository, display_name, description, summary, author,
        author_lower, repo_url, published_at, updated_at, revision, title_terms, search_terms
    )
    select identity || '-2', name || '-2', base_slug, repository, display_name, description,
        summary, author, author_lower, repo_url, published_at, updated_at, revision, title_terms,
        search_terms
    from skill
"""
UNCHANGED_BY_HAND: Final = (
    "update skill set revision_in_kv = revision, due_at = published_at, trending_score_7d = 7"
)


@pytest.mark.parametrize("what", BY_HAND)
async def test_statements_that_give_no_number_get_one(
    postgres: DatabaseConnector, postgres_server: PostgresServer, database: str, what: str
) -> None:
    with await postgres() as db, await postgres_server.connect(database) as hand:
        await db.upsert_skills(three())
        seen = (await changes(db)).head
        await hand.query(BY_HAND[what])
        found = await changes(db, seen)
        assert [row.skill.base_slug for row in found.rows] == ["b"]
        assert found.rows[0].number <= found.head
        seen = found.head
        await hand.query(UNCHANGED_BY_HAND)
        assert await names(db, seen) == []


async def test_rows_by_hand_get_a_number_each(
    postgres: DatabaseConnector, postgres_server: PostgresServer, database: str
) -> None:
    with await postgres() as db, await postgres_server.connect(database) as hand:
        await db.upsert_skills(three())
        seen = (await changes(db)).head
        await hand.query(COPIED_BY_HAND)
        found = await changes(db, seen)
        assert [row.number - seen for row in found.rows] == [2, 3, 4]
        assert found.head == seen + 2**20


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("many", [False, True])
async def test_what_is_committed_later_has_the_greater_number(
    postgres: DatabaseConnector,
    postgres_server: PostgresServer,
    database: str,
    end: str,
    many: bool,
) -> None:
    """Who has seen the later change of two is yet told the earlier one."""
    with await postgres() as db, await postgres_server.connect(database) as connection:
        slow = PostgresSkillDatabase(connection)
        await connection.query("begin")
        await (slow.upsert_skills([skill("slow")]) if many else publish(slow, skill("slow")))
        with await postgres() as other:
            writing = asyncio.ensure_future(publish(other, skill("fast")))
            await asyncio.sleep(0.2)
            seen = list((await changes(db)).rows)
            await connection.query(end)
            await writing
        seen += (await changes(db, seen[-1].number if seen else 0)).rows
        told = [row.skill.name for row in seen]
        assert told == (["slow", "fast"] if end == "commit" else ["fast"])


async def test_who_follows_while_many_write_misses_nothing(
    postgres: DatabaseConnector, postgres_server: PostgresServer, database: str
) -> None:
    """Each writer's transactions stay open for a while after the row was written."""
    chance = random.Random(5)
    over = asyncio.Event()
    followed: dict[str, Skill] = {}

    async def write(writer: int) -> None:
        with await postgres_server.connect(database) as connection:
            db = PostgresSkillDatabase(_Lingering(connection, chance))  # type: ignore[arg-type]
            for number in range(8):
                moment = f"2026-03-{number + 1:02d}T00:00:0{writer}.000Z"
                await publish(db, skill(f"own-{writer}", updated_at=moment))
                await publish(db, skill("shared", updated_at=moment, repository="all/tools"))
                await db.upsert_skills([skill(f"many-{writer}-{n}-{number}") for n in range(3)])

    async def follow() -> None:
        since = 0
        with await postgres() as db:
            while True:
                last = over.is_set()
                found = await changes(db, since)
                followed.update({row.skill.name: row.skill for row in found.rows})
                since = found.rows[-1].number if found.rows else since
                if last and not found.rows:
                    return

    following = asyncio.ensure_future(follow())
    await asyncio.gather(*(write(writer) for writer in range(4)))
    over.set()
    await following
    with await postgres() as db:
        rows = (await changes(db)).rows
        assert len(rows) == 4 * (1 + 8 * 3) + 1
        assert followed == {row.skill.name: row.skill for row in rows}


class _Lingering:
    """A connection whose transactions end a moment after their last statement."""

    def __init__(self, connection: Connection, chance: random.Random) -> None:
        self._connection = connection
        self._chance = chance

    async def pipeline(self, statements: Sequence[Statement]) -> Any:
        await self._connection.pipeline([Statement("begin")])
        try:
            results = await self._connection.pipeline(statements)
        except Exception:
            await self._connection.pipeline([Statement("rollback")])
            raise
        await asyncio.sleep(self._chance.random() / 50)
        await self._connection.pipeline([Statement("commit")])
        return results

    @property
    def closed(self) -> bool:
        return self._connection.closed

    def close(self) -> None:
        self._connection.close()


async def test_a_slug_that_is_left_while_its_skill_is_written_is_told(
    postgres: DatabaseConnector, postgres_server: PostgresServer, database: str
) -> None:
    """The alias comes while the row is written and not yet committed."""
    with await postgres() as db, await postgres_server.connect(database) as connection:
        before = (await changes(db)).head
        await connection.query("begin")
        await publish(PostgresSkillDatabase(connection), skill("b"))
        leaving = asyncio.ensure_future(db.add_alias("old-b", skill("b").identity))
        await asyncio.sleep(0.2)
        assert not leaving.done()
        await connection.query("commit")
        await leaving
        (row,) = (await changes(db)).rows
        assert row.aliases == ("old-b",)
        # One for the row, one for the slug.
        assert row.number // 2**20 == before // 2**20 + 2


@pytest.mark.parametrize("since", [0, ROWS // 2, ROWS - 1000])
async def test_a_part_reads_no_more_of_the_table_than_it_tells(
    postgres_server: PostgresServer, large_database: str, since: int
) -> None:
    seed = load_seed()
    parameters = (since, 1000, list(seed.by_identity), list(seed.claimable))
    root = await root_of(
        postgres_server,
        large_database,
        Statement(LIST_CHANGES, parameters),
        "analyze",
        "buffers",
        "timing off",
    )
    run = [node for node in nodes_of(root) if node["Actual Loops"]]
    read = {node["Node Type"] for node in run if node.get("Relation Name") == "skill"}
    assert "Seq Scan" not in read
    assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] <= MOST_BUFFERS


async def test_the_fingerprint_at_the_end_comes_from_an_index(
    postgres_server: PostgresServer, large_database: str
) -> None:
    seed = load_seed()
    parameters = (ROWS, 1000, list(seed.by_identity), list(seed.claimable))
    root = await root_of(
        postgres_server, large_database, Statement(LIST_CHANGES, parameters), "analyze", "buffers"
    )
    run = [node for node in nodes_of(root) if node["Actual Loops"]]
    read = {node["Node Type"] for node in run if node.get("Relation Name") == "skill"}
    assert "Seq Scan" not in read
    assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] <= MOST_BUFFERS
