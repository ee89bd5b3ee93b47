"""The migrations, held against what the code believes about them."""

import asyncio
import uuid
from collections.abc import Iterator

import msgspec
import pytest

from bench.generated_skills import generate_skills
from marketplace.postgres.listing_sql import page_statement
from marketplace.postgres.queries import MANAGED_COLUMNS, SKILL_COLUMNS
from marketplace.skills.listing_rules import ListingQuery, SortDirection, SortField
from marketplace.skills.tiers import CertTier
from pgwire import PostgresError
from tests.contract.postgres import PostgresServer, migrations

COLUMNS = """
select column_name, data_type, udt_name from information_schema.columns
where table_schema = 'public' and table_name = 'skill'
"""
DEFINITIONS = """
select table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable
from information_schema.columns where table_schema = 'public'
union all select indexdef from pg_indexes where schemaname = 'public'
union all select conname || pg_get_constraintdef(oid) from pg_constraint
where connamespace = 'public'::regnamespace
order by 1
"""


async def test_the_table_has_the_columns_that_the_code_writes_and_no_other(
    postgres_server: PostgresServer, database: str
) -> None:
    with await postgres_server.connect(database) as connection:
        rows = (await connection.query(COLUMNS)).rows

    types = {name: udt if kind == "ARRAY" else kind for name, kind, udt in rows}
    assert set(types) == {*SKILL_COLUMNS, *MANAGED_COLUMNS}
    expected = {
        name: {"text[]": "_text"}.get(type_, type_) for name, type_ in SKILL_COLUMNS.items()
    }
    assert {name: types[name] for name in SKILL_COLUMNS} == expected


async def test_down_undoes_up_and_up_gives_the_same_again(postgres_server: PostgresServer) -> None:
    database = f"down_{uuid.uuid4().hex}"
    await postgres_server.execute(f"create database {database}")

    async def definitions() -> list[str | None]:
        with await postgres_server.connect(database) as connection:
            return [definition for (definition,) in (await connection.query(DEFINITIONS)).rows]

    postgres_server.run_script(database, "".join(migrations("up")))
    first = await definitions()
    postgres_server.run_script(database, "".join(migrations("down")))
    assert await definitions() == []
    postgres_server.run_script(database, "".join(migrations("up")))
    assert await definitions() == first


@pytest.mark.parametrize(
    ("assignment", "constraint"),
    [
        ("name = 'Not A Slug'", "skill_name_is_a_slug"),
        ("name = 'double--hyphen'", "skill_name_is_a_slug"),
        ("base_slug = ''", "skill_base_slug_is_a_slug"),
        ("cert_tier = 'GOLD'", "skill_cert_tier_known"),
        ("cert_method = 'GUESS'", "skill_cert_method_known"),
        ("cert_score = 101", "skill_cert_score_in_range"),
        ("trending_score_7d = 'nan'", "skill_trending_score_7d_finite"),
        ("trending_score_30d = '-infinity'", "skill_trending_score_30d_finite"),
        ("published_at = '2026-01-01T00:00:00Z'", "moment_check"),
        ("updated_at = '2026-01-01 00:00:00.000Z'", "moment_check"),
        ("name = (select min(name) from skill)", "skill_name_key"),
    ],
)
async def test_the_table_itself_refuses(
    postgres_server: PostgresServer, listing_database: str, assignment: str, constraint: str
) -> None:
    last = "identity = (select max(identity) from skill)"
    statement = f"update skill set {assignment} where {last}"  # noqa: S608 - of constants above
    with (
        await postgres_server.connect(listing_database) as connection,
        pytest.raises(PostgresError) as refusal,
    ):
        await connection.query(statement)
    assert refusal.value.constraint == constraint


@pytest.fixture(scope="module")
def listing_database(postgres_server: PostgresServer, database: str) -> str:
    """Enough rows, with statistics, for the planner to care."""

    async def fill() -> None:
        with await postgres_server.connect_directly(database) as connection:
            await generate_skills(connection, 20_000)

    asyncio.run(fill())
    return database


_FILTERS = {
    "all": ListingQuery(),
    "category": ListingQuery(category="category-3"),
    "cert-tier": ListingQuery(cert_tier=CertTier.CERTIFIED),
    "author": ListingQuery(author="Owner-77"),
    "extensible": ListingQuery(extensible=True),
    "search": ListingQuery(search="word77"),
}
_SCORES = {SortField.CERT_SCORE, SortField.TRENDING_SCORE_7D, SortField.TRENDING_SCORE_30D}
_ORDERS = [
    (field, direction)
    for field in SortField
    if field is not SortField.RELEVANCE
    for direction in SortDirection
]


@pytest.mark.parametrize("filters", _FILTERS)
async def test_the_default_order_of_every_filter_comes_from_an_index(
    postgres_server: PostgresServer, listing_database: str, filters: str
) -> None:
    plan = await _plan(postgres_server, listing_database, _FILTERS[filters])

    assert "Seq Scan" not in plan


@pytest.mark.parametrize(("field", "direction"), _ORDERS, ids=lambda value: value.value)
async def test_every_order_comes_from_an_index_without_sorting_the_table(
    postgres_server: PostgresServer,
    listing_database: str,
    field: SortField,
    direction: SortDirection,
) -> None:
    query = ListingQuery(sort_by=field, sort_dir=direction)
    plan = await _plan(postgres_server, listing_database, query)

    assert "Seq Scan" not in plan
    assert "Sort" not in plan
    # Times and titles are nearly unique; of equal scores there are too many to sort even those.
    assert field not in _SCORES or "Incremental Sort" not in plan


async def _plan(server: PostgresServer, database: str, query: ListingQuery) -> set[str]:
    """The kinds of steps in PostgreSQL's plan for a page of this listing."""
    statement = page_statement(query, exclude=["a", "b"], offset=0, limit=24)
    with await server.connect(database) as connection:
        result = await connection.query(
            f"explain (format json) {statement.sql}", *statement.parameters
        )
    (root,) = msgspec.json.decode(result.scalar() or "[]")
    return set(_steps(root["Plan"]))


def _steps(plan: dict[str, object]) -> Iterator[str]:
    yield str(plan["Node Type"])
    children = plan.get("Plans", [])
    assert isinstance(children, list)
    for child in children:
        yield from _steps(child)
