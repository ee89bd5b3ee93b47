"""Which database an isolate believes: by what KV has acknowledged, and by what it saw itself."""

import asyncio
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from marketplace.catalog.listings import get_skills
from marketplace.health.check import check_health
from marketplace.kv.acknowledged import (
    ASK_EVERY,
    GOOD_FOR,
    READ_AGAIN,
    READ_EVERY,
    TELL_EVERY,
    WAIT_SECONDS,
)
from marketplace.kv.keys import ACKNOWLEDGED_KEY, OUTBOX_PREFIX
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, OtherDatabase
from marketplace.ports.isolate import FallbackCache
from marketplace.ports.known_database import Acknowledged
from marketplace.publishing.publish import Published, publish_skill
from marketplace.skills.listing_rules import ListingQuery
from marketplace.worker.consumers import DEAD_LETTER_QUEUE, consume
from tests.doubles.kv import KvOperation
from tests.doubles.marketplace import Delivered, Market, fault, make_skill, make_skills
from tests.doubles.network import Fault

SKILLS = make_skills(5)


@dataclass(slots=True)
class Isolate:
    """One of several that serve a marketplace."""

    market: Market
    memory: FallbackCache = field(default_factory=FallbackCache)

    @property
    def env(self) -> Env:
        """Of its next invocation."""
        session = DatabaseSession(self.market.tables.connect, self.memory.database)
        return replace(self.market.env, database=session, fallback_cache=self.memory)

    async def listed(self) -> tuple[int, tuple[str, ...]]:
        """How many skills a listing has, and why it is degraded."""
        answer = await get_skills(self.env, ListingQuery())
        return answer.value.total, answer.reasons


def acknowledged(market: Market) -> Acknowledged | None:
    """What KV has."""
    value = market.kv.peek(ACKNOWLEDGED_KEY)
    return None if value is None else msgspec.json.decode(value, type=Acknowledged)


def acknowledge(market: Market, instance: str, changes: int, since: str = "") -> None:
    """Let KV have this."""
    value = Acknowledged(instance=instance, changes=changes, since=since)
    market.kv.damage(ACKNOWLEDGED_KEY, msgspec.json.encode(value))


def is_acknowledgement(operation: KvOperation) -> bool:
    return operation.key == ACKNOWLEDGED_KEY


GOOD: tuple[int, tuple[str, ...]] = (5, ())


async def filled(market: Market) -> Market:
    """Five skills in both stores, one change each but for the first."""
    await market.fill(SKILLS)
    market.tables.changes = 10
    return market


async def test_a_kv_without_an_id_adopts_the_first_that_it_sees(market: Market) -> None:
    await filled(market)
    assert await Isolate(market).listed() == GOOD
    assert acknowledged(market) == Acknowledged(instance="the double", changes=10)
    assert "database-adopted" in market.log.events()


@pytest.mark.parametrize("changes", [10, 9, 0])
async def test_the_same_instance_that_is_as_far_or_further_is_believed(
    market: Market, changes: int
) -> None:
    await filled(market)
    acknowledge(market, "the double", changes)
    assert await Isolate(market).listed() == GOOD
    assert acknowledged(market) == Acknowledged(instance="the double", changes=10)


@pytest.mark.parametrize(
    ("instance", "changes", "reason"),
    [("another", 1, "other-instance"), ("the double", 11, "older-state")],
)
async def test_what_is_not_as_acknowledged_is_neither_read_nor_written(
    market: Market, instance: str, changes: int, reason: str
) -> None:
    await filled(market)
    market.lose_rows(SKILLS[3:])
    rows = dict(market.tables.rows)
    acknowledge(market, instance, changes)
    isolate = Isolate(market)

    assert await isolate.listed() == (5, (f"postgres: {reason}",))
    published = await publish_skill(isolate.env, make_skill("new-one"))

    assert isinstance(published, Published)
    assert not published.in_database
    assert published.in_kv
    assert len(market.kv.keys(OUTBOX_PREFIX)) == 1
    assert market.tables.rows == rows
    assert acknowledged(market) == Acknowledged(instance=instance, changes=changes)


