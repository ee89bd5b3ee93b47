"""Credentials that open nothing, as header lists; made by hand, since libraries refuse to."""

import base64
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.worker.marketplace import INTERNAL_KEY, JWT_SECRET, SCANNER_KEY

Headers = Sequence[tuple[str, str]]
KEY: Final = "X-Internal-Key"
BEARER: Final = "Authorization"
MISSING: Final = object()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(
    *,
    head: Mapping[str, Any] | None = None,
    secret: str = JWT_SECRET,
    digest: str = "sha256",
    signed: bool = True,
    **changes: Any,
) -> str:
    """A bearer header with the claims of a right token, changed; MISSING takes a claim away."""
    now = int(time.time())
    claims = {"sub": "operator", "role": "SUPER_ADMIN", "exp": now + 600} | changes
    kept = {name: value for name, value in claims.items() if value is not MISSING}
    header = {"alg": "HS256", "typ": "JWT"} if head is None else head
    text = ".".join(_encoded(json.dumps(part).encode()) for part in (header, kept))
    signature = hmac.digest(secret.encode(), text.encode(), digest) if signed else b""
    return f"Bearer {text}.{_encoded(signature)}"


def right() -> dict[str, Headers]:
    """What lets an operator in."""
    return {
        "the key": [(KEY, INTERNAL_KEY)],
        "a token": [(BEARER, token())],
        "a token with the role in a list": [(BEARER, token(role=MISSING, roles=["SUPER_ADMIN"]))],
        "both": [(KEY, INTERNAL_KEY), (BEARER, token())],
    }


def scanners() -> dict[str, Headers]:
    """What lets a scanner in, and opens nothing else."""
    return {
        "a scanner's key": [(KEY, SCANNER_KEY)],
        "a scanner's key beside a token": [(KEY, SCANNER_KEY), (BEARER, token())],
    }


def wrong() -> dict[str, Headers]:
    """What must be answered with 401, all alike."""
    now = int(time.time())
    right_token = token()
    basic = base64.b64encode(f"operator:{INTERNAL_KEY}".encode()).decode()
    keys = {
        "an empty key": "",
        "a wrong key": "x" * len(INTERNAL_KEY),
        "a prefix of the key": INTERNAL_KEY[:-1],
        "the key and more": INTERNAL_KEY + "x",
        "the key in capitals": INTERNAL_KEY.upper(),
        "the key with a space inside": INTERNAL_KEY[:8] + " " + INTERNAL_KEY[8:],
        "the key in quotes": f'"{INTERNAL_KEY}"',
        "the key twice in a list": f"{INTERNAL_KEY},{INTERNAL_KEY}",
        "a scanner's key with its name and role": f"scan-1:scanner:{SCANNER_KEY}",
        "the key with the name of a plain one": f"operator:operator:{INTERNAL_KEY}",
        "the signing secret as key": JWT_SECRET,
        "a key of Latin-1": "\xff\xfe" * 20,
        "a key of UTF-8": "clé-🦊" * 8,
        "a key of 8 KB": "k" * 8_000,
    }
    tokens = {
        "an empty Authorization": "",
        "the scheme alone": "Bearer",
        "garbage": "Bearer garbage",
        "dots": "Bearer ..",
        "no base64": "Bearer !.!.!",
        "the key as token": f"Bearer {INTERNAL_KEY}",
        "a token without its scheme": right_token.removeprefix("Bearer "),
        "Basic with the key": f"Basic {basic}",
        "alg none": token(head={"alg": "none", "typ": "JWT"}, signed=False),
        "alg none in odd case": token(head={"alg": "nOnE"}, signed=False),
        "alg none but signed": token(head={"alg": "none"}),
        "no alg": token(head={"typ": "JWT"}),
        "HS512": token(head={"alg": "HS512", "typ": "JWT"}, digest="sha512"),
        "RS256 named": token(head={"alg": "RS256", "typ": "JWT"}),
        "no signature": token(signed=False),
        "a cut signature": right_token[:-4],
        "another secret": token(secret="s" * 40),
        "the key as secret": token(secret=INTERNAL_KEY),
        "an empty secret": token(secret=""),
        "expired": token(exp=now - 3_600),
        "no exp": token(exp=MISSING),
        "exp as text": token(exp=str(now + 600)),
        "not valid yet": token(nbf=now + 3_600),
        "issued in the future": token(iat=now + 3_600),
        "for another audience": token(aud="elsewhere"),
        "the role in a list under role": token(role=["SUPER_ADMIN"]),
        "roles as text": token(role=MISSING, roles="SUPER_ADMIN"),
        "a role of an odd type": token(role={"SUPER_ADMIN": True}),
        "of 8 KB": token(padding="x" * 6_000),
        "of 100 KB": token(padding="x" * 75_000),
        "of UTF-8": "Bearer é🦊.é.é",
    }
    several: dict[str, Headers] = {
        "nothing": [],
        "the key under another name": [("X-Internal-Token", INTERNAL_KEY)],
        "the key as cookie": [("Cookie", f"X-Internal-Key={INTERNAL_KEY}")],
        "a wrong key beside a right token": [(KEY, "x" * 40), (BEARER, right_token)],
        "an empty key beside a right token": [(KEY, ""), (BEARER, right_token)],
        "the key beside a wrong token": [(KEY, INTERNAL_KEY), (BEARER, token(secret="s" * 40))],
        "the key beside Basic": [(KEY, INTERNAL_KEY), (BEARER, f"Basic {basic}")],
        "the key twice": [(KEY, INTERNAL_KEY), (KEY, INTERNAL_KEY)],
        "the key and a wrong one": [(KEY, INTERNAL_KEY), (KEY, "x" * 40)],
        "a wrong key and the key": [(KEY, "x" * 40), (KEY, INTERNAL_KEY)],
        "a token twice": [(BEARER, right_token), (BEARER, right_token)],
        "a wrong key beside a lesser role": [(KEY, "x" * 40), (BEARER, token(role="VIEWER"))],
    }
    return (
        {name: [(KEY, value)] for name, value in keys.items()}
        | {f"token: {name}": [(BEARER, value)] for name, value in tokens.items()}
        | several
    )


def lesser() -> dict[str, Headers]:
    """Right tokens of a lesser role, which are answered with 403."""
    return {
        "another role": [(BEARER, token(role="ADMIN"))],
        "no role": [(BEARER, token(role=MISSING))],
        "an empty role": [(BEARER, token(role=""))],
        "the role in lower case": [(BEARER, token(role="super_admin"))],
        "other roles": [(BEARER, token(role=MISSING, roles=["ADMIN", "VIEWER"]))],
        "the key beside a lesser role": [(KEY, INTERNAL_KEY), (BEARER, token(role="ADMIN"))],
    }
