"""An invocation has one database session: opened on first use, replaced where it broke."""

from dataclasses import dataclass, field, replace

import pytest

from marketplace.catalog.listings import get_skills
from marketplace.ports.database import DatabaseConnector, DatabaseSession, SkillDatabase
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError
from marketplace.publishing.messages import PUBLISH_QUEUE
from marketplace.repair.cron import run_scheduled
from marketplace.skills.listing_rules import ListingQuery
from marketplace.worker.consumers import DEAD_LETTER_QUEUE, consume
from tests.doubles.marketplace import Delivered, Market, make_skill, postgres_away


@dataclass(slots=True)
class Sessions:
    """Opens sessions and remembers them."""

    connect: DatabaseConnector
    opened: list[SkillDatabase] = field(default_factory=list)

    async def __call__(self) -> SkillDatabase:
        self.opened.append(await self.connect())
        return self.opened[-1]


def counted(market: Market) -> tuple[Env, Sessions]:
    """The Env of one invocation, and what it opens."""
    sessions = Sessions(market.tables.connect)
    return replace(market.env, database=DatabaseSession(sessions)), sessions


async def test_a_check_opens_one_session(market: Market) -> None:
    await market.fill([make_skill("a"), make_skill("b")])
    env, sessions = counted(market)
    await run_scheduled(env, "*/5 * * * *")
    assert len(sessions.opened) == 1


@pytest.mark.parametrize("queue", [PUBLISH_QUEUE, DEAD_LETTER_QUEUE])
async def test_a_batch_of_poison_opens_one_session(market: Market, queue: str) -> None:
    env, sessions = counted(market)
    messages = [Delivered({"no": f"submission {n}"}, id=str(n)) for n in range(10)]
    await consume(env, queue, messages)
    assert all(message.acknowledged for message in messages)
    assert len(market.tables.dead_letters) == 10
    assert len(sessions.opened) == 1


async def test_an_invocation_that_never_asks_opens_none_and_one_that_ended_leaves_none(
    market: Market,
) -> None:
    env, sessions = counted(market)
    env.close()
    assert sessions.opened == []
    await get_skills(env, ListingQuery())
    env.close()
    assert [session.closed for session in sessions.opened] == [True]


async def test_a_session_that_broke_is_replaced(market: Market) -> None:
    env, sessions = counted(market)
    (await get_db(env)).close()  # as by a deadline or a lost server
    assert not (await get_db(env)).closed
    assert await get_db(env) is sessions.opened[-1]
    assert len(sessions.opened) == 2


async def test_a_database_that_is_away_is_asked_again_by_the_next_use(market: Market) -> None:

    env, sessions = counted(market)
    present, market.tables.before = market.tables.before, postgres_away
    with pytest.raises(DatabaseError):
        await get_db(env)
    market.tables.before = present
    await get_db(env)
    assert len(sessions.opened) == 1
