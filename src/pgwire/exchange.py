"""A pipeline of statements and its answers, as a state machine without I/O.

Source: PostgreSQL's docs, "Message Flow", sections "Extended Query" and "Pipelining".
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

from pgwire import frontend
from pgwire.backend import (
    ASYNCHRONOUS,
    BindComplete,
    CommandComplete,
    DataRow,
    EmptyQueryResponse,
    ErrorResponse,
    Message,
    NoData,
    ParseComplete,
    ReadyForQuery,
    RowDescription,
)
from pgwire.errors import PostgresError, ProtocolViolation
from pgwire.parameters import Parameter, encode_parameter


class Statement(NamedTuple):
    """SQL with ``$1``, ``$2``, … and the values for them."""

    sql: str
    parameters: Sequence[Parameter] = ()


class RawResult(NamedTuple):
    """One statement's answer as it came: values in text format, not decoded."""

    columns: tuple[str, ...]
    rows: list[tuple[bytes | None, ...]]
    command_tag: str


class _Phase(Enum):
    PARSE = auto()
    BIND = auto()
    DESCRIBE = auto()
    ROWS = auto()
    STATEMENT_DONE = auto()
    SYNC = auto()  # every statement is answered, or one failed: only ReadyForQuery is missing
    COMPLETE = auto()


# What the server may send while a statement runs, and where that leads. ErrorResponse, which
# may come in any phase, and asynchronous messages are handled before the table is asked.
_NEXT: Final[dict[tuple[_Phase, type], _Phase]] = {
    (_Phase.PARSE, ParseComplete): _Phase.BIND,
    (_Phase.BIND, BindComplete): _Phase.DESCRIBE,
    (_Phase.DESCRIBE, RowDescription): _Phase.ROWS,
    (_Phase.DESCRIBE, NoData): _Phase.ROWS,
    (_Phase.ROWS, DataRow): _Phase.ROWS,
    (_Phase.ROWS, CommandComplete): _Phase.STATEMENT_DONE,
    (_Phase.ROWS, EmptyQueryResponse): _Phase.STATEMENT_DONE,
    (_Phase.SYNC, ReadyForQuery): _Phase.COMPLETE,
}


def encode_pipeline(statements: Sequence[Statement]) -> bytes:
    """Every statement and one Sync: one round trip, one implicit transaction.

    Raises TypeError or ValueError for what cannot be encoded.
    """
    encoded = [
        frontend.extended_query(sql, [encode_parameter(value) for value in parameters])
        for sql, parameters in statements
    ]
    return b"".join((*encoded, frontend.SYNC))


class PipelineExchange:
    """The answers to ``encode_pipeline``.

    Give every message to ``handle`` until ``complete``; then ``results()``.
    """

    def __init__(self, statement_count: int, *, max_result_bytes: int) -> None:
        self._unanswered = statement_count
        self._bytes_left = max_result_bytes
        self._max_result_bytes = max_result_bytes
        self._phase = _Phase.PARSE if statement_count else _Phase.SYNC
        self._error: PostgresError | None = None
        self._results: list[RawResult] = []
        self._columns: tuple[str, ...] = ()
        self._rows: list[tuple[bytes | None, ...]] = []
        self.transaction_status = "I"
        """As ReadyForQuery told it: I(dle), T(ransaction), E(rror in one)."""

    @property
    def complete(self) -> bool:
        """Whether the server is ready for the next query."""
        return self._phase is _Phase.COMPLETE

    def results(self) -> list[RawResult]:
        """One result for each statement; raises the PostgresError that the server reported."""
        if self._error is not None:
            raise self._error
        return self._results

    def handle(self, message: Message) -> None:
        """Take one message.

        Raises PostgresError at once if it is fatal (no ReadyForQuery will follow), and
        ProtocolViolation for a message out of order or a result over its limit.
        """
        if isinstance(message, ASYNCHRONOUS):
            return
        if isinstance(message, ErrorResponse):
            self._fail(PostgresError.from_fields(message.fields))
            return
        following = _NEXT.get((self._phase, type(message)))
        if following is None:
            raise ProtocolViolation(
                f"{type(message).__name__} out of order in phase {self._phase.name}"
            )
        self._phase = following
        self._take(message)

    def _fail(self, error: PostgresError) -> None:
        if error.is_fatal:
            raise error
        # The server skips everything up to Sync. An error may also come at Sync itself, when
        # the implicit transaction commits (deferred constraints).
        self._phase = _Phase.SYNC
        self._error = self._error or error

    def _take(self, message: Message) -> None:
        match message:
            case DataRow(values, size):
                self._take_row(values, size)
            case RowDescription(columns):
                self._columns = columns
            case CommandComplete(tag):
                self._finish_statement(tag)
            case EmptyQueryResponse():
                self._finish_statement("")
            case ReadyForQuery(status):
                self.transaction_status = status
            case _:
                pass  # the phase alone says all: ParseComplete, BindComplete, NoData

    def _take_row(self, values: tuple[bytes | None, ...], size: int) -> None:
        if len(values) != len(self._columns):
            raise ProtocolViolation(
                f"a row of {len(values)} values for {len(self._columns)} columns"
            )
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise ProtocolViolation(f"the result exceeds {self._max_result_bytes} bytes")
        self._rows.append(values)

    def _finish_statement(self, tag: str) -> None:
        self._results.append(RawResult(self._columns, self._rows, tag))
        self._columns, self._rows = (), []
        self._unanswered -= 1
        self._phase = _Phase.PARSE if self._unanswered else _Phase.SYNC
