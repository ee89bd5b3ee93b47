"""Queries, pipelines, parameters and errors against a real server."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pgwire import (
    Connection,
    ConnectOptions,
    Parameter,
    PostgresError,
    ProtocolViolation,
    Statement,
    asyncio_stream,
)


async def test_select_returns_columns_rows_and_tag(options: ConnectOptions) -> None:
    with await asyncio_stream.connect(options) as connection:
        result = await connection.query(
            "SELECT n, 'x' || n AS label FROM generate_series(1, $1) AS n", 2
        )
    assert result.columns == ("n", "label")
    assert result.rows == [("1", "x1"), ("2", "x2")]
    assert result.command_tag == "SELECT 2"
    assert result.affected == 2
    assert result.scalar() == "1"


async def test_session_settings_are_sent_at_start_up(options: ConnectOptions) -> None:
    with await asyncio_stream.connect(
        replace(options, statement_timeout_ms=1234, idle_in_transaction_timeout_ms=5678)
    ) as connection:
        assert await _settings(connection) == [
            ("application_name", options.application_name),
            ("client_encoding", "UTF8"),
            ("idle_in_transaction_session_timeout", "5678"),
            ("statement_timeout", "1234"),
            ("TimeZone", "UTC"),
        ]


async def test_settings_for_poolers_hold_for_each_transaction_only(
    options: ConnectOptions,
) -> None:
    changed = replace(options, session_settings="transaction", statement_timeout_ms=1234)
    with await asyncio_stream.connect(changed) as connection:
        for _ in range(2):
            result = await connection.query("SELECT current_setting('statement_timeout')")
            assert result.rows == [("1234ms",)]
        await connection.query("BEGIN")
        result = await connection.query("SELECT current_setting('statement_timeout')")
        assert result.scalar() == "1234ms"


async def test_settings_for_poolers_do_not_undo_those_of_an_open_transaction(
    options: ConnectOptions,
) -> None:
    changed = replace(options, session_settings="transaction")
    with await asyncio_stream.connect(changed) as connection:
        await connection.query("BEGIN")
        await connection.query("SET LOCAL statement_timeout = '7s'")
        result = await connection.query("SELECT current_setting('statement_timeout')")
    assert result.scalar() == "7s"


async def test_timeout_set_for_a_pooled_transaction_cancels_its_statement(
    options: ConnectOptions,
) -> None:
    changed = replace(options, session_settings="transaction", statement_timeout_ms=50)
    with await asyncio_stream.connect(changed) as connection:
        with pytest.raises(PostgresError) as caught:
            await connection.query("SELECT pg_sleep(30)")
        assert caught.value.sqlstate == "57014"


async def _settings(connection: Connection) -> Sequence[tuple[str | None, ...]]:
    names = [
        "application_name",
        "client_encoding",
        "idle_in_transaction_session_timeout",
        "statement_timeout",
        "TimeZone",
    ]
    result = await connection.query(
        "SELECT name, setting FROM pg_settings WHERE name = ANY($1) ORDER BY lower(name)", names
    )
    return result.rows


@pytest.mark.parametrize(
    ("type_name", "value", "text"),
    [
        ("text", None, None),
        ("text", "", ""),
        ("text", "žluťoučký 🐘 'quoted' \\ \"", "žluťoučký 🐘 'quoted' \\ \""),
        ("bigint", -(2**63), "-9223372036854775808"),
        ("float8", 0.1, "0.1"),
        ("float8", float("-inf"), "-Infinity"),
        ("boolean", True, "t"),
        ("boolean", False, "f"),
        ("bytea", b"\x00\xff\\", "\\x00ff5c"),
        (
            "timestamptz",
            datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
            "2026-01-02 03:04:05.678901+00",
        ),
        ("jsonb", '{"a": [1, null]}', '{"a": [1, null]}'),
        ("text[]", [], "{}"),
        ("int[]", [1, None, -3], "{1,NULL,-3}"),
        ("boolean[]", (True, False), "{t,f}"),
    ],
)
async def test_parameters_arrive_as_the_type_they_are_cast_to(
    options: ConnectOptions, type_name: str, value: Parameter, text: str | None
) -> None:
    with await asyncio_stream.connect(options) as connection:
        result = await connection.query(f"SELECT $1::{type_name}", value)
    assert result.scalar() == text


async def test_array_elements_survive_quotes_backslashes_null_and_empty(
    options: ConnectOptions,
) -> None:
    elements = ['"', "\\", "", "NULL", None, "{a,b}", " padded ", "\n", "ž🐘", '\\"']
    with await asyncio_stream.connect(options) as connection:
        result = await connection.query("SELECT unnest($1::text[])", elements)
    assert [value for (value,) in result.rows] == elements


async def test_parameters_are_never_read_as_sql(options: ConnectOptions) -> None:
    hostile = "'; DROP TABLE skills; --"
    with await asyncio_stream.connect(options) as connection:
        assert (await connection.query("SELECT $1::text", hostile)).scalar() == hostile
        with pytest.raises(PostgresError) as caught:
            await connection.query("SELECT 1; SELECT 2")
    assert caught.value.sqlstate == "42601"


async def test_value_of_five_megabytes_goes_both_ways(options: ConnectOptions) -> None:
    value = "ž" * 2_500_000
    with await asyncio_stream.connect(options) as connection:
        assert (await connection.query("SELECT $1::text", value)).scalar() == value


async def test_empty_statement_and_empty_pipeline_are_harmless(options: ConnectOptions) -> None:
    with await asyncio_stream.connect(options) as connection:
        assert (await connection.query("-- nothing")).command_tag == ""
        assert await connection.pipeline([]) == []


async def test_affected_counts_written_rows(options: ConnectOptions) -> None:
    with await asyncio_stream.connect(options) as connection:
        results = await connection.pipeline(
            [
                Statement("CREATE TEMP TABLE t (n int)"),
                Statement("INSERT INTO t SELECT generate_series(1, 3)"),
                Statement("UPDATE t SET n = 0 WHERE n > $1", [1]),
                Statement("DELETE FROM t"),
            ]
        )
    assert [result.affected for result in results] == [0, 3, 2, 3]


async def test_syntax_error_carries_its_sqlstate_and_leaves_the_connection_usable(
    options: ConnectOptions,
) -> None:
    with await asyncio_stream.connect(options) as connection:
        with pytest.raises(PostgresError, match="syntax error") as caught:
            await connection.query("SELEC 1")
        assert caught.value.sqlstate == "42601"
        assert caught.value.severity == "ERROR"
        assert (await connection.query("SELECT 1")).scalar() == "1"


async def test_unique_violation_names_its_constraint_and_hides_the_row_from_logs(
    options: ConnectOptions,
) -> None:
    with await asyncio_stream.connect(options) as connection:
        await connection.query("CREATE TEMP TABLE t (n int CONSTRAINT only_once UNIQUE)")
        await connection.query("INSERT INTO t VALUES ($1)", 42)
        with pytest.raises(PostgresError) as caught:
            await connection.query("INSERT INTO t VALUES ($1)", 42)
    assert caught.value.sqlstate == "23505"
    assert caught.value.constraint == "only_once"
    assert caught.value.detail == "Key (n)=(42) already exists."
    assert "42)" not in str(caught.value).replace("23505)", "")


async def test_error_in_a_pipeline_undoes_all_of_it(options: ConnectOptions) -> None:
    with await asyncio_stream.connect(options) as connection:
        await connection.query("CREATE TEMP TABLE t (n int)")
        with pytest.raises(PostgresError) as caught:
            await connection.pipeline(
                [
                    Statement("INSERT INTO t VALUES (1)"),
                    Statement("SELECT 1 / $1::int", [0]),
                    Statement("INSERT INTO t VALUES (2)"),
                ]
            )
        assert caught.value.sqlstate == "22012"
        assert (await connection.query("SELECT count(*) FROM t")).scalar() == "0"


async def test_constraint_that_fails_at_sync_is_reported(options: ConnectOptions) -> None:
    with await asyncio_stream.connect(options) as connection:
        await connection.query("CREATE TEMP TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(PostgresError) as caught:
            await connection.query("INSERT INTO t VALUES (1), (1)")
        assert caught.value.sqlstate == "23505"
        assert (await connection.query("SELECT count(*) FROM t")).scalar() == "0"


async def test_large_pipeline_does_not_deadlock_on_full_socket_buffers(
    options: ConnectOptions,
) -> None:
    value = "x" * 500_000
    with await asyncio_stream.connect(options) as connection:
        results = await connection.pipeline([Statement("SELECT $1::text", [value])] * 20)
    assert all(result.scalar() == value for result in results)


async def test_notices_and_changed_settings_are_ignored(options: ConnectOptions) -> None:
    with await asyncio_stream.connect(options) as connection:
        await connection.query("DO $$ BEGIN RAISE NOTICE 'pay no attention'; END $$")
        await connection.query("SET application_name = 'renamed'")  # sends ParameterStatus
        assert (await connection.query("SELECT 1")).scalar() == "1"


async def test_notifications_are_ignored(options: ConnectOptions) -> None:
    with await asyncio_stream.connect(options) as connection:
        await connection.query(f'LISTEN "{options.application_name}"')
        await connection.query("SELECT pg_notify($1, 'hello')", options.application_name)
        assert (await connection.query("SELECT 1")).scalar() == "1"


async def test_copy_is_refused_and_breaks_the_connection(options: ConnectOptions) -> None:
    with await asyncio_stream.connect(options) as connection:
        await connection.query("CREATE TEMP TABLE t (n int)")
        with pytest.raises(ProtocolViolation):
            await connection.query("COPY t FROM STDIN")


async def test_row_over_the_message_limit_is_refused(options: ConnectOptions) -> None:
    small = replace(options, max_message_bytes=100_000)
    connection = await asyncio_stream.connect(small)
    with connection, pytest.raises(ProtocolViolation, match="exceeds 100000"):
        await connection.query("SELECT repeat('x', 200000)")


async def test_result_over_its_limit_is_refused(options: ConnectOptions) -> None:
    small = replace(options, max_result_bytes=100_000)
    connection = await asyncio_stream.connect(small)
    with connection, pytest.raises(ProtocolViolation, match="result exceeds 100000"):
        await connection.query("SELECT repeat('x', 1000) FROM generate_series(1, 200)")


async def test_deferred_constraint_fails_the_statement_whose_commit_it_fails(
    options: ConnectOptions,
) -> None:
    with await asyncio_stream.connect(options) as connection:
        await connection.query("CREATE TEMP TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(PostgresError) as caught:
            await connection.query("INSERT INTO t VALUES (1), (1)")
        assert caught.value.sqlstate == "23505"
        assert (await connection.query("SELECT count(*) FROM t")).scalar() == "0"


async def test_value_that_cannot_be_sent_leaves_the_connection_usable(
    options: ConnectOptions,
) -> None:
    with await asyncio_stream.connect(options) as connection:
        with pytest.raises(TypeError, match="complex"):
            await connection.query("SELECT $1", 1j)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="NUL"):
            await connection.query("SELECT 1\0")
        assert (await connection.query("SELECT 1")).scalar() == "1"


async def test_nul_in_a_parameter_is_refused_by_the_server(options: ConnectOptions) -> None:
    connection = await asyncio_stream.connect(options)
    with connection, pytest.raises(PostgresError) as caught:
        await connection.query("SELECT $1::text", "a\0b")
    assert caught.value.sqlstate == "22021"
