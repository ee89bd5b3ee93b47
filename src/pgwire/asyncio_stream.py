"""The transport for CPython: an asyncio stream. For tests, tools and scripts, not for workerd."""

import asyncio
import hashlib
from typing import Final

from pgwire.connection import Connection, DeriveKeyFunction, Transport, open_session
from pgwire.errors import ConnectionFailed
from pgwire.options import ConnectOptions

_READ_BYTES: Final = 64 * 1024


async def derive_key(password: bytes, salt: bytes, iterations: int) -> bytes:
    """PBKDF2-HMAC-SHA-256 by hashlib: some milliseconds, so no thread is worth its trouble."""
    return hashlib.pbkdf2_hmac("sha256", password, salt, iterations)


async def connect(
    options: ConnectOptions, *, derive_key: DeriveKeyFunction = derive_key
) -> Connection:
    """Open a session over TCP, or over the Unix socket in the folder ``options.host``.

    Raises PostgresError or ConnectionFailed; see ``open_session``.
    """

    async def open_transport() -> Transport:
        try:
            return AsyncioTransport(*await _open_stream(options.host, options.port))
        except OSError as error:
            raise ConnectionFailed(f"cannot connect to {options.host}:{options.port}") from error

    return await open_session(open_transport, options, derive_key)


async def _open_stream(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)


class AsyncioTransport:
    """A ``pgwire.connection.Transport`` over a pair of asyncio streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        try:
            return await self._reader.read(_READ_BYTES)
        except OSError as error:
            raise ConnectionFailed("the connection was lost") from error

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        transport = self._writer.transport
        if transport.get_write_buffer_size():
            # The peer does not read; waiting for it in the background could last for ever.
            transport.abort()
        else:
            transport.close()
