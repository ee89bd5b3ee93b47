"""The transport for workerd: the socket of a Hyperdrive binding. Importable only in Pyodide.

The binding's ``connect()`` gives a Workers socket whose streams are awaited natively. Blocking
drivers, and anything else that calls ``run_sync``, break the isolate under load.
"""

from typing import Any

from js import Object, Promise, crypto
from pyodide.ffi import JsException, to_js

from pgwire.connection import Connection, Transport, open_session
from pgwire.errors import ConnectionFailed
from pgwire.options import ConnectOptions

_KEY_BITS = 256


async def connect(binding: Any, **overrides: Any) -> Connection:
    """Open a session through a Hyperdrive binding (``env.HYPERDRIVE``).

    ``overrides`` are fields of ConnectOptions, for example ``query_timeout=2.0``; host, port,
    user, password and database come from the binding. Raises PostgresError or ConnectionFailed;
    see ``open_session``.
    """
    options = ConnectOptions(**(_address(binding) | overrides))

    async def open_transport() -> Transport:
        try:
            return HyperdriveTransport(binding.connect())
        except JsException as error:
            raise ConnectionFailed("Hyperdrive gave no socket") from error

    return await open_session(open_transport, options, derive_key)


def _address(binding: Any) -> dict[str, Any]:
    return {
        "host": binding.host,
        "port": int(binding.port),
        "user": binding.user,
        "password": binding.password or "",
        "database": binding.database,
    }


async def derive_key(password: bytes, salt: bytes, iterations: int) -> bytes:
    """PBKDF2-HMAC-SHA-256 by WebCrypto: this Pyodide has no hashlib.pbkdf2_hmac.

    Raises ConnectionFailed where workerd refuses (more than 100,000 iterations).
    """
    algorithm = {"name": "PBKDF2", "hash": "SHA-256", "salt": salt, "iterations": iterations}
    try:
        key = await crypto.subtle.importKey(
            "raw", to_js(password), "PBKDF2", False, to_js(["deriveBits"])
        )
        bits = await crypto.subtle.deriveBits(
            to_js(algorithm, dict_converter=Object.fromEntries), key, _KEY_BITS
        )
    except JsException as error:
        raise ConnectionFailed("WebCrypto derived no key") from error
    derived: bytes = bits.to_bytes()
    return derived


class HyperdriveTransport:
    """A ``pgwire.connection.Transport`` over a Workers socket."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._reader = socket.readable.getReader()
        self._writer = socket.writable.getWriter()
        self._unsettled: list[Any] = []

    async def read(self) -> bytes:
        try:
            chunk = await self._reader.read()
        except JsException as error:
            raise ConnectionFailed("the connection was lost") from error
        if chunk.done:
            return b""
        data: bytes = chunk.value.to_bytes()
        return data

    def write(self, data: bytes) -> None:
        self._unsettled.append(self._writer.write(to_js(data)))

    def close(self) -> None:
        self._unsettled.append(self._socket.close())
        # allSettled also marks a rejection as handled: a connection that is already lost
        # rejects both the last write and close().
        Promise.allSettled(to_js(self._unsettled))
        self._unsettled = []
