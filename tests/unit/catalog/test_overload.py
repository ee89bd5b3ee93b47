"""A PostgreSQL that answers and has too much to do, and one that says nothing at all.

The first is never replaced by KV, whose listing costs more; the second at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from marketplace.catalog import listings, lookup
from marketplace.catalog.answer import Answer, Source
from marketplace.catalog.listing_page import Page
from marketplace.catalog.published_skills import KEPT_FROM_BEFORE
from marketplace.catalog.updates import check_updates
from marketplace.catalog.versions import versions_of
from marketplace.kv.keys import ACKNOWLEDGED_KEY, OUTBOX_PREFIX
from marketplace.ports.database import DatabaseSession
from marketplace.ports.database_reads import (
    GONE_AFTER_SECONDS,
    LATE_SECONDS,
    MAX_WAITING,
    SILENT_AFTER,
    SILENT_SECONDS,
    DatabaseReads,
)
from marketplace.ports.env import READ_BUDGET_SECONDS, Env, Settings, get_db
from marketplace.ports.errors import DatabaseBusy
from marketplace.ports.isolate import FallbackCache
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.seed import load_seed
from marketplace.skills.updates import Installed
from marketplace.web.app import create_app
from tests.doubles.database import no_hook
from tests.doubles.kv import KvOperation
from tests.doubles.loop import Invocation, SimulatedLoop, current_loop
from tests.doubles.marketplace import Market, make_skill
from tests.doubles.network import Fault

SKILLS = [make_skill(f"own-{number:03}") for number in range(30)]
AT_ONCE = 12
READ_SECONDS = Settings().database_read_timeout
INSTALLED = Installed(name="own-001", version="1.0.0")
SLOT_SECONDS = Settings().database_slot_timeout


@dataclass(slots=True)
class Isolate:
    """What serves requests, and what it has asked KV, but for which database it has and whether
    anything waits for it."""

    market: Market
    memory: FallbackCache = field(default_factory=FallbackCache)
    asked_of_kv: list[KvOperation] = field(default_factory=list)
    settings: Settings = field(default_factory=lambda: Settings(database_reads_at_once=AT_ONCE))

    def env(self) -> Env:
        """The Env of the next invocation."""

        def hear(operation: KvOperation) -> Fault | None:
            if operation.key not in (ACKNOWLEDGED_KEY, OUTBOX_PREFIX):
                self.asked_of_kv.append(operation)
            return None

        return replace(
            self.market.env,
            submissions_kv=self.market.kv.at("local", hear),
            database=DatabaseSession(self.market.tables.connect),
            fallback_cache=self.memory,
            settings=self.settings,
        )

    async def listing(self) -> Answer[Page]:
        return await listings.get_skills(self.env(), ListingQuery())

    async def outcomes(self, count: int, *, page: bool = True) -> list[str]:
        """Where so many listings, or single skills, come from at once, or why there is none."""

        async def outcome() -> str:
            answer: Answer[Any] | None
            try:
                if page:
                    answer = await self.listing()
                else:
                    answer = await lookup.get_skill_by_name(self.env(), SKILLS[0].name)
            except DatabaseBusy as busy:
                return busy.reason
            assert answer is not None
            assert not isinstance(answer.value, Page) or answer.value.total == len(SKILLS)
            return f"{'marked ' if answer.degraded else ''}{answer.source}"

        return list(await asyncio.gather(*(outcome() for _ in range(count))))

    async def leave(self, count: int, *, after: float) -> None:
        """Let so many clients ask for a listing and leave: their requests never resume."""
        invocations = [Invocation(f"client {number}") for number in range(count)]
        for invocation in invocations:
            current_loop().start(invocation, self.listing())
        await asyncio.sleep(after)
        for invocation in invocations:
            invocation.cut()


@pytest.fixture
def isolate(loop: SimulatedLoop, market: Market) -> Isolate:
    """An isolate of a marketplace whose skills are in both stores and in the index."""
    loop.run_until_complete(market.fill(SKILLS))
    loop.run_until_complete(market.index(SKILLS))
    return Isolate(market)


def lasting(seconds: float) -> Callable[[str], Awaitable[None]]:
    """What each statement takes."""

    async def work(_operation: str) -> None:
        await asyncio.sleep(seconds)

    return work


frozen = lasting(3600.0)


def now() -> float:
    return current_loop().time()


async def versions(env: Env) -> object:
    return await versions_of(env, Answer(SKILLS[0], Source.POSTGRES))


QUESTIONS: list[Callable[[Env], Awaitable[Any]]] = [
    lambda env: listings.get_skills(env, ListingQuery()),
    lambda env: listings.get_skill_count(env, ListingQuery()),
    listings.get_skill_categories,
    lambda env: lookup.get_skill_by_name(env, "own-001"),
    lambda env: lookup.get_skill_by_identity(env, "octo", "own-001", "own-001"),
    lambda env: check_updates(env, [INSTALLED]),
    versions,
]


@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_statement_that_postgres_cancels_is_no_reason_to_ask_kv(
    isolate: Isolate, question: Callable[[Env], Awaitable[Any]]
) -> None:
    isolate.market.tables.work = lasting(60.0)
    began = now()
    for _ in range(2 * SILENT_AFTER):  # nor does it make a silence
        with pytest.raises(DatabaseBusy) as busy:
            await question(isolate.env())
        assert busy.value.reason == "too-long"
    assert now() - began < 2 * SILENT_AFTER * READ_SECONDS
    assert isolate.asked_of_kv == []
    assert set(isolate.market.log.events()) == {"read-shed"}


async def test_a_seed_skill_is_not_looked_for_in_kv_either(isolate: Isolate) -> None:
    async def slow_claims(operation: str) -> None:
        await asyncio.sleep(60.0 if operation == "seed_claims" else 0.0)

    isolate.market.tables.work = slow_claims
    with pytest.raises(DatabaseBusy):
        await lookup.get_skill_by_name(replace(isolate.env(), seed=load_seed()), "pdf")


async def test_what_was_too_long_is_answered_with_503_and_others_go_on(isolate: Isolate) -> None:
    async def slow_count(operation: str) -> None:
        await asyncio.sleep(60.0 if operation == "count_skills" else 0.0)

    isolate.market.tables.work = slow_count
    answer = await get(isolate.env(), "/api/v1/skills/count")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["cache-control"] == "no-store"
    assert (await get(isolate.env(), "/api/v1/skills")).json()["source"] == "postgres"


async def test_the_last_whole_answer_stands_in_for_what_is_too_long(isolate: Isolate) -> None:
    whole = await isolate.listing()
    isolate.market.tables.work = lasting(60.0)
    answer = await isolate.listing()
    assert (answer.value, answer.source) == (whole.value, Source.POSTGRES)
    assert answer.reasons == ("postgres: too-long", KEPT_FROM_BEFORE)
    assert isolate.asked_of_kv == []


async def test_the_limit_of_a_read_is_not_that_of_what_the_invocation_writes_later(
    isolate: Isolate,
) -> None:
    env = isolate.env()
    await lookup.get_skill_by_name(env, "own-001")
    isolate.market.tables.work = lasting(2 * READ_SECONDS)
    database = await get_db(env)
    assert len(await database.get_skills([SKILLS[0].identity])) == 1


async def test_reads_take_turns_in_the_order_in_which_they_came(isolate: Isolate) -> None:
    under_way: list[int] = [0]
    most: list[int] = [0]
    done: list[int] = []

    async def work(_operation: str) -> None:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        await asyncio.sleep(0.2)
        under_way[0] -= 1

    async def ask(number: int) -> Source:
        answer = await isolate.listing()
        done.append(number)
        return answer.source

    isolate.market.tables.work = work
    count = 5 * AT_ONCE
    sources = await asyncio.gather(*(ask(number) for number in range(count)))
    assert set(sources) == {Source.POSTGRES}
    assert most == [AT_ONCE]
    assert all(abs(number - place) < AT_ONCE for place, number in enumerate(done))


async def test_whoever_comes_when_a_slot_is_free_goes_behind_those_who_wait(
    isolate: Isolate,
) -> None:
    isolate.settings = Settings(database_reads_at_once=1)
    isolate.market.tables.work = lasting(0.21)
    done: list[str] = []

    async def ask(name: str) -> None:
        await isolate.listing()
        done.append(name)

    asked = [asyncio.create_task(ask(name)) for name in ("first", "second")]
    await asyncio.sleep(0.215)  # the slot is free, and nobody has looked yet
    asked.append(asyncio.create_task(ask("third")))
    await asyncio.gather(*asked)
    assert done == ["first", "second", "third"]


async def test_a_slot_is_free_as_soon_as_its_read_ends(isolate: Isolate) -> None:
    began = now()
    for _ in range(3 * AT_ONCE):
        await isolate.listing()
    assert now() == began


@pytest.mark.parametrize("after", [0.0, 0.1, 0.9])
async def test_clients_that_leave_take_no_slot_with_them(isolate: Isolate, after: float) -> None:
    isolate.market.tables.work = lasting(0.7)
    await isolate.leave(100, after=after)
    began = now()
    isolate.market.tables.work = no_hook
    assert await isolate.outcomes(AT_ONCE) == [Source.POSTGRES] * AT_ONCE
    assert now() - began <= READ_SECONDS + GONE_AFTER_SECONDS
    began = now()
    assert await isolate.outcomes(AT_ONCE) == [Source.POSTGRES] * AT_ONCE
    assert now() == began


async def test_postgres_that_answers_too_slowly_for_all_sheds_and_spares_kv(
    isolate: Isolate,
) -> None:
    isolate.market.tables.work = lasting(0.7)
    began = now()
    outcomes = await isolate.outcomes(10 * AT_ONCE, page=False)
    answered = outcomes.count(Source.POSTGRES)
    assert answered >= 3 * AT_ONCE  # what these seconds have room for
    assert outcomes.count("overloaded") == len(outcomes) - answered
    assert now() - began <= SLOT_SECONDS + READ_SECONDS
    outcomes = await isolate.outcomes(10 * AT_ONCE)
    answered = outcomes.count(Source.POSTGRES)
    assert outcomes.count(f"marked {Source.POSTGRES}") == len(outcomes) - answered  # what was kept
    assert isolate.asked_of_kv == []


async def test_a_read_without_an_answer_beside_others_with_one_is_shed(isolate: Isolate) -> None:
    async def lost_count(operation: str) -> None:
        await asyncio.sleep(3600.0 if operation == "count_skills" else 0.0)

    isolate.market.tables.before = lost_count
    counting = [asyncio.create_task(counted(isolate)) for _ in range(2 * SILENT_AFTER)]
    await asyncio.sleep(READ_SECONDS / 2)
    assert await isolate.outcomes(1) == [Source.POSTGRES]
    assert set(await asyncio.gather(*counting)) == {"overloaded"}
    assert await isolate.outcomes(1) == [Source.POSTGRES]
    assert isolate.asked_of_kv == []


async def test_a_postgres_that_cancels_what_others_ask_answers(isolate: Isolate) -> None:
    async def lost_count(operation: str) -> None:
        await asyncio.sleep(3600.0 if operation == "count_skills" else 0.0)

    counting = asyncio.create_task(counted(isolate))
    isolate.market.tables.before = lost_count
    isolate.market.tables.work = lasting(60.0)
    assert await isolate.outcomes(1, page=False) == ["too-long"]
    assert await counting == "overloaded"


async def counted(isolate: Isolate) -> str:
    """Why there is no count."""
    with pytest.raises(DatabaseBusy) as busy:
        await listings.get_skill_count(isolate.env(), ListingQuery())
    return busy.value.reason


async def test_after_three_time_outs_in_a_row_kv_answers_at_once(isolate: Isolate) -> None:
    isolate.market.tables.before = frozen
    for number in range(SILENT_AFTER):
        assert "database-skipped" not in isolate.market.log.events(), number
        assert await isolate.outcomes(1) == [f"marked {Source.KV_ENUMERATION}"]
    began = now()
    answer = await isolate.listing()
    assert answer.reasons == ("postgres: silent",)
    assert set(await isolate.outcomes(50)) == {f"marked {Source.KV_ENUMERATION}"}
    assert now() - began < 0.1
    assert isolate.market.log.events().count("database-skipped") == 1


async def test_an_answer_in_between_makes_three_time_outs_none_in_a_row(isolate: Isolate) -> None:
    for _ in range(SILENT_AFTER):
        isolate.market.tables.before = frozen
        await isolate.outcomes(1)
        isolate.market.tables.before = no_hook
        assert await isolate.outcomes(1) == [Source.POSTGRES]


async def test_during_a_silence_one_read_at_a_time_tries_and_its_answer_ends_it(
    isolate: Isolate,
) -> None:
    asked: list[float] = []

    async def silent(operation: str) -> None:
        asked.append(now())
        await frozen(operation)

    isolate.market.tables.before = silent
    await isolate.outcomes(SILENT_AFTER)
    fell_silent = now()
    asked.clear()
    while now() < fell_silent + 3 * SILENT_SECONDS:
        assert set(await isolate.outcomes(5)) == {f"marked {Source.KV_ENUMERATION}"}
        await asyncio.sleep(0.1)
    tries = [round(moment - fell_silent) for moment in asked]
    assert tries == [SILENT_SECONDS, 2 * SILENT_SECONDS + READ_SECONDS]
    isolate.market.tables.before = no_hook
    await asyncio.sleep(SILENT_SECONDS)
    assert Source.POSTGRES in await isolate.outcomes(5)
    assert await isolate.outcomes(5) == [Source.POSTGRES] * 5


async def test_a_client_that_leaves_while_it_tries_ends_no_trying(isolate: Isolate) -> None:
    isolate.market.tables.before = frozen
    await isolate.outcomes(SILENT_AFTER)
    await asyncio.sleep(SILENT_SECONDS)
    await isolate.leave(1, after=0.1)
    isolate.market.tables.before = no_hook
    await asyncio.sleep(SILENT_SECONDS)
    assert await isolate.outcomes(1) == [Source.POSTGRES]


@pytest.mark.parametrize("page", [True, False])
async def test_a_frozen_postgres_lists_everything_from_kv_for_everybody(
    isolate: Isolate, *, page: bool
) -> None:
    await isolate.listing()
    await asyncio.sleep(0.1)
    isolate.market.tables.before = frozen
    began = now()
    outcomes = await isolate.outcomes(64, page=page)
    assert set(outcomes) == {f"marked {Source.KV_ENUMERATION}"}
    assert now() - began <= READ_BUDGET_SECONDS


async def test_no_more_wait_than_the_memory_has_room_for(isolate: Isolate) -> None:
    await isolate.listing()
    isolate.market.tables.work = lasting(READ_SECONDS / 2)
    asked = asyncio.create_task(isolate.outcomes(2 * MAX_WAITING, page=False))
    await asyncio.sleep(READ_SECONDS / 4)
    assert len(isolate.memory.reads._waiting) == MAX_WAITING
    assert (await asked).count("overloaded") > MAX_WAITING
    assert isolate.asked_of_kv == []


async def test_those_who_left_the_queue_keep_nobody_out_of_it(isolate: Isolate) -> None:
    isolate.market.tables.work = lasting(READ_SECONDS / 2)
    await isolate.leave(MAX_WAITING + AT_ONCE, after=0.1)
    await asyncio.sleep(2 * GONE_AFTER_SECONDS)
    assert await isolate.outcomes(2 * AT_ONCE) == [Source.POSTGRES] * 2 * AT_ONCE


async def test_a_timer_that_comes_late_speaks_of_this_thread_and_not_of_postgres() -> None:
    reads = DatabaseReads()
    reads.note_answer()
    await asyncio.sleep(1.0)
    begun = now()
    await asyncio.sleep(1.0)
    assert not reads.answers(begun, due=now())
    assert reads.answers(begun, due=now() - 2 * LATE_SECONDS)
    await asyncio.sleep(SILENT_SECONDS)
    assert not reads.answers(now(), due=now() - 2 * LATE_SECONDS)


async def get(env: Env, path: str) -> httpx.Response:
    app = create_app()

    async def with_env(scope: Scope, receive: Receive, send: Send) -> None:
        scope["env"] = env
        await app(scope, receive, send)

    transport = httpx.ASGITransport(app=with_env)
    async with httpx.AsyncClient(transport=transport, base_url="https://a.example") as client:
        return await client.get(path)