async def test_another_instance_is_never_repaired_and_told_once_an_isolate(market: Market) -> None:
    await filled(market)
    acknowledge(market, "another", 1)
    isolate = Isolate(market)
    for _ in range(20):
        await isolate.listed()
    lines = [line for line in market.log.lines if line["event"] == "database-not-trusted"]
    assert [(line["level"], line["reason"]) for line in lines] == [("error", "other-instance")]
    assert {line["level"] for line in market.log.lines if line["event"] == "read-falls-back"} == {
        "warning"
    }
    assert market.maintenance.bodies == []

    health = await check_health(isolate.env)
    assert health.status == "failing"
    assert health.prisma_count is None
    (advice,) = (r for r in health.recommendations if r.reason.startswith("postgres"))
    assert "--adopt" in advice.action
    assert advice.call is None
    assert not health.needs_rebuild

    await asyncio.sleep(TELL_EVERY)
    await isolate.listed()
    assert market.log.events().count("database-not-trusted") == 2


async def test_the_first_to_notice_an_older_state_asks_for_its_repair(market: Market) -> None:
    await filled(market)
    acknowledge(market, "the double", 11)
    isolate = Isolate(market)
    for _ in range(20):
        await isolate.listed()
    assert market.maintenance.bodies == [{"repairDatabase": 11}]

    health = await check_health(isolate.env)
    assert health.status == "failing"
    assert any("lacks changes" in advice.action for advice in health.recommendations)
    await asyncio.sleep(ASK_EVERY)
    await isolate.listed()
    assert len(market.maintenance.bodies) == 2


@pytest.mark.parametrize("operation", ["read", "publish", "health", "bury"])
async def test_whoever_meets_an_older_state_asks_for_its_repair(
    market: Market, operation: str
) -> None:
    await filled(market)
    acknowledge(market, "the double", 11)
    env = Isolate(market).env
    if operation == "read":
        await get_skills(env, ListingQuery())
    elif operation == "publish":
        await publish_skill(env, make_skill("new-one"))
    elif operation == "health":
        await check_health(env)
    else:
        await consume(env, DEAD_LETTER_QUEUE, [Delivered({"submissionId": "unknown"})])
    assert market.maintenance.bodies == [{"repairDatabase": 11}]


async def test_a_queue_that_fails_keeps_no_read_from_falling_back(market: Market) -> None:
    await filled(market)
    acknowledge(market, "the double", 11)
    market.maintenance.failing = True
    assert await Isolate(market).listed() == (5, ("postgres: older-state",))
    assert "repair-not-asked-for" in market.log.events()


async def test_kv_is_read_once_in_a_while_an_isolate(market: Market) -> None:
    await filled(market)
    isolate = Isolate(market)
    asked: list[KvOperation] = []

    def count(operation: KvOperation) -> None:
        if is_acknowledgement(operation) and not operation.is_write:
            asked.append(operation)

    market.kv.faults = count
    for _ in range(30):
        await isolate.listed()
        await asyncio.sleep(READ_EVERY / 10)
    assert len(asked) == 3


async def test_to_read_it_again_holds_up_no_more_than_one_request(market: Market) -> None:
    await filled(market)
    isolate = Isolate(market)
    await isolate.listed()
    await asyncio.sleep(READ_EVERY)
    market.kv.faults = fault(Fault.HANG, "get", key=ACKNOWLEDGED_KEY)
    begun = asyncio.get_running_loop().time()
    seconds: list[float] = []

    async def read() -> None:
        assert await isolate.listed() == GOOD
        seconds.append(asyncio.get_running_loop().time() - begun)

    await asyncio.gather(*(read() for _ in range(5)))
    assert sum(taken > 0.5 * WAIT_SECONDS for taken in seconds) == 1


