"""The documents name each route, binding, variable and make target, and only code that exists."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from marketplace.web.app import create_app

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TEXT = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
CONFIGURATION = tomllib.loads((REPOSITORY / "wrangler.toml").read_text(encoding="utf-8"))

# Files are named from the root of the repository or, those of a wing, from the marketplace's.
ROOTS = (REPOSITORY, REPOSITORY / "src" / "marketplace")
WINGS = {path.parent.name for path in ROOTS[1].glob("*/__init__.py")}
_PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)*(?:/|/[\w-]+\.(?:capnp|html|json|mjs|md|py|sql)))`")
_DOTTED_NAME = re.compile(rf"`((?:{'|'.join(sorted(WINGS))})(?:\.\w+)+)`")

# An address in a document may name a parameter as it likes: {jobId}, JOB_ID or $ID.
_PARAMETER = r"(\{\w+\}|\$?[A-Z][A-Z_]+)"


def _named_configuration(node: Any) -> Iterator[str]:
    """Bindings, queues, variables and secrets, wherever they stand in the file."""
    if isinstance(node, list):
        for item in node:
            yield from _named_configuration(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("binding", "queue", "dead_letter_queue"):
                yield value
            elif key == "vars" or key == "required":
                yield from value
            elif key == "ratelimits":
                yield from (limit["name"] for limit in value)
            else:
                yield from _named_configuration(value)


def _make_targets() -> list[str]:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    return re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)


def _is_defined(name: str) -> bool:
    """Whether a file of the marketplace defines what a dotted name means."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ROOTS[1].joinpath(*parts[:length]).with_suffix(".py")
        if module.is_file():
            scope: ast.AST | None = ast.parse(module.read_text(encoding="utf-8"))
            for part in parts[length:]:
                scope = _definition(scope, part)
            return scope is not None
    return ROOTS[1].joinpath(*parts).is_dir()


def _definition(scope: ast.AST | None, name: str) -> ast.AST | None:
    """The function, class or assignment of a name in a module or class."""
    for node in getattr(scope, "body", ()):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        if name in {getattr(target, "name", getattr(target, "id", None)) for target in targets}:
            found: ast.AST = node
            return found
    return None


@pytest.mark.parametrize("path", sorted(set(_PATH.findall(TEXT))))
def test_every_path_exists(path: str) -> None:
    assert any((root / path).exists() for root in ROOTS), path


@pytest.mark.parametrize("name", sorted(set(_DOTTED_NAME.findall(TEXT))))
def test_every_dotted_name_is_defined(name: str) -> None:
    assert _is_defined(name)


def test_every_question_is_answered_by_a_file() -> None:
    _, table, _ = re.split(r"^\| question \| file \|$|^The wings", TEXT, flags=re.MULTILINE)
    answers = re.findall(r"^\| .+\? \| (.+) \|$", table, re.MULTILINE)
    assert len(answers) >= 10
    assert all(_PATH.search(answer) for answer in answers)


@pytest.mark.parametrize("path", sorted(create_app().openapi()["paths"]))
def test_every_route_is_documented(path: str) -> None:
    pattern = _PARAMETER.join(map(re.escape, re.split(r"\{\w+\}", path)))
    assert re.search(rf"{pattern}(?![\w/{{-])", TEXT), f"no document names {path}"


@pytest.mark.parametrize("name", sorted(set(_named_configuration(CONFIGURATION))))
def test_every_binding_and_variable_is_documented(name: str) -> None:
    assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", TEXT), f"no document names {name}"


@pytest.mark.parametrize("target", _make_targets())
def test_every_make_target_is_documented(target: str) -> None:
    assert re.search(rf"make {target}\b", TEXT), f"no document names make {target}"


def test_there_is_something_to_look_for() -> None:
    assert len(_make_targets()) > 5
    assert len(set(_PATH.findall(TEXT))) > 50
    assert len(set(_DOTTED_NAME.findall(TEXT))) > 20
    assert _is_defined("kv.index.writing.add_to_published_index")
    assert not _is_defined("kv.index.add_to_published_index")
    assert not _is_defined("skills.skill.Skill.lost")
    assert {"SUBMISSIONS_KV", "HYPERDRIVE", "INTERNAL_KEY", "REPORTS_BY_CLIENT"} <= set(
        _named_configuration(CONFIGURATION)
    )
