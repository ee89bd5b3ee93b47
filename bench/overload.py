"""Many clients at once while checks run: ``python -m bench.overload`` (``--skills 15000``).

Starts a throw-away PostgreSQL and the real Worker with so many skills in all sources. Clients ask
for listing pages, single skills, counts and searches as fast as they get answers, and cron's check
runs every few seconds. Then a hundred clients disconnect in the middle of their requests, several
times, and one that comes after them is timed. Prints what the answers were and how long they took;
ends with 1 if one was a seed answer, said 404 or 410 of a skill that exists, was a 503 without
``Retry-After``, if less than 99.5 % were whole, or if clients that left took a slot, a session of
PostgreSQL or memory with them. Two minutes and a half at the numbers that are the defaults.
"""

import argparse
import asyncio
import contextlib
import os
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from bench.published_index import generated_skill
from bench.stack import REQUEST_TIMEOUT, Stack, heap_bytes, running, session
from local.host.control import KvEntry
from local.host.postgres import PostgresServer
from local.host.worker_stack import WorkerStack
from marketplace.kv.summaries import encode_metadata
from marketplace.skills.skill import Skill

CHECK_CRON: Final = "*/5 * * * *"
WHOLE_WANTED: Final = 0.995  # of all answers
SECONDS_WANTED: Final = 3.0  # of 99 % of the answers
DISCONNECTING: Final = 100  # clients
TIMES: Final = 3  # that they do
SESSIONS_GONE_SECONDS: Final = 5.0  # more than a statement may take
MIB: Final = 2**20
REBUILD_SECONDS: Final = 600.0
SEED: Final = 64  # of what is asked

LISTINGS: Final = (
    "/api/v1/skills?limit=24",
    "/api/v1/skills?limit=24&offset=240",
    "/api/v1/skills?limit=24&sortBy=name",
    "/api/v1/skills?limit=24&category=development",
)
LIVENESS: Final = "/api/v1/health"
LIVENESS_EVERY: Final = 0.1  # seconds
COUNTS: Final = ("/api/v1/skills/count", "/api/v1/skills/categories")
SEARCHES: Final = ("/api/v1/skills?limit=24&search=skill", "/api/v1/skills/search?q=skill")


@dataclass
class Answers:
    """What clients got: kinds of answers, seconds of each, and what must never happen."""

    kinds: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    idle: list[float] = field(default_factory=list)
    """Seconds of answers that need no storage: how long the one thread was busy with others."""

    def take(self, path: str, response: httpx.Response, seconds: float) -> None:
        """Sort an answer in."""
        self.seconds.append(seconds)
        kind = kind_of(response)
        self.kinds[kind] += 1
        if kind not in ("whole", "503") and not kind.startswith("marked"):
            self.wrong[f"{kind}: {path.split('?')[0]}"] += 1

    def fail(self, path: str, error: httpx.HTTPError) -> None:
        """Note a request that got no answer."""
        self.kinds["none"] += 1
        self.wrong[f"{type(error).__name__}: {path.split('?')[0]}"] += 1

    @property
    def whole_share(self) -> float:
        """Of all requests."""
        return self.kinds["whole"] / max(1, self.kinds.total())


