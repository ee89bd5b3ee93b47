"""``python -m tests.simulation N=10000``: as many schedules as asked for, on every processor.

They are of one profile, or of all profiles in turn. Stops at the first violation and prints its
seed, its smallest failing form and what happened.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.simulation.actors import Marketplace
from tests.simulation.mutations import mutated
from tests.simulation.running import Failure, run, shrink
from tests.simulation.schedule import PROFILES, generate

CHUNK: Final = 50  # schedules that one process runs between two reports


Chunk = tuple[str, int, int]
"""A profile, its first seed and how many."""


def run_seeds(profile: str, first: int, count: int, without: str | None = None) -> Failure | None:
    """The first failure among some seeds of a profile."""
    marketplace = Marketplace()
    with mutated(without):
        seeds = range(first, first + count)
        failures = (run(marketplace, generate(seed, profile)) for seed in seeds)
        return next((failure for failure in failures if failure is not None), None)


def search(
    profiles: Sequence[str], first: int, count: int, progress: Progress, without: str | None
) -> Failure | None:
    """Run schedules in parallel until one fails."""
    bar = progress.add_task("schedules", total=count)
    processes = os.cpu_count() or 1
    chunks = _chunks(profiles, first, count)
    with ProcessPoolExecutor(processes) as pool:
        running: dict[Future[Failure | None], int] = {}

        def refill() -> None:
            while len(running) < 2 * processes and (chunk := next(chunks, None)) is not None:
                running[pool.submit(run_seeds, *chunk, without)] = chunk[2]

        refill()
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                progress.advance(bar, running.pop(future))
                if (failure := future.result()) is not None:
                    pool.shutdown(cancel_futures=True)
                    return failure
            refill()
    return None


def _chunks(profiles: Sequence[str], first: int, count: int) -> Iterator[Chunk]:
    """As many seeds of each profile, all from the first one on."""
    share, more = divmod(count, len(profiles))
    ends = {profile: first + share + (n < more) for n, profile in enumerate(profiles)}
    for start in range(first, max(ends.values()), CHUNK):
        for profile, end in ends.items():
            if start < end:
                yield profile, start, min(CHUNK, end - start)


def main(
    n: Annotated[str, typer.Argument(metavar="N=NUMBER", help="How many schedules.")] = "N=2000",
    seed: Annotated[int | None, typer.Option(help="Run this one alone.")] = None,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
    profile: Annotated[str | None, typer.Option(help="Only these; else all in turn.")] = None,
    without: Annotated[str | None, typer.Option(help="A mutation, to see it found.")] = None,
    report: Annotated[Path | None, typer.Option(help="Also write the report there.")] = None,
) -> None:
    """Look for a schedule that breaks an invariant of the design."""
    console = Console(highlight=False)
    if seed is not None:
        failure = run_seeds(profile or "any", seed, 1, without)
        count = 1
    else:
        count = int(n.removeprefix("N="))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            profiles = [profile] if profile else list(PROFILES)
            failure = search(profiles, first, count, progress, without)
    if failure is None:
        console.print(f"{count} schedules, no violation")
        return
    with mutated(without):
        text = shrink(Marketplace(), failure).report()
    if report is not None:
        report.write_text(text)
    console.print(text, markup=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
