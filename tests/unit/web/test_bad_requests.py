"""Every request is answered, and none as a failure of ours."""

import json
import re
from typing import Any, Final
from urllib.parse import quote, quote_from_bytes

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketplace.skills.slugs import _parse_repository
from marketplace.web.limits import MAX_BODY_BYTES
from tests.unit.web.asgi import APP, JSON, OPERATOR, Answer, ask, ask_json

SUBMISSION: Final[dict[str, Any]] = {
    "repoUrl": "https://github.com/bad/input",
    "skillName": "Bad input",
}
VERDICT: Final[dict[str, Any]] = {"submissionId": "a", "verdict": "PASS", "score": 1}
SUBMISSIONS: Final = "/api/v1/submissions"
RESULTS: Final = "/api/v1/webhooks/scan-results"
REDRIVE: Final = "/api/v1/admin/dead-letters/redrive"

CONTROLS: Final = ["\0", "\b", "\r", "\x1b", "\x1f", "\x7f", "\x80", "\x85", "\x9f"]
HALVES: Final = ["\ud800", "\udbff", "\udc00", "\udfff"]
LINE_ENDS: Final = ["\t", "\n", "\u2028", "\u2029"]
TURNS: Final = ["\u202a", "\u202e", "\u2066", "\u2069"]

ROUTES: Final = sorted(
    [
        (method.upper(), path)
        for path, operations in APP.openapi()["paths"].items()
        for method in operations
    ]
    + [("GET", "/skills/{slug}"), ("GET", "/openapi.json")]
)
GETS: Final = [path for method, path in ROUTES if method == "GET"]
POSTS: Final = [path for method, path in ROUTES if method == "POST"]
FOREIGN_METHODS: Final = ["QUERY", "PROPFIND", "PURGE", "REPORT", "SEARCH", "OPTIONS", "TRACE"]


def filled(path: str, value: str = "some") -> str:
    return re.sub(r"\{\w+\}", value, path)


def takes(route: str, path: str) -> bool:
    """Whether an address is one of a route's; a word may stand for a parameter."""
    return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", route), path) is not None


def submit(**changes: object) -> Answer:
    return ask_json(SUBMISSIONS, SUBMISSION | changes)


def names(answer: Answer, field: str) -> bool:
    """Whether the answer tells the sender to change just this field, and nothing was logged."""
    return (answer.status, answer.fields(), list(answer.log)) == (422, [field], [])


# Texts


@pytest.mark.parametrize("character", CONTROLS + HALVES + TURNS + LINE_ENDS, ids=ascii)
@pytest.mark.parametrize(
    "field", ["repoUrl", "skillName", "displayName", "skillPath", "license", "version", "category"]
)
def test_a_field_of_one_line_has_no_control_characters(field: str, character: str) -> None:
    good = (SUBMISSION | {"version": "1.0.0", "category": "testing"}).get(field, "text")
    assert submit(**{field: good}).status == 202
    assert names(submit(**{field: f"{good[:-1]}{character}{good[-1]}"}), field)
    assert names(submit(**{field: f"{good}{character}"}), field)


@pytest.mark.parametrize("character", CONTROLS + HALVES + TURNS + LINE_ENDS, ids=ascii)
@pytest.mark.parametrize("field", ["labels", "extensionPoints"])
def test_an_element_of_a_list_has_no_control_characters(field: str, character: str) -> None:
    assert submit(**{field: ["good", "text"]}).status == 202
    assert names(submit(**{field: ["good", f"te{character}xt"]}), f"{field}[1]")


@pytest.mark.parametrize("character", CONTROLS + HALVES + TURNS, ids=ascii)
def test_a_text_for_people_has_no_control_characters(character: str) -> None:
    text = f"te{character}xt"
    assert names(submit(description=text), "description")
    answer = ask_json(RESULTS, {"results": [VERDICT | {"reason": text}]})
    assert names(answer, "results[0].reason")


def test_a_text_for_people_may_have_lines_and_tabs() -> None:
    text = "First.\n\n\tSecond: ünï, العربية, 🦊."
    assert submit(description=text).status == 202
    assert ask_json(RESULTS, {"results": [VERDICT | {"reason": text}]}).status == 202


