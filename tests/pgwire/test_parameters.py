"""Python values as PostgreSQL text."""

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwire.parameters import encode_parameter


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (None, None),
        (True, b"true"),
        (False, b"false"),
        (0, b"0"),
        (-12, b"-12"),
        (1.5e300, b"1.5e+300"),
        (float("inf"), b"inf"),
        ("ž", b"\xc5\xbe"),
        ("", b""),
        (b"\x00\xff", b"\\x00ff"),
        (
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=-2))),
            b"2026-01-02T03:04:05-02:00",
        ),
        ([], b"{}"),
        ((1, None, "a,b"), b'{"1",NULL,"a,b"}'),
        (['"', "\\", "", "NULL"], b'{"\\"","\\\\","","NULL"}'),
        ([b"\x01"], b'{"\\\\x01"}'),
    ],
)
def test_value_has_its_documented_text(value: Any, encoded: bytes | None) -> None:
    assert encode_parameter(value) == encoded


@pytest.mark.parametrize("value", [1j, object(), {"a": 1}, {1}, [[1]], range(3), [1j]])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="no PostgreSQL text format"):
        encode_parameter(value)


def test_naive_datetime_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        encode_parameter(datetime(2026, 1, 2))  # noqa: DTZ001 - the point of the test


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        encode_parameter("\ud800")


@given(st.lists(st.none() | st.text(st.characters(codec="utf-8"))))
def test_array_literal_reads_back(elements: list[str | None]) -> None:
    encoded = encode_parameter(elements)
    assert encoded is not None
    assert _read_array(encoded.decode()) == elements


def _read_array(literal: str) -> Sequence[str | None]:
    """PostgreSQL's docs, "Array Input and Output Syntax", for one dimension."""
    elements: list[str | None] = []
    rest = literal.removeprefix("{").removesuffix("}")
    while rest:
        if rest.startswith("NULL"):
            elements.append(None)
            rest = rest.removeprefix("NULL")
        else:
            element, rest = _read_quoted(rest)
            elements.append(element)
        rest = rest.removeprefix(",")
    return elements


def _read_quoted(text: str) -> tuple[str, str]:
    assert text[0] == '"'
    element, at = "", 1
    while text[at] != '"':
        at += text[at] == "\\"
        element += text[at]
        at += 1
    return element, text[at + 1 :]
