"""The migrations, held against what the code believes about them."""

import asyncio
import random
import uuid
from typing import Any

import msgspec
import pytest

from bench.generated_skills import generate_skills
from marketplace.basics.timestamps import EPOCH
from marketplace.ports.database import Upserted
from marketplace.postgres.db import PostgresSkillDatabase
from marketplace.postgres.listing_sql import count_statement, page_statement
from marketplace.postgres.queries import (
    COUNT_CATEGORIES,
    HAND_OUT_DUE_SCANS,
    HAND_OUT_SCANS,
    LIST_UNLIFTED,
    LIST_UNRULED,
    MANAGED_COLUMNS,
    SEED_CLAIMS,
    SKILL_COLUMNS,
)
from marketplace.skills.change import State
from marketplace.skills.listing_rules import ListingQuery, SortDirection, SortField
from marketplace.skills.rules import Matches
from marketplace.skills.seed import EMPTY_SEED, load_seed
from marketplace.skills.skill import Skill
from marketplace.skills.stored import storable
from marketplace.skills.tiers import CertTier
from pgwire import Connection, PostgresError, Statement
from tests.contract.plans import nodes_of, root_of
from tests.contract.postgres import MIGRATIONS, PostgresServer, migrations
from tests.examples import JANUARY, change, random_skills, skill

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


async def test_rows_from_before_acts_get_the_revision_that_their_fields_give(
    postgres_server: PostgresServer,
) -> None:
    database = f"old_{uuid.uuid4().hex}"
    await postgres_server.execute(f"create database {database}")
    before, after = migrations("up")[:2], migrations("up")[2:]
    postgres_server.run_script(database, "".join(before))
    old = [*_rows_from_before(), *_odd_rows()]
    with await postgres_server.connect(database) as connection:
        columns = ", ".join((await _columns(connection)) & old[0].keys())
        await connection.query(
            f"insert into skill ({columns})"  # noqa: S608 - of the catalog's names
            f" select {columns} from json_populate_recordset(null::skill, $1::json)",
            msgspec.json.encode(old).decode(),
        )
    postgres_server.run_script(database, "".join(after))

    with await postgres_server.connect(database) as connection:
        db = PostgresSkillDatabase(connection)
        revisions = (await connection.query("select name, revision from skill")).rows
        rows = await db.skills_not_in_kv(limit=len(old))
        assert {(row.name, row.revision) for row in rows} == set(revisions)
        assert len(rows) == len(old)
        newer = msgspec.structs.replace(
            rows[0], description="New.", updated_at="2027" + JANUARY[4:]
        )
        assert (await change(db, State(newer))).outcome is Upserted.UPDATED
        assert not any("verified" in row.labels for row in rows if row.cert_tier == "SCANNED")


async def test_authors_on_other_forges_get_the_forge_and_keep_their_revision(
    postgres_server: PostgresServer,
) -> None:
    database = f"old_{uuid.uuid4().hex}"
    await postgres_server.execute(f"create database {database}")
    postgres_server.run_script(database, "".join(migrations("up")))
    there = _at("git@GitLab.com:Acme/Sub/tools.git", skill("reader", author="Acme/Sub"))
    odd = _at("https://codeberg.org/Zed/tools", skill("writer", author="Jane Doe"))
    here = skill("pdf", author="Jane Doe")
    (name,) = [n for n, path in enumerate(sorted(MIGRATIONS.glob("*.sql"))) if "0012" in path.name]
    with await postgres_server.connect(database) as connection:
        db = PostgresSkillDatabase(connection)
        await db.upsert_skills([there, odd, here])
        postgres_server.run_script(database, migrations("up")[name])
        rows = await db.get_skills([there.identity, odd.identity, here.identity])
        assert {row.name: row.author for row in rows.values()} == {
            "reader": "gitlab.com/Acme/Sub",
            "writer": "codeberg.org/zed",
            "pdf": "Jane Doe",
        }
        assert await _found(db, author="gitlab.com/acme/sub") == ["reader"]
        assert await _found(db, author="acme/sub") == []
        assert await _found(db, search="gitlab") == ["reader"]
        assert await _found(db, search="zed codeberg") == ["writer"]
        stored = (await connection.query("select identity, revision from skill")).rows
        assert set(stored) == {(each.identity, each.revision) for each in (there, odd, here)}
        # What KV has is the same state, and changes nothing.
        record = storable(there)
        assert record.author == "gitlab.com/Acme/Sub"
        assert (await change(db, State(record))).outcome is Upserted.UNCHANGED
        postgres_server.run_script(database, migrations("down")[-1 - name])
        assert await _found(db, author="acme/sub") == ["reader"]


