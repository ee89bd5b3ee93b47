"""Submissions from a file: a JSON array, one JSON object, or an object a line (JSON Lines)."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.errors import UsageProblem


@dataclass(frozen=True, slots=True)
class Entry:
    """The ``number``-th entry (a line number in JSON Lines), or what is wrong with it."""

    number: int
    submission: dict[str, Any] | None = None
    problem: str | None = None


def read_submissions(file: Path) -> list[Entry]:
    """All entries of a file (``-`` is standard input); an unreadable one does not stop the others.

    The marketplace checks what a submission holds. Raises UsageProblem when the file cannot be
    read, has no entry at all, or is an array that cannot be read.
    """
    text = _read_text(file).removeprefix("\ufeff")
    try:
        whole = json.loads(text)
    except ValueError as error:
        if text.lstrip().startswith("["):
            raise UsageProblem(f"the file is not a JSON array: {error}") from None
        lines = enumerate(text.split("\n"), 1)
        entries = [_parse(number, line) for number, line in lines if line.strip()]
    else:
        items = whole if isinstance(whole, list) else [whole]
        entries = [_check(number, item) for number, item in enumerate(items, 1)]
    if not entries:
        raise UsageProblem("the file holds no submission")
    return entries


def _read_text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(f"{file} cannot be read: {error}") from None


def _parse(number: int, line: str) -> Entry:
    try:
        return _check(number, json.loads(line))
    except ValueError as error:
        return Entry(number, problem=f"not JSON: {error}")


def _check(number: int, item: object) -> Entry:
    if isinstance(item, dict):
        return Entry(number, submission=item)
    return Entry(number, problem=f"not a JSON object but {type(item).__name__}")
