"""A session with the server: the protocol core joined to a transport, with deadlines.

One rule keeps it safe in workerd, where the Python of a cancelled request never resumes, not even
in ``finally``: nothing here must be awaited to release the session. ``close`` is synchronous, and
whatever interrupts an exchange halfway (a deadline, a cancellation, a protocol violation) closes
the connection instead of trying to repair it.
"""

# ruff: noqa: ASYNC109 - the deadline is part of each call's contract: passing it closes the
# connection, which asyncio.timeout around the call would look like to no reader.

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from pgwire import frontend
from pgwire.backend import MessageParser
from pgwire.errors import ConnectionFailed, QueryTimeout
from pgwire.exchange import PipelineExchange, RawResult, Statement, encode_pipeline
from pgwire.options import ConnectOptions
from pgwire.parameters import Parameter
from pgwire.result import Result
from pgwire.startup import DeriveKey, Startup

DeriveKeyFunction = Callable[[bytes, bytes, int], Awaitable[bytes]]
"""(password, salt, iterations) -> PBKDF2-HMAC-SHA-256, 32 bytes."""

_NONCE_BYTES: Final = 18
_IDLE: Final = "I"
_LIMIT_THE_NEXT: Final = """\
SELECT set_config('statement_timeout', greatest(1, $1::integer - (1000 * extract(
epoch FROM clock_timestamp() - transaction_timestamp()))::integer)::text, true)"""
"""The server counts each statement's time by itself: the next one gets what is left of it all."""


class Transport(Protocol):
    """A byte stream. All its failures are ``ConnectionFailed``."""

    async def read(self) -> bytes:
        """Some bytes as soon as there are any; ``b""`` at the end of the stream."""

    def write(self, data: bytes) -> None:
        """Take all of ``data`` for sending, without waiting.

        Not awaited on purpose: a server that is busy sending us results may not read before we
        do. A failure to send shows up in ``read``.
        """

    def close(self) -> None:
        """Close without waiting; what is written but not yet sent may be lost."""


class Connection:
    """An open session. Use it from one task at a time, and within one request.

    Every method that talks to the server raises:

    - PostgresError: the server refused a statement; the connection stays usable, unless
      ``is_fatal``
    - QueryTimeout: the deadline passed; the connection is closed
    - ConnectionFailed: the connection is closed, lost, or broke the protocol or a limit
    - ValueError, TypeError: a parameter or SQL text that cannot be encoded; nothing was sent
    - RuntimeError: another task is using the connection
    """

    def __init__(
        self, transport: Transport, parser: MessageParser, options: ConnectOptions
    ) -> None:
        """Take over a session that is ready for its first query; see ``open_session``."""
        self._transport = transport
        self._parser = parser
        self._options = options
        self._closed = False
        self._busy = False
        self._transaction_status = _IDLE
        self._limit_ms: int | None = None

    async def query(self, sql: str, *parameters: Parameter, timeout: float | None = None) -> Result:
        """Run one statement; its parameters are ``$1``, ``$2``, … (see ``pgwire.parameters``).

        ``timeout`` is in seconds and replaces the options' ``query_timeout``. One round trip.
        """
        (result,) = await self.pipeline([Statement(sql, parameters)], timeout=timeout)
        return result

    async def pipeline(
        self, statements: Sequence[Statement], *, timeout: float | None = None
    ) -> list[Result]:
        """Run statements in one round trip; the results are in the same order.

        They are followed by a single Sync, so unless they begin or end a transaction themselves
        they are one: all or nothing. The first one that fails ends it, the later ones do not
        run, and its PostgresError is raised.
        """
        raw_results = await self._run(statements, timeout)
        try:
            return [Result.decode(raw) for raw in raw_results]
        except ConnectionFailed:
            self.close()
            raise

    def limit_statements(self, milliseconds: int | None) -> None:
        """Let the server cancel each following pipeline, SQLSTATE 57014, after so long in all.

        In place of the options' ``statement_timeout_ms``, which None restores. It holds for
        transactions that begin later. Costs no round trip.
        """
        self._limit_ms = None if milliseconds is None else max(milliseconds, 1)

    @property
    def closed(self) -> bool:
        """Whether the session has ended: closed, lost, or given up by a deadline."""
        return self._closed

    def close(self) -> None:
        """End the session. Never blocks, never fails, may be repeated."""
        if self._closed:
            return
        self._closed = True
        self._transport.write(frontend.TERMINATE)
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def _run(self, statements: Sequence[Statement], timeout: float | None) -> list[RawResult]:
        """The one way to the server: at most one exchange at a time, whole or not at all."""
        if self._closed:
            raise ConnectionFailed("the connection is closed")
        if self._busy:
            raise RuntimeError("another task is using this connection")
        if not statements:
            return []
        preamble, between = self._preamble(), self._between()
        sent = [*preamble, statements[0]]
        for statement in statements[1:]:
            sent += [*between, statement]
        data = encode_pipeline(sent)
        exchange = PipelineExchange(len(sent), max_result_bytes=self._options.max_result_bytes)
        seconds = self._options.query_timeout if timeout is None else timeout
        await self._exchange(data, exchange, seconds)
        return exchange.results()[len(preamble) :: 1 + len(between)]

    def _preamble(self) -> list[Statement]:
        """What has to run before the caller's first statement of a transaction."""
        if self._transaction_status != _IDLE:
            return []
        at_startup = self._options.session_settings == "startup"
        settings = {} if at_startup else self._options.settings()
        if self._limit_ms is not None:
            settings["statement_timeout"] = str(self._limit_ms)
        if not settings:
            return []
        # is_local: the settings end with the transaction, so that a pooler can give the session
        # to another client.
        calls = [f"set_config(${2 * i + 1}, ${2 * i + 2}, true)" for i in range(len(settings))]
        values = [text for setting in settings.items() for text in setting]
        return [Statement(f"SELECT {', '.join(calls)}", values)]

    def _between(self) -> list[Statement]:
        """What has to run between the caller's statements of a pipeline that has a limit."""
        if self._limit_ms is None or self._transaction_status != _IDLE:
            return []
        return [Statement(_LIMIT_THE_NEXT, (self._limit_ms,))]

    async def _exchange(self, data: bytes, exchange: PipelineExchange, seconds: float) -> None:
        self._busy = True
        try:
            async with asyncio.timeout(seconds):
                self._transport.write(data)
                await _drive(self._transport, self._parser, exchange)
        except TimeoutError as error:
            self.close()
            raise QueryTimeout(f"no complete answer within {seconds} s") from error
        except BaseException:  # a cancellation too: half an answer may still be on its way
            self.close()
            raise
        self._busy = False
        self._transaction_status = exchange.transaction_status


