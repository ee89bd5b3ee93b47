"""JSON from outside is decoded or refused, and refused by one kind of error."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.basics.json_text import MAX_DEPTH, InvalidData, decode, is_too_deep

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(_json)
def test_json_of_usual_depth_is_decoded(value: Any) -> None:
    assert decode(json.dumps(value)) == value
    assert decode(msgspec.json.encode(value)) == value


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 5_000, 100_000])
def test_bottomless_nesting_is_refused_before_it_is_decoded(opening: str, depth: int) -> None:
    assert is_too_deep(opening * depth)
    assert is_too_deep(b'{"name": "x", "rest": ' + opening.encode() * depth)
    with pytest.raises(InvalidData):
        decode(opening * depth)


def test_depth_is_of_brackets_left_open_outside_of_strings() -> None:
    assert decode("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert not is_too_deep("[" + "[],{}," * 1_000 + "[]]")
    brackets = '[{\\" ' * 1_000
    assert not is_too_deep(f'{{"description": "{brackets}"}}')


class _Named(msgspec.Struct):
    name: str


@given(st.binary() | st.text(st.characters(codec=None, exclude_categories=())))
def test_whatever_is_no_json_of_the_type_is_refused(value: bytes | str) -> None:
    with pytest.raises(InvalidData):
        decode(value, _Named)


@pytest.mark.parametrize("text", ['{"name":"\\ud800"}', "\ud800", '{"name":1}', "", "nul\0"])
def test_what_is_no_text_or_of_another_type_is_refused(text: str) -> None:
    with pytest.raises(InvalidData):
        decode(text, _Named)
