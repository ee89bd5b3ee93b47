"""PostgreSQL's server messages, built by hand: for fake servers and for the codec's tests.

Source: PostgreSQL's docs, "Message Formats". Written apart from ``pgwire`` on purpose, so that a
misreading there is not repeated here.
"""

from collections.abc import Mapping, Sequence


def _int16(value: int) -> bytes:
    return value.to_bytes(2, "big", signed=True)


def _int32(value: int) -> bytes:
    return value.to_bytes(4, "big", signed=True)


def message(kind: bytes, body: bytes = b"") -> bytes:
    """A message: type, length (which counts itself), body."""
    return kind + _int32(len(body) + 4) + body


def authentication(code: int, data: bytes = b"") -> bytes:
    """Any Authentication… message."""
    return message(b"R", _int32(code) + data)


def fields(kind: bytes, values: Mapping[str, bytes]) -> bytes:
    """ErrorResponse (``E``) or NoticeResponse (``N``)."""
    return message(
        kind, b"".join(code.encode() + value + b"\0" for code, value in values.items()) + b"\0"
    )


def ready(status: bytes = b"I") -> bytes:
    """ReadyForQuery."""
    return message(b"Z", status)


def row_description(*names: str) -> bytes:
    """RowDescription of text columns."""
    columns = [
        name.encode()
        + b"\0"
        + _int32(0)
        + _int16(0)
        + _int32(25)
        + _int16(-1)
        + _int32(-1)
        # the format code: text
        + _int16(0)
        for name in names
    ]
    return message(b"T", _int16(len(columns)) + b"".join(columns))


def data_row(values: Sequence[bytes | None]) -> bytes:
    """DataRow; None is NULL."""
    encoded = [_int32(-1) if value is None else _int32(len(value)) + value for value in values]
    return message(b"D", _int16(len(encoded)) + b"".join(encoded))


def command_complete(tag: str) -> bytes:
    """CommandComplete."""
    return message(b"C", tag.encode() + b"\0")


PARSE_COMPLETE = message(b"1")
BIND_COMPLETE = message(b"2")
NO_DATA = message(b"n")
SESSION_READY = authentication(0) + ready()
