"""Who may: every wrong credential is refused in the same words, every right one is let in."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

import jwt
import pytest

from marketplace.ports.env import Settings, split_secrets
from marketplace.ports.principal import Principal, Role
from marketplace.web import auth
from marketplace.web.auth import (
    Forbidden,
    Unauthenticated,
    authenticate,
    describe_unusable_secrets,
)

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
KEY = "the-new-internal-key-0123456789abcdef"
OLD_KEY = "the-old-internal-key-0123456789abcdef"
SECRET = "the-new-signing-secret-0123456789abcdef"
OLD_SECRET = "the-old-signing-secret-0123456789abcdef"
FOREIGN_SECRET = "a-secret-of-someone-else-0123456789abcdef"
ISSUER = "https://issuer.example"
AUDIENCE = "skill-marketplace"

SETTINGS = Settings(
    internal_keys=(KEY, OLD_KEY),
    jwt_secrets=(SECRET, OLD_SECRET),
    jwt_issuer=ISSUER,
    jwt_audience=AUDIENCE,
)
MISSING = object()


class Sent(TypedDict, total=False):
    """What a client sends: X-Internal-Key and Authorization."""

    key: str
    token: str


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a right token, changed; MISSING takes one away."""
    made = {
        "sub": "operator-7",
        "role": "SUPER_ADMIN",
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": int((NOW + timedelta(minutes=5)).timestamp()),
    } | changes
    return {name: value for name, value in made.items() if value is not MISSING}


def sign(
    payload: object,
    *,
    header: dict[str, Any] | None = None,
    secret: str = SECRET,
    hash_: str = "sha256",
) -> str:
    """A compact token made by hand, since the library refuses to make most of the wrong ones."""
    head = {"alg": "HS256", "typ": "JWT"} if header is None else header
    parts = [_encode(json.dumps(part).encode()) for part in (head, payload)]
    signature = hmac.digest(secret.encode(), ".".join(parts).encode(), hash_)
    return ".".join([*parts, _encode(signature)])


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def bearer(**changes: Any) -> str:
    return "Bearer " + sign(claims(**changes))


def at(**delta: float) -> int:
    return int((NOW + timedelta(**delta)).timestamp())


def attempt(
    *, key: str | None = None, token: str | None = None, settings: Settings = SETTINGS
) -> Principal:
    return authenticate(settings, internal_key=key, authorization=token, now=NOW)


RIGHT_TOKEN = bearer()
UNSIGNED = RIGHT_TOKEN.rsplit(".", 1)[0]

RIGHT: dict[str, Sent] = {
    "the key": {"key": KEY},
    "the key before the rotation": {"key": OLD_KEY},
    "a token": {"token": RIGHT_TOKEN},
    "a token of the library": {"token": f"Bearer {jwt.encode(claims(), SECRET, 'HS256')}"},
    "a token of the secret before the rotation": {
        "token": f"Bearer {sign(claims(), secret=OLD_SECRET)}"
    },
    "scheme in lower case": {"token": RIGHT_TOKEN.replace("Bearer", "bearer")},
    "no typ": {"token": "Bearer " + sign(claims(), header={"alg": "HS256"})},
    "typ in lower case": {
        "token": "Bearer " + sign(claims(), header={"alg": "HS256", "typ": "jwt"})
    },
    "role in a list": {"token": bearer(role=MISSING, roles=["VIEWER", "SUPER_ADMIN"])},
    "one of several audiences": {"token": bearer(aud=["elsewhere", AUDIENCE])},
    "expired within the leeway": {"token": bearer(exp=at(seconds=-29))},
    "valid from within the leeway": {"token": bearer(nbf=at(seconds=29), iat=at(seconds=29))},
    "fractional times": {"token": bearer(exp=at(minutes=5) + 0.5)},
    "key and token, both right": {"key": KEY, "token": RIGHT_TOKEN},
}

