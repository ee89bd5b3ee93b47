"""Messages to the server, encoded.

Source: PostgreSQL's docs, "Message Formats", protocol 3.0. Everything is in text format: the
server infers each parameter's type from its place in the statement, or from a cast.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Final

_PROTOCOL_3_0: Final = 3 << 16
_MAX_PARAMETERS: Final = 0xFFFF
# The server refuses anything larger (PQ_LARGE_MESSAGE_LIMIT); beyond 2 GiB the length field
# itself would overflow.
_MAX_MESSAGE_BYTES: Final = 0x3FFFFFFF

_UNNAMED: Final = b"\0"


def startup_message(parameters: Mapping[str, str]) -> bytes:
    """The first message of a session, the only one without a type byte."""
    pairs = b"".join(_string(name) + _string(value) for name, value in parameters.items())
    body = struct.pack("!i", _PROTOCOL_3_0) + pairs + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def password_message(password: bytes) -> bytes:
    """The answer to a cleartext or an MD5 request."""
    if b"\0" in password:
        raise ValueError("a password cannot contain NUL")
    return _message(b"p", password + b"\0")


def sasl_initial_response(mechanism: str, data: bytes) -> bytes:
    """Choose a SASL mechanism and send its first data."""
    return _message(b"p", _string(mechanism) + struct.pack("!i", len(data)) + data)


def sasl_response(data: bytes) -> bytes:
    """The answer to a SASL challenge."""
    return _message(b"p", data)


def extended_query(sql: str, parameters: Sequence[bytes | None]) -> bytes:
    """Parse, Bind, Describe and Execute of one statement ("Extended Query").

    The unnamed statement and portal are used, so nothing is left behind on the server. Without
    a Sync, the server may keep its answers: the caller ends the pipeline with one.
    """
    return b"".join(
        (
            _message(b"P", _UNNAMED + _string(sql) + struct.pack("!H", 0)),
            _bind(parameters),
            _message(b"D", b"P" + _UNNAMED),
            _message(b"E", _UNNAMED + struct.pack("!i", 0)),  # 0: no limit on rows
        )
    )


def _bind(parameters: Sequence[bytes | None]) -> bytes:
    if len(parameters) > _MAX_PARAMETERS:
        raise ValueError(f"{len(parameters)} parameters exceed {_MAX_PARAMETERS}")
    values = b"".join(map(_value, parameters))
    # No format codes: every parameter and every result column is text.
    formats = struct.pack("!H", 0)
    count = struct.pack("!H", len(parameters))
    return _message(b"B", _UNNAMED + _UNNAMED + formats + count + values + formats)


def _value(value: bytes | None) -> bytes:
    if value is None:
        return struct.pack("!i", -1)
    if len(value) > _MAX_MESSAGE_BYTES:
        raise ValueError(f"a parameter of {len(value)} bytes exceeds {_MAX_MESSAGE_BYTES}")
    return struct.pack("!i", len(value)) + value


def _message(kind: bytes, body: bytes) -> bytes:
    if len(body) > _MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {len(body)} bytes exceeds {_MAX_MESSAGE_BYTES}")
    return kind + struct.pack("!i", len(body) + 4) + body


def _string(text: str) -> bytes:
    # A NUL would end the string early and turn the rest into protocol.
    if "\0" in text:
        raise ValueError("text sent to PostgreSQL cannot contain NUL")
    return text.encode() + b"\0"


SYNC: Final = _message(b"S", b"")
TERMINATE: Final = _message(b"X", b"")
