"""The parser of server messages: every split, every kind of damage."""

import contextlib
import itertools
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwire import ProtocolViolation, backend
from pgwire.backend import Message, MessageParser
from tests.pgwire import server_messages as server

LIMIT = 100_000

_names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10)
_values = st.lists(st.none() | st.binary(max_size=40), max_size=5)
_field_maps = st.dictionaries(st.sampled_from("SVCMDHn"), _names.map(str.encode), max_size=4)

# Each strategy yields (bytes, the message that they mean).
_server_messages = st.one_of(
    st.builds(
        lambda values: (
            server.data_row(values),
            backend.DataRow(tuple(values), size=len(server.data_row(values))),
        ),
        _values,
    ),
    st.builds(
        lambda names: (server.row_description(*names), backend.RowDescription(tuple(names))),
        st.lists(_names, max_size=4),
    ),
    st.builds(
        lambda values: (server.fields(b"E", values), backend.ErrorResponse(_decoded(values))),
        _field_maps,
    ),
    st.builds(
        lambda values: (server.fields(b"N", values), backend.NoticeResponse(_decoded(values))),
        _field_maps,
    ),
    st.builds(lambda tag: (server.command_complete(tag), backend.CommandComplete(tag)), _names),
    st.builds(
        lambda name, value: (
            server.message(b"S", name.encode() + b"\0" + value.encode() + b"\0"),
            backend.ParameterStatus(name, value),
        ),
        _names,
        _names,
    ),
    st.builds(
        lambda data: (server.authentication(11, data), backend.AuthenticationSASLContinue(data)),
        st.binary(max_size=20),
    ),
    st.sampled_from(
        [
            (server.PARSE_COMPLETE, backend.ParseComplete()),
            (server.BIND_COMPLETE, backend.BindComplete()),
            (server.NO_DATA, backend.NoData()),
            (server.message(b"I"), backend.EmptyQueryResponse()),
            (server.ready(b"T"), backend.ReadyForQuery("T")),
            (server.message(b"K", bytes(8)), backend.BackendKeyData()),
            (server.message(b"A", bytes(9)), backend.NotificationResponse()),
            (server.authentication(0), backend.AuthenticationOk()),
            (server.authentication(3), backend.AuthenticationCleartextPassword()),
            (server.authentication(5, b"salt"), backend.AuthenticationMD5Password(b"salt")),
            (server.authentication(10, b"A\0B\0\0"), backend.AuthenticationSASL(("A", "B"))),
            (server.authentication(12, b"v=x"), backend.AuthenticationSASLFinal(b"v=x")),
            (server.authentication(7), backend.AuthenticationOther(7)),
        ]
    ),
)


def _decoded(values: dict[str, bytes]) -> dict[str, str]:
    return {code: value.decode() for code, value in values.items()}


def _pieces(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def _parse(pieces: Iterable[bytes]) -> list[Message]:
    parser = MessageParser(LIMIT)
    messages: list[Message] = []
    for piece in pieces:
        parser.receive_data(piece)
        while (message := parser.next_message()) is not None:
            messages.append(message)
    return messages


@given(st.lists(_server_messages, max_size=8), st.lists(st.integers(min_value=0), max_size=12))
def test_any_split_of_a_stream_gives_the_same_messages(
    pairs: Sequence[tuple[bytes, Message]], cuts: list[int]
) -> None:
    stream = b"".join(encoded for encoded, _ in pairs)
    expected = [message for _, message in pairs]
    assert _parse(_pieces(stream, cuts)) == expected
    assert _parse(bytes([byte]) for byte in stream) == expected


@given(st.binary(max_size=300), st.lists(st.integers(min_value=0), max_size=5))
def test_garbage_is_refused_or_waits_for_more(garbage: bytes, cuts: list[int]) -> None:
    with contextlib.suppress(ProtocolViolation):
        _parse(_pieces(garbage, cuts))


@given(
    st.lists(_server_messages, min_size=1, max_size=5),
    st.integers(min_value=0),
    st.integers(min_value=0, max_value=255),
)
def test_a_damaged_byte_never_raises_anything_else(
    pairs: Sequence[tuple[bytes, Message]], at: int, byte: int
) -> None:
    stream = bytearray(b"".join(encoded for encoded, _ in pairs))
    stream[at % len(stream)] = byte
    with contextlib.suppress(ProtocolViolation):
        _parse([bytes(stream)])


@given(st.sampled_from(b"12ACDEIKNRSTZn"), st.binary(max_size=60))
def test_any_body_is_read_or_refused(kind: int, body: bytes) -> None:
    with contextlib.suppress(ProtocolViolation):
        _parse([server.message(bytes([kind]), body)])


@given(_server_messages, st.integers(min_value=0))
def test_truncated_message_waits_for_more(pair: tuple[bytes, Message], cut: int) -> None:
    encoded, _ = pair
    assert _parse([encoded[: cut % len(encoded)]]) == []


@pytest.mark.parametrize("kind", [b"D", b"E", b"T"])
def test_oversized_message_is_refused_by_its_header_alone(kind: bytes) -> None:
    header = kind + (LIMIT + 1).to_bytes(4, "big")
    with pytest.raises(ProtocolViolation, match="exceeds 100000"):
        _parse([header])


def test_message_of_exactly_the_limit_is_accepted() -> None:
    value = b"x" * (LIMIT - 4 - 2 - 4)
    (message,) = _parse([server.data_row([value])])
    assert isinstance(message, backend.DataRow)
    assert message.values == (value,)


def test_control_message_has_a_small_limit_of_its_own() -> None:
    with pytest.raises(ProtocolViolation, match="exceeds 30000"):
        _parse([b"C" + (30_001).to_bytes(4, "big")])


@pytest.mark.parametrize("length", [-1, 0, 3, -(2**31)])
def test_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(ProtocolViolation, match="impossible length"):
        _parse([b"D" + length.to_bytes(4, "big", signed=True)])


def test_unknown_type_is_refused_at_once() -> None:
    with pytest.raises(ProtocolViolation, match="unexpected message type"):
        _parse([b"?\x00\x00\x10\x00"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\x01",
        b"\x00\x01\xff\xff\xff\xfe",  # a length below that of NULL
        b"\x00\x01\x00\x00\x00\x05abc",
        b"\x00\x01\x00\x00\x00\x01abc",
        b"\xff\xff",
    ],
    ids=["empty", "no value", "negative", "short", "long", "count"],
)
def test_damaged_row_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="damaged"):
        _parse([server.message(b"D", body)])


def test_row_of_five_megabytes_in_small_pieces_is_whole() -> None:
    value = b"x" * 5_000_000
    stream = server.data_row([value])
    parser = MessageParser(6_000_000)
    for start in range(0, len(stream), 16_384):
        assert parser.next_message() is None
        parser.receive_data(stream[start : start + 16_384])
    assert parser.next_message() == backend.DataRow((value,), size=len(stream))


def test_value_length_cannot_lead_backwards() -> None:
    # -6 would lead back to the body's start, whose first four bytes then read as a length.
    body = (b"\x00\x02" + (-6).to_bytes(4, "big", signed=True)).ljust(4 + 0x0002FFFF, b"x")
    parser = MessageParser(1_000_000)
    parser.receive_data(server.message(b"D", body))
    with pytest.raises(ProtocolViolation, match="damaged"):
        parser.next_message()