WRONG: dict[str, Sent] = {
    "nothing": {},
    # the internal key
    "empty key": {"key": ""},
    "wrong key": {"key": "x" * len(KEY)},
    "first half of the key": {"key": KEY[: len(KEY) // 2]},
    "key and more": {"key": KEY + "x"},
    "key in capitals": {"key": KEY.upper()},
    "key with a space": {"key": KEY + " "},
    "both keys as a list": {"key": f"{KEY},{OLD_KEY}"},
    "signing secret as key": {"key": SECRET},
    "key of Latin-1 characters": {"key": "\xff" * 40},
    "key beyond Latin-1": {"key": "é😀" * 20},
    "key with a lone surrogate": {"key": "\udcff" * 40},
    "key with a zero byte": {"key": KEY + "\0"},
    "huge key": {"key": KEY * 10_000},
    # the shape of Authorization
    "empty Authorization": {"token": ""},
    "scheme alone": {"token": "Bearer"},
    "scheme and space": {"token": "Bearer "},
    "token without scheme": {"token": RIGHT_TOKEN.removeprefix("Bearer ")},
    "Basic": {"token": "Basic " + base64.b64encode(f"admin:{KEY}".encode()).decode()},
    "key as bearer": {"token": f"Bearer {KEY}"},
    "key as the whole header": {"token": KEY},
    "two tokens": {"token": f"{RIGHT_TOKEN}, {RIGHT_TOKEN}"},
    "two segments": {"token": UNSIGNED},
    "four segments": {"token": RIGHT_TOKEN + ".e30"},
    "empty signature": {"token": UNSIGNED + "."},
    "padded segments": {"token": RIGHT_TOKEN + "="},
    "line break": {"token": RIGHT_TOKEN + "\n"},
    "non-ASCII token": {"token": "Bearer é.é.é"},
    "lone surrogates": {"token": "Bearer \udcff.\udcff.\udcff"},
    "no base64": {"token": "Bearer a.a.a"},
    "huge token": {"token": bearer(padding="x" * 5_000)},
    "megabytes": {"token": "Bearer " + "a" * 3_000_000 + ".e30.e30"},
    # algorithm and signature
    "alg none": {"token": "Bearer " + jwt.encode(claims(), None, algorithm="none") + "e30"},
    "alg none without signature": {
        "token": "Bearer " + jwt.encode(claims(), None, algorithm="none")
    },
    "alg none but signed": {
        "token": "Bearer " + sign(claims(), header={"alg": "none", "typ": "JWT"})
    },
    "alg None in odd case": {"token": "Bearer " + sign(claims(), header={"alg": "nOnE"})},
    "no alg": {"token": "Bearer " + sign(claims(), header={"typ": "JWT"})},
    "alg a list": {"token": "Bearer " + sign(claims(), header={"alg": ["HS256"]})},
    "HS512 with the right secret": {
        "token": "Bearer " + sign(claims(), header={"alg": "HS512"}, hash_="sha512")
    },
    "RS256 named, HMAC made": {"token": "Bearer " + sign(claims(), header={"alg": "RS256"})},
    "another secret": {"token": "Bearer " + sign(claims(), secret=FOREIGN_SECRET)},
    "internal key as secret": {"token": "Bearer " + sign(claims(), secret=KEY)},
    "empty secret": {"token": "Bearer " + sign(claims(), secret="")},
    "signature of another token": {"token": UNSIGNED + "." + bearer(sub="other").rsplit(".", 1)[1]},
    "payload swapped": {
        "token": ".".join(
            [
                bearer(role="VIEWER").split(".")[0],
                RIGHT_TOKEN.split(".")[1],
                bearer(role="VIEWER").split(".")[2],
            ]
        )
    },
    # the header
    "another typ": {"token": "Bearer " + sign(claims(), header={"alg": "HS256", "typ": "at+jwt"})},
    "typ a number": {"token": "Bearer " + sign(claims(), header={"alg": "HS256", "typ": 1})},
    "kid a number": {"token": "Bearer " + sign(claims(), header={"alg": "HS256", "kid": 1})},
    "unknown critical extension": {
        "token": "Bearer " + sign(claims(), header={"alg": "HS256", "crit": ["x"], "x": 1})
    },
    "header no object": {
        "token": f"Bearer {_encode(b'[]')}.{_encode(json.dumps(claims()).encode())}.{'A' * 43}"
    },
    # times
    "no exp": {"token": bearer(exp=MISSING)},
    "exp null": {"token": bearer(exp=None)},
    "exp text": {"token": bearer(exp=str(at(minutes=5)))},
    "exp true": {"token": bearer(exp=True)},
    "exp infinite": {"token": bearer(exp=float("inf"))},
    "exp no number": {"token": bearer(exp=float("nan"))},
    "expired": {"token": bearer(exp=at(hours=-1))},
    "expired beyond the leeway": {"token": bearer(exp=at(seconds=-30))},
    "not valid yet": {"token": bearer(nbf=at(hours=1))},
    "nbf text": {"token": bearer(nbf="now")},
    "nbf true": {"token": bearer(nbf=True)},
    "issued in the future": {"token": bearer(iat=at(hours=1))},
    # issuer, audience, subject
    "no issuer": {"token": bearer(iss=MISSING)},
    "another issuer": {"token": bearer(iss="https://elsewhere.example")},
    "issuer a list": {"token": bearer(iss=[ISSUER])},
    "no audience": {"token": bearer(aud=MISSING)},
    "another audience": {"token": bearer(aud="elsewhere")},
    "audiences not text": {"token": bearer(aud=[AUDIENCE, 1])},
    "subject a number": {"token": bearer(sub=7)},
    # roles of wrong types
    "role a list": {"token": bearer(role=["SUPER_ADMIN"])},
    "role an object": {"token": bearer(role={"SUPER_ADMIN": True})},
    "role null": {"token": bearer(role=None)},
    "roles text": {"token": bearer(roles="SUPER_ADMIN")},
    "roles not text": {"token": bearer(roles=["SUPER_ADMIN", 1])},
    "claims no object": {"token": "Bearer " + sign([claims()])},
    # one right, one wrong
    "wrong key, right token": {"key": "x" * 40, "token": RIGHT_TOKEN},
    "empty key, right token": {"key": "", "token": RIGHT_TOKEN},
    "right key, wrong token": {"key": KEY, "token": bearer(exp=at(hours=-1))},
    "right key, other scheme": {"key": KEY, "token": "Basic YTpi"},
    "wrong key, token of lesser role": {"key": "x" * 40, "token": bearer(role="VIEWER")},
}

LESSER: dict[str, Sent] = {
    "another role": {"token": bearer(role="ADMIN")},
    "other roles": {"token": bearer(role=MISSING, roles=["ADMIN", "VIEWER"])},
    "no role": {"token": bearer(role=MISSING)},
    "empty role": {"token": bearer(role="")},
    "role in lower case": {"token": bearer(role="super_admin")},
    "role with a space": {"token": bearer(role="SUPER_ADMIN ")},
    "two roles in one text": {"token": bearer(role="VIEWER SUPER_ADMIN")},
    "right key and token of lesser role": {"key": KEY, "token": bearer(role="ADMIN")},
}


@pytest.mark.parametrize("credentials", RIGHT.values(), ids=RIGHT.keys())
def test_right_credentials_are_let_in(credentials: Sent) -> None:
    principal = attempt(**credentials)
    name = "operator-7" if "token" in credentials else "operator"
    assert principal == Principal(name, Role.OPERATOR)


SCANNER_KEY = "the-key-of-a-scanner-0123456789abcdef"
NAMED = (f"scan-1:scanner:{SCANNER_KEY}", f"ann.b_c-2:operator:{KEY}", OLD_KEY)
NAMED_SETTINGS = Settings(internal_keys=NAMED, jwt_secrets=(SECRET,))


@pytest.mark.parametrize(
    ("key", "principal"),
    [
        (SCANNER_KEY, Principal("scan-1", Role.SCANNER)),
        (KEY, Principal("ann.b_c-2", Role.OPERATOR)),
        (OLD_KEY, Principal("operator", Role.OPERATOR)),
    ],
)
def test_a_key_has_the_name_and_the_role_that_it_was_given(key: str, principal: Principal) -> None:
    assert attempt(key=key, settings=NAMED_SETTINGS) == principal


@pytest.mark.parametrize("key", [*NAMED[:2], f"scanner:{SCANNER_KEY}", f"operator:{KEY}"])
def test_a_client_sends_the_secret_of_a_named_key_alone(key: str) -> None:
    with pytest.raises(Unauthenticated):
        attempt(key=key, settings=NAMED_SETTINGS)


MALFORMED = [
    f"ann:admin:{KEY}",
    f"ann:Operator:{KEY}",
    f"ann:operator {KEY}",
    f":operator:{KEY}",
    f"ann:{KEY}",
    f"operator:{KEY}",
    f":{KEY}",
    f"ann:operator:{KEY}:{KEY}",
    f"ann/b:operator:{KEY}",
    f"änn:operator:{KEY}",
    f"{'a' * 65}:operator:{KEY}",
    "ann:operator:",
]


@pytest.mark.parametrize("text", MALFORMED)
def test_a_key_of_another_form_opens_nothing(text: str) -> None:
    settings = Settings(internal_keys=(text,), jwt_secrets=(SECRET,))
    for key in (text, KEY, text.partition(":")[2], ""):
        with pytest.raises(Unauthenticated):
            attempt(key=key, settings=settings)
    described = describe_unusable_secrets(settings)
    assert described == [
        (
            "INTERNAL_KEY: secret 1 of 1 is not of the form NAME:ROLE:SECRET with one of the roles "
            "operator, scanner and counts as unset"
        ),
        "INTERNAL_KEY: no usable secret, every such credential is refused",
    ]


def test_a_short_secret_of_a_named_key_counts_as_unset() -> None:
    settings = Settings(internal_keys=(f"scan-1:scanner:{SHORT}", KEY), jwt_secrets=(SECRET,))
    with pytest.raises(Unauthenticated):
        attempt(key=SHORT, settings=settings)
    assert describe_unusable_secrets(settings) == [
        "INTERNAL_KEY: secret 1 of 2 is shorter than 32 bytes and counts as unset"
    ]


def test_of_two_keys_with_one_secret_the_first_counts() -> None:
    keys = (f"scan-1:scanner:{KEY}", f"ann:operator:{KEY}")
    assert attempt(key=KEY, settings=Settings(internal_keys=keys)).role is Role.SCANNER
    assert attempt(key=KEY, settings=Settings(internal_keys=keys[::-1])).role is Role.OPERATOR


def test_of_a_key_and_a_token_the_lesser_role_counts() -> None:
    token = bearer(aud=MISSING)
    assert attempt(key=SCANNER_KEY, token=token, settings=NAMED_SETTINGS).role is Role.SCANNER
    assert attempt(key=KEY, token=token, settings=NAMED_SETTINGS) == Principal(
        "operator-7", Role.OPERATOR
    )


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (MISSING, "token"),
        ("", "token"),
        ("änn@example.org", "änn@example.org"),
        ("a\0b\ud800c\x1b[31m\u202e", "a\ufffdb\ufffdc\ufffd[31m\ufffd"),
        ("x" * 500, "x" * 100),
    ],
)
def test_the_subject_of_a_token_is_its_name(subject: Any, name: str) -> None:
    assert attempt(token=bearer(sub=subject)).name == name


