"""A large marketplace without PostgreSQL, behind a KV whose calls take long: what it answers.

Virtual time counts the calls and not the work between them. So a hundredth of the skills, in
batches and blocks of a hundredth of the keys, is the same to it: as many calls, as long.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final
from unittest import mock

import httpx
import msgspec
from starlette.types import Receive, Scope, Send

from marketplace.kv.index import blocks, writing
from marketplace.kv.keys import WITHHELD_KEY, skill_key
from marketplace.kv.summaries import encode_metadata
from marketplace.kv.withheld import encode_withheld
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import READ_BUDGET_SECONDS, Env, Settings
from marketplace.ports.errors import DatabaseError
from marketplace.ports.isolate import FallbackCache
from marketplace.ports.kv import KV_LIST_LIMIT
from marketplace.skills.seed import load_seed
from marketplace.skills.skill import Skill, Status
from marketplace.skills.withholding import WithheldKey
from marketplace.web.app import create_app
from tests.doubles.kv import KvConduct, KvOperation
from tests.doubles.loop import current_loop
from tests.doubles.marketplace import Market, make_skill
from tests.doubles.network import Fault, Network

SKILLS: Final = 110_000
BLOCKED: Final = 2  # the first ones
SEED: Final = load_seed()
HEALTH_SECONDS: Final = 3.0
MAX_CALLS: Final = 50  # to KV, for one answer

_APP: Final = create_app()
_KEY: Final = "a-key-of-an-operator-of-at-least-32-bytes"
_HANGS_EVERY: Final = 7  # calls


class Calls(StrEnum):
    """What KV's calls are like."""

    FAST = "at once"
    MS_100 = "100 ms"
    MS_300 = "300 ms"
    MS_500 = "500 ms"
    HANGING = "100 ms, or for ever"


_LATENCY: Final = {
    Calls.FAST: 0.0,
    Calls.MS_100: 0.1,
    Calls.MS_300: 0.3,
    Calls.MS_500: 0.5,
    Calls.HANGING: 0.1,
}


class Postgres(StrEnum):
    REFUSES = "refuses"
    HANGS = "hangs"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and whether a part of the answer is an answer too."""

    path: str
    body: Any = None
    is_listing: bool = False
    seconds: float = READ_BUDGET_SECONDS


EXISTING: Final = "own-000777"
QUESTIONS: Final = {
    "listing": Question("/api/v1/skills", is_listing=True),
    "search": Question("/api/v1/skills/search?q=own", is_listing=True),
    "count": Question("/api/v1/skills/count", is_listing=True),
    "categories": Question("/api/v1/skills/categories", is_listing=True),
    "one skill": Question(f"/api/v1/skills/{EXISTING}"),
    "blocklist": Question("/api/v1/blocklist"),
    "updates": Question("/api/v1/skills/check-updates", {"skills": [{"name": EXISTING}]}),
    "health": Question("/api/v1/admin/health/skills", seconds=HEALTH_SECONDS),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer: what it took, and what was asked of KV for it."""

    response: httpx.Response
    seconds: float
    calls: int

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = self.response.json()
        return document

    @property
    def total(self) -> int | None:
        """Skills that the answer tells of; None for none."""
        if self.response.status_code != httpx.codes.OK:
            return None
        document = self.document
        if "categories" in document:
            return sum(int(category["count"]) for category in document["categories"])
        total: int = document["total" if "total" in document else "count"]
        return total


