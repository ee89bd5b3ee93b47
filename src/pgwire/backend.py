"""Messages from the server: their types, and the parser that finds them in a byte stream.

Source: PostgreSQL's docs, "Message Formats", protocol 3.0. Only the types that this client can
meet are known; any other type byte is refused as soon as it is seen.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pgwire.errors import ProtocolViolation

_INT16: Final = struct.Struct("!H")
_INT32: Final = struct.Struct("!i")
_HEADER: Final = struct.Struct("!ci")  # type, and a length that counts itself
_LENGTH_BYTES: Final = 4

_NULL_LENGTH: Final = -1

# Messages whose size depends on user data. All others are short, as they are for libpq
# (VALID_LONG_MESSAGE_TYPE): a huge length there means that the stream is not what we think.
_LONG_TYPES: Final = frozenset(b"ADENT")
_SHORT_MESSAGE_BYTES: Final = 30_000


@dataclass(slots=True)
class AuthenticationOk:
    """Authentication is complete."""


@dataclass(slots=True)
class AuthenticationCleartextPassword:
    """The server wants the password as it is."""


@dataclass(slots=True)
class AuthenticationMD5Password:
    """The server wants the password hashed with this 4-byte salt."""

    salt: bytes


@dataclass(slots=True)
class AuthenticationSASL:
    """The server offers these SASL mechanisms, its preferred one first."""

    mechanisms: tuple[str, ...]


@dataclass(slots=True)
class AuthenticationSASLContinue:
    """A SASL challenge."""

    data: bytes


@dataclass(slots=True)
class AuthenticationSASLFinal:
    """The last SASL data: for SCRAM, the server's proof that it knows the password."""

    data: bytes


@dataclass(slots=True)
class AuthenticationOther:
    """A method that this client does not have (Kerberos, GSSAPI, SSPI, …)."""

    code: int


@dataclass(slots=True)
class BackendKeyData:
    """What a CancelRequest would need. This client sends none: that takes another connection."""


@dataclass(slots=True)
class ParameterStatus:
    """The server tells the value of one of its settings, at start-up or after a change."""

    name: str
    value: str


@dataclass(slots=True)
class NoticeResponse:
    """A warning or a hint; it may come at any time, even during authentication."""

    fields: dict[str, str]


@dataclass(slots=True)
class NotificationResponse:
    """What NOTIFY sends to a session that ran LISTEN."""


@dataclass(slots=True)
class ErrorResponse:
    """A failure; the fields are keyed by their one-letter codes."""

    fields: dict[str, str]


@dataclass(slots=True)
class ReadyForQuery:
    """The server waits for the next query; status is I(dle), T(ransaction) or E(rror in one)."""

    status: str


@dataclass(slots=True)
class ParseComplete:
    """The statement is parsed."""


@dataclass(slots=True)
class BindComplete:
    """The parameters are bound."""


@dataclass(slots=True)
class RowDescription:
    """The statement returns rows with columns of these names."""

    columns: tuple[str, ...]


@dataclass(slots=True)
class NoData:
    """The statement returns no rows."""


@dataclass(slots=True)
class DataRow:
    """One row: its values in text format, None for NULL; size is that of the whole message."""

    values: tuple[bytes | None, ...]
    size: int


@dataclass(slots=True)
class CommandComplete:
    """The statement ran; the tag says what it did, for example ``INSERT 0 1``."""

    tag: str


@dataclass(slots=True)
class EmptyQueryResponse:
    """In place of CommandComplete when the SQL text held no statement."""


Message = (
    AuthenticationOk
    | AuthenticationCleartextPassword
    | AuthenticationMD5Password
    | AuthenticationSASL
    | AuthenticationSASLContinue
    | AuthenticationSASLFinal
    | AuthenticationOther
    | BackendKeyData
    | ParameterStatus
    | NoticeResponse
    | NotificationResponse
    | ErrorResponse
    | ReadyForQuery
    | ParseComplete
    | BindComplete
    | RowDescription
    | NoData
    | DataRow
    | CommandComplete
    | EmptyQueryResponse
)

# May arrive between any two other messages ("Asynchronous Operations"); nothing depends on them.
ASYNCHRONOUS: Final = (NoticeResponse, ParameterStatus, NotificationResponse)


