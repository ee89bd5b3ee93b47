"""What callers read from an answer."""

import pytest

from pgwire import PostgresError, ProtocolViolation, Result
from pgwire.exchange import RawResult


@pytest.mark.parametrize(
    ("tag", "affected"),
    [
        ("INSERT 0 5", 5),
        ("UPDATE 12", 12),
        ("SELECT 0", 0),
        ("CREATE TABLE", 0),
        ("BEGIN", 0),
        ("", 0),
    ],
)
def test_affected_is_the_tags_count(tag: str, affected: int) -> None:
    assert Result((), [], tag).affected == affected


def test_scalar_is_the_first_value_or_none() -> None:
    assert Result(("a", "b"), [("1", "2"), ("3", "4")], "SELECT 2").scalar() == "1"
    assert Result(("a",), [(None,)], "SELECT 1").scalar() is None
    assert Result(("a",), [], "SELECT 0").scalar() is None
    assert Result((), [()], "SELECT 1").scalar() is None


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="UTF-8"):
        Result.decode(RawResult(("a",), [(b"\xff",)], "SELECT 1"))


def test_error_without_fields_is_still_an_error() -> None:
    error = PostgresError.from_fields({})
    assert (error.sqlstate, error.severity, error.constraint) == ("XX000", "ERROR", None)
