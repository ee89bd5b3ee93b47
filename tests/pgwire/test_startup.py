"""The state machine of start-up and authentication."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwire import ConnectionFailed, ConnectOptions, PostgresError, ProtocolViolation
from pgwire.backend import MessageParser
from pgwire.startup import DeriveKey, Startup, md5_password
from tests.pgwire import server_messages as server

_NONCE = "rOprNGfwEbeRWgbNEkqO"
_OPTIONS = ConnectOptions(host="h", user="user", password="pencil", database="d")


def _startup(options: ConnectOptions = _OPTIONS) -> Startup:
    return Startup(options, nonce=_NONCE)


def _feed(startup: Startup, stream: bytes) -> list[bytes | DeriveKey]:
    """What the machine wants done for each message."""
    parser = MessageParser(100_000)
    parser.receive_data(stream)
    replies: list[bytes | DeriveKey] = []
    while not startup.complete and (message := parser.next_message()) is not None:
        replies.append(startup.handle(message))
    return replies


def test_first_message_names_the_user_and_the_settings() -> None:
    message = _startup().first_message()
    assert message[:8] == len(message).to_bytes(4, "big") + b"\x00\x03\x00\x00"
    strings = message[8:-2].split(b"\0")
    parameters = dict(zip(strings[::2], strings[1::2], strict=True))
    assert parameters == {
        b"user": b"user",
        b"database": b"d",
        b"application_name": b"pgwire",
        b"client_encoding": b"UTF8",
        b"statement_timeout": b"5000",
        b"idle_in_transaction_session_timeout": b"10000",
        b"TimeZone": b"UTC",
    }


def test_trust_completes_without_an_answer() -> None:
    startup = _startup()
    assert _feed(startup, server.SESSION_READY) == [b"", b""]
    assert startup.complete


def test_cleartext_password_is_sent_when_asked() -> None:
    assert _feed(_startup(), server.authentication(3)) == [server.message(b"p", b"pencil\0")]


def test_md5_password_is_salted_with_user_and_salt() -> None:
    # SELECT md5(convert_to(md5('pencil' || 'user'), 'UTF8') || '\x01020304')
    expected = b"md54376eb6913b38f9aaff38dc7cf19ca76"
    assert md5_password("user", b"pencil", b"\x01\x02\x03\x04") == expected
    assert _feed(_startup(), server.authentication(5, b"\x01\x02\x03\x04")) == [
        server.message(b"p", expected + b"\0")
    ]


def _server_first(nonce: str = _NONCE + "srv", iterations: object = 4096) -> bytes:
    salt = base64.b64encode(b"salt").decode()
    return f"r={nonce},s={salt},i={iterations}".encode()


def _after_sasl_offer() -> Startup:
    startup = _startup()
    _feed(startup, server.authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"))
    return startup


def test_scram_asks_for_the_key_and_completes() -> None:
    startup = _after_sasl_offer()
    (request,) = _feed(startup, server.authentication(11, _server_first()))
    assert request == DeriveKey(password=b"pencil", salt=b"salt", iterations=4096)
    key = hashlib.pbkdf2_hmac("sha256", b"pencil", b"salt", 4096)
    startup.key_derived(key)
    final = server.authentication(12, b"v=" + _server_signature(key))
    assert _feed(startup, final + server.SESSION_READY) == [b"", b"", b""]
    assert startup.complete


def _server_signature(key: bytes) -> bytes:
    """RFC 5802 section 3, as the server computes it."""
    without_proof = f"c=biws,r={_NONCE}srv"
    auth_message = f"n=,r={_NONCE},{_server_first().decode()},{without_proof}".encode()
    server_key = hmac.digest(key, b"Server Key", "sha256")
    return base64.b64encode(hmac.digest(server_key, auth_message, "sha256"))


def test_server_that_skips_its_scram_proof_is_refused() -> None:
    startup = _after_sasl_offer()
    _feed(startup, server.authentication(11, _server_first()))
    startup.key_derived(bytes(32))
    with pytest.raises(ProtocolViolation, match="AuthenticationOk out of order"):
        _feed(startup, server.authentication(0))


def test_server_that_asks_twice_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="out of order"):
        _feed(_startup(), server.authentication(3) + server.authentication(3))


def test_unsupported_mechanism_and_method_are_named() -> None:
    with pytest.raises(ConnectionFailed, match="SCRAM-SHA-256-PLUS"):
        _feed(_startup(), server.authentication(10, b"SCRAM-SHA-256-PLUS\0\0"))
    with pytest.raises(ConnectionFailed, match="method 7 is not supported"):
        _feed(_startup(), server.authentication(7))


def test_error_is_raised_at_any_moment() -> None:
    error = server.fields(b"E", {"S": b"FATAL", "C": b"53300", "M": b"too many"})
    for before in (b"", server.authentication(3), server.authentication(0)):
        with pytest.raises(PostgresError) as caught:
            _feed(_startup(), before + error)
        assert caught.value.sqlstate == "53300"


def test_repr_of_options_hides_the_password() -> None:
    assert "pencil" not in repr(_OPTIONS)


def test_nul_in_a_parameter_cannot_reach_the_protocol() -> None:
    options = ConnectOptions(host="h", user="u\0database\0other", database="d")
    with pytest.raises(ValueError, match="NUL"):
        _startup(options).first_message()


def test_nul_in_the_password_cannot_reach_the_protocol() -> None:
    options = ConnectOptions(host="h", user="user", password="a\0b", database="d")
    with pytest.raises(ValueError, match="NUL"):
        _feed(_startup(options), server.authentication(3))


_parts = st.one_of(
    st.builds(
        server.authentication,
        st.integers(min_value=0, max_value=13),
        st.sampled_from([b"", b"salt", b"SCRAM-SHA-256\0\0", b"v=AAAA", _server_first()]),
    ),
    st.builds(
        lambda iterations: server.authentication(11, _server_first(iterations=iterations)),
        st.integers() | st.text(max_size=8),
    ),
    st.builds(server.authentication, st.just(11), st.binary(max_size=40)),
    st.sampled_from([server.ready(), server.message(b"K", bytes(8)), server.PARSE_COMPLETE]),
)


@given(st.lists(_parts, max_size=8).map(b"".join))
def test_any_order_of_messages_ends_in_an_error_of_the_client(stream: bytes) -> None:
    startup = _startup()
    parser = MessageParser(100_000)
    parser.receive_data(stream)
    try:
        while not startup.complete and (message := parser.next_message()) is not None:
            if isinstance(startup.handle(message), DeriveKey):
                startup.key_derived(bytes(32))
    except (PostgresError, ConnectionFailed):
        pass