async def test_what_an_idle_isolate_knows_is_not_good_for_ever(market: Market) -> None:
    """Nobody goes by it while another reads what KV has by now."""
    await filled(market)
    isolate = Isolate(market)
    await isolate.listed()
    acknowledge(market, "the double", 11)
    await asyncio.sleep(GOOD_FOR)
    found = await asyncio.gather(*(isolate.listed() for _ in range(3)))
    assert {reasons for _, reasons in found} == {("postgres: older-state",)}


async def test_nothing_is_written_where_nothing_has_changed(market: Market) -> None:
    await filled(market)
    isolate = Isolate(market)
    await isolate.listed()
    operations = market.kv.operations["put"]
    for _ in range(5):
        await asyncio.sleep(READ_EVERY)
        await isolate.listed()
    assert market.kv.operations["put"] == operations


async def test_the_number_that_kv_has_replaces_what_an_isolate_has_seen(market: Market) -> None:
    """After the repair of a loss that KV did not know of nobody waits for more than KV has."""
    await filled(market)
    isolate = Isolate(market)
    await isolate.listed()
    market.tables.changes = 15
    await isolate.listed()
    market.tables.changes = 12
    assert (await isolate.listed())[1] == ("postgres: older-state",)
    await asyncio.sleep(READ_EVERY)
    assert await isolate.listed() == GOOD
    acknowledge(market, "the double", 13)
    await asyncio.sleep(READ_EVERY)
    assert (await isolate.listed())[1] == ("postgres: older-state",)


async def test_writers_tell_kv_at_most_once_a_second(market: Market) -> None:
    isolate = Isolate(market)
    await isolate.listed()
    told: list[float] = []

    def count(operation: KvOperation) -> None:
        if is_acknowledgement(operation) and operation.is_write:
            told.append(asyncio.get_running_loop().time())

    market.kv.faults = count
    for number in range(40):
        await publish_skill(isolate.env, make_skill(f"burst-{number}"))
        await asyncio.sleep(0.1)
    assert 3 <= len(told) <= 5
    assert min(b - a for a, b in pairwise(told)) >= 1.0


async def test_a_reader_tells_kv_what_the_last_writer_of_a_burst_did_not(market: Market) -> None:
    writer = Isolate(market)
    await writer.listed()
    for number in range(3):
        await publish_skill(writer.env, make_skill(f"burst-{number}"))
    kept = acknowledged(market)
    assert kept is not None
    assert kept.changes < market.tables.changes
    await Isolate(market).listed()
    assert acknowledged(market) == Acknowledged(
        instance="the double", changes=market.tables.changes
    )


async def test_an_isolate_notices_a_loss_that_kv_does_not_know_of_yet(market: Market) -> None:
    await filled(market)
    isolate = Isolate(market)
    await isolate.listed()
    market.tables.changes = 15
    assert await isolate.listed() == GOOD
    market.tables.changes = 14  # KV has 10
    assert await isolate.listed() == (5, ("postgres: older-state",))
    assert market.maintenance.bodies == [{"repairDatabase": 15}]


async def test_a_kv_that_is_behind_accuses_nobody(market: Market) -> None:
    """KV may show what was there a minute ago: an earlier number, or none."""
    await filled(market)
    isolate = Isolate(market)
    await isolate.listed()
    for shown in (7, None):
        if shown is None:
            market.kv.damage(ACKNOWLEDGED_KEY, None)
        else:
            acknowledge(market, "the double", shown)
        await asyncio.sleep(READ_EVERY)
        assert await isolate.listed() == GOOD
        assert await Isolate(market).listed() == GOOD


async def test_an_emptied_kv_gets_back_what_an_isolate_knows(market: Market) -> None:
    await filled(market)
    isolate = Isolate(market)
    await isolate.listed()
    market.kv.damage(ACKNOWLEDGED_KEY, None)
    await asyncio.sleep(READ_EVERY)
    await isolate.listed()
    assert acknowledged(market) == Acknowledged(instance="the double", changes=10)