def _at(repo_url: str, stored: Skill) -> Skill:
    return msgspec.structs.replace(stored, repo_url=repo_url)


async def _found(db: PostgresSkillDatabase, **wanted: str) -> list[str]:
    listed = await db.list_skills(ListingQuery(**wanted), seed=EMPTY_SEED, offset=0, limit=9)  # type: ignore[arg-type]
    return [row.name for row in listed.rows]


def _rows_from_before() -> list[dict[str, Any]]:
    skills = random_skills(random.Random(4), 100)
    return [_row_from_before(record) for record in skills if not record.acts]


def _odd_rows() -> list[dict[str, Any]]:
    odd = "".join(map(chr, range(1, 160))) + '\u2028\ufeff\\ / "🦊'
    texts = dict.fromkeys(("display_name", "description", "author", "license", "category"), odd)
    records = (
        skill("odd", **texts, labels=(odd, "verified", ""), extension_points=("", odd)),
        skill("early", updated_at="0001-01-01T00:00:00.000Z"),
        skill("late", updated_at="9999-12-31T23:59:59.999Z", certified_at=JANUARY),
        skill("checked", certified_at="2026-05-01T00:00:00.007Z", license=""),
    )
    return [_row_from_before(record) for record in records]


def _row_from_before(record: Skill) -> dict[str, Any]:
    return msgspec.structs.asdict(record) | {
        "identity": record.identity,
        "repository": record.repo_url,
        "summary": record.description,
        "author_lower": record.author.lower(),
        "revision": f"0000000001.0000000000.0000000000~|{record.updated_at}|0123456789abcdef",
        "title_terms": [],
        "search_terms": [],
    }


async def _columns(connection: Connection) -> set[str]:
    return {str(name) for name, _, _ in (await connection.query(COLUMNS)).rows}


