"""Every event that the code logs stands in docs/log-events.md, with its level and its fields."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]
LOGGERS: Final = {"log", "_log", "log_to_stdout"}
NAME: Final = re.compile(r"[a-z]+(-[a-z]+)*")
FIELD: Final = re.compile(r"[a-z]+(_[a-z]+)*")

Events = dict[str, tuple[set[str], set[str]]]
"""Levels and fields by event."""


def _calls(source: Path) -> Iterator[ast.Call]:
    for path in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                function = node.func
                name = function.attr if isinstance(function, ast.Attribute) else ""
                if isinstance(function, ast.Name):
                    name = function.id
                if name in LOGGERS:
                    yield node


def _events(source: Path) -> Events:
    """What the code logs; an event that is not a plain text is named by its place."""
    events: Events = {}
    for call in _calls(source):
        event = call.args[0]
        name = f"line {event.lineno}: {ast.unparse(event)}"
        if isinstance(event, ast.Constant):
            name = str(event.value)
        levels, fields = events.setdefault(name, (set(), set()))
        level: ast.expr = ast.Constant("info")
        for keyword in call.keywords:
            if keyword.arg == "level":
                level = keyword.value
            else:
                fields.add(keyword.arg or "body")  # the one optional field
        told = level.value if isinstance(level, ast.Constant) else "warning or error"
        levels.add(str(told))
    return events


def _documented() -> Events:
    text = (REPOSITORY / "docs" / "log-events.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]*) \| [^|]+ \|$", text, re.MULTILINE)
    return {
        name: (set(levels.split(", ")), set(re.findall(r"`([^`]+)`", fields)))
        for name, levels, fields in rows
    }


def test_every_event_is_documented_as_it_is_logged() -> None:
    assert _events(REPOSITORY / "src") == _documented()


def test_events_and_fields_have_one_form() -> None:
    for event, (_, fields) in _events(REPOSITORY / "src").items():
        assert NAME.fullmatch(event), event
        assert all(FIELD.fullmatch(field) for field in fields), (event, fields)


def test_an_event_that_is_put_together_is_found(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text('env.log(f"skill {name} lost", level="error", key=1)\n')
    assert list(_events(tmp_path)) == ["line 1: f'skill {name} lost'"]
