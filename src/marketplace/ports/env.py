"""The bindings of one invocation, handed down as an argument to everything that needs them."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from marketplace.basics.logs import Logger, log_to_stdout
from marketplace.basics.timestamps import format_timestamp
from marketplace.ports.database import DatabaseSession, SkillDatabase
from marketplace.ports.errors import QueueError
from marketplace.ports.isolate import FallbackCache
from marketplace.ports.known_database import Expectation
from marketplace.ports.kv import KvNamespace
from marketplace.ports.queue import MessageQueue
from marketplace.ports.rate_limit import RateLimits
from marketplace.skills.seed import EMPTY_SEED, Seed

KV_LATENESS: Final = 65.0  # Cloudflare says 60 s or more
READ_BUDGET_SECONDS: Final = 2.0  # no read takes longer because of one source


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the operator may set: vars and secrets of the Worker. Times in seconds."""

    internal_keys: tuple[str, ...] = ()
    jwt_secrets: tuple[str, ...] = ()
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    forges: tuple[str, ...] = ()  # hosts that are taken besides the known ones
    database_read_timeout: float = 1.0  # to connect and answer one read
    database_reads_at_once: int = 8
    """Of an isolate; see `database_reads`. Measured with 64 clients on two cores: 8 give as many
    answers a second as 20 and more than 64, and leave the thread free for other requests. What
    needs no storage took 0.1 s in the median; 0.4 s with 20; 0.5 s with 64, where p99 was 7 s."""
    database_slot_timeout: float = 2.4  # to wait for one of these, before the read's own time
    kv_timeout: float = 5.0
    queue_timeout: float = 5.0
    rate_limit_timeout: float = 0.5
    enumeration_page_budget: int = 10  # list pages that one listing may read
    kv_operation_budget: int = 900  # of the platform's 1,000 an invocation
    submission_ttl: int = 30 * 86_400  # of a submission without a verdict, or with a FAIL
    kv_lateness: float = KV_LATENESS  # after which every read and list of KV shows what was written
    queues_began_at: str = ""
    """When the queues began, empty: they have lost what was sent before that. Locally alone."""


async def _as_known(env: "Env") -> Expectation:
    return env.database.known.expectation


@dataclass(frozen=True, slots=True, kw_only=True)
class Env:
    """Of one invocation. Its handler makes it, and closes it at the end."""

    submissions_kv: KvNamespace
    database: DatabaseSession
    publish_queue: MessageQueue
    maintenance_queue: MessageQueue
    settings: Settings = field(default_factory=Settings)
    rate_limits: RateLimits = field(default_factory=RateLimits)
    seed: Seed = EMPTY_SEED
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    log: Logger = log_to_stdout
    heap_bytes: Callable[[], int | None] = lambda: None  # of the runtime, where it tells
    fallback_cache: FallbackCache | None = None  # the isolate's: plain data, outlives the Env
    expect_database: Callable[["Env"], Awaitable[Expectation]] = _as_known
    """What every session is held to: `kv.acknowledged` reads it from KV."""

    def close(self) -> None:
        self.database.close()

    def now(self) -> str:
        return format_timestamp(self.clock())


def split_secrets(text: str) -> tuple[str, ...]:
    """The secrets of a comma- or whitespace-separated list; to rotate, set the new and the old."""
    return tuple(secret for secret in re.split(r"[,\s]+", text) if secret)


async def get_db(env: Env) -> SkillDatabase:
    """The invocation's session with the skill database. Raises DatabaseError.

    It answers only if the database is the expected one: the one door to it, for reads and writes.
    """
    database = await env.database.get()
    database.hold_to(await env.expect_database(env))
    return database


async def send_messages(env: Env, queue: MessageQueue, bodies: Sequence[Mapping[str, Any]]) -> None:
    """Enqueue up to 100 messages within ``settings.queue_timeout`` seconds. Raises QueueError.

    After an error some of them may have been taken all the same.
    """
    limit = env.settings.queue_timeout
    try:
        async with asyncio.timeout(limit):
            await queue.send_batch(bodies)
    except TimeoutError as error:
        raise QueueError(f"the queue took longer than {limit} s", reason="timeout") from error