def percentile(seconds: Sequence[float], share: float) -> float:
    """Seconds that this share of them did not exceed."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def kind_of(response: httpx.Response) -> str:
    """``whole``, ``marked …``, ``503``, or something that is wrong."""
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return "503" if "retry-after" in response.headers else "503 without Retry-After"
    if response.status_code != httpx.codes.OK:
        return str(response.status_code)
    document = response.json()
    if document.get("source") == "seed":
        return "seed"
    return f"marked, {document['source']}" if document.get("degraded") else "whole"


def question(chance: random.Random, slugs: Sequence[str]) -> str:
    """What a client asks for next: half listings, a third single skills, counts and searches."""
    kind = chance.random()
    if kind < 0.5:
        return chance.choice(LISTINGS)
    if kind < 0.8:
        return f"/api/v1/skills/{chance.choice(slugs)}"
    return chance.choice(COUNTS if kind < 0.9 else SEARCHES)


async def load(
    url: str, slugs: Sequence[str], *, clients: int, seconds: float, pause: float = 0.0
) -> Answers:
    """Ask as fast as ``clients`` concurrent clients get answers, each ``pause`` seconds after its
    last one."""
    answers, end = Answers(), time.perf_counter() + seconds

    async def ask(client: httpx.AsyncClient, chance: random.Random) -> None:
        while time.perf_counter() < end:
            path, began = question(chance, slugs), time.perf_counter()
            try:
                response = await client.get(path)
            except httpx.HTTPError as error:
                answers.fail(path, error)
            else:
                answers.take(path, response, time.perf_counter() - began)
            await asyncio.sleep(pause)

    async def ask_for_nothing(client: httpx.AsyncClient) -> None:
        while time.perf_counter() < end:
            began = time.perf_counter()
            await client.get(LIVENESS)
            answers.idle.append(time.perf_counter() - began)
            await asyncio.sleep(LIVENESS_EVERY)

    async with new_client(url, clients) as client, new_client(url, 1) as idle:
        asked = [ask(client, random.Random(SEED + n)) for n in range(clients)]
        await asyncio.gather(ask_for_nothing(idle), *asked)
    return answers


async def disconnect(url: str) -> tuple[str, float]:
    """Let clients leave in the middle of their requests; what the next one gets, and seconds."""
    async with new_client(url, DISCONNECTING) as client:
        asked = [asyncio.create_task(client.get(LISTINGS[0])) for _ in range(DISCONNECTING)]
        await asyncio.sleep(0.1)
        for request in asked:
            request.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    async with new_client(url, 1) as client:
        began = time.perf_counter()
        try:
            answer = kind_of(await client.get(LISTINGS[0]))
        except httpx.HTTPError as error:
            answer = type(error).__name__
        return answer, time.perf_counter() - began


async def sessions(postgres: PostgresServer) -> int:
    """How many sessions there are with the marketplace's database, but for this one."""
    with await session(postgres) as connection:
        result = await connection.query(
            "select count(*)::text from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    return int(result.rows[0][0] or 0)


async def sessions_left(postgres: PostgresServer, *, but: int) -> int:
    """How many there are once no more than ``but`` are left, or after SESSIONS_GONE_SECONDS."""
    end = time.perf_counter() + SESSIONS_GONE_SECONDS
    number = await sessions(postgres)
    while number > but and time.perf_counter() < end:
        await asyncio.sleep(0.1)
        number = await sessions(postgres)
    return number


@dataclass(frozen=True, slots=True)
class Left:
    """What clients that disconnected left behind them."""

    answers: Sequence[tuple[str, float]]  # that the next client got each time, and seconds
    sessions: tuple[int, int]  # before and after
    heap: tuple[int, int]  # bytes, after the first time and after the last one

    @property
    def is_good(self) -> bool:
        """Whether that is no slot, no session and no memory."""
        whole = all(kind == "whole" and seconds <= SECONDS_WANTED for kind, seconds in self.answers)
        return whole and self.sessions[1] <= self.sessions[0] and self.heap[1] <= self.heap[0]


async def leave(url: str, postgres: PostgresServer, key: str) -> Left:
    """Let clients disconnect several times."""
    before = await sessions_left(postgres, but=0)
    answers = [await disconnect(url)]
    heap = heap_bytes(url, key)
    answers += [await disconnect(url) for _ in range(TIMES - 1)]
    after = await sessions_left(postgres, but=before)
    return Left(answers, (before, after), (heap, heap_bytes(url, key)))


def new_client(url: str, clients: int) -> httpx.AsyncClient:
    """One client that keeps so many connections."""
    limits = httpx.Limits(max_connections=clients)
    return httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT, limits=limits, trust_env=False)


async def check(stack: Stack, every: float, outcomes: list[tuple[str, float]]) -> None:
    """Fire cron's check again and again; what came of each, and its seconds."""
    while True:
        await asyncio.sleep(every)
        began = time.perf_counter()
        outcome = await asyncio.to_thread(stack.worker.control.fire_scheduled, CHECK_CRON)
        outcomes.append((outcome, time.perf_counter() - began))


