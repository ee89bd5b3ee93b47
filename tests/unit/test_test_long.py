"""`make test-long`: each part is bounded in time, and its line replaces its last one alone."""

import sys
from pathlib import Path

import pytest

from tests.long import __main__ as long_tests
from tests.long.__main__ import Line, Part, run, write


def lines(path: Path) -> list[list[str]]:
    """Part, result and figures of each line of the results."""
    rows = [row for row in path.read_text().splitlines() if row.startswith("| ")][1:]
    return [
        [cell for n, cell in enumerate(row[2:-2].split(" | ")) if n in (0, 1, 3)] for row in rows
    ]


def python(code: str, seconds: float = 30.0) -> Part:
    return Part("a part", [sys.executable, "-c", code], seconds)


@pytest.mark.parametrize(
    ("code", "passed", "figures"),
    [
        ("print('much'); print('7 of 7')", True, "7 of 7"),
        (
            "print('7 of 7'); raise SystemExit('not as it should be')",
            False,
            "7 of 7; not as it should be",
        ),
    ],
)
def test_a_part_is_told_by_its_exit_code_and_last_line(
    code: str, passed: bool, figures: str
) -> None:
    (line,) = run(python(code))

    assert (line.passed, line.figures) == (passed, figures)


def test_a_part_that_takes_too_long_is_ended_and_failed() -> None:
    (line,) = run(python("import time; time.sleep(600)", seconds=0.5))

    assert (line.passed, line.figures) == (False, "not in time")
    assert line.seconds < 30


def test_lines_of_other_parts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results.md"
    monkeypatch.setattr(long_tests, "RESULTS", results)
    write([Line("one: a", passed=True, seconds=1, figures="old")], "1234567")
    write([Line("two", passed=True, seconds=1, figures="7 | 8")], "1234567")

    write([Line("one: b", passed=False, seconds=1, figures="new")], "1234567")

    assert lines(results) == [["two", "passed", "7 / 8"], ["one: b", "**failed**", "new"]]
