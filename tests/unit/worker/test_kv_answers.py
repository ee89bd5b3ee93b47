"""KV may answer anything: no part of it hides the rest or raises another error."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.ports.errors import KvError, KvRateLimited, KvValueTooLarge
from marketplace.ports.kv import KvKey
from marketplace.worker.kv_answers import kv_error, read_list_page, read_values
from tests.doubles.marketplace import Log

_HALF = "\ud800"
_any_text = st.text(st.characters(codec=None, exclude_categories=()))  # half pairs included
_any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _any_text,
    lambda inner: st.lists(inner) | st.dictionaries(_any_text, inner),
)


def page_text(*keys: dict[str, Any], **rest: Any) -> str:
    """JSON text as JSON.stringify writes it: half a surrogate pair is escaped."""
    return json.dumps({"keys": keys, "list_complete": True, "cacheStatus": None, **rest})


def is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize(
    "metadata",
    [_HALF, "a\udfff", ["s1", _HALF], {"summary": {"name": _HALF}}, {_HALF: 1}],
    ids=ascii,
)
def test_metadata_that_is_no_text_counts_as_absent_and_hides_no_other_key(metadata: Any) -> None:
    log = Log()
    text = page_text(
        {"name": "skill:a", "metadata": "first"},
        {"name": "skill:broken", "metadata": metadata},
        {"name": "skill:c", "metadata": "\U0001f98a"},
        {"name": "skill:d"},
    )

    page = read_list_page(text, log)

    assert page.keys == [
        KvKey("skill:a", "first"),
        KvKey("skill:broken", None),
        KvKey("skill:c", "\U0001f98a"),
        KvKey("skill:d", None),
    ]
    assert [line["key"] for line in log.lines] == ["skill:broken"]


def test_a_name_that_is_no_text_is_left_out_and_logged() -> None:
    log = Log()
    page = read_list_page(page_text({"name": f"skill:{_HALF}"}, {"name": "skill:b"}), log)
    assert page.keys == [KvKey("skill:b")]
    assert log.events() == ["kv-key-unusable"]


def test_deeply_nested_metadata_hides_nothing() -> None:
    nested: Any = json.loads("[" * 500 + "]" * 500)  # as deep as KV's 1,024 bytes allow
    page = read_list_page(page_text({"name": "a", "metadata": nested}, {"name": "b"}), Log())
    assert [key.name for key in page.keys] == ["a", "b"]


@given(st.lists(st.tuples(_any_text, _any_json)))
def test_every_key_that_is_text_is_listed_whatever_the_metadata(
    listed: list[tuple[str, Any]],
) -> None:
    keys = [{"name": name, "metadata": metadata} for name, metadata in listed]
    page = read_list_page(page_text(*keys), Log())
    assert [key.name for key in page.keys] == [name for name, _ in listed if is_text(name)]


@pytest.mark.parametrize("broken", [False, True])
def test_the_cursor_goes_on_unless_the_list_is_complete(broken: bool) -> None:
    key = {"name": "a", "metadata": _HALF if broken else None}
    going_on = read_list_page(page_text(key, list_complete=False, cursor="next"), Log())
    complete = read_list_page(page_text(key, list_complete=True, cursor="next"), Log())
    assert (going_on.cursor, complete.cursor) == ("next", None)


@pytest.mark.parametrize(
    "text",
    [None, 7, "", "undefined", "null", "[]", "{}", '{"keys":7}', '{"list_complete":"\\ud800"}'],
)
def test_an_answer_that_is_no_list_is_a_failure_of_kv(text: object) -> None:
    with pytest.raises(KvError) as caught:
        read_list_page(text, Log())
    assert caught.value.reason == "malformed"


def test_values_come_as_bytes_and_missing_ones_as_none() -> None:
    text = json.dumps({"a": "ä", "b": None, "other": "x"})
    assert read_values(text.encode(), ["a", "b", "c"]) == {"a": "ä".encode(), "b": None, "c": None}


@given(st.dictionaries(st.sampled_from("abcdef"), st.none() | _any_text))
def test_a_value_that_is_no_text_hides_no_other(values: dict[str, str | None]) -> None:
    read = read_values(json.dumps(values), list("abcdef"))
    for key in "abcdef":
        value, found = values.get(key), read[key]
        assert (value is None) == (found is None)
        if value is not None and found is not None:
            if is_text(value):
                assert found == value.encode()
            else:
                with pytest.raises(UnicodeDecodeError):
                    found.decode()


@pytest.mark.parametrize("text", [None, "", "null", "[1]", "{"])
def test_values_that_cannot_be_read_at_all_are_a_failure_of_kv(text: object) -> None:
    with pytest.raises(KvError):
        read_values(text, ["a"])


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Error: KV PUT failed: 429 Too Many Requests", KvRateLimited),
        ("Error: KV GET_BULK failed: 413 Total size of request exceeds 25MB", KvValueTooLarge),
        ("Error: KV GET failed: 500 skill:413-things", KvError),
        ("Error: 429 reasons", KvError),
    ],
)
def test_the_status_in_a_failure_tells_its_kind(message: str, kind: type[KvError]) -> None:
    assert type(kv_error(message)) is kind
