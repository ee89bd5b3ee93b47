"""``make test-long``: everything that does not fit ``make test``, one part after the other.

Each part is a program of its own that is ended when its time is over. Of each the result, its
figures, the moment and the commit are written to RESULTS as soon as it has ended; parts that were
not asked for keep the lines that they had. Ends with 1 if a part failed.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Final
from xml.etree import ElementTree

import typer

from tests.simulation.schedule import PROFILES

REPOSITORY: Final = Path(__file__).parents[2]
RESULTS: Final = REPOSITORY / "bench" / "RESULTS-long.md"
HEAD: Final = """\
# The last results of `make test-long`

Written by `tests/long/__main__.py`, a line as soon as a part has ended. A commit with `+` had
changes that were not committed.

| part | result | seconds | figures | when (UTC) | commit |
|---|---|---|---|---|---|
"""
TEST_SECONDS: Final = 1_800  # of each file
BENCH_SECONDS: Final = 900
SCHEDULE_SECONDS: Final = 1.0  # on two cores, far more than one takes
END_SECONDS: Final = 60.0  # to stop servers
SHOWN: Final = 300  # characters


@dataclass(frozen=True, slots=True)
class Part:
    """A program, and how long it may take."""

    name: str
    command: Sequence[str]
    seconds: float


@dataclass(frozen=True, slots=True)
class Line:
    """What a part, or one test of it, has come to."""

    name: str
    passed: bool
    seconds: float
    figures: str


def parts(schedules: int) -> Iterator[Part]:
    """Everything, the quickest first."""
    python = sys.executable
    for name in ("searches", "overload"):
        yield Part(f"bench.{name}", [python, "-m", f"bench.{name}"], BENCH_SECONDS)
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        command = [python, "-m", "local", "test", f"tests/long/{file.name}", "-q", "-n0"]
        yield Part(file.stem, command, TEST_SECONDS)
    share, more = divmod(schedules, len(PROFILES))
    for number, profile in enumerate(PROFILES):
        count = share + (number < more)
        command = [python, "-m", "tests.simulation", f"N={count}", "--profile", profile]
        yield Part(f"simulation, {profile}", command, END_SECONDS + SCHEDULE_SECONDS * count)


def run(part: Part) -> list[Line]:
    """Run a part to its end, or until its time is over; a line for each of its tests."""
    typer.echo(f"— {part.name}, at most {part.seconds / 60:.0f} minutes")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        is_pytest = "local" in part.command
        command = [*part.command, *([f"--junitxml={report}"] if is_pytest else [])]
        files, began = [Path(folder) / "output", Path(folder) / "errors"], time.monotonic()
        with files[0].open("wb") as output, files[1].open("wb") as errors:
            code = _run(command, part.seconds, output, errors)
        seconds = time.monotonic() - began
        texts = [file.read_text(errors="replace") for file in files]
        told = [line for text in texts for line in text.strip().splitlines()[-1:]]
        typer.echo("\n".join(told[:1] if code == 0 else texts))
        lines = list(_tests(part.name, report)) if report.exists() else []
    if lines and all(line.passed for line in lines) is (code == 0):
        return lines
    told = ["not in time"] if code is None else told[: 1 if code == 0 else 2]
    return [*lines, Line(part.name, passed=code == 0, seconds=seconds, figures="; ".join(told))]


def _run(
    command: Sequence[str], seconds: float, output: IO[bytes], errors: IO[bytes]
) -> int | None:
    """The exit code; None if the time was over."""
    environment = os.environ | {"PYTHONPATH": "src:.", "COLUMNS": "200"}
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=output,
        stderr=errors,
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a part that is still there; by SIGINT it stops what it has started."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                continue


def _tests(part: str, report: Path) -> Iterator[Line]:
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - pytest's own
        name = case.get("name", "").removeprefix("test_").replace("_", " ")
        bad = case.find("failure") is not None or case.find("error") is not None
        figures = [
            value.get("value", "")
            for value in case.iter("property")
            if value.get("name") == "figures"
        ]
        told = "; ".join(figures)
        seconds = float(case.get("time", 0))
        yield Line(f"{part}: {name}", passed=not bad, seconds=seconds, figures=told)


def kept(part: str) -> str:
    """The part to which a line of the results belongs."""
    return part.partition(":")[0]


def write(lines: Sequence[Line], commit: str) -> None:
    """Put lines in the place of those of the same parts."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    old = RESULTS.read_text() if RESULTS.exists() else ""
    parts_now = {kept(line.name) for line in lines}
    rows = [
        row
        for row in re.findall(r"^\| .*\|$", old, re.MULTILINE)
        if not row.startswith("| part |") and kept(row.split(" | ")[0][2:]) not in parts_now
    ]
    for line in lines:
        result = "passed" if line.passed else "**failed**"
        figures = re.sub(r"\s+", " ", line.figures).replace("|", "/")[:SHOWN]
        cells = (line.name, result, f"{line.seconds:.0f}", figures, now, commit)
        rows.append(f"| {' | '.join(cells)} |")
    RESULTS.write_text(HEAD + "".join(f"{row}\n" for row in rows))


def _commit() -> str:
    """The present commit, marked if anything but the results is changed."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],  # noqa: S607 - whichever there is
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(REPOSITORY)}")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def main(
    n: Annotated[str, typer.Argument(metavar="N=NUMBER", help="Of schedules.")] = "N=50000",
    only: Annotated[str, typer.Option(help="The parts whose names have this in them.")] = "",
) -> None:
    """Run everything that takes too long for every change."""
    failed = []
    for part in parts(int(n.removeprefix("N="))):
        if only in part.name:
            commit = _commit()
            lines = run(part)
            write(lines, commit)
            failed += [line.name for line in lines if not line.passed]
    typer.echo(f"Results: {RESULTS.relative_to(REPOSITORY)}")
    if failed:
        sys.exit(f"FAILED: {', '.join(failed)}")


if __name__ == "__main__":
    typer.run(main)
