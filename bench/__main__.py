"""The Worker under load, uncached: ``make bench`` (ARGS="--seconds 60 --clients 64 --rows 5000").

Starts a throw-away PostgreSQL and the real Worker, and asks in turn for an answer without storage
and for listings out of PostgreSQL, twice each. The machine's speed is in every number alike, so
read the ratios. Ends with 1 if any request failed, or if the Python heap grew during a listing's
second round.
"""

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from statistics import median
from typing import Final

import httpx
from rich.console import Console
from rich.table import Table

from bench.generated_skills import generate_skills
from bench.stack import REQUEST_TIMEOUT, heap_bytes, running, session
from local.host.worker_stack import WorkerStack

CASES: Final = {
    "no storage": "/api/v1/health",
    "newest 24": "/api/v1/skills?limit=24",
    "category": "/api/v1/skills?category=category-1&limit=24",
    "search": "/api/v1/skills?search=word42&limit=24",
    "one skill": "/api/v1/skills/skill-42",
}
ROUNDS: Final = 2


@dataclass(frozen=True, slots=True)
class Load:
    """What a round gave: latencies in milliseconds, failures by kind."""

    seconds: float
    latencies: list[float]
    failures: int

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return len(self.latencies) / self.seconds


async def load(url: str, *, clients: int, seconds: float) -> Load:
    """Ask as fast as ``clients`` concurrent clients can."""
    latencies: list[float] = []
    failures = 0
    start = time.perf_counter()

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal failures
        while time.perf_counter() - start < seconds:
            began = time.perf_counter()
            try:
                response = await client.get(url)
                good = response.status_code == httpx.codes.OK and b'"degraded":true' not in (
                    response.content
                )
            except httpx.HTTPError:
                good = False
            if good:
                latencies.append((time.perf_counter() - began) * 1000)
            else:
                failures += 1

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=REQUEST_TIMEOUT, limits=limits, trust_env=False) as client:
        await asyncio.gather(*(ask(client) for _ in range(clients)))
    return Load(time.perf_counter() - start, latencies, failures)


async def rounds(
    worker: WorkerStack, key: str, options: argparse.Namespace
) -> AsyncIterator[tuple[int, str, Load, int, int]]:
    """Every case, round by round: (round, case, load, heap before, heap after)."""
    for number in range(1, ROUNDS + 1):
        for case, path in CASES.items():
            before = heap_bytes(worker.url, key)
            result = await load(worker.url + path, clients=options.clients, seconds=options.seconds)
            yield number, case, result, before, heap_bytes(worker.url, key)


async def measure(options: argparse.Namespace) -> bool:
    """Run everything and print the table; whether nothing failed and no heap grew."""
    key = secrets.token_hex(32)
    table = Table("round", "case", "requests/s", "ratio", "median ms", "failed", "heap MiB")
    good = True
    with running(key) as (worker, postgres, _):
        with await session(postgres) as connection:
            await generate_skills(connection, options.rows)
        base = 0.0
        async for number, case, result, before, after in rounds(worker, key, options):
            base = result.rate if case == next(iter(CASES)) else base
            good &= result.failures == 0 and (number == 1 or after <= before)
            table.add_row(
                str(number),
                case,
                f"{result.rate:.0f}",
                f"{result.rate / base:.2f}" if base else "-",
                f"{median(result.latencies):.1f}" if result.latencies else "-",
                str(result.failures),
                f"{before / 2**20:.1f} → {after / 2**20:.1f}",
            )
    Console().print(table)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each case and round")
    parser.add_argument("--rows", type=int, default=5000)
    if not asyncio.run(measure(parser.parse_args())):
        sys.exit("some requests failed, or the heap grew: see the table")


main()
