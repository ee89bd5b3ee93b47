"""A source that is late has not said that it holds nothing: the seed never answers for it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from marketplace.catalog import listings, lookup
from marketplace.catalog.answer import Answer, Source
from marketplace.catalog.listing_page import Page
from marketplace.catalog.published_skills import KEPT_FROM_BEFORE
from marketplace.catalog.source_chain import TooLate
from marketplace.kv.keys import INDEX_KEY, OUTBOX_PREFIX
from marketplace.kv.outbox import write_outbox
from marketplace.ports.env import READ_BUDGET_SECONDS, Env, Settings
from marketplace.ports.errors import DatabaseError
from marketplace.ports.isolate import KEPT_SECONDS, FallbackCache
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.seed import load_seed
from marketplace.web.app import create_app
from tests.doubles.kv import KvConduct, KvFaults, KvOperation
from tests.doubles.loop import SimulatedLoop, current_loop
from tests.doubles.marketplace import Market, fault, make_skill
from tests.doubles.network import Fault, Network

SEED = load_seed()
SKILLS = [make_skill(f"own-{number:03}") for number in range(30)]
WHOLE = len(SKILLS) + len(SEED.skills)

HANGING = fault(Fault.HANG, "list", "get", "get_many")
FAILING = fault(Fault.FAIL, "list", "get", "get_many")


def slow(seconds: float) -> KvConduct:
    """Each call to KV takes this long."""
    return KvConduct(network=Network(latency=(seconds, seconds)))


async def _refuse(_step: str) -> None:
    raise DatabaseError("away")


async def _hang(_step: str) -> None:
    await asyncio.sleep(3600)


@dataclass(slots=True)
class Isolate:
    """What serves requests: the seed, an isolate's memory, and stores that can be made to fail."""

    market: Market
    memory: FallbackCache = field(default_factory=FallbackCache)
    faults: KvFaults | None = None
    conduct: KvConduct = field(default_factory=KvConduct)

    def env(self) -> Env:
        """The Env of the next invocation."""
        kv = self.market.kv.at("local", self.faults, conduct=self.conduct)
        return replace(self.market.env, submissions_kv=kv, fallback_cache=self.memory, seed=SEED)

    async def listing(self, query: ListingQuery | None = None) -> Answer[Page]:
        return await listings.get_skills(self.env(), query or ListingQuery())

    async def timed_listing(self) -> tuple[Answer[Page], float]:
        started = current_loop().time()
        return await self.listing(), current_loop().time() - started


@pytest.fixture
def isolate(loop: SimulatedLoop, market: Market) -> Isolate:
    """An isolate of a marketplace whose skills are in both stores and in the index."""
    loop.run_until_complete(market.fill(SKILLS))
    loop.run_until_complete(market.index(SKILLS))
    return Isolate(market)


@pytest.mark.parametrize("database", [_refuse, _hang])
@pytest.mark.parametrize(
    ("late", "source", "reason"),
    [
        (("list", "skill:"), Source.KV_INDEX, "enumeration: deadline"),
        (("get", INDEX_KEY), Source.KV_ENUMERATION, "index: deadline"),
        (("list", OUTBOX_PREFIX), Source.KV_ENUMERATION, "outbox: deadline"),
    ],
)
async def test_one_part_of_kv_that_hangs_costs_only_that_part(
    isolate: Isolate,
    database: Callable[[str], Awaitable[None]],
    late: tuple[str, str],
    source: Source,
    reason: str,
) -> None:
    isolate.market.tables.before = database
    operation, key = late
    isolate.faults = fault(Fault.HANG, operation, key=key)
    answer, seconds = await isolate.timed_listing()
    assert (answer.value.total, answer.source) == (WHOLE, source)
    assert reason in answer.reasons
    assert seconds <= READ_BUDGET_SECONDS


@pytest.mark.market(page_limit=10)
async def test_what_was_enumerated_before_time_ran_out_is_listed_and_marked(
    isolate: Isolate,
) -> None:
    isolate.market.tables.before = _refuse
    isolate.market.kv.damage(INDEX_KEY, None)
    lists = 0

    def third_list_hangs(operation: KvOperation) -> Fault | None:
        nonlocal lists
        if operation.kind != "list" or not operation.key.startswith("skill:"):
            return None
        lists += 1
        return Fault.HANG if lists == 3 else None

    isolate.faults = third_list_hangs
    answer = await isolate.listing()
    assert answer.value.total == 20 + len(SEED.skills)
    assert {"enumeration: deadline", "kv-enumeration: truncated"} <= set(answer.reasons)


@pytest.mark.market(page_limit=10, settings=Settings(enumeration_page_budget=2))
async def test_a_whole_answer_is_kept_rather_than_one_of_a_truncated_enumeration(
    isolate: Isolate,
) -> None:
    isolate.market.kv.damage(INDEX_KEY, None)
    assert (await isolate.listing()).value.total == WHOLE
    isolate.market.tables.before = _refuse
    answer = await isolate.listing()
    assert answer.value.total == WHOLE
    assert {"kv-enumeration: truncated", KEPT_FROM_BEFORE} <= set(answer.reasons)


