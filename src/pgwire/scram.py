"""SCRAM-SHA-256 as a client: RFC 5802 with the hash of RFC 7677. Pure, no I/O.

The expensive step, PBKDF2, is not here: ``challenge`` says what to derive, the caller derives it
with whatever its platform has, and ``final_message`` takes the result.

No channel binding (``n,,``): that needs the TLS connection, which Hyperdrive terminates.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from pgwire.errors import ProtocolViolation

MECHANISM: Final = "SCRAM-SHA-256"

_GS2_HEADER: Final = "n,,"
# RFC 7677 section 4 wants 4096 at least: fewer would let an impostor get a proof that is cheap
# to search. The upper bound keeps an impostor from making us work for minutes; WebCrypto in
# workerd stops at 100,000 by itself.
MIN_ITERATIONS: Final = 4096
MAX_ITERATIONS: Final = 600_000


@dataclass(frozen=True, slots=True)
class Challenge:
    """What to derive: PBKDF2-HMAC-SHA-256 of the password, 32 bytes long."""

    salt: bytes
    iterations: int


class ScramClient:
    """One authentication. Call the methods once each, in the order they are written."""

    def __init__(self, nonce: str, *, user: str = "") -> None:
        """``nonce``: fresh, random, printable ASCII without a comma (RFC 5802 section 5.1).

        PostgreSQL ignores ``user`` here and takes the StartupMessage's, so it stays empty.
        """
        self._nonce = nonce
        self._first_bare = f"n={user},r={nonce}"
        self._auth_message = b""
        self._without_proof = ""
        self._server_signature = b""

    def first_message(self) -> bytes:
        """client-first-message."""
        return (_GS2_HEADER + self._first_bare).encode()

    def challenge(self, server_first: bytes) -> Challenge:
        """Read server-first-message; raises ProtocolViolation if it cannot be trusted."""
        nonce, salt, iterations = _attributes(server_first, "r", "s", "i")
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ProtocolViolation("SCRAM: the server's nonce does not extend the client's")
        challenge = Challenge(salt=_base64(salt), iterations=_iterations(iterations))
        binding = base64.b64encode(_GS2_HEADER.encode()).decode()
        self._without_proof = f"c={binding},r={nonce}"
        self._auth_message = b",".join(
            (self._first_bare.encode(), server_first, self._without_proof.encode())
        )
        return challenge

    def final_message(self, salted_password: bytes) -> bytes:
        """client-final-message, with the proof that the client knows the password."""
        client_key = _hmac(salted_password, b"Client Key")
        signature = _hmac(hashlib.sha256(client_key).digest(), self._auth_message)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._server_signature = _hmac(_hmac(salted_password, b"Server Key"), self._auth_message)
        return f"{self._without_proof},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, server_final: bytes) -> None:
        """Check that the server knows the password too; raises ProtocolViolation if not."""
        (signature,) = _attributes(server_final, "v")
        if not hmac.compare_digest(_base64(signature), self._server_signature):
            raise ProtocolViolation("SCRAM: the server's signature is wrong")


def prepare_password(password: str) -> bytes:
    """The password's bytes for PBKDF2, prepared as PostgreSQL does.

    SASLprep (RFC 4013) where it applies; a password that SASLprep prohibits is used as it is,
    because the server did the same when it was set.
    """
    if password.isascii():
        return password.encode()  # SASLprep changes nothing, or prohibits and is skipped
    return (_saslprep(password) or password).encode()


def _saslprep(text: str) -> str | None:
    """RFC 4013 section 2; None where it prohibits the text."""
    # Imported here because almost no password needs it and start-up time counts in a Worker.
    import stringprep
    import unicodedata

    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in text
        if not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    prohibited = (
        stringprep.in_table_a1,  # unassigned code points: RFC 4013 section 2.5
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
    )
    if any(table(char) for char in prepared for table in prohibited):
        return None
    # Bidirectional text, RFC 3454 section 6.
    right_to_left = [stringprep.in_table_d1(char) for char in prepared]
    if any(right_to_left) and (
        any(map(stringprep.in_table_d2, prepared)) or not (right_to_left[0] and right_to_left[-1])
    ):
        return None
    return prepared


def _attributes(message: bytes, *names: str) -> list[str]:
    """The values of exactly these attributes, in this order; SCRAM knows no other."""
    try:
        parts = message.decode("ascii").split(",")
    except UnicodeDecodeError as error:
        raise ProtocolViolation("SCRAM: message is not ASCII") from error
    if [part[:2] for part in parts] != [f"{name}=" for name in names]:
        raise ProtocolViolation(f"SCRAM: expected the attributes {', '.join(names)}")
    return [part[2:] for part in parts]


def _iterations(text: str) -> int:
    # Digits are counted first: int() refuses very long ones with an error of its own.
    if not text.isdigit() or len(text) > len(str(MAX_ITERATIONS)):
        raise ProtocolViolation("SCRAM: the iteration count is not an acceptable number")
    count = int(text)
    if not MIN_ITERATIONS <= count <= MAX_ITERATIONS:
        raise ProtocolViolation(
            f"SCRAM: {count} iterations, not within {MIN_ITERATIONS} to {MAX_ITERATIONS}"
        )
    return count


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ProtocolViolation("SCRAM: damaged base64") from error


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