@pytest.mark.parametrize(
    ("assignment", "constraint"),
    [
        ("name = 'Not A Slug'", "skill_name_is_a_slug"),
        ("name = 'double--hyphen'", "skill_name_is_a_slug"),
        ("base_slug = ''", "skill_base_slug_is_a_slug"),
        ("cert_tier = 'GOLD'", "skill_cert_tier_known"),
        ("cert_method = 'GUESS'", "skill_cert_method_known"),
        ("status = 'HIDDEN'", "skill_status_known"),
        ("verdict = 'MAYBE'", "skill_verdict_known"),
        ("cert_score = 101", "skill_cert_score_in_range"),
        ("installs = -1", "skill_installs_not_negative"),
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
            await connection.query(
                "insert into skill_alias select 'old-' || name, identity from skill"
            )
            await connection.query("analyze skill_alias")

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
_SCORES = {
    SortField.CERT_SCORE,
    SortField.TRENDING_SCORE_7D,
    SortField.TRENDING_SCORE_30D,
    SortField.INSTALLS,
}
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


_SEED = load_seed()
_COUNTS = {
    "all": count_statement(ListingQuery()),
    "category": count_statement(_FILTERS["category"]),
    "categories": Statement(COUNT_CATEGORIES),
    "author": count_statement(_FILTERS["author"]),
    "claims": Statement(SEED_CLAIMS, (list(_SEED.by_identity), list(_SEED.claimable))),
}
_READ_OF_SKILLS: dict[str, set[str]] = {
    "all": set(),
    "category": set(),
    "categories": set(),
    "author": {"Index Only Scan"},
    "claims": {"Bitmap Heap Scan", "Index Only Scan"},
}


@pytest.mark.parametrize("counted", _COUNTS)
async def test_counts_and_what_the_seed_gives_way_to_do_not_read_the_table(
    postgres_server: PostgresServer, listing_database: str, counted: str
) -> None:
    root = await root_of(postgres_server, listing_database, _COUNTS[counted])
    read = {n["Node Type"] for n in nodes_of(root) if n.get("Relation Name") == "skill"}
    assert read <= _READ_OF_SKILLS[counted]


_RULES = {
    **{
        matches.value: Statement(LIST_UNRULED[matches], (value, "", '[{"rule":"none"}]', 50))
        for matches, value in (
            (Matches.IDENTITY, "https://github.com/owner-77/repo#none"),
            (Matches.OWNER, "github.com/owner-77"),
            (Matches.CONTENT_DIGEST, "d" * 64),
        )
    },
    "lifted": Statement(
        LIST_UNLIFTED, ('[{"rule":"a"}]', "", '[{"rule":"a","kind":"RESTORE"}]', 50)
    ),
}


@pytest.mark.parametrize("rule", _RULES)
async def test_what_a_rule_is_yet_to_be_applied_to_comes_from_an_index(
    postgres_server: PostgresServer, listing_database: str, rule: str
) -> None:
    assert "Seq Scan" not in await _steps_of(postgres_server, listing_database, _RULES[rule])


_SCANS = {
    "asked": Statement(HAND_OUT_SCANS, (20, JANUARY, [JANUARY], EPOCH, JANUARY)),
    "due": Statement(HAND_OUT_DUE_SCANS, (["a"] * 20, JANUARY, JANUARY, "2026-06-01", JANUARY)),
}


@pytest.mark.parametrize("work", _SCANS)
async def test_work_for_scanners_comes_from_an_index_without_sorting_the_table(
    postgres_server: PostgresServer, scanning_database: str, work: str
) -> None:
    with await postgres_server.connect(scanning_database) as connection:
        statement = _SCANS[work]
        result = await connection.query(
            f"explain (format json) {statement.sql}", *statement.parameters
        )
    (root,) = msgspec.json.decode(result.scalar() or "[]")
    read = [step for step in nodes_of(root["Plan"]) if "Relation Name" in step]
    assert {step["Relation Name"] for step in read} >= {"scan_request"}
    assert "Seq Scan" not in {step["Node Type"] for step in read}
    # What is sorted is what is handed out, not what it is chosen from.
    sorted_rows = [
        step["Plan Rows"] for step in nodes_of(root["Plan"]) if step["Node Type"] == "Sort"
    ]
    assert max(sorted_rows) <= 2 * 20


@pytest.fixture(scope="module")
def scanning_database(postgres_server: PostgresServer, listing_database: str) -> str:
    """A request for every other skill, in each state."""

    async def fill() -> None:
        with await postgres_server.connect_directly(listing_database) as connection:
            await connection.query("""
                insert into scan_request (
                    identity, submission_id, reason, requested_at, submission, attempts, free_at,
                    answered_at
                )
                select identity, md5(identity), (array['new', 'rescan', 'due'])[n % 3 + 1],
                    updated_at, '{}', n % 4 / 2, updated_at, case when n % 8 > 3 then updated_at end
                from (select *, row_number() over (order by updated_at) as n from skill) as skill
                where n % 2 = 0
            """)
            await connection.query("vacuum analyze scan_request")

    asyncio.run(fill())
    return listing_database


async def _plan(server: PostgresServer, database: str, query: ListingQuery) -> set[str]:
    """The kinds of steps in PostgreSQL's plan for a page of this listing."""
    return await _steps_of(server, database, page_statement(query, offset=0, limit=24))


async def _steps_of(server: PostgresServer, database: str, statement: Statement) -> set[str]:
    root = await root_of(server, database, statement)
    return {str(node["Node Type"]) for node in nodes_of(root)}
