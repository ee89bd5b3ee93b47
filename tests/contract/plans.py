"""How PostgreSQL carries a statement out."""

from collections.abc import Iterator
from typing import Any

import msgspec

from pgwire import Statement
from tests.contract.postgres import PostgresServer


async def root_of(
    server: PostgresServer, database: str, statement: Statement, *options: str
) -> dict[str, Any]:
    """The first step of the plan. With the option ``analyze`` the statement runs."""
    explain = f"explain ({', '.join(('format json', *options))})"
    with await server.connect(database) as connection:
        result = await connection.query(f"{explain} {statement.sql}", *statement.parameters)
    (explained,) = msgspec.json.decode(result.scalar() or "[]")
    root: dict[str, Any] = explained["Plan"]
    return root


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A step and all below it."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes_of(child)