async def test_an_emptied_kv_lets_no_isolate_believe_another_database(market: Market) -> None:
    await filled(market)
    isolate = Isolate(market)
    await isolate.listed()
    market.kv.damage(ACKNOWLEDGED_KEY, None)
    market.tables.instance = "another"
    await asyncio.sleep(READ_EVERY)
    assert await isolate.listed() == (5, ("postgres: other-instance",))


@pytest.mark.parametrize("kind", [Fault.FAIL, Fault.HANG])
async def test_with_kv_away_postgres_is_believed_and_not_acknowledged(
    market: Market, kind: Fault
) -> None:
    """Nobody can tell. As soon as somebody can, the other database is not believed any more."""
    await filled(market)
    acknowledge(market, "another", 1)
    market.kv.faults = fault(kind, "get", key=ACKNOWLEDGED_KEY)  # it would take a write
    isolate = Isolate(market)
    begun = asyncio.get_running_loop().time()
    assert await isolate.listed() == GOOD
    assert asyncio.get_running_loop().time() - begun <= WAIT_SECONDS + 0.1
    assert acknowledged(market) == Acknowledged(instance="another", changes=1)
    assert "acknowledged-not-read" in market.log.events()

    market.kv.faults = None
    await asyncio.sleep(READ_AGAIN)
    assert await isolate.listed() == (5, ("postgres: other-instance",))


async def test_with_kv_away_an_isolate_goes_by_what_it_knows(market: Market) -> None:
    await filled(market)
    isolate = Isolate(market)
    await isolate.listed()
    market.kv.faults = fault(Fault.FAIL, "get", key=ACKNOWLEDGED_KEY)
    market.tables.instance = "another"
    await asyncio.sleep(READ_EVERY)
    assert await isolate.listed() == (5, ("postgres: other-instance",))


async def test_a_damaged_value_counts_as_kv_being_away(market: Market) -> None:
    await filled(market)
    market.kv.damage(ACKNOWLEDGED_KEY, b'{"instance": 5')
    assert await Isolate(market).listed() == GOOD
    assert market.kv.peek(ACKNOWLEDGED_KEY) == b'{"instance": 5'


async def test_the_later_adoption_counts_whatever_a_late_kv_shows(market: Market) -> None:
    await filled(market)
    acknowledge(market, "the double", 10, since="2026-12-01T08:00:00.000Z")
    isolate = Isolate(market)
    assert await isolate.listed() == GOOD
    acknowledge(market, "the one before", 99)
    await asyncio.sleep(READ_EVERY)
    assert await isolate.listed() == GOOD
    found = acknowledged(market)
    assert found is not None
    assert found.instance == "the double"


async def test_an_isolate_follows_an_adoption_when_kv_shows_it(market: Market) -> None:
    await filled(market)
    acknowledge(market, "the one before", 99)
    isolate = Isolate(market)
    assert (await isolate.listed())[1] == ("postgres: other-instance",)
    acknowledge(market, "the double", 3, since="2026-12-01T08:00:00.000Z")
    await asyncio.sleep(READ_EVERY)
    assert await isolate.listed() == GOOD


async def test_with_postgres_away_kv_is_not_asked(market: Market) -> None:
    market.kv.faults = lambda op: Fault.FAIL if is_acknowledgement(op) else None

    async def away(_step: str) -> Any:
        raise DatabaseError("away")

    market.tables.before = away
    await Isolate(market).listed()
    assert "acknowledged-not-read" not in market.log.events()


async def test_every_use_of_the_database_is_held_to_it(market: Market) -> None:
    """The check is in the one door: what asks for a session gets none that answers."""
    await filled(market)
    acknowledge(market, "another", 1)
    database = await get_db(Isolate(market).env)
    for operation in (
        database.load_state("a state"),
        database.save_state("a state", b"{}"),
        database.count_dead_letters(),
        database.add_alias("an-alias", SKILLS[0].identity),
    ):
        with pytest.raises(OtherDatabase):
            await operation
    assert market.tables.states == {}