@dataclass(slots=True)
class SlowMarket:
    """An isolate of such a marketplace."""

    market: Market
    skills: int
    calls: Calls = Calls.FAST
    postgres: Postgres = Postgres.REFUSES
    memory: FallbackCache = field(default_factory=FallbackCache)
    _asked: int = 0

    @property
    def whole(self) -> int:
        """What a whole listing has."""
        return self.skills - BLOCKED + len(SEED.skills)

    async def ask(self, question: Question) -> Asked:
        """Ask as an operator may."""
        calls: Counter[str] = Counter()

        def hear(operation: KvOperation) -> Fault | None:
            calls[operation.kind] += 1
            self._asked += 1
            hangs = self.calls is Calls.HANGING and self._asked % _HANGS_EVERY == 0
            return Fault.HANG if hangs else None

        latency = _LATENCY[self.calls]
        conduct = KvConduct(network=Network(latency=(latency, latency)))
        env = replace(
            self.market.env,
            submissions_kv=self.market.kv.at("local", hear, conduct=conduct),
            database=DatabaseSession(self._connect, self.memory.database),
            fallback_cache=self.memory,
            seed=SEED,
            settings=Settings(internal_keys=(f"o:operator:{_KEY}",)),
        )
        began = current_loop().time()
        response = await _answer(env, question)
        return Asked(response, current_loop().time() - began, calls.total())

    async def _connect(self) -> Any:
        if self.postgres is Postgres.HANGS:
            await asyncio.sleep(3600)
        raise DatabaseError("connection refused")


async def _answer(env: Env, question: Question) -> httpx.Response:
    async def with_env(scope: Scope, receive: Receive, send: Send) -> None:
        scope["env"] = env
        await _APP(scope, receive, send)

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=with_env),
        base_url="https://a.example",
        headers={"X-Internal-Key": _KEY},
    ) as client:
        if question.body is None:
            return await client.get(question.path)
        return await client.post(question.path, json=question.body)


@contextmanager
def scaled(part: int) -> Iterator[None]:
    """Blocks of the index with one of ``part`` skills."""
    size = blocks.BLOCK_SIZE // part
    with (
        mock.patch.object(blocks, "BLOCK_SIZE", size),
        mock.patch.object(writing, "BLOCK_SIZE", size),
    ):
        yield


async def fill(market: Market, *, part: int, index: bool) -> SlowMarket:
    """One of ``part`` of SKILLS in KV, in batches of that size, with the index or without."""
    count = SKILLS // part
    market.kv.page_limit = KV_LIST_LIMIT // part
    for number in range(count):
        skill = _skill(number)
        key, value = skill_key(skill.name), msgspec.json.encode(skill)
        market.kv.damage(key, value, metadata=encode_metadata(skill))
    withheld = [WithheldKey(s.name, s.identity, s.status) for s in map(_skill, range(BLOCKED))]
    market.kv.damage(WITHHELD_KEY, encode_withheld(withheld))
    if index:
        writer = writing.IndexWriter.begin(market.env, "generation")
        await writer.add(_skill(number).published_summary() for number in range(count))
        await writer.finish()
    return SlowMarket(market, count)


def _skill(number: int) -> Skill:
    return make_skill(
        f"own-{number:06}",
        category=f"category-{number % 7}",
        status=Status.BLOCKED if number < BLOCKED else Status.LISTED,
    )


def judge(name: str, asked: Asked, whole: int, *, slack: float = 0.001) -> None:
    """Hold an answer without PostgreSQL to what is promised of all of them."""
    question, response = QUESTIONS[name], asked.response
    told = f"{name}: {response.status_code} {response.text[-300:]}"
    assert asked.seconds <= question.seconds + slack, told
    assert asked.calls <= MAX_CALLS, told
    assert response.headers["cache-control"].endswith("no-store"), told
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        assert name != "health", told
        assert int(response.headers["retry-after"]) > 0, told
        return
    assert response.status_code == httpx.codes.OK, told  # never 404 or 410
    document = asked.document
    if name == "health":
        assert document["status"] == "failing", told
        assert document["sources"]["postgres"]["reachable"] is False, told
        return
    if name == "blocklist":
        assert document["count"] == BLOCKED, told  # whole, or not given
        return
    assert document["degraded"], told
    assert document["reasons"][0].startswith("postgres: "), told
    assert document["source"] in ("kv-enumeration", "kv-index"), told  # never the seed's
    if name == "one skill":
        assert document["name"] == EXISTING, told
    if name == "updates":
        assert [found["name"] for found in document["results"]] == [EXISTING], told
    if question.is_listing:
        assert asked.total is not None
        assert asked.total > len(SEED.skills) or name == "search", told
        is_whole = asked.total >= (1_000 if name == "search" else whole)
        assert is_whole or len(document["reasons"]) > 1, told  # it says what it lacks
