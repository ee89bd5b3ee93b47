"""Start-up and authentication as a state machine without I/O.

Source: PostgreSQL's docs, "Message Flow", section "Start-up", and "SASL Authentication".

``trust``, ``password``, ``md5`` and ``scram-sha-256`` are supported. The server chooses: an
impostor can ask for the cleartext password, so this belongs on a path that is already private.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from pgwire import frontend, scram
from pgwire.backend import (
    ASYNCHRONOUS,
    AuthenticationCleartextPassword,
    AuthenticationMD5Password,
    AuthenticationOk,
    AuthenticationOther,
    AuthenticationSASL,
    AuthenticationSASLContinue,
    AuthenticationSASLFinal,
    BackendKeyData,
    ErrorResponse,
    Message,
    ReadyForQuery,
)
from pgwire.errors import ConnectionFailed, PostgresError, ProtocolViolation
from pgwire.options import ConnectOptions
from pgwire.scram import ScramClient


class _Phase(Enum):
    AUTHENTICATION = auto()  # nothing heard yet
    SASL_CHALLENGE = auto()  # SCRAM's first message is sent
    SASL_OUTCOME = auto()  # SCRAM's proof is sent
    ANSWERED = auto()  # only AuthenticationOk is missing
    AUTHENTICATED = auto()
    READY = auto()


@dataclass(frozen=True, slots=True)
class DeriveKey:
    """Please derive PBKDF2-HMAC-SHA-256, 32 bytes, and give it to ``Startup.key_derived``."""

    password: bytes
    salt: bytes
    iterations: int


NOTHING_TO_SEND: Final = b""


class Startup:
    """From the first byte to the first ReadyForQuery.

    Send ``first_message()``; give every message to ``handle`` and do what it returns (bytes to
    send, perhaps none, or a key to derive) until ``complete``.
    """

    def __init__(self, options: ConnectOptions, *, nonce: str) -> None:
        """``nonce``: see ``ScramClient``."""
        self._options = options
        self._scram = ScramClient(nonce)
        self._phase = _Phase.AUTHENTICATION

    @property
    def complete(self) -> bool:
        """Whether the session is ready for its first query."""
        return self._phase is _Phase.READY

    def first_message(self) -> bytes:
        """The StartupMessage; raises ValueError if a parameter contains NUL."""
        return frontend.startup_message(self._options.startup_parameters())

    def handle(self, message: Message) -> bytes | DeriveKey:
        """Take one message and say what to do next.

        Raises PostgresError if the server refuses, ProtocolViolation if it breaks the order,
        ConnectionFailed if it wants what this client or its options do not have.
        """
        if isinstance(message, ASYNCHRONOUS):
            return NOTHING_TO_SEND
        if isinstance(message, ErrorResponse):
            raise PostgresError.from_fields(message.fields)
        match self._phase, message:
            case _Phase.AUTHENTICATION, AuthenticationCleartextPassword():
                return self._answer(self._password())
            case _Phase.AUTHENTICATION, AuthenticationMD5Password(salt):
                return self._answer(md5_password(self._options.user, self._password(), salt))
            case _Phase.AUTHENTICATION, AuthenticationSASL(mechanisms):
                return self._choose_mechanism(mechanisms)
            case _Phase.SASL_CHALLENGE, AuthenticationSASLContinue(data):
                return self._challenge(data)
            case _Phase.SASL_OUTCOME, AuthenticationSASLFinal(data):
                self._scram.verify(data)
                self._phase = _Phase.ANSWERED
            case ((_Phase.AUTHENTICATION | _Phase.ANSWERED), AuthenticationOk()):
                self._phase = _Phase.AUTHENTICATED
            case _Phase.AUTHENTICATED, BackendKeyData():
                pass  # only a CancelRequest would need it
            case _Phase.AUTHENTICATED, ReadyForQuery():
                self._phase = _Phase.READY
            case _, AuthenticationOther(code):
                raise ConnectionFailed(f"authentication method {code} is not supported")
            case _:
                raise ProtocolViolation(f"{type(message).__name__} out of order during start-up")
        return NOTHING_TO_SEND

    def key_derived(self, salted_password: bytes) -> bytes:
        """The bytes to send once the key that ``handle`` asked for is there."""
        return frontend.sasl_response(self._scram.final_message(salted_password))

    def _password(self) -> bytes:
        if not self._options.password:
            raise ConnectionFailed("the server asks for a password and none is given")
        return self._options.password.encode()

    def _answer(self, password: bytes) -> bytes:
        self._phase = _Phase.ANSWERED
        return frontend.password_message(password)

    def _choose_mechanism(self, offered: tuple[str, ...]) -> bytes:
        if scram.MECHANISM not in offered:
            raise ConnectionFailed(f"none of the SASL mechanisms {offered} is supported")
        self._phase = _Phase.SASL_CHALLENGE
        return frontend.sasl_initial_response(scram.MECHANISM, self._scram.first_message())

    def _challenge(self, data: bytes) -> DeriveKey:
        self._password()
        challenge = self._scram.challenge(data)
        self._phase = _Phase.SASL_OUTCOME
        return DeriveKey(
            password=scram.prepare_password(self._options.password),
            salt=challenge.salt,
            iterations=challenge.iterations,
        )


def md5_password(user: str, password: bytes, salt: bytes) -> bytes:
    """What PostgreSQL's docs, "Start-up", define for AuthenticationMD5Password."""
    inner = _md5_hex(password + user.encode())
    return b"md5" + _md5_hex(inner + salt)


def _md5_hex(data: bytes) -> bytes:
    # Not our choice: the server's method. Marked so that FIPS builds allow it.
    return hashlib.md5(data, usedforsecurity=False).hexdigest().encode()