class MessageParser:
    """Cuts the server's byte stream into messages, however it was split on the way.

    Feed it with ``receive_data`` and take messages with ``next_message`` until that returns
    None. After a ``ProtocolViolation`` the stream has lost its frame: throw the parser away.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()
        self._start = 0

    def receive_data(self, data: bytes) -> None:
        """Add bytes as they came from the socket."""
        # Dropping consumed bytes here, once a chunk, keeps many small messages in one chunk
        # from moving its rest again and again.
        del self._buffer[: self._start]
        self._start = 0
        self._buffer += data

    def next_message(self) -> Message | None:
        """The next complete message, or None if more bytes are needed.

        Raises ProtocolViolation for an unknown type, an impossible or too large length (judged
        by the header alone, before the body is buffered), or a body that contradicts its type.
        """
        body_start = self._start + _HEADER.size
        if len(self._buffer) < body_start:
            return None
        kind, length = _HEADER.unpack_from(self._buffer, self._start)
        self._check_header(kind, length)
        end = body_start + length - _LENGTH_BYTES
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            body = bytes(view[body_start:end])
        self._start = end
        return _decode(kind, body)

    def _check_header(self, kind: bytes, length: int) -> None:
        if kind not in _DECODERS:
            raise ProtocolViolation(f"unexpected message type {kind!r}")
        if length < _LENGTH_BYTES:
            raise ProtocolViolation(f"message {kind!r} has the impossible length {length}")
        limit = self._max_message_bytes
        if kind[0] not in _LONG_TYPES:
            limit = min(limit, _SHORT_MESSAGE_BYTES)
        if length > limit:
            raise ProtocolViolation(f"message {kind!r} of {length} bytes exceeds {limit}")


class _Body:
    """A cursor over a message's body; running over the end raises struct.error."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def int16(self) -> int:
        (value,) = _INT16.unpack_from(self._data, self._at)
        self._at += _INT16.size
        return int(value)

    def int32(self) -> int:
        (value,) = _INT32.unpack_from(self._data, self._at)
        self._at += _INT32.size
        return int(value)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise struct.error("body too short")
        data = self._data[self._at : end]
        self._at = end
        return data

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def string(self) -> str:
        """Text up to its NUL. Errors before authentication may be in any encoding."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise struct.error("string without its NUL")
        text = self._data[self._at : end].decode("utf-8", errors="replace")
        self._at = end + 1
        return text

    def strings(self) -> tuple[str, ...]:
        """A list of strings that an empty one ends."""
        found: list[str] = []
        while text := self.string():
            found.append(text)
        return tuple(found)

    def finish(self) -> None:
        if self._at != len(self._data):
            raise struct.error("body too long")


def _decode(kind: bytes, data: bytes) -> Message:
    body = _Body(data)
    try:
        message = _DECODERS[kind](body)
        body.finish()
    except struct.error as error:
        raise ProtocolViolation(f"damaged message {kind!r} of {len(data)} bytes") from error
    return message


def _authentication(body: _Body) -> Message:
    code = body.int32()
    match code:
        case 0:
            return AuthenticationOk()
        case 3:
            return AuthenticationCleartextPassword()
        case 5:
            return AuthenticationMD5Password(body.take(4))
        case 10:
            return AuthenticationSASL(body.strings())
        case 11:
            return AuthenticationSASLContinue(body.rest())
        case 12:
            return AuthenticationSASLFinal(body.rest())
        case _:
            body.rest()
            return AuthenticationOther(code)


def _backend_key_data(body: _Body) -> Message:
    body.rest()
    return BackendKeyData()


def _parameter_status(body: _Body) -> Message:
    return ParameterStatus(name=body.string(), value=body.string())


def _fields(body: _Body) -> dict[str, str]:
    fields: dict[str, str] = {}
    while (code := body.take(1)) != b"\0":
        fields[code.decode("latin-1")] = body.string()
    return fields


def _notice_response(body: _Body) -> Message:
    return NoticeResponse(_fields(body))


def _notification_response(body: _Body) -> Message:
    body.rest()
    return NotificationResponse()


def _error_response(body: _Body) -> Message:
    return ErrorResponse(_fields(body))


def _ready_for_query(body: _Body) -> Message:
    status = body.take(1).decode("latin-1")
    if status not in "ITE":
        raise ProtocolViolation(f"unknown transaction status {status!r}")
    return ReadyForQuery(status)


def _row_description(body: _Body) -> Message:
    columns: list[str] = []
    for _ in range(body.int16()):
        columns.append(body.string())
        # Table OID, column number, type OID, type size, type modifier, format code: results
        # stay text, so none of them is needed.
        body.take(4 + 2 + 4 + 2 + 4 + 2)
    return RowDescription(tuple(columns))


def _data_row(body: _Body) -> Message:
    data = body.rest()
    # The one message that comes by the thousand: decoded in one loop, without the cursor.
    (count,) = _INT16.unpack_from(data)
    at = _INT16.size
    values: list[bytes | None] = []
    for _ in range(count):
        (length,) = _INT32.unpack_from(data, at)
        at += _INT32.size
        if length == _NULL_LENGTH:
            values.append(None)
            continue
        if length < 0:
            raise struct.error("negative length of a value")
        values.append(data[at : at + length])
        at += length
    if at != len(data):  # also catches a last value that the body cuts short
        raise struct.error("values and body differ in length")
    return DataRow(tuple(values), size=len(data) + _HEADER.size)


def _command_complete(body: _Body) -> Message:
    return CommandComplete(body.string())


_DECODERS: Final[dict[bytes, Callable[[_Body], Message]]] = {
    b"1": lambda _: ParseComplete(),
    b"2": lambda _: BindComplete(),
    b"A": _notification_response,
    b"C": _command_complete,
    b"D": _data_row,
    b"E": _error_response,
    b"I": lambda _: EmptyQueryResponse(),
    b"K": _backend_key_data,
    b"N": _notice_response,
    b"R": _authentication,
    b"S": _parameter_status,
    b"T": _row_description,
    b"Z": _ready_for_query,
    b"n": lambda _: NoData(),
}