def fill(worker: WorkerStack, key: str, count: int) -> list[str]:
    """Put skills into KV and let a rebuild bring them into the table and the index; slugs."""
    skills = [_skill(number) for number in range(count)]
    worker.control.kv_put(
        KvEntry(f"skill:{s.name}", msgspec.json.encode(s).decode(), encode_metadata(s))
        for s in skills
    )
    with httpx.Client(
        base_url=worker.url,
        headers={"X-Internal-Key": key},
        timeout=REBUILD_SECONDS,
        trust_env=False,
    ) as client:
        answer = client.post("/api/v1/admin/rebuild-index").raise_for_status().json()
        while not answer["complete"]:
            time.sleep(0.5)
            path = f"/api/v1/admin/rebuild-index/{answer['jobId']}"
            answer = client.get(path).raise_for_status().json()
    return [skill.name for skill in skills]


def _skill(number: int) -> Skill:
    made = generated_skill(number)
    return msgspec.structs.replace(made, base_slug=made.name)


async def measure(options: argparse.Namespace) -> bool:
    """Run everything and print it; whether it is as it should be."""
    key = secrets.token_hex(32)
    checks: list[tuple[str, float]] = []
    with running(key) as stack:
        slugs = fill(stack.worker, key, options.skills)
        checking = asyncio.create_task(check(stack, options.check_every, checks))
        answers = await load(
            stack.worker.url, slugs, clients=options.clients, seconds=options.seconds
        )
        checking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await checking
        left = await leave(stack.worker.url, stack.postgres, key)
        events = _events(stack)
    good = not answers.wrong and answers.whole_share >= WHOLE_WANTED
    good &= percentile(answers.seconds, 0.99) <= SECONDS_WANTED
    good &= left.is_good
    _print(answers, checks, events, left)
    return good


def _events(stack: Stack) -> Counter[str]:
    """The Worker's log lines that are no plain info, by event and reason."""
    found: Counter[str] = Counter()
    for line in stack.log_file.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, msgspec.DecodeError):
            fields: dict[str, Any] = msgspec.json.decode(line[line.index("{") :])
            if fields.get("level") != "info":
                found[f"{fields['event']} {fields.get('reason', '')}"[:80]] += 1
    return found


def _print(
    answers: Answers,
    checks: Sequence[tuple[str, float]],
    events: Counter[str],
    left: Left,
) -> None:
    table = Table("what", "measured")
    table.add_row("answers", str(len(answers.seconds)))
    table.add_row("whole", f"{answers.whole_share:.2%} (wanted: {WHOLE_WANTED:.1%})")
    for kind, number in answers.kinds.most_common():
        table.add_row(f"  {kind}", str(number))
    for share in (0.5, 0.9, 0.99, 1.0):
        table.add_row(f"p{share * 100:g}", f"{percentile(answers.seconds, share):.2f} s")
        table.add_row("  without storage", f"{percentile(answers.idle, share):.2f} s")
    for what, number in answers.wrong.most_common():
        table.add_row(f"WRONG: {what}", str(number))
    table.add_row("checks", ", ".join(f"{outcome} {took:.1f} s" for outcome, took in checks))
    next_ones = ", ".join(f"{kind} after {seconds:.2f} s" for kind, seconds in left.answers)
    table.add_row(f"a request after {DISCONNECTING} that left", next_ones)
    table.add_row("sessions before and after them", "{} → {}".format(*left.sessions))
    heap = " → ".join(f"{number / MIB:.1f} MiB" for number in left.heap)
    table.add_row("heap after the first and the last of them", heap)
    table.add_row("machine's load", f"{os.getloadavg()[0]:.1f}")
    for event, number in events.most_common(12):
        table.add_row(f"log: {event}", str(number))
    Console().print(table)
    p99 = percentile(answers.seconds, 0.99)
    print(
        f"{len(answers.seconds)} answers, {answers.whole_share:.2%} whole, "
        f"{answers.wrong.total()} wrong, p99 {p99:.2f} s; after {DISCONNECTING} that left: "
        f"{next_ones}; sessions {left.sessions[0]} → {left.sessions[1]}; heap {heap}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overload")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--skills", type=int, default=15_000)
    parser.add_argument("--check-every", type=float, default=10.0, help="seconds")
    if not asyncio.run(measure(parser.parse_args())):
        sys.exit("not as it should be: see the table")


if __name__ == "__main__":
    main()
