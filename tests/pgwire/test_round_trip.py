"""Generated values come back from a real server as they went in."""

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


async def _ask(options: ConnectOptions, sql: str, value: Parameter) -> list[str | None]:
    """The first column of the answer."""

    with await asyncio_stream.connect(options) as connection:
        return [row[0] for row in (await connection.query(sql, value)).rows]


@against_server
@given(value=texts)
async def test_text(options: ConnectOptions, value: str) -> None:
    assert await _ask(options, "SELECT $1::text", value) == [value]


@against_server
@given(elements=st.lists(st.none() | texts))
async def test_text_array(options: ConnectOptions, elements: list[str | None]) -> None:
    assert await _ask(options, "SELECT unnest($1::text[])", elements) == elements


@against_server
@given(elements=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
async def test_bigint_array(options: ConnectOptions, elements: list[int | None]) -> None:
    answer = await _ask(options, "SELECT unnest($1::bigint[])", elements)
    assert [None if text is None else int(text) for text in answer] == elements


@against_server
@given(value=st.binary())
async def test_bytea(options: ConnectOptions, value: bytes) -> None:
    assert await _ask(options, "SELECT encode($1::bytea, 'hex')", value) == [value.hex()]


@against_server
@given(value=st.floats())
async def test_double_precision(options: ConnectOptions, value: float) -> None:
    (text,) = await _ask(options, "SELECT $1::float8", value)
    assert text is not None
    assert float(text) == value or (math.isnan(value) and text == "NaN")


@against_server
@given(value=st.datetimes(timezones=st.just(UTC)))
async def test_instant(options: ConnectOptions, value: datetime) -> None:
    (text,) = await _ask(
        options, "SELECT to_char($1::timestamptz, 'YYYY-MM-DD HH24:MI:SS.US')", value
    )
    assert text == value.strftime("%Y-%m-%d %H:%M:%S.%f").rjust(26, "0")
