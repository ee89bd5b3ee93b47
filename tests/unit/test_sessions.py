"""Nothing depends on a session: a pooler gives each transaction another one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

SOURCES: Final = Path(__file__).resolve().parents[2] / "src"
SQL: Final = (
    *sorted((SOURCES / "marketplace/postgres").glob("*.py")),
    SOURCES / "pgwire/connection.py",
)

_OF_A_SESSION: Final = re.compile(
    r"""
    ^\s*(set|reset|prepare|execute|deallocate|declare|fetch|listen|unlisten|notify|load|discard
        |savepoint)\b
    | \b(temp|temporary)\b | \bpg_temp | \bpg_(try_)?advisory_ | \bwith\s+hold\b
    | \b(currval|lastval)\s*\(
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SETTING: Final = re.compile(r"set_config\s*\((?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_OF_A_TRANSACTION: Final = re.compile(r",\s*true\s*\)", re.IGNORECASE)


def _texts(source: str) -> Iterator[str]:
    """All texts of a module but its docstrings; what is filled in stands as a blank."""
    tree = ast.parse(source)
    parts: set[ast.expr] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            parts.add(node.value)  # a docstring
        elif isinstance(node, ast.JoinedStr):
            parts |= set(node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            yield node.value
        elif isinstance(node, ast.JoinedStr) and node not in parts:
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else " " for part in node.values
            )


def _left_behind(source: str) -> list[str]:
    """The texts that need a session, or leave something in it."""
    return [
        text
        for text in _texts(source)
        if _OF_A_SESSION.search(text)
        or ((setting := _SETTING.search(text)) and not _OF_A_TRANSACTION.search(setting["rest"]))
    ]


@pytest.mark.parametrize("path", SQL, ids=lambda path: path.stem)
def test_no_statement_needs_a_session_or_leaves_anything_in_it(path: Path) -> None:
    assert _left_behind(path.read_text()) == []


@pytest.mark.parametrize(
    "sql",
    [
        "set statement_timeout = 5",
        "select set_config('work_mem', '16MB', false)",
        "create temp table t (x int)",
        "select pg_advisory_lock(1)",
        "select pg_try_advisory_lock(1)",
        "prepare p as select 1",
        "declare c cursor with hold for select 1",
        "select currval('s')",
    ],
)
def test_what_a_session_keeps_is_found(sql: str) -> None:
    assert _left_behind(f"SQL = {sql!r}") == [sql]
    assert _left_behind("SQL = 'select 1'\nupdate = 'update skill set name = $1'") == []


def test_all_statements_go_the_one_way_that_opens_a_transaction_with_its_settings() -> None:
    """`Connection.pipeline` puts them in front of the first statement."""
    tree = ast.parse((SOURCES / "marketplace/postgres/db.py").read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "_connection"
    }
    assert used == {"pipeline", "limit_statements", "closed", "close"}
    bindings = (SOURCES / "marketplace/worker/bindings.py").read_text()
    assert 'session_settings="transaction"' in bindings


def test_only_the_unnamed_statement_and_portal_are_used() -> None:
    """A named one would outlive its transaction, or be missing in the next session."""
    source = (SOURCES / "pgwire/frontend.py").read_text()
    assert re.search(r'_UNNAMED: Final = b"\\0"', source)
    assert re.findall(r'_message\(b"P", (\w+)', source) == ["_UNNAMED"]
    assert re.findall(r'_message\(b"B", (\w+ \+ \w+)', source) == ["_UNNAMED + _UNNAMED"]
