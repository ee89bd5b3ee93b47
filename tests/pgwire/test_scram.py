"""SCRAM-SHA-256 against its RFC and against servers that cheat."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwire import ProtocolViolation
from pgwire.scram import MAX_ITERATIONS, Challenge, ScramClient, prepare_password

# RFC 7677 section 3.
_NONCE = "rOprNGfwEbeRWgbNEkqO"
_SERVER_FIRST = (
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
)
_CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
_SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def _client_at_final() -> ScramClient:
    client = ScramClient(_NONCE, user="user")
    challenge = client.challenge(_SERVER_FIRST)
    key = hashlib.pbkdf2_hmac("sha256", b"pencil", challenge.salt, challenge.iterations)
    assert client.final_message(key) == _CLIENT_FINAL
    return client


def test_exchange_of_rfc_7677() -> None:
    assert ScramClient(_NONCE, user="user").first_message() == b"n,,n=user,r=" + _NONCE.encode()
    _client_at_final().verify(_SERVER_FINAL)


@pytest.mark.parametrize(
    "server_final",
    [
        b"v=AAAATRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        b"v=",
        b"v=%%%",
        b"e=invalid-proof",
        b"",
        _SERVER_FINAL + b",x=y",
        "v=ž".encode(),
    ],
)
def test_server_without_the_right_signature_is_refused(server_final: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="SCRAM"):
        _client_at_final().verify(server_final)


@pytest.mark.parametrize(
    "server_first",
    [
        b"r=other,s=AAAA,i=4096",
        f"r={_NONCE},s=AAAA,i=4096".encode(),  # nothing added to the client's nonce
        f"r={_NONCE}x,s=*,i=4096".encode(),
        f"r={_NONCE}x,s=AAAA,i=4095".encode(),
        f"r={_NONCE}x,s=AAAA,i={MAX_ITERATIONS + 1}".encode(),
        f"r={_NONCE}x,s=AAAA,i={'9' * 5000}".encode(),
        f"r={_NONCE}x,s=AAAA,i=-1".encode(),
        f"r={_NONCE}x,s=AAAA,i=".encode(),
        f"m=ext,r={_NONCE}x,s=AAAA,i=4096".encode(),
        f"s=AAAA,r={_NONCE}x,i=4096".encode(),
        b"",
        b"\xff",
    ],
)
def test_challenge_that_cannot_be_trusted_is_refused(server_first: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="SCRAM"):
        ScramClient(_NONCE).challenge(server_first)


@given(st.binary(max_size=60), st.integers(min_value=0, max_value=len(_SERVER_FIRST)))
def test_damaged_challenge_never_raises_anything_else(noise: bytes, at: int) -> None:
    damaged = _SERVER_FIRST[:at] + noise + _SERVER_FIRST[at + len(noise) :]
    try:
        challenge = ScramClient(_NONCE).challenge(damaged)
    except ProtocolViolation:
        return
    assert isinstance(challenge, Challenge)


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("pencil", "pencil"),
        # RFC 4013 section 3
        ("I\u00adX", "IX"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("\u00a0x", " x"),
        # prohibited there, so used as they are
        ("\u0007", "\u0007"),
        ("ž\u0007", "ž\u0007"),
        ("\u06271", "\u06271"),
        ("\u0627a\u0627", "\u0627a\u0627"),
        ("\u0221", "\u0221"),
    ],
)
def test_password_is_prepared_as_postgresql_does(password: str, prepared: str) -> None:
    assert prepare_password(password) == prepared.encode()


@given(st.text(st.characters(codec="utf-8")))
def test_any_password_can_be_prepared(password: str) -> None:
    assert isinstance(prepare_password(password), bytes)