async def open_session(
    open_transport: Callable[[], Awaitable[Transport]],
    options: ConnectOptions,
    derive_key: DeriveKeyFunction,
) -> Connection:
    """Open the transport, authenticate and start up, all within ``options.connect_timeout``.

    Raises PostgresError if the server refuses (its SQLSTATE says why: 28P01 is a wrong password,
    3D000 an unknown database, 53300 too many connections), ConnectionFailed for all else.
    """
    transport: Transport | None = None
    parser = MessageParser(options.max_message_bytes)
    try:
        async with asyncio.timeout(options.connect_timeout):
            transport = await open_transport()
            await _start_up(transport, parser, options, derive_key)
    except BaseException as error:
        if transport is not None:
            transport.close()
        if isinstance(error, TimeoutError):
            raise ConnectionFailed(f"no session within {options.connect_timeout} s") from error
        raise
    return Connection(transport, parser, options)


async def _start_up(
    transport: Transport,
    parser: MessageParser,
    options: ConnectOptions,
    derive_key: DeriveKeyFunction,
) -> None:
    nonce = base64.b64encode(os.urandom(_NONCE_BYTES)).decode()
    startup = Startup(options, nonce=nonce)
    transport.write(startup.first_message())
    while not startup.complete:
        message = parser.next_message()
        if message is None:
            await _receive(transport, parser)
            continue
        reply = startup.handle(message)
        if isinstance(reply, DeriveKey):
            key = await derive_key(reply.password, reply.salt, reply.iterations)
            reply = startup.key_derived(key)
        if reply:
            transport.write(reply)


async def _drive(transport: Transport, parser: MessageParser, exchange: PipelineExchange) -> None:
    while not exchange.complete:
        message = parser.next_message()
        if message is None:
            await _receive(transport, parser)
        else:
            exchange.handle(message)


async def _receive(transport: Transport, parser: MessageParser) -> None:
    data = await transport.read()
    if not data:
        raise ConnectionFailed("the server closed the connection")
    parser.receive_data(data)