@pytest.mark.parametrize("character", CONTROLS + HALVES, ids=ascii)
def test_no_other_text_of_a_verdict_or_a_redrive_has_control_characters(character: str) -> None:
    text = f"a{character}b"
    for field in (
        *(
            "submissionId",
            "verdict",
            "scannedAt",
            "certTier",
            "certMethod",
            "path",
            "commit",
            "ref",
        ),
        *("repositoryId", "ownerId", "contentDigest", "skillMdDigest"),
    ):
        answer = ask_json(RESULTS, {"results": [VERDICT | {field: text}]})
        assert names(answer, f"results[0].{field}")
    for field in ("name", "displayName", "description", "version", "license", "category"):
        facts = {"name": "Reader", field: text}
        answer = ask_json(RESULTS, {"results": [VERDICT | {"skill": facts}]})
        assert names(answer, f"results[0].skill.{field}")
    for field in ("labels", "extensionPoints"):
        lists: dict[str, object] = {"name": "Reader", field: ["good", text]}
        answer = ask_json(RESULTS, {"results": [VERDICT | {"skill": lists}]})
        assert names(answer, f"results[0].skill.{field}[1]")
    file = {"path": text, "size": 1, "sha256": "0" * 64}
    answer = ask_json(RESULTS, {"results": [VERDICT | {"files": [file]}]})
    assert names(answer, "results[0].files[0].path")
    assert names(ask_json(REDRIVE, {"ids": ["good", text]}), "ids[1]")
    assert names(ask_json(REDRIVE, {"all": True, "reason": text}), "reason")


@pytest.mark.parametrize("half", HALVES, ids=ascii)
@pytest.mark.parametrize("path", [SUBMISSIONS, RESULTS, REDRIVE])
def test_a_name_that_is_no_text_does_no_harm(path: str, half: str) -> None:
    bodies = {
        SUBMISSIONS: SUBMISSION | {half: half},
        RESULTS: {"results": [VERDICT | {half: half}], half: 1},
        REDRIVE: {"ids": [], half: half},
    }
    assert ask_json(path, bodies[path]).status < 500
    assert ask_json(path, half).status == 422


@pytest.mark.parametrize("character", CONTROLS, ids=ascii)
@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/api/v1/skills", ["category", "author", "search", "certTier", "sortBy", "limit"]),
        ("/api/v1/skills", ["cursor"]),
        ("/api/v1/skills/count", ["category", "author", "search"]),
        ("/api/v1/skills/search", ["q"]),
        ("/api/v1/admin/dead-letters", ["reason", "cursor"]),
    ],
)
def test_no_parameter_has_control_characters(
    path: str, parameters: list[str], character: str
) -> None:
    for parameter in parameters:
        answer = ask("GET", path, f"{parameter}=a{quote(character)}", headers=[OPERATOR])
        assert names(answer, parameter)


def test_words_to_search_for_may_be_pasted() -> None:
    pasted = quote("\u202acsv\tcleaner\u202c")
    assert ask("GET", "/api/v1/skills/search", f"q={pasted}").status == 200
    assert ask("GET", "/api/v1/skills", f"search={pasted}").status == 200


@pytest.mark.parametrize("character", CONTROLS, ids=ascii)
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/v1/skills/{}", "slug"),
        ("/api/v1/skills/{}/repo/skill", "owner"),
        ("/api/v1/skills/owner/{}/skill", "repo"),
        ("/api/v1/skills/owner/repo/{}", "skill"),
        ("/api/v1/submissions/{}", "submission_id"),
        ("/api/v1/admin/rebuild-index/{}", "job_id"),
    ],
)
def test_no_part_of_a_path_has_control_characters(path: str, field: str, character: str) -> None:
    answer = ask("GET", path.format(f"a{quote(character)}b"), headers=[OPERATOR])
    assert names(answer, field)


def test_the_page_of_no_skill_shows_nothing_that_garbles_it() -> None:
    asked = quote("a\0b\u202ec<i>")
    answer = ask("GET", f"/skills/{asked}")
    assert answer.status == 404
    assert "<code>a\ufffdb\ufffdc&lt;i&gt;</code>" in answer.body.decode()


# Numbers


def test_a_limit_that_a_client_made_of_nothing_is_the_default() -> None:
    answer = ask("GET", "/api/v1/skills/search", "q=csv&limit=NaN")
    assert answer.status == 200
    assert json.loads(answer.body)["limit"] == 24
    assert names(ask("GET", "/api/v1/skills", "limit=NaN"), "limit")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1", "9" * 5_000])
def test_a_number_that_is_none_is_named(number: str) -> None:
    for path, field in (
        ("/api/v1/skills", "limit"),
        ("/api/v1/skills", "offset"),
        ("/api/v1/admin/dead-letters", "limit"),
    ):
        assert names(ask("GET", path, f"{field}={number}", headers=[OPERATOR]), field)
    rebuild = ask("POST", "/api/v1/admin/rebuild-index", f"wait={number}", headers=[OPERATOR])
    assert names(rebuild, "wait")


# Methods


