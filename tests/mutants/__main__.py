"""``python -m tests.mutants N=60``: changes single tokens of the code and counts what tests notice.

It works on a copy of the repository. Each change is tried with tests that reach its line, those of
its wing first, and with those that read the code as text. Some of them use a real PostgreSQL. The
wing ``worker`` is left out: it runs only inside the Workers runtime, where ``tests/worker`` tests
it.
"""

import difflib
import json
import os
import re
import resource
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final

import typer
from rich.console import Console

from tests.mutants.changes import Change, name_defined_at, sample
from tests.mutants.selection import LEARN, PICK

TESTS: Final = ("tests/unit", "tests/pgwire", "tests/contract")
CODE: Final = ("src/marketplace", "src/pgwire")
LEFT_OUT: Final = Path("src/marketplace/worker")

MILLISECONDS: Final = 30_000
"""Of the tests that reach a change the quickest are run, of its wing and of the others, until they
take so long on the code as it is. The few slow tests would take most of the time."""

SLACK_SECONDS: Final = 30.0
TIMES_AS_LONG: Final = 3
"""A change counts as noticed if its tests take so many times their time, and the slack besides."""

MEMORY_BYTES: Final = 6 * 1024**3
"""A changed loop may fill the memory."""


@dataclass(frozen=True)
class Reach:
    """What the tests do with the code as it is."""

    tests: dict[str, dict[int, set[str]]]
    """By file and line."""

    milliseconds: dict[str, int]
    """By test."""

    def tests_for(self, change: Change, source: str) -> list[str]:
        """Those that reach the line; of a line that runs at import, those of its file and name."""
        lines = self.tests.get(str(change.path), {})
        found = lines.get(change.line, set())
        if not found:
            found = set().union(*lines.values(), *self._where_named(change, source))
        wing = change.path.parent.name
        of_the_wing = {test for test in found if wing in Path(_file(test)).parts}
        chosen = self._quickest(of_the_wing, MILLISECONDS)
        chosen |= self._quickest(found - of_the_wing, MILLISECONDS)
        chosen |= {test for test in self.milliseconds if _is_about_the_source(test)}
        return self._order(wing, chosen)

    def _where_named(self, change: Change, source: str) -> list[set[str]]:
        name = name_defined_at(source, change.line)
        if name is None:
            return []
        word = re.compile(rf"\b{re.escape(name)}\b")
        return [
            self.tests[path].get(number, set())
            for path in self.tests
            for number, line in enumerate(Path(path).read_text("utf-8").splitlines(), 1)
            if word.search(line)
        ]

    def _quickest(self, tests: set[str], milliseconds: int) -> set[str]:
        """As many as fit into the time; at least one, where there is one."""
        total = 0
        chosen = set[str]()
        for test in sorted(tests, key=lambda test: (self.milliseconds[test], test)):
            total += self.milliseconds[test]
            if chosen and total > milliseconds:
                break
            chosen.add(test)
        return chosen

    def _order(self, wing: str, tests: set[str]) -> list[str]:
        """Those of the wing first, then the quickest file first."""
        took: Counter[str] = Counter()
        for test in tests:
            took[_file(test)] += self.milliseconds[test]

        def rank(test: str) -> tuple[bool, int, str, str]:
            file = _file(test)
            return wing not in Path(file).parts, took[file], file, test

        return sorted(tests, key=rank)


def _file(test: str) -> str:
    return test.partition("::")[0]


def _is_about_the_source(test: str) -> bool:
    """Those that read the code as text reach none of its lines. They belong to no wing."""
    return str(Path(_file(test)).parent) == TESTS[0]


def copy_repository(into: Path) -> None:
    """What git knows or would know, as it stands."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if Path(name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, into / name)


def run_tests(paths: list[str], seconds: float | None, **environment: str) -> str | None:
    """What failed, or None if nothing did. Tests are stopped so that their servers stop."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    command += ["-p", "tests.mutants.selection", "-W", "ignore::SyntaxWarning", *paths]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return "took too long"
    if process.returncode == 0:
        return None
    lines = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
    return lines[-1] if lines else output[-2000:]


def learn() -> Reach:
    """Run every test once, on the code as it is."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "reach.json"
        failure = run_tests(list(TESTS), None, **{LEARN: str(file)})
        if failure is not None:
            raise SystemExit(f"The tests must pass before the code is changed: {failure}")
        found = json.loads(file.read_text("utf-8"))
    tests = {
        path: {int(line): set(tests) for line, tests in lines.items()}
        for path, lines in found["reached"].items()
    }
    return Reach(tests, found["milliseconds"])


def failure_with(change: Change, reach: Reach, source: str, changed: str) -> str | None:
    """What notices the change; None if nothing does."""
    tests = reach.tests_for(change, source)
    if not tests:
        return None
    with TemporaryDirectory() as folder:
        picked = Path(folder) / "picked.json"
        picked.write_text(json.dumps(tests), "utf-8")
        files = list(dict.fromkeys(_file(test) for test in tests))
        usual = sum(reach.milliseconds[test] for test in tests) / 1000
        limit = SLACK_SECONDS + TIMES_AS_LONG * usual
        change.path.write_text(changed, "utf-8")
        try:
            return run_tests(files, limit, **{PICK: str(picked)})
        finally:
            change.path.write_text(source, "utf-8")


def difference(source: str, changed: str) -> str:
    lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)
    return "\n".join(f"    {line}" for line in list(lines)[3:])


def main(
    n: Annotated[str, typer.Argument(metavar="N=NUMBER", help="How many changes.")] = "N=60",
    seed: Annotated[int | None, typer.Option(help="Of an earlier sample, to repeat it.")] = None,
) -> None:
    """Say which of some random changes no test notices."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    size = int(n.removeprefix("N="))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with TemporaryDirectory(prefix="mutants-") as folder:
        Path(folder).chmod(0o755)
        copy_repository(Path(folder))
        os.chdir(folder)
        files = sorted(path for each in CODE for path in Path(each).rglob("*.py"))
        files = [path for path in files if not path.is_relative_to(LEFT_OUT)]
        changes = sample(files, size, seed)
        console.print(f"{size} changes, seed {seed}; first all tests on the code as it is")
        reach = learn()
        survived = 0
        for change in changes:
            source = change.path.read_text("utf-8")
            changed = change.applied_to(source)
            assert changed is not None
            began = time.monotonic()
            failure = failure_with(change, reach, source, changed)
            survived += failure is None
            verdict = "SURVIVED" if failure is None else "caught"
            seconds = time.monotonic() - began
            console.print(f"{verdict} {change.path}:{change.line}, {seconds:.0f} s")
            console.print(f"{difference(source, changed)}\n    {failure or ''}".rstrip())
    console.print(
        f"{size - survived} of {size} noticed ({(size - survived) / size:.0%}), seed {seed}"
    )


if __name__ == "__main__":
    typer.run(main)
