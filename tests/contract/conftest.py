"""Coroutine tests without a plugin, and the two databases that the contract is held against."""

import asyncio
import uuid
from collections.abc import Iterator
from typing import Final

import pytest

from bench.generated_skills import generate_skills
from marketplace.ports.database import DatabaseConnector
from marketplace.postgres.db import postgres_connector
from tests.contract.postgres import PostgresServer, migrations, running_server
from tests.coroutines import in_real_time, run_coroutine_test
from tests.doubles.database import DatabaseDouble

_DEADLINE_SECONDS: Final = 60.0
TEMPLATE: Final = "migrated"  # the database to copy
TABLES: Final = (
    "skill, skill_alias, skill_version, dead_letter, audit, report, rule, lease, state,"
    " scan_request, scan_hour, skill_count, skill_install"
)
ROWS: Final = 110_000  # of the large table
NOT_EMPTIED: Final = "update instance set missing_until = null"
"""After a truncation that is no loss."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run coroutine tests, each in an event loop of its own and with a deadline."""
    return run_coroutine_test(pyfuncitem, in_real_time(_DEADLINE_SECONDS))


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """One server for each xdist worker, with a migrated database to copy."""
    pooled, debian = map(request.config.getoption, ("--pooler", "--pg15"))
    with running_server(pooled=pooled, debian=debian) as server:
        asyncio.run(server.execute(f"create database {TEMPLATE}"))
        server.run_script(TEMPLATE, "".join(migrations("up")))
        yield server


@pytest.fixture(scope="session")
def large_database(postgres_server: PostgresServer) -> str:
    """A catalogue as large as the real one, with statistics."""
    name = f"large_{uuid.uuid4().hex}"

    async def fill() -> None:
        await postgres_server.execute(f"create database {name} template {TEMPLATE}")
        with await postgres_server.connect_directly(name) as connection:
            await generate_skills(connection, ROWS)

    asyncio.run(fill())
    return name


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> str:
    """The name of a migrated database that is this module's own."""
    name = f"test_{uuid.uuid4().hex}"
    asyncio.run(postgres_server.execute(f"create database {name} template {TEMPLATE}"))
    return name


@pytest.fixture
def postgres(postgres_server: PostgresServer, database: str) -> DatabaseConnector:
    """The real database, empty."""

    async def empty() -> None:
        with await postgres_server.connect(database) as connection:
            await connection.query(f"truncate {TABLES}")
            await connection.query(NOT_EMPTIED)

    asyncio.run(empty())
    return postgres_connector(lambda: postgres_server.connect(database))


@pytest.fixture(params=["postgres", "double"])
def connect(request: pytest.FixtureRequest) -> DatabaseConnector:
    """Either database, empty: what holds for one must hold for the other."""
    if request.param == "double":
        return DatabaseDouble().connect
    connector: DatabaseConnector = request.getfixturevalue("postgres")
    return connector