@pytest.mark.parametrize("credentials", WRONG.values(), ids=WRONG.keys())
def test_wrong_credentials_are_refused_in_the_same_words(credentials: Sent) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        attempt(**credentials)
    assert str(refusal.value) == str(Unauthenticated())
    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None  # nothing that a log line could tell the part by


@pytest.mark.parametrize("credentials", LESSER.values(), ids=LESSER.keys())
def test_a_right_token_of_a_lesser_role_is_forbidden(credentials: Sent) -> None:
    with pytest.raises(Forbidden):
        attempt(**credentials)


SHORT = "s" * (auth.MIN_SECRET_BYTES - 1)
UNUSABLE = [
    "",
    " ",
    SHORT,
    "change-me-" * 5,
    "CHANGE_ME_CHANGE_ME_CHANGE_ME_CHANGE_ME",
    "placeholder" * 4,
]


@pytest.mark.parametrize("secrets", [(), *((secret,) for secret in UNUSABLE)], ids=repr)
def test_an_unset_or_unusable_secret_locks_the_door(secrets: tuple[str, ...]) -> None:
    settings = Settings(internal_keys=secrets, jwt_secrets=secrets)
    for secret in (*secrets, ""):
        payload = claims(iss=MISSING, aud=MISSING)
        with pytest.raises(Unauthenticated):
            attempt(key=secret, settings=settings)
        with pytest.raises(Unauthenticated):
            attempt(token="Bearer " + sign(payload, secret=secret), settings=settings)


