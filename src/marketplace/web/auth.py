"""Who may: operators and scanners, by the internal key or by a SUPER_ADMIN bearer token.

Pure: header values and the clock come in, a principal or one of two refusals comes out.

Decisions:

* A secret shorter than MIN_SECRET_BYTES, or one that is plainly a placeholder, counts as unset;
  without a usable secret nothing is accepted. (RFC 7518 asks for 32 bytes of key with HS256; the
  internal key follows the same rule.)
* Every credential presented must be right: a client that sends a wrong one beside a right one is
  misconfigured or guessing.
* One refusal for everything wrong, so that neither an answer nor a log line tells which part was
  wrong. Only a token that is right in all respects but its role gets another one: Forbidden.
* Each credential is tried against all configured secrets: no early exit.
* The claim ``role`` (a string) or ``roles`` (a list of strings) has SUPER_ADMIN; case matters. Any
  other type makes the token a wrong one.
* A token that names an audience is refused when no audience is configured, as RFC 7519 section
  4.1.3 demands: it was made for somebody else.
* CLOCK_LEEWAY_SECONDS either way for ``exp``, ``nbf`` and ``iat``.
"""

import hashlib
import hmac
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

import jwt
import msgspec

from marketplace.ports.env import Settings

SUPER_ADMIN: Final = "SUPER_ADMIN"
MIN_SECRET_BYTES: Final = 32
CLOCK_LEEWAY_SECONDS: Final = 30
MAX_INTERNAL_KEY_LENGTH: Final = 512
MAX_AUTHORIZATION_LENGTH: Final = 4096  # a real token has a few hundred characters

_ALGORITHM: Final = "HS256"
_PLACEHOLDERS: Final = ("changeme", "placeholder", "replaceme", "yoursecret", "yourkey")
_BEARER: Final = re.compile(r"bearer +([\w-]+\.[\w-]+\.[\w-]+)", re.ASCII | re.IGNORECASE)


class CredentialKind(StrEnum):
    INTERNAL_KEY = "internal-key"
    TOKEN = "token"  # noqa: S105 - the kind of a credential, not one


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, for log lines. ``subject`` is the token's ``sub``, None for a key."""

    kind: CredentialKind
    subject: str | None = None


class Unauthenticated(Exception):
    """No credential, or a wrong one (401). Always says the same."""

    def __init__(self) -> None:
        super().__init__("a valid X-Internal-Key or a SUPER_ADMIN bearer token is required")


class Forbidden(Exception):
    """A right token of a lesser role (403)."""

    def __init__(self) -> None:
        super().__init__(f"the role {SUPER_ADMIN} is required")


def describe_unusable_secrets(settings: Settings) -> list[str]:
    """Why right credentials may be refused, for the log: never a part of a secret."""
    sentences = []
    for name, secrets in (
        ("INTERNAL_KEY", settings.internal_keys),
        ("JWT_SECRET", settings.jwt_secrets),
    ):
        problems = [(number, _problem_with(secret)) for number, secret in enumerate(secrets, 1)]
        sentences += [
            f"{name}: secret {number} of {len(secrets)} {problem} and counts as unset"
            for number, problem in problems
            if problem
        ]
        if all(problem for _, problem in problems):
            sentences.append(f"{name}: no usable secret, every such credential is refused")
    return sentences


def authenticate(
    settings: Settings, *, internal_key: str | None, authorization: str | None, now: datetime
) -> Principal:
    """Who is calling. Raises Unauthenticated or Forbidden; ``now`` is an aware datetime."""
    if internal_key is None and authorization is None:
        raise Unauthenticated
    key_is_wrong = internal_key is not None and not _is_internal_key(settings, internal_key)
    claims = None if authorization is None else _token_claims(settings, authorization, now)
    if key_is_wrong or (authorization is not None and claims is None):
        raise Unauthenticated
    if claims is None:
        return Principal(CredentialKind.INTERNAL_KEY)
    if SUPER_ADMIN not in (claims.role, *claims.roles):
        raise Forbidden
    return Principal(CredentialKind.TOKEN, claims.sub)


def _problem_with(secret: str) -> str | None:
    if len(secret.encode(errors="surrogatepass")) < MIN_SECRET_BYTES:
        return f"is shorter than {MIN_SECRET_BYTES} bytes"
    letters = re.sub(r"[^a-z]", "", secret.lower())
    if any(placeholder in letters for placeholder in _PLACEHOLDERS):
        return "is a placeholder"
    return None


def _usable(secrets: Sequence[str]) -> list[str]:
    return [secret for secret in secrets if _problem_with(secret) is None]


def _digest(text: str) -> bytes:
    # compare_digest would tell lengths, and takes no other characters than ASCII.
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _is_internal_key(settings: Settings, presented: str) -> bool:
    if len(presented) > MAX_INTERNAL_KEY_LENGTH:
        return False
    digest = _digest(presented)
    found = False
    for key in _usable(settings.internal_keys):
        found |= hmac.compare_digest(_digest(key), digest)  # `|=`, not `or`: no early exit
    return found


class _Claims(msgspec.Struct):
    exp: int | float
    nbf: int | float = 0
    iat: int | float = 0
    role: str = ""
    roles: list[str] = []
    sub: str | None = None


def _token_claims(settings: Settings, authorization: str, now: datetime) -> _Claims | None:
    """The claims of a token that is right in every respect but perhaps its role, else None."""
    if len(authorization) > MAX_AUTHORIZATION_LENGTH:  # before any parsing
        return None
    bearer = _BEARER.fullmatch(authorization)
    if bearer is None:
        return None
    claims = None
    for secret in _usable(settings.jwt_secrets):
        verified = _verify(settings, bearer[1], secret)
        claims = claims if verified is None else verified  # no early exit here either
    return claims if claims is not None and _is_current(claims, now) else None


def _verify(settings: Settings, token: str, secret: str) -> _Claims | None:
    try:
        decoded = jwt.decode_complete(
            token,
            secret,
            algorithms=[_ALGORITHM],
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            # PyJWT reads the system's clock, we are given ours.
            options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
        claims = msgspec.convert(decoded["payload"], _Claims)
    # The first also where a secret looks like a PEM or JSON key.
    except (jwt.PyJWTError, msgspec.ValidationError):
        return None
    kind = decoded["header"].get("typ", "JWT")
    return claims if isinstance(kind, str) and kind.upper() == "JWT" else None


def _is_current(claims: _Claims, now: datetime) -> bool:
    """``exp`` lies ahead, ``nbf`` and ``iat`` lie behind. PyJWT also reads NaN and Infinity: no
    moments."""
    moment = now.timestamp()
    return moment - CLOCK_LEEWAY_SECONDS < claims.exp < math.inf and all(
        -math.inf < begin <= moment + CLOCK_LEEWAY_SECONDS for begin in (claims.nbf, claims.iat)
    )
