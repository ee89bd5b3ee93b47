"""The connection over a transport in memory: what it writes, and what it does when cut off."""

import asyncio
import contextlib
import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwire import (
    Connection,
    ConnectionFailed,
    ConnectOptions,
    PostgresError,
    ProtocolViolation,
    Statement,
    Transport,
)
from pgwire.connection import open_session
from tests.pgwire import server_messages as server

_OPTIONS = ConnectOptions(host="h", user="u", password="p", database="d")
_TERMINATE = b"X\x00\x00\x00\x04"
_ONE_ROW = (
    server.PARSE_COMPLETE
    + server.BIND_COMPLETE
    + server.row_description("a")
    + server.data_row([b"1"])
    + server.command_complete("SELECT 1")
)
_DONE = server.PARSE_COMPLETE + server.BIND_COMPLETE + server.NO_DATA
_SESSION = server.SESSION_READY + _ONE_ROW + server.ready()


class MemoryTransport:
    """Gives the pieces one by one, then the end of the stream; remembers what is written."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.written: list[bytes] = []
        self.closed = 0

    async def read(self) -> bytes:
        return next((piece for piece in self._pieces if piece), b"")

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed += 1


class SilentTransport(MemoryTransport):
    """Like a server that does not answer any more, once the pieces are used up."""

    async def read(self) -> bytes:
        return await super().read() or await asyncio.get_running_loop().create_future()


async def _no_key(password: bytes, salt: bytes, iterations: int) -> bytes:
    return bytes(32)


async def _open(transport: Transport) -> Connection:
    async def open_transport() -> Transport:
        return transport

    return await open_session(open_transport, _OPTIONS, _no_key)


async def _select(transport: Transport) -> str | None:
    with await _open(transport) as connection:
        return (await connection.query("SELECT $1", "x")).scalar()


async def test_query_and_pipeline_write_once_each() -> None:
    transport = MemoryTransport([_SESSION, _ONE_ROW + _ONE_ROW + server.ready()])
    connection = await _open(transport)
    transport.written.clear()
    await connection.query("SELECT 1")
    await connection.pipeline([Statement("SELECT 1"), Statement("SELECT 2")])
    assert len(transport.written) == 2


async def test_close_says_goodbye_once() -> None:
    transport = MemoryTransport([server.SESSION_READY])
    connection = await _open(transport)
    connection.close()
    connection.close()
    assert transport.written[-1] == _TERMINATE
    assert transport.closed == 1


async def test_query_that_is_never_resumed_can_be_closed_from_outside() -> None:
    """In workerd the Python of a cancelled request stops at its await for good."""
    transport = SilentTransport([server.SESSION_READY])
    connection = await _open(transport)
    abandoned = connection.query("SELECT 1")
    abandoned.send(None)
    connection.close()
    assert transport.written[-1] == _TERMINATE
    assert transport.closed == 1
    abandoned.close()


async def test_result_that_is_not_utf8_closes_the_connection() -> None:
    row = server.row_description("a") + server.data_row([b"\xff"])
    answer = server.PARSE_COMPLETE + server.BIND_COMPLETE + row
    transport = MemoryTransport(
        [server.SESSION_READY, answer + server.command_complete("SELECT 1") + server.ready()]
    )
    connection = await _open(transport)
    with pytest.raises(ProtocolViolation, match="UTF-8"):
        await connection.query("SELECT 1")
    assert transport.closed == 1


@given(st.integers(min_value=0, max_value=len(_SESSION) - 1))
async def test_stream_cut_anywhere_is_a_lost_connection(cut: int) -> None:
    transport = MemoryTransport([_SESSION[:cut]])
    with pytest.raises(ConnectionFailed, match="server closed the connection"):
        await _select(transport)
    assert transport.closed == 1


@given(st.lists(st.integers(min_value=0, max_value=len(_SESSION)), max_size=20))
async def test_stream_split_anywhere_gives_the_same_answer(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(_SESSION)]
    pieces = [_SESSION[start:end] for start, end in itertools.pairwise(edges)]
    assert await _select(MemoryTransport(pieces)) == "1"


@given(
    st.integers(min_value=0, max_value=len(_SESSION) - 1),
    st.binary(min_size=1, max_size=6),
)
async def test_damaged_stream_raises_the_clients_own_errors_and_closes(
    at: int, noise: bytes
) -> None:
    transport = MemoryTransport([_SESSION[:at] + noise + _SESSION[at + len(noise) :]])
    with contextlib.suppress(PostgresError, ConnectionFailed):
        await _select(transport)
    assert transport.closed == 1