def test_a_secret_of_the_shortest_length_opens() -> None:
    secret = "s" * auth.MIN_SECRET_BYTES
    settings = Settings(internal_keys=(secret,), jwt_secrets=(secret,))
    attempt(key=secret, settings=settings)
    attempt(
        token="Bearer " + sign(claims(iss=MISSING, aud=MISSING), secret=secret), settings=settings
    )


def test_a_secret_that_looks_like_another_kind_of_key_locks_and_does_not_crash() -> None:
    pem = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYI\n-----END PUBLIC KEY-----"
    settings = Settings(jwt_secrets=(pem,))
    with pytest.raises(Unauthenticated):
        attempt(
            token="Bearer " + sign(claims(iss=MISSING, aud=MISSING), secret=pem), settings=settings
        )


def test_a_token_for_an_audience_is_refused_where_none_is_configured() -> None:
    settings = Settings(jwt_secrets=(SECRET,))
    attempt(token=bearer(aud=MISSING), settings=settings)
    with pytest.raises(Unauthenticated):
        attempt(token=bearer(), settings=settings)


def test_an_empty_issuer_or_audience_in_the_settings_checks_and_does_not_open() -> None:
    for settings in (
        Settings(jwt_secrets=(SECRET,), jwt_issuer="", jwt_audience=AUDIENCE),
        Settings(jwt_secrets=(SECRET,), jwt_issuer=ISSUER, jwt_audience=""),
    ):
        with pytest.raises(Unauthenticated):
            attempt(token=bearer(), settings=settings)


