"""A large marketplace without PostgreSQL, behind a KV whose calls take long: what it answers.

Virtual time counts the calls and not the work between them. So a hundredth of the skills, in
batches and blocks of a hundredth of the keys, is the same to it: as many calls, as long.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, contextmanager
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final
from unittest import mock

import httpx
import msgspec
from starlette.types import Receive, Scope, Send

from marketplace.kv.index import blocks, writing
from marketplace.kv.keys import INDEX_KEY, skill_key
from marketplace.kv.summaries import encode_metadata
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Env, Settings
from marketplace.ports.errors import DatabaseError
from marketplace.ports.isolate import FallbackCache
from marketplace.ports.kv import KV_LIST_LIMIT
from marketplace.skills.seed import load_seed
from marketplace.skills.skill import Skill
from marketplace.web.app import create_app
from tests.doubles.kv import KvConduct, KvOperation
from tests.doubles.loop import current_loop
from tests.doubles.marketplace import Market, make_skill
from tests.doubles.network import Fault, Network

SKILLS: Final = 110_000
SEED: Final = load_seed()
APP: Final = create_app()
KEY: Final = "a-key-of-an-operator-of-at-least-32-bytes"


class Calls(StrEnum):
    """What KV's calls are like."""

    FAST = "0 ms"
    MS_100 = "100 ms"
    MS_300 = "300 ms"
    MS_500 = "500 ms"
    HANGING = "100 to 500 ms, or for ever"


LATENCIES: Final = {
    Calls.FAST: (0.0, 0.0),
    Calls.MS_100: (0.1, 0.1),
    Calls.MS_300: (0.3, 0.3),
    Calls.MS_500: (0.5, 0.5),
    Calls.HANGING: (0.1, 0.5),
}
HANGS_EVERY: Final = 7  # calls


class Postgres(StrEnum):
    GOOD = "good"
    REFUSES = "refuses"
    HANGS = "hangs"


@dataclass(slots=True)
class Asked:
    """One answer: what it took, and what was asked of KV for it."""

    response: httpx.Response
    seconds: float
    calls: Counter[str]

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = self.response.json()
        return document


@dataclass(slots=True)
class SlowMarket:
    """An isolate of such a marketplace."""

    market: Market
    skills: int
    calls: Calls = Calls.FAST
    postgres: Postgres = Postgres.GOOD
    memory: FallbackCache = field(default_factory=FallbackCache)
    _asked: int = 0

    async def get(self, path: str) -> Asked:
        """Ask as an operator may."""
        calls: Counter[str] = Counter()

        def hear(operation: KvOperation) -> Fault | None:
            calls[operation.kind] += 1
            self._asked += 1
            hangs = self.calls is Calls.HANGING and self._asked % HANGS_EVERY == 0
            return Fault.HANG if hangs else None

        latency = LATENCIES[self.calls]
        conduct = KvConduct(network=Network(latency=latency))
        env = replace(
            self.market.env,
            submissions_kv=self.market.kv.at("local", hear, conduct=conduct),
            database=DatabaseSession(self._connect, self.memory.database),
            fallback_cache=self.memory,
            seed=SEED,
            settings=Settings(internal_keys=(f"o:operator:{KEY}",)),
        )
        began = current_loop().time()
        response = await _get(env, path)
        return Asked(response, current_loop().time() - began, calls)

    async def _connect(self) -> Any:
        if self.postgres is Postgres.REFUSES:
            raise DatabaseError("connection refused")
        if self.postgres is Postgres.HANGS:
            await asyncio.sleep(3600)
        return await self.market.tables.connect()


async def _get(env: Env, path: str) -> httpx.Response:
    async def with_env(scope: Scope, receive: Receive, send: Send) -> None:
        scope["env"] = env
        await APP(scope, receive, send)

    transport = httpx.ASGITransport(app=with_env)
    headers = {"X-Internal-Key": KEY}
    async with httpx.AsyncClient(
        transport=transport, base_url="https://a.example", headers=headers
    ) as client:
        return await client.get(path)


@contextmanager
def scaled(part: int) -> Iterator[None]:
    """Blocks of the index with one of ``part`` skills."""
    size = blocks.BLOCK_SIZE // part
    with (
        mock.patch.object(blocks, "BLOCK_SIZE", size),
        mock.patch.object(writing, "BLOCK_SIZE", size),
    ):
        yield


def large_skill(number: int) -> Skill:
    return make_skill(f"own-{number:06}", category=f"category-{number % 7}")


async def fill(market: Market, *, part: int, index: bool) -> SlowMarket:
    """One of ``part`` of SKILLS in KV, in batches and blocks of that size, with the index or
    without."""
    count = SKILLS // part
    market.kv.page_limit = KV_LIST_LIMIT // part
    for number in range(count):
        skill = large_skill(number)
        key, value = skill_key(skill.name), msgspec.json.encode(skill)
        market.kv.damage(key, value, metadata=encode_metadata(skill))
    if index:
        writer = writing.IndexWriter.begin(market.env, "generation")
        for start in range(0, count, 1_000):
            numbers = range(start, min(start + 1_000, count))
            await writer.add([large_skill(number).published_summary() for number in numbers])
        await writer.finish()
    return SlowMarket(market, count)
