"""Submissions from a file: a JSON array, one JSON object, or an object a line (JSON Lines)."""

import json
from dataclasses import dataclass
from typing import Any

from cli.errors import UsageProblem


@dataclass(frozen=True, slots=True)
class Entry:
    """The ``number``-th entry (a line number in JSON Lines), or what is wrong with it."""

    number: int
    submission: dict[str, Any] | None = None
    problem: str | None = None


def read_submissions(text: str) -> list[Entry]:
    """All entries; one that cannot be read is an entry with a problem and hinders no other.

    What a submission must hold is the marketplace's business. Raises UsageProblem when the file
    has no entry at all, or is an array that cannot be read.
    """
    text = text.removeprefix("\ufeff")
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


def _parse(number: int, line: str) -> Entry:
    try:
        return _check(number, json.loads(line))
    except ValueError as error:
        return Entry(number, problem=f"not JSON: {error}")


def _check(number: int, item: object) -> Entry:
    if isinstance(item, dict):
        return Entry(number, submission=item)
    return Entry(number, problem=f"not a JSON object but {type(item).__name__}")
