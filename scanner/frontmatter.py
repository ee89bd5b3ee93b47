"""Reads the YAML before a SKILL.md's text, and the line on which each value stands.

Values are taken as they are written: a version 1.10 is no number. Only the nodes that are asked for
are looked at, so that aliases cost nothing.
"""

from dataclasses import dataclass
from typing import Final

import yaml

MAX_FRONTMATTER_BYTES: Final = 64 * 1024
_FENCE: Final = "---"
_FIRST_LINE: Final = 2  # of the YAML, in the file
_TEXT: Final = "tag:yaml.org,2002:str"
_NULL: Final = "tag:yaml.org,2002:null"


class BadFrontmatter(Exception):
    """It cannot be read; with the line."""

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Value:
    """A value. What it consists of is read when it is asked for: there may be millions of it."""

    _node: yaml.Node

    @property
    def line(self) -> int:
        return _line(self._node)

    @property
    def text(self) -> str | None:
        """None for a list or for names with values."""
        if not isinstance(self._node, yaml.ScalarNode):
            return None
        return "" if self._node.tag == _NULL else str(self._node.value)

    @property
    def is_string(self) -> bool:
        """Whether it is a text, and neither a number nor a date, to those who read YAML."""
        return bool(self._node.tag == _TEXT)

    @property
    def items(self) -> list["Value"] | None:
        """Those of a list."""
        is_list = isinstance(self._node, yaml.SequenceNode)
        return [Value(node) for node in self._node.value] if is_list else None

    def fields(self) -> dict[str, "Value"] | None:
        """Those of names with values. Raises BadFrontmatter where a name is no text."""
        if not isinstance(self._node, yaml.MappingNode):
            return None
        return {name: Value(node) for name, node in _pairs(self._node, {})}


@dataclass(frozen=True, slots=True)
class Document:
    """The frontmatter's fields; ``repeated`` are the lines of names that came before."""

    fields: dict[str, Value]
    repeated: dict[str, int]


def read_frontmatter(content: bytes) -> Document:
    """The fields of a SKILL.md. Raises BadFrontmatter."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadFrontmatter("it is not UTF-8", line) from None
    lines = text.split("\n")
    if not lines or lines[0].rstrip() != _FENCE:
        raise BadFrontmatter("it must begin with a line --- and YAML behind it")
    end = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() == _FENCE), None)
    if end is None:
        raise BadFrontmatter("no line --- ends the YAML that it begins with")
    source = "\n".join(lines[1:end])
    if len(source.encode()) > MAX_FRONTMATTER_BYTES:
        raise BadFrontmatter(f"its YAML has more than {MAX_FRONTMATTER_BYTES // 1024} KiB")
    node = _compose(source)
    if not isinstance(node, yaml.MappingNode):
        raise BadFrontmatter("its YAML must be names with values", _FIRST_LINE)
    repeated: dict[str, int] = {}
    fields = {name: Value(value) for name, value in _pairs(node, repeated)}
    return Document(fields, repeated)


def _compose(source: str) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(source, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = _FIRST_LINE + (mark.line if mark else 0)
        raise BadFrontmatter(f"its YAML cannot be read: {error.problem}", line) from None
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        raise BadFrontmatter(f"its YAML cannot be read: {first}", _FIRST_LINE) from None
    except RecursionError:
        raise BadFrontmatter("its YAML is nested too deep", _FIRST_LINE) from None
    return node


def _pairs(node: yaml.MappingNode, repeated: dict[str, int]) -> list[tuple[str, yaml.Node]]:
    pairs = []
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise BadFrontmatter("a name in its YAML is no text", _line(key))
        if key.value in seen:
            repeated[key.value] = _line(key)
        seen.add(key.value)
        pairs.append((key.value, value))
    return pairs


def _line(node: yaml.Node) -> int:
    return _FIRST_LINE + int(node.start_mark.line)
