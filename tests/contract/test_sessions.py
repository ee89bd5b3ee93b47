"""What the database's calls leave behind in a real session: nothing."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from marketplace.ports.errors import DatabaseError
from marketplace.postgres.db import PostgresSkillDatabase
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.seed import EMPTY_SEED
from pgwire import Connection, Statement
from tests.contract.postgres import PostgresServer
from tests.examples import JANUARY, MARCH, publish, skill

_LEFT_BEHIND = """
select
    (select count(*) from pg_prepared_statements)
    + (select count(*) from pg_cursors where name <> '')
    + (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())
    + (pg_my_temp_schema() <> 0)::integer
"""
_SETTINGS = """
select name, setting from pg_settings
where name in ('statement_timeout', 'idle_in_transaction_session_timeout', 'work_mem', 'TimeZone')
order by name
"""

Call = Callable[[PostgresSkillDatabase], Awaitable[Any]]

CALLS: dict[str, Call] = {
    "publish": lambda db: publish(db, skill()),
    "bulk": lambda db: db.upsert_skills([skill("a"), skill("b")]),
    "dry run": lambda db: db.check_skills([skill("c")]),
    "search": lambda db: db.list_skills(
        ListingQuery(search="pdf"), seed=EMPTY_SEED, offset=0, limit=9
    ),
    "totals": lambda db: db.mend_counts(),
    "lease": lambda db: db.acquire_lease("x", "me", now=JANUARY, expires_at=MARCH),
    "state": lambda db: db.save_state("x", b"{}"),
}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Of each round trip how often it sets the time of statements, and how it left the session."""
    trips: list[tuple[int, str]] = []
    exchange = Connection._exchange

    async def record(self: Connection, data: bytes, *rest: Any) -> None:
        await exchange(self, data, *rest)
        trips.append((data.count(b"set_config($1, $2, true)"), self._transaction_status))

    monkeypatch.setattr(Connection, "_exchange", record)
    return trips


@pytest.mark.parametrize("name", CALLS)
async def test_each_round_trip_is_one_transaction_with_its_settings(
    postgres: object,
    postgres_server: PostgresServer,
    database: str,
    name: str,
    sent: list[tuple[int, str]],
) -> None:
    with await postgres_server.connect(database) as connection:
        await CALLS[name](PostgresSkillDatabase(connection))
    assert sent
    assert set(sent) == {(1, "I")}


async def test_no_call_leaves_anything_in_the_session(
    postgres: object, postgres_server: PostgresServer, database: str
) -> None:
    async def state(connection: Connection) -> Sequence[Any]:
        # The plain text of these settings: what the transaction has is taken away first.
        reset = [Statement("rollback"), Statement(_LEFT_BEHIND), Statement(_SETTINGS)]
        return [result.rows for result in (await connection.pipeline(reset))[1:]]

    with await postgres_server.connect(database) as connection:
        before = await state(connection)
        for call in CALLS.values():
            await call(PostgresSkillDatabase(connection))
        assert await state(connection) == before


async def test_a_transaction_that_fails_is_ended(
    postgres: object, postgres_server: PostgresServer, database: str, sent: list[tuple[int, str]]
) -> None:
    with await postgres_server.connect(database) as connection:
        db = PostgresSkillDatabase(connection)
        with pytest.raises(DatabaseError):
            await db._in_transaction(Statement("select 1 / 0"))
        assert sent[-1][1] == "I"
        assert await db.load_state("x") is None
