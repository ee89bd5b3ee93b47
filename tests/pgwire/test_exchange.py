"""The state machine of a pipeline's answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwire import ConnectionFailed, PostgresError, ProtocolViolation, Statement, backend
from pgwire.backend import MessageParser
from pgwire.exchange import PipelineExchange, RawResult, encode_pipeline
from tests.pgwire import server_messages as server

_SELECT = (
    server.PARSE_COMPLETE
    + server.BIND_COMPLETE
    + server.row_description("a", "b")
    + server.data_row([b"1", None])
    + server.data_row([b"", b"x"])
    + server.command_complete("SELECT 2")
)
_INSERT = (
    server.PARSE_COMPLETE
    + server.BIND_COMPLETE
    + server.NO_DATA
    + server.command_complete("INSERT 0 3")
)
_ERROR = server.fields(b"E", {"S": b"FEHLER", "V": b"ERROR", "C": b"22012", "M": b"oops"})
_NOTICE = server.fields(b"N", {"S": b"NOTICE", "M": b"by the way"})
_FATAL = server.fields(b"E", {"S": b"FATAL", "C": b"57P01", "M": b"bye"})


def _run(stream: bytes, statements: int, max_result_bytes: int = 10_000) -> PipelineExchange:
    exchange = PipelineExchange(statements, max_result_bytes=max_result_bytes)
    parser = MessageParser(100_000)
    parser.receive_data(stream)
    while not exchange.complete and (message := parser.next_message()) is not None:
        exchange.handle(message)
    return exchange


def test_each_statement_gets_its_own_result() -> None:
    exchange = _run(_SELECT + _INSERT + server.ready(b"T"), statements=2)
    assert exchange.complete
    assert exchange.transaction_status == "T"
    assert exchange.results() == [
        RawResult(("a", "b"), [(b"1", None), (b"", b"x")], "SELECT 2"),
        RawResult((), [], "INSERT 0 3"),
    ]


def test_error_skips_the_rest_and_waits_for_ready() -> None:
    exchange = _run(_INSERT + server.PARSE_COMPLETE + _ERROR, statements=3)
    assert not exchange.complete
    exchange.handle(backend.ReadyForQuery("I"))
    assert exchange.complete
    with pytest.raises(PostgresError, match="oops") as caught:
        exchange.results()
    assert caught.value.severity == "ERROR"


def test_error_between_the_last_statement_and_ready_is_reported() -> None:
    exchange = _run(_INSERT + _ERROR + server.ready(), statements=1)
    with pytest.raises(PostgresError):
        exchange.results()


def test_first_of_two_errors_is_the_one_reported() -> None:
    second = server.fields(b"E", {"S": b"ERROR", "C": b"25P02", "M": b"aborted"})
    exchange = _run(_ERROR + second + server.ready(), statements=1)
    with pytest.raises(PostgresError, match="oops"):
        exchange.results()


def test_fatal_error_is_raised_without_waiting_for_ready() -> None:
    with pytest.raises(PostgresError) as caught:
        _run(server.PARSE_COMPLETE + _FATAL, statements=1)
    assert caught.value.is_fatal


def test_notices_anywhere_change_nothing() -> None:
    messages = [
        server.PARSE_COMPLETE,
        server.BIND_COMPLETE,
        server.NO_DATA,
        server.command_complete("INSERT 0 3"),
        server.ready(),
    ]
    stream = _NOTICE + _NOTICE.join(messages)
    assert _run(stream, statements=1).results() == [RawResult((), [], "INSERT 0 3")]


@pytest.mark.parametrize(
    "stream",
    [
        server.ready(),
        server.data_row([]),
        server.PARSE_COMPLETE + server.PARSE_COMPLETE,
        server.PARSE_COMPLETE + server.BIND_COMPLETE + server.data_row([]),
        _INSERT + server.PARSE_COMPLETE,
        _ERROR + server.PARSE_COMPLETE,
        server.authentication(0),
    ],
)
def test_message_out_of_order_is_refused(stream: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="out of order"):
        _run(stream, statements=1)


def test_row_that_does_not_fit_its_description_is_refused() -> None:
    stream = server.PARSE_COMPLETE + server.BIND_COMPLETE + server.row_description("a")
    with pytest.raises(ProtocolViolation, match="2 values for 1 columns"):
        _run(stream + server.data_row([b"1", b"2"]), statements=1)


def test_limit_counts_the_rows_of_all_statements() -> None:
    rows = len(server.data_row([b"1", None])) + len(server.data_row([b"", b"x"]))
    stream = _SELECT + _SELECT + server.ready()
    assert _run(stream, statements=2, max_result_bytes=2 * rows).complete
    with pytest.raises(ProtocolViolation, match="result exceeds"):
        _run(stream, statements=2, max_result_bytes=2 * rows - 1)


_parts = st.sampled_from(
    [
        server.PARSE_COMPLETE,
        server.BIND_COMPLETE,
        server.NO_DATA,
        server.row_description("a"),
        server.data_row([b"1"]),
        server.command_complete("SELECT 1"),
        server.ready(),
        server.message(b"I"),
        server.authentication(0),
        _ERROR,
        _FATAL,
        _NOTICE,
        _SELECT,
        _INSERT,
    ]
)


@given(st.lists(_parts, max_size=20).map(b"".join), st.integers(min_value=1, max_value=3))
def test_any_order_of_messages_ends_in_an_error_of_the_client(
    stream: bytes, statements: int
) -> None:
    try:
        exchange = _run(stream, statements)
        if exchange.complete:
            assert len(exchange.results()) == statements
    except (PostgresError, ConnectionFailed):
        pass


def test_pipeline_ends_with_a_single_sync() -> None:
    sync = b"S\x00\x00\x00\x04"
    data = encode_pipeline([Statement("SELECT $1", ["x"]), Statement("SELECT 2")])
    assert data.endswith(sync)
    assert data.count(sync) == 1


def test_statement_is_encoded_as_the_protocol_says() -> None:
    assert encode_pipeline([Statement("SELECT $1, $2", ["ž", None])]) == (
        b"P\x00\x00\x00\x15" + b"\x00" + b"SELECT $1, $2\x00" + b"\x00\x00"
        b"B\x00\x00\x00\x16" + b"\x00\x00" + b"\x00\x00" + b"\x00\x02"
        b"\x00\x00\x00\x02\xc5\xbe" + b"\xff\xff\xff\xff" + b"\x00\x00"
        b"D\x00\x00\x00\x06P\x00" + b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00" + b"S\x00\x00\x00\x04"
    )


def test_more_parameters_than_the_protocol_can_count_are_refused() -> None:
    with pytest.raises(ValueError, match="65536 parameters"):
        encode_pipeline([Statement("SELECT 1", [None] * 65_536)])


def test_nul_in_sql_cannot_reach_the_protocol() -> None:
    with pytest.raises(ValueError, match="NUL"):
        encode_pipeline([Statement("SELECT 1\0X\x00\x00\x00\x04")])