@pytest.mark.parametrize("path", sorted({path for _, path in ROUTES}))
def test_the_refusal_of_a_method_names_those_that_a_path_takes(path: str) -> None:
    taken = {method for method, route in ROUTES if takes(route, filled(path))}
    for method in {*FOREIGN_METHODS, "GET", "POST", "PUT", "PATCH", "DELETE"} - taken:
        answer = ask(method, filled(path), headers=[OPERATOR])
        assert answer.status == 405, method
        allowed = taken | ({"HEAD"} if "GET" in taken else set())
        assert answer.headers["allow"] == ", ".join(sorted(allowed))
        assert answer.headers["allow"] in answer.problem()["detail"]


@pytest.mark.parametrize("method", [*FOREIGN_METHODS, "HEAD"])
def test_no_method_finds_a_path_that_is_not_there(method: str) -> None:
    answer = ask(method, "/api/v1/no")
    assert answer.status == 404
    answer.problem()


@pytest.mark.parametrize("headers", [(), (OPERATOR,)], ids=["anybody", "operator"])
@pytest.mark.parametrize("path", [*GETS, "/api/v1/no", "/api/v1/skills?limit=x"])
def test_head_answers_as_get_does(path: str, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    path, _, query = filled(path).partition("?")
    got, head = (ask(method, path, query, headers=headers) for method in ("GET", "HEAD"))
    assert (head.status, head.headers) == (got.status, got.headers)
    assert head.status != 405


@pytest.mark.parametrize(
    "path", [path for path in POSTS if not any(takes(route, filled(path)) for route in GETS)]
)
def test_head_does_not_post(path: str) -> None:
    answer = ask("HEAD", path, headers=[OPERATOR])
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


# Bodies


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("chunks", [[], [b""], [b'{"repoUrl": "htt'], [b"{}"]])
def test_a_body_that_breaks_off_is_no_failure_of_ours(path: str, chunks: list[bytes]) -> None:
    answer = ask("POST", path, headers=[JSON, OPERATOR], body=chunks, breaks_off=True)
    assert answer.status == 400
    assert "broke off" in answer.problem()["detail"]
    assert answer.log == []


def test_a_body_that_breaks_off_changes_nothing() -> None:
    whole = json.dumps(SUBMISSION).encode()
    assert ask("POST", SUBMISSIONS, headers=[JSON], body=whole).status == 202
    assert ask("POST", SUBMISSIONS, headers=[JSON], body=whole, breaks_off=True).status == 400


def _hidden(opening: str, encoding: str) -> bytes:
    """Many brackets within what is one long string when it is read as bytes.

    U+0222 and U+2200 have the byte of a quotation mark.
    """
    text = '{"\u0222\u2200":' + opening * 10_000 + '"'
    return text.encode(encoding)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_brackets_cannot_hide_in_another_encoding(opening: str, encoding: str) -> None:
    answer = ask("POST", SUBMISSIONS, headers=[JSON], body=_hidden(opening, encoding))
    assert answer.status == 400
    assert "UTF-8" in answer.problem()["detail"]


@pytest.mark.parametrize(
    "body", [b'{"repoUrl": "\xff"}', b"\xed\xa0\x80", b"\xc0\x80", b"{\0}", b"\xfe\xff", b"\x80"]
)
def test_a_body_that_is_no_text_is_a_bad_request(body: bytes) -> None:
    answer = ask("POST", SUBMISSIONS, headers=[JSON], body=body)
    assert answer.status == 400
    assert "UTF-8" in answer.problem()["detail"]


@pytest.mark.parametrize("body", [b"{", b"nul", b"1" * 5_000, b'{"a":1}}', b"'a'"])
def test_a_body_that_is_no_json_is_a_bad_request(body: bytes) -> None:
    assert ask("POST", SUBMISSIONS, headers=[JSON], body=body).status == 400


@pytest.mark.parametrize("body", [b"null", b"[]", b"7", b'"text"', b"NaN", b"true", b""])
def test_json_of_another_shape_is_named(body: bytes) -> None:
    assert names(ask("POST", SUBMISSIONS, headers=[JSON], body=body), "body")


@pytest.mark.parametrize(
    "kind",
    [b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data", b"\xff", b""],
)
def test_the_refusal_of_another_type_of_body_names_the_one_to_send(kind: bytes) -> None:
    body = json.dumps(SUBMISSION).encode()
    answer = ask("POST", SUBMISSIONS, headers=[(b"content-type", kind)], body=body)
    assert names(answer, "body")
    assert "application/json" in answer.problem()["detail"]


@pytest.mark.parametrize("length", [b"9" * 5_000, b"-1", b"1e3", b"\xb2"])
def test_a_length_that_is_none_is_refused(length: bytes) -> None:
    answer = ask("POST", SUBMISSIONS, headers=[JSON, (b"content-length", length)], body=b"{}")
    assert answer.status == 413


def test_a_long_address_is_not_kept_in_memory() -> None:
    """The repositories that were parsed last are kept, a thousand of them."""
    before = _parse_repository.cache_info().currsize
    address = "https://github.com/acme/" + "t" * 200_000
    answer = ask(
        "POST", SUBMISSIONS, headers=[JSON], body=json.dumps({"repoUrl": address}).encode()
    )
    assert answer.status == 422
    assert "repoUrl" in answer.fields()
    assert ask("GET", f"/api/v1/skills/acme/{'t' * 15_000}/some").status == 404
    assert _parse_repository.cache_info().currsize == before


# Anything


SPECIAL: Final = [
    *CONTROLS, *HALVES, *LINE_ENDS, *TURNS, "", " ", ".", "..", "%", "\uff11", "\uffff",
    "\U0010ffff", "NaN", "Infinity", "1e400", "-1", "9" * 5_000, "a" * 504, "a" * 600, "é" * 300,
    "null", "true",
]  # fmt: skip
FIELDS: Final = [
    *SUBMISSION, *VERDICT, "displayName", "skillPath", "description", "category", "version",
    "license", "labels", "extensible", "extensionPoints", "results", "certTier", "certMethod",
    "reason", "scannedAt", "ids", "all",
]  # fmt: skip
PARAMETERS: Final = [
    "category", "certTier", "author", "search", "q", "extensible", "sortBy", "sortDir", "limit",
    "offset", "cursor", "reason", "dryRun", "wait",
]  # fmt: skip

texts = st.one_of(
    st.sampled_from(SPECIAL),
    st.sampled_from(SPECIAL).map("a{}b".format),
    st.text(st.characters(), max_size=8),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(FIELDS), texts), inner, max_size=4),
    ),
    max_leaves=8,
)
changes = st.dictionaries(st.sampled_from(FIELDS), values, max_size=2)
documents = st.one_of(
    values,
    changes.map(lambda changed: SUBMISSION | changed),
    changes.map(lambda changed: {"results": [VERDICT | changed]}),
    changes.map(lambda changed: {"ids": ["a"]} | changed),
)
bodies = st.one_of(
    documents.map(lambda document: json.dumps(document).encode()),
    documents.map(
        lambda document: json.dumps(document, ensure_ascii=False).encode(errors="surrogatepass")
    ),
    documents.map(lambda document: json.dumps(document).encode()[:-1]),
    documents.map(lambda document: json.dumps(document).encode("utf-16")),
    st.binary(max_size=40),
)
encoded = st.one_of(
    texts.map(lambda text: quote(text.encode(errors="surrogatepass"), safe="")),
    st.binary(max_size=6).map(lambda data: quote_from_bytes(data, safe="")),
    st.sampled_from(["%", "%zz", "%2e%2e", "%2F", "a%2Fb", "%c3"]),
)
queries = st.lists(
    st.tuples(st.one_of(st.sampled_from(PARAMETERS), encoded), encoded).map("=".join), max_size=4
).map("&".join)
other_headers = st.lists(
    st.tuples(
        st.sampled_from(
            [b"if-none-match", b"content-type", b"content-length", b"host", b"authorization",
             b"x-internal-key", b"accept", b"range", b"x-http-method-override"]
        ),
        st.binary(max_size=12),
    ),
    max_size=2,
)  # fmt: skip


