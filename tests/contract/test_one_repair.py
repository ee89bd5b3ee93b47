"""One rebuild makes all sources agree, as its dry run said; on PostgreSQL and on its double."""

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from marketplace.kv.aliases import write_alias
from marketplace.kv.outbox import write_outbox
from marketplace.kv.records import write_record
from marketplace.ports.database import DatabaseConnector, DatabaseSession
from tests.doubles.marketplace import LATER, Market, make_skills, new_market
from tests.unit.repair.rebuilds import changes, numbers, rebuild


async def test_a_second_rebuild_finds_nothing_to_do(connect: DatabaseConnector) -> None:
    """Two records of one skill in KV alone, a newer state in the outbox, aliases on either side."""
    market = new_market(lambda: datetime.now(UTC))
    with closing(DatabaseSession(connect)) as session:
        await _repair_twice(replace(market, env=replace(market.env, database=session)), connect)


async def _repair_twice(market: Market, connect: DatabaseConnector) -> None:
    skills = make_skills(12)
    records = [*skills, *(s.renamed(f"{s.name}-too") for s in skills[:6])]
    for record in records:
        await write_record(market.env, record)
    for skill in skills[4:8]:
        await write_outbox(market.env, msgspec.structs.replace(skill, updated_at=LATER))
    for skill in skills[:2]:
        await write_alias(market.env, f"old-{skill.name}", skill.name)
    with await connect() as database:
        await database.add_aliases({f"older-{skill.name}": skill.identity for skill in skills[:2]})
    dry = await rebuild(market, dry_run=True)
    real = await rebuild(market)
    assert numbers(dry) == numbers(real)
    assert (real["rebuilt"], real["prismaBackfilled"], real["conflictsResolved"]) == (12, 12, 6)
    assert real["aliasesRepaired"] == 2 + 2
    again = await rebuild(market)
    assert not any(changes(again))
    assert again["rebuilt"] == 12
