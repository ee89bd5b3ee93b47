"""How long the skill database's methods take on many rows: ``python -m bench.listing_sql``.

Starts a throw-away PostgreSQL, generates the rows, runs each case for
at most a second (at least three times) and prints the median and the worst. Every time is a
method call's, so the round trip and the reading of the answer are in it.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.generated_skills import generate_skills
from bench.stack import migrated_postgres, session
from local.host.postgres import PostgresServer
from marketplace.ports.database import RecordKey
from marketplace.postgres.db import PostgresSkillDatabase
from marketplace.skills.change import State
from marketplace.skills.listing_rules import Cursor, ListingQuery, SortDirection, SortField
from marketplace.skills.seed import load_seed
from marketplace.skills.skill import Skill
from marketplace.skills.slugs import assignable_candidates
from marketplace.skills.tiers import CertTier
from pgwire import Connection

SEED: Final = load_seed()
CASE_SECONDS: Final = 1.0
FEWEST_RUNS: Final = 3
MOST_RUNS: Final = 200
_MILLISECONDS: Final = 1000

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one case, in milliseconds."""

    runs: int
    median: float
    worst: float


async def measure(call: Call) -> Timing:
    """Run a case for about CASE_SECONDS, once before the clock starts."""
    await call()
    times: list[float] = []
    while len(times) < FEWEST_RUNS or (
        sum(times) < CASE_SECONDS * _MILLISECONDS and len(times) < MOST_RUNS
    ):
        start = time.perf_counter()
        await call()
        times.append((time.perf_counter() - start) * _MILLISECONDS)
    return Timing(len(times), median(times), max(times))


async def cases(db: PostgresSkillDatabase, rows: int) -> dict[str, Call]:
    """The cases by name. Listings are whole: a page of 24 with its total."""

    def listing(query: ListingQuery, offset: int = 0) -> Call:
        return lambda: db.list_skills(query, seed=SEED, offset=offset, limit=24)

    async def after(query: ListingQuery, offset: int) -> ListingQuery:
        page = await db.list_skills(query, seed=SEED, offset=offset, limit=1)
        cursor = Cursor(page.rows[0].key, page.rows[0].name)
        return ListingQuery(sort_by=query.sort_by, sort_dir=query.sort_dir, cursor=cursor)

    newest = ListingQuery()
    trending = ListingQuery(sort_by=SortField.TRENDING_SCORE_7D)
    relevant = SortField.RELEVANCE
    deep = rows * 9 // 10
    found = {
        "newest": listing(newest),
        "trending": listing(trending),
        "trending, ascending": listing(
            ListingQuery(sort_by=SortField.TRENDING_SCORE_7D, sort_dir=SortDirection.ASC)
        ),
        "oldest": listing(ListingQuery(sort_dir=SortDirection.ASC)),
        "category (22 %)": listing(ListingQuery(category="category-0")),
        "tier CERTIFIED (0.2 %)": listing(ListingQuery(cert_tier=CertTier.CERTIFIED)),
        "tier SCANNED (90 %)": listing(ListingQuery(cert_tier=CertTier.SCANNED)),
        "author": listing(ListingQuery(author="Owner-77")),
        "category + tier, by score": listing(
            ListingQuery(
                category="category-3", cert_tier=CertTier.VERIFIED, sort_by=SortField.CERT_SCORE
            )
        ),
        "search, exact name": listing(ListingQuery(search="skill 4711", sort_by=relevant)),
        "search, one word": listing(ListingQuery(search="word77", sort_by=relevant)),
        "search, two common prefixes": listing(
            ListingQuery(search="word1 word2", sort_by=relevant)
        ),
        "search, in every skill": listing(ListingQuery(search="skill", sort_by=relevant)),
        f"newest, offset {deep:,}": listing(newest, deep),
        "newest, same place by cursor": listing(await after(newest, deep)),
        "trending, cursor among equals": listing(await after(trending, deep)),
        "count, all": lambda: db.count_skills(newest, seed=SEED),
        "count, tier SCANNED": lambda: db.count_skills(
            ListingQuery(cert_tier=CertTier.SCANNED), seed=SEED
        ),
        "count, categories": lambda: db.count_categories(seed=SEED),
        "fingerprint": db.fingerprint,
        "get": lambda: db.get_skill("skill-77"),
    }
    return found | await write_cases(db)


def new_skill(number: int) -> Skill:
    """One that is not in the table yet."""
    slug, moment = f"new-{number}", "2026-01-01T00:00:00.000Z"
    return Skill(
        name=slug,
        base_slug=slug,
        display_name=slug,
        description=f"Does {slug}.",
        author="bench",
        repo_url=f"https://github.com/bench/{number}",
        published_at=moment,
        updated_at=moment,
    )


async def write_cases(db: PostgresSkillDatabase) -> dict[str, Call]:
    """Publishing and repair."""
    page = await db.list_skills(
        ListingQuery(sort_by=SortField.NAME, sort_dir=SortDirection.ASC),
        seed=SEED,
        offset=0,
        limit=1000,
    )
    differences = await db.compare_range([], after="", until=page.rows[-1].name)
    present = [difference.row for difference in differences if difference.row is not None]
    keys = [RecordKey(row.name, row.identity, row.revision) for row in present]
    number = 0

    async def insert_one() -> None:
        nonlocal number
        number += 1
        skill = new_skill(number)
        candidates = assignable_candidates(skill.repo_url, skill.base_slug)
        await db.upsert_skill(State(skill), candidates=candidates)

    async def insert_many() -> None:
        nonlocal number
        first, number = number, number + 1000
        await db.upsert_skills([new_skill(n) for n in range(first + 1, number + 1)])

    return {
        "compare 1,000 records": lambda: db.compare_range(keys, after="", until=keys[-1].name),
        "publish one": insert_one,
        "publish 1,000 in bulk": insert_many,
    }


async def run(server: PostgresServer, rows: int, console: Console) -> None:
    """Generate, measure, print."""
    with await session(server) as connection:
        with console.status(f"generating {rows:,} skills"):
            await generate_skills(connection, rows)
        db = PostgresSkillDatabase(connection)
        table = Table("case", "runs", "median ms", "worst ms", title=f"{rows:,} skills")
        with console.status("measuring"):
            for name, call in (await cases(db, rows)).items():
                timing = await measure(call)
                table.add_row(name, str(timing.runs), f"{timing.median:.2f}", f"{timing.worst:.2f}")
        console.print(table, await sizes(connection))


async def sizes(connection: Connection) -> str:
    """The table and its indexes, in MB."""
    result = await connection.query(
        "select pg_table_size('skill') / 1000000, pg_indexes_size('skill') / 1000000"
    )
    ((table, indexes),) = result.rows
    return f"table {table} MB, indexes {indexes} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the skill database's methods.")
    parser.add_argument("--rows", type=int, default=110_000)
    rows = parser.parse_args().rows
    with migrated_postgres({"fsync": "off"}) as server:
        asyncio.run(run(server, rows, Console()))


if __name__ == "__main__":
    main()
