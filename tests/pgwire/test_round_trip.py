"""Generated values come back from a real server as they went in."""

import asyncio
import math
from datetime import UTC, datetime

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgwire import ConnectOptions, Parameter, asyncio_stream

# Every example opens a session of its own, and the options do not change between examples.
against_server = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def _ask(options: ConnectOptions, sql: str, value: Parameter) -> list[str | None]:
    """The first column of the answer."""

    async def query() -> list[str | None]:
        with await asyncio_stream.connect(options) as connection:
            return [row[0] for row in (await connection.query(sql, value)).rows]

    return asyncio.run(query())


@against_server
@given(value=texts)
def test_text(options: ConnectOptions, value: str) -> None:
    assert _ask(options, "SELECT $1::text", value) == [value]


@against_server
@given(elements=st.lists(st.none() | texts))
def test_text_array(options: ConnectOptions, elements: list[str | None]) -> None:
    assert _ask(options, "SELECT unnest($1::text[])", elements) == elements


@against_server
@given(elements=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
def test_bigint_array(options: ConnectOptions, elements: list[int | None]) -> None:
    answer = _ask(options, "SELECT unnest($1::bigint[])", elements)
    assert [None if text is None else int(text) for text in answer] == elements


@against_server
@given(value=st.binary())
def test_bytea(options: ConnectOptions, value: bytes) -> None:
    assert _ask(options, "SELECT encode($1::bytea, 'hex')", value) == [value.hex()]


@against_server
@given(value=st.floats())
def test_double_precision(options: ConnectOptions, value: float) -> None:
    (text,) = _ask(options, "SELECT $1::float8", value)
    assert text is not None
    assert float(text) == value or (math.isnan(value) and text == "NaN")


@against_server
@given(value=st.datetimes(timezones=st.just(UTC)))
def test_instant(options: ConnectOptions, value: datetime) -> None:
    (text,) = _ask(options, "SELECT to_char($1::timestamptz, 'YYYY-MM-DD HH24:MI:SS.US')", value)
    assert text == value.strftime("%Y-%m-%d %H:%M:%S.%f").rjust(26, "0")
