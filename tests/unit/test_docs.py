"""The documents name every route, every binding and variable, and every make target."""

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
    assert {"SUBMISSIONS_KV", "HYPERDRIVE", "INTERNAL_KEY", "REPORTS_BY_CLIENT"} <= set(
        _named_configuration(CONFIGURATION)
    )