@pytest.mark.parametrize("database", [_refuse, _hang])
async def test_a_kv_that_hangs_in_a_new_isolate_is_answered_with_503(
    isolate: Isolate, database: Callable[[str], Awaitable[None]]
) -> None:
    isolate.market.tables.before = database
    isolate.faults = HANGING
    env = isolate.env()
    for question in (
        listings.get_skills(env, ListingQuery()),
        listings.get_skill_count(env, ListingQuery()),
        listings.get_skill_categories(env),
    ):
        with pytest.raises(TooLate):
            await question
    for path in ("/api/v1/skills", "/api/v1/skills/count", "/api/v1/skills/categories"):
        answer = await _get(env, path)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["cache-control"] == "no-store"


async def test_a_database_that_hangs_leaves_the_seed_no_say_although_kv_is_away(
    isolate: Isolate,
) -> None:
    isolate.market.tables.before = _hang
    isolate.faults = FAILING
    with pytest.raises(TooLate):
        await isolate.listing()
    isolate.market.tables.before = _refuse
    answer = await isolate.listing()
    assert (answer.value.total, answer.source) == (len(SEED.skills), Source.SEED)
    assert answer.degraded


async def test_an_empty_index_cannot_say_that_there_is_nothing(isolate: Isolate) -> None:
    isolate.market.tables.before = _refuse
    await isolate.market.index([])
    isolate.faults = fault(Fault.HANG, "list")
    with pytest.raises(TooLate):
        await isolate.listing()


@pytest.mark.parametrize("from_kv_before", [False, True])
@pytest.mark.parametrize("faults", [HANGING, FAILING])
async def test_the_last_whole_answer_stands_in_for_ten_minutes(
    isolate: Isolate, faults: KvFaults, *, from_kv_before: bool
) -> None:
    isolate.market.tables.before = _refuse if from_kv_before else isolate.market.tables.before
    whole = await isolate.listing()
    count = await listings.get_skill_count(isolate.env(), ListingQuery())
    categories = await listings.get_skill_categories(isolate.env())
    isolate.market.tables.before = _hang
    isolate.faults = faults
    await asyncio.sleep(KEPT_SECONDS - 30)
    for answer, again in (
        (whole, await isolate.listing()),
        (count, await listings.get_skill_count(isolate.env(), ListingQuery())),
        (categories, await listings.get_skill_categories(isolate.env())),
    ):
        assert again.value == answer.value
        assert again.degraded
    assert whole.value.total == count.value.count == WHOLE
    await asyncio.sleep(31)
    with pytest.raises(TooLate):
        await isolate.listing()


async def test_a_shrunken_index_never_replaces_the_last_whole_answer(isolate: Isolate) -> None:
    assert (await isolate.listing()).source is Source.POSTGRES
    isolate.market.tables.before = _refuse
    await isolate.market.index(SKILLS[:3])
    isolate.faults = fault(Fault.HANG, "list")
    answer = await isolate.listing()
    assert (answer.value.total, answer.source) == (WHOLE, Source.POSTGRES)
    assert KEPT_FROM_BEFORE in answer.reasons


async def test_an_older_answer_never_stands_in_for_one_that_could_be_had(isolate: Isolate) -> None:
    assert (await isolate.listing()).value.total == WHOLE
    isolate.market.tables.before = _refuse
    await write_outbox(isolate.market.env, make_skill("waiting"))
    answer = await isolate.listing()
    assert (answer.value.total, answer.source) == (WHOLE + 1, Source.KV_ENUMERATION)


@pytest.mark.market(page_limit=6)
async def test_300_ms_a_call_are_enough_for_a_whole_listing(isolate: Isolate) -> None:
    """Index pages are read side by side; the records take five list calls, one after the other."""
    isolate.market.tables.before = _refuse
    isolate.conduct = slow(0.3)
    answer, seconds = await isolate.timed_listing()
    assert answer.value.total == WHOLE
    assert answer.reasons == ("postgres: unavailable",)
    assert seconds <= READ_BUDGET_SECONDS


async def test_a_skill_that_was_read_is_answered_although_the_rest_is_late(
    isolate: Isolate,
) -> None:
    isolate.market.tables.before = _hang
    isolate.faults = fault(Fault.HANG, "list")
    by_name = await lookup.get_skill_by_name(isolate.env(), "own-001")
    by_identity = await lookup.get_skill_by_identity(isolate.env(), "octo", "own-001", "own-001")
    for answer in (by_name, by_identity):
        assert answer is not None
        assert answer.value == SKILLS[1]
        assert answer.degraded


async def test_a_listing_says_why_it_is_degraded(isolate: Isolate) -> None:
    assert json.loads((await _get(isolate.env(), "/api/v1/skills")).text)["reasons"] == []
    isolate.market.tables.before = _refuse
    isolate.faults = fault(Fault.HANG, "list", key=OUTBOX_PREFIX)
    isolate.memory = FallbackCache()
    document = json.loads((await _get(isolate.env(), "/api/v1/skills")).text)
    assert document["reasons"] == ["postgres: unavailable", "outbox: deadline"]


async def _get(env: Env, path: str) -> httpx.Response:
    app = create_app()

    async def with_env(scope: Scope, receive: Receive, send: Send) -> None:
        scope["env"] = env
        await app(scope, receive, send)

    transport = httpx.ASGITransport(app=with_env)
    async with httpx.AsyncClient(transport=transport, base_url="https://a.example") as client:
        return await client.get(path)
