"""Searches beside the newest page, over HTTP: ``python -m bench.searches`` (``--rows 20000``).

Starts a throw-away PostgreSQL with many skills and the real Worker. Clients ask for the newest page
and for each search in turn, round by round, so that what else the machine does touches all alike.
Prints p50 and p95 as multiples of the newest page's p50. Ends with 1 if an answer was degraded or
no answer, or if the p50 of a search is more than three times the newest page's. Four minutes at
the numbers that are the defaults.
"""

import argparse
import asyncio
import secrets
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx
from rich.console import Console
from rich.table import Table

from bench.generated_skills import generate_skills
from bench.overload import kind_of, new_client, percentile
from bench.stack import running, session

P50_WANTED: Final = 3.0  # times the newest page's
BASE: Final = "newest page"
CASES: Final[Mapping[str, str]] = {
    BASE: "/api/v1/skills?limit=24",
    "a rare word": "/api/v1/skills?limit=24&search=word4999",
    "a common word": "/api/v1/skills?limit=24&search=word1",
    "a word in every skill": "/api/v1/skills?limit=24&search=community",
    "a word in every title": "/api/v1/skills?limit=24&search=skill",
    "two words": "/api/v1/skills?limit=24&search=word1+word7",
    "two words in every skill": "/api/v1/skills?limit=24&search=verified+community",
    "a common word, for installers": "/api/v1/skills/search?q=word1&limit=24",
}


@dataclass
class Answers:
    """To one question: seconds of those that were whole, and how many were of which kind."""

    seconds: list[float] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    total: str = ""  # that the last one told

    @property
    def others(self) -> dict[str, int]:
        """Kinds of answers that were not whole."""
        return {kind: number for kind, number in self.kinds.items() if kind != "whole"}


async def ask(client: httpx.AsyncClient, path: str, end: float, answers: Answers) -> None:
    """Ask again and again until the time is over."""
    while time.perf_counter() < end:
        began = time.perf_counter()
        try:
            response = await client.get(path)
        except httpx.HTTPError as error:
            answers.kinds[type(error).__name__] += 1
            continue
        kind = kind_of(response)
        answers.kinds[kind] += 1
        if kind == "whole":
            answers.seconds.append(time.perf_counter() - began)
            body = response.json()
            answers.total = f"{body.get('total')}{'' if body.get('totalIsExact', True) else '+'}"


async def measure(options: argparse.Namespace) -> bool:
    """Run everything and print it; whether it is as it should be."""
    found = {case: Answers() for case in CASES}
    with running(secrets.token_hex(32)) as stack:
        with await session(stack.postgres) as connection:
            await generate_skills(connection, options.rows)
        async with new_client(stack.worker.url, options.clients) as client:
            for _ in range(options.rounds):
                for case, path in CASES.items():
                    end = time.perf_counter() + options.seconds
                    await asyncio.gather(
                        *(ask(client, path, end, found[case]) for _ in range(options.clients))
                    )
    return _print(found)


def _print(found: Mapping[str, Answers]) -> bool:
    base = percentile(found[BASE].seconds, 0.5)
    good = base > 0
    table = Table("case", "total", "answers", "p50 ms", "p50 ratio", "p95 ratio", "not whole")
    told = []
    for case, answers in found.items():
        p50, p95 = (percentile(answers.seconds, share) for share in (0.5, 0.95))
        ratio = p50 / base if base else 0.0
        good &= bool(answers.seconds) and not answers.others and ratio <= P50_WANTED
        table.add_row(
            case,
            answers.total,
            str(len(answers.seconds)),
            f"{p50 * 1000:.0f}",
            f"{ratio:.2f}",
            f"{p95 / base if base else 0.0:.2f}",
            str(answers.others or ""),
        )
        told.append(f"{case} {ratio:.1f}")
    Console().print(table)
    others = sum(sum(answers.others.values()) for answers in found.values())
    print(f"p50 as multiples of the newest page's: {', '.join(told)}; {others} not whole")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.searches")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each case and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=110_000)
    if not asyncio.run(measure(parser.parse_args())):
        sys.exit("not as it should be: see the table")


if __name__ == "__main__":
    main()
