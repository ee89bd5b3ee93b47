"""Who may: operators and scanners, by the internal key or by a SUPER_ADMIN bearer token.

Pure: header values and the clock come in, a principal or one of two refusals comes out.

Decisions:

* An internal key is configured as NAME:ROLE:SECRET, and a client sends the SECRET alone. A plain
  secret is an operator's. What has colons and is not of this form counts as unset, so that a
  misspelt role opens nothing.
* A secret shorter than MIN_SECRET_BYTES, or one that is plainly a placeholder, counts as unset;
  without a usable secret nothing is accepted. (RFC 7518 asks for 32 bytes of key with HS256; the
  internal key follows the same rule.)
* Every credential presented must be right: a client that sends a wrong one beside a right one is
  misconfigured or guessing. Of two right ones the lesser role counts.
* One refusal for everything wrong, so that neither an answer nor a log line tells which part was
  wrong. Only a right credential of a lesser role gets another one: Forbidden.
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
from datetime import datetime
from typing import Final, NamedTuple

import jwt
import msgspec

from marketplace.ports.env import Settings
from marketplace.ports.principal import Principal, Role

SUPER_ADMIN: Final = "SUPER_ADMIN"
MIN_SECRET_BYTES: Final = 32
CLOCK_LEEWAY_SECONDS: Final = 30
MAX_INTERNAL_KEY_LENGTH: Final = 512
MAX_AUTHORIZATION_LENGTH: Final = 4096  # a real token has a few hundred characters

_ALGORITHM: Final = "HS256"
_PLACEHOLDERS: Final = ("changeme", "placeholder", "replaceme", "yoursecret", "yourkey")
MAX_NAME_LENGTH: Final = 100
PLAIN_KEY_NAME: Final = "operator"
UNNAMED_TOKEN: Final = "token"  # noqa: S105 - a name, not a token
_KEY: Final = re.compile(rf"([\w.-]{{1,64}}):({'|'.join(Role)}):([^:]+)", re.ASCII)
_BEARER: Final = re.compile(r"bearer +([\w-]+\.[\w-]+\.[\w-]+)", re.ASCII | re.IGNORECASE)


class Unauthenticated(Exception):
    """No credential, or a wrong one (401). Always says the same."""

    def __init__(self) -> None:
        super().__init__("a valid X-Internal-Key or a SUPER_ADMIN bearer token is required")


class Forbidden(Exception):
    """A right credential of a lesser role (403)."""


class _Key(NamedTuple):
    """``secret`` is None where the configured text has not the form of a key."""

    name: str
    role: Role
    secret: str | None


def describe_unusable_secrets(settings: Settings) -> list[str]:
    """Why right credentials may be refused, for the log: never a part of a secret."""
    sentences = []
    for name, secrets in (
        ("INTERNAL_KEY", [_read_key(text).secret for text in settings.internal_keys]),
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
    of_key = None if internal_key is None else _owner_of_key(settings, internal_key)
    claims = None if authorization is None else _token_claims(settings, authorization, now)
    if (internal_key is not None and of_key is None) or (authorization is not None and not claims):
        raise Unauthenticated
    if claims and SUPER_ADMIN not in (claims.role, *claims.roles):
        raise Forbidden(f"the role {SUPER_ADMIN} is required")
    of_token = claims and Principal(_name(claims.sub), Role.OPERATOR)
    principals = [principal for principal in (of_token, of_key) if principal]
    return max(principals, key=lambda principal: principal.role is Role.SCANNER)


def _name(subject: str | None) -> str:
    """A subject that any store, log and terminal can hold."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in subject or "")
    return shown[:MAX_NAME_LENGTH] or UNNAMED_TOKEN


def _read_key(text: str) -> _Key:
    if ":" not in text:
        return _Key(PLAIN_KEY_NAME, Role.OPERATOR, text)
    parts = _KEY.fullmatch(text)
    if parts is None:
        return _Key("", Role.SCANNER, None)
    return _Key(parts[1], Role(parts[2]), parts[3])


def _problem_with(secret: str | None) -> str | None:
    if secret is None:
        return f"is not of the form NAME:ROLE:SECRET with one of the roles {', '.join(Role)}"
    if len(secret.encode(errors="surrogatepass")) < MIN_SECRET_BYTES:
        return f"is shorter than {MIN_SECRET_BYTES} bytes"
    letters = re.sub(r"[^a-z]", "", secret.lower())
    if any(placeholder in letters for placeholder in _PLACEHOLDERS):
        return "is a placeholder"
    return None


def _digest(text: str) -> bytes:
    # compare_digest would tell lengths, and takes no other characters than ASCII.
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _owner_of_key(settings: Settings, presented: str) -> Principal | None:
    """Whose key it is; of two that share a secret, the first counts."""
    if len(presented) > MAX_INTERNAL_KEY_LENGTH:
        return None
    digest = _digest(presented)
    found: Principal | None = None
    for key in map(_read_key, settings.internal_keys):
        if key.secret is None or _problem_with(key.secret):
            continue
        # Compared although one was found: no early exit.
        if hmac.compare_digest(_digest(key.secret), digest) and found is None:
            found = Principal(key.name, key.role)
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
    for secret in settings.jwt_secrets:
        if _problem_with(secret):
            continue
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