@pytest.mark.parametrize("route", [*ROUTES, ("GET", "/{a}"), ("GET", "/api/v1/{a}/")], ids=" ".join)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(data=st.data())
def test_nothing_that_anybody_sends_is_our_failure(
    route: tuple[str, str], data: st.DataObject
) -> None:
    method, path = route
    answer = ask(
        data.draw(st.sampled_from([method, method, method, *FOREIGN_METHODS, "HEAD", "PUT"])),
        re.sub(r"\{\w+\}", lambda _: data.draw(encoded), path),
        data.draw(queries),
        headers=[
            *data.draw(st.sampled_from([[OPERATOR], [OPERATOR], []])),
            *data.draw(st.sampled_from([[JSON], [JSON], []])),
            *data.draw(other_headers),
        ],
        body=data.draw(bodies),
        breaks_off=data.draw(st.booleans()),
    )

    assert answer.status < 500
    expected = "limit-not-asked"  # there are no limits here
    assert not [x for x in answer.log if x["level"] != "info" and x["event"] != expected]
    msgspec.json.encode(answer.log)
    assert not any(re.search(r"[\x00-\x1f]", value) for value in answer.headers.values())
    if answer.status >= 400 and not path.startswith(("/skills/", "/clawhub/")):
        answer.problem()


def test_the_longest_body_that_is_read_is_answered() -> None:
    body = b"{" + b",".join(b'"%x":1' % number for number in range(20_000)) + b"}"
    assert len(body) < MAX_BODY_BYTES
    for path in POSTS:
        assert ask("POST", path, headers=[JSON, OPERATOR], body=body).status in (200, 202, 404, 422)