def test_the_clock_is_the_one_that_is_given() -> None:
    later = NOW + timedelta(days=1)
    with pytest.raises(Unauthenticated):
        authenticate(SETTINGS, internal_key=None, authorization=RIGHT_TOKEN, now=later)


def count_calls(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    original = getattr(owner, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counting)
    return calls


@pytest.mark.parametrize("settings", [SETTINGS, Settings(internal_keys=NAMED[1:])])
@pytest.mark.parametrize("key", [KEY, OLD_KEY, "x" * 40, "", "é"])
def test_keys_are_compared_with_all_of_them_in_constant_time(
    key: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch, hmac, "compare_digest")
    try:
        attempt(key=key, settings=settings)
    except Unauthenticated:
        assert key not in {KEY, OLD_KEY}
    assert len(calls) == 2
    lengths = {len(side) for args, _ in calls for side in args}
    assert lengths == {hashlib.sha256().digest_size}  # unequal lengths would return early


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET, FOREIGN_SECRET])
def test_tokens_are_tried_with_all_secrets(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, jwt, "decode_complete")
    try:
        attempt(token="Bearer " + sign(claims(), secret=secret))
    except Unauthenticated:
        assert secret == FOREIGN_SECRET
    assert [args[1] for args, _ in calls] == [SECRET, OLD_SECRET]


def test_a_wrong_key_does_not_spare_the_token_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, jwt, "decode_complete")
    with pytest.raises(Unauthenticated):
        attempt(key="x" * 40, token=RIGHT_TOKEN)
    assert len(calls) == 2


def test_huge_headers_are_refused_before_any_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = count_calls(monkeypatch, jwt, "decode_complete")
    hashed = count_calls(monkeypatch, auth, "_digest")
    with pytest.raises(Unauthenticated):
        attempt(key=KEY * 10_000, token=bearer(padding="x" * 5_000))
    assert (parsed, hashed) == ([], [])


def test_a_token_just_below_the_cap_is_read() -> None:
    token = bearer(padding="x" * 2_600)
    assert 3_500 < len(token) <= auth.MAX_AUTHORIZATION_LENGTH
    attempt(token=token)


def test_secrets_come_as_a_list() -> None:
    assert split_secrets("") == ()
    assert split_secrets(" ,\n, ") == ()
    assert split_secrets("one") == ("one",)
    assert split_secrets(" new,old\n\tolder ,") == ("new", "old", "older")


def test_unusable_secrets_are_described_without_telling_them() -> None:
    settings = Settings(internal_keys=(KEY, SHORT), jwt_secrets=("change-me-" * 5,))
    assert describe_unusable_secrets(settings) == [
        "INTERNAL_KEY: secret 2 of 2 is shorter than 32 bytes and counts as unset",
        "JWT_SECRET: secret 1 of 1 is a placeholder and counts as unset",
        "JWT_SECRET: no usable secret, every such credential is refused",
    ]
    assert describe_unusable_secrets(SETTINGS) == []
