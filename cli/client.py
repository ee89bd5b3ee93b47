"""The marketplace's HTTP interface: every call ends in time, is retried, and explains its errors.

Almost every call may be repeated safely, since the interface is idempotent: a second submission of
the same skill is answered as a duplicate, a second redrive as already done, a second rebuild
follows the first, a report that is resolved keeps its first resolution, and a rule is made or
lifted once. So a call whose failure
may pass is tried ATTEMPTS times. An act on a skill is another act each time: it is tried again only
where it cannot have arrived.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote

import httpx

from cli.access import Access
from cli.errors import AccessRefused, CliError, FeedRestarted, NoAnswer, RequestRefused

ATTEMPTS: Final = 3
FIRST_DELAY_SECONDS: Final = 0.5  # doubled with every attempt
LONGEST_DELAY_SECONDS: Final = 10.0  # however long Retry-After asks for
CONNECT_TIMEOUT_SECONDS: Final = 5.0
READ_TIMEOUT_SECONDS: Final = 30.0
UPLOAD_TIMEOUT_SECONDS: Final = 120.0
BATCH_SIZE: Final = 100  # dead letters, ids or verdicts in one call

T = TypeVar("T")

_PASSING_STATUSES: Final = frozenset({429, 502, 503, 504})
_NOT_TAKEN_STATUSES: Final = frozenset({429})


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the client takes from the machine; tests hand in their own."""

    transport: httpx.BaseTransport | None = None
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = _now


class MarketplaceClient:
    """One marketplace. Methods raise CliError and return decoded JSON objects as they came."""

    def __init__(self, access: Access, surroundings: Surroundings) -> None:
        self._access = access
        self.surroundings = surroundings
        self._http = httpx.Client(
            base_url=access.url,
            transport=surroundings.transport,
            headers={"Accept": "application/json", "User-Agent": "skill-marketplace-cli"},
            timeout=httpx.Timeout(READ_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS),
            # The credential goes to the host that was named, and nowhere else: no redirect is
            # followed, and plain http does not pass through a proxy.
            follow_redirects=False,
            trust_env=access.url.scheme == "https",
        )

    def close(self) -> None:
        self._http.close()

    def require_credential(self) -> None:
        """Raises UsageProblem when there is none."""
        self._access.credential_headers()

    def health(self) -> dict[str, Any]:
        """The health of all sources."""
        return self._call("GET", "/api/v1/admin/health/skills")

    def start_rebuild(self, *, dry_run: bool, wait_seconds: int, adopt: bool) -> dict[str, Any]:
        """Start a rebuild and give it ``wait_seconds`` to finish; a report, complete or not."""
        return self._call(
            "POST",
            "/api/v1/admin/rebuild-index",
            params={
                "dryRun": str(dry_run).lower(),
                "wait": str(wait_seconds),
                **({"adopt": "true"} if adopt else {}),
            },
            patience=wait_seconds,
        )

    def rebuild_job(self, job_id: str) -> dict[str, Any]:
        """The report of a rebuild, as far as it is."""
        return self._call("GET", f"/api/v1/admin/rebuild-index/{quote(job_id, safe='')}")

    def dead_letters(
        self, *, reason: str | None, cursor: str | None, limit: int
    ) -> tuple[list[Any], str | None]:
        """Up to ``limit`` letters, in as many calls as it takes, and the cursor of the next."""
        return self._listed("dead-letters", "deadLetters", {"reason": reason}, cursor, limit)

    def audit(
        self, wanted: Mapping[str, str | None], *, cursor: str | None, limit: int
    ) -> tuple[list[Any], str | None]:
        """Up to ``limit`` entries of the audit, the newest first, and the cursor of the next."""
        return self._listed("audit", "entries", wanted, cursor, limit)

    def reports(self, *, cursor: str | None, limit: int) -> tuple[list[Any], str | None]:
        """Up to ``limit`` reports, the open ones first, and the cursor of the next."""
        return self._listed("reports", "reports", {}, cursor, limit)

    def resolve_report(self, report_id: str, reason: str) -> dict[str, Any]:
        """Close a report; the report afterwards."""
        path = f"/api/v1/admin/reports/{quote(report_id, safe='')}/resolve"
        return self._call("POST", path, body={"reason": reason})

    def skill(self, slug: str) -> dict[str, Any]:
        """All that is known of a skill, listed or not."""
        return self._call("GET", _skill_path(slug))

    def act(self, slug: str, act: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Do something to a skill; what was recorded, and where. Not repeated after a failure that
        may have come behind the act."""
        return self._call("POST", f"{_skill_path(slug)}/{act}", body=body, repeatable=False)

    def rules(self, *, cursor: str | None, limit: int) -> tuple[list[Any], str | None]:
        """Up to ``limit`` rules, the newest first, and the cursor of the next."""
        return self._listed("rules", "rules", {}, cursor, limit)

    def add_rule(self, rule: Mapping[str, Any]) -> dict[str, Any]:
        """Make a rule; what became of it."""
        return self._call("POST", "/api/v1/admin/rules", body=rule)

    def lift_rule(self, rule_id: str, reason: str) -> dict[str, Any]:
        """Lift a rule; what became of it."""
        path = f"/api/v1/admin/rules/{quote(rule_id, safe='')}/lift"
        return self._call("POST", path, body={"reason": reason})

    def redrive(self, ids: Sequence[str]) -> dict[str, Any]:
        """Redrive these letters, in as many calls as it takes."""
        results: list[Any] = []
        remaining: object = None
        for start in range(0, len(ids), BATCH_SIZE):
            answer = self._redrive({"ids": list(ids[start : start + BATCH_SIZE])})
            results += _list_in(answer, "results")
            remaining = answer.get("remaining")
        return {"results": results, "remaining": remaining}

    def redrive_all(self, *, reason: str | None) -> dict[str, Any]:
        """Redrive all letters (of one reason), call after call as long as there is progress.

        Letters that fail remain, and a letter that is redriven may soon be back. So it ends when
        nothing remains, or when a call redrives only letters that an earlier call has redriven.
        """
        body: dict[str, Any] = {"all": True} | ({} if reason is None else {"reason": reason})
        results: dict[object, Any] = {}  # by id: a letter that fails twice is one letter
        redriven: set[object] = set()
        while True:
            answer = self._redrive(body)
            batch = _list_in(answer, "results")
            results |= {_field(result, "id"): result for result in batch}
            before = len(redriven)
            redriven |= {
                _field(result, "id") for result in batch if _field(result, "outcome") == "redriven"
            }
            if not answer.get("remaining") or len(redriven) == before:
                return {"results": list(results.values()), "remaining": answer.get("remaining")}

    def submit(self, submission: Mapping[str, Any], *, as_operator: bool) -> dict[str, Any]:
        """Ask for a skill to be listed. Public; the credential, which otherwise stays at home, only
        lifts the limit on submissions."""
        return self._call("POST", "/api/v1/submissions", body=submission, authenticated=as_operator)

    def report_verdicts(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Report scan verdicts as a scanner does, up to BATCH_SIZE."""
        return self._call("POST", "/api/v1/webhooks/scan-results", body={"results": list(results)})

    def scan_requests(self, limit: int) -> list[Any]:
        """Take up to ``limit`` requests for scans; they are the caller's for 15 minutes."""
        answer = self._call("POST", "/api/v1/webhooks/scan-requests", params={"limit": str(limit)})
        return _list_in(answer, "requests")

    def upload(self, digest: str, content: bytes, media_type: str) -> None:
        """Hand over a SKILL.md or an archive by its SHA-256. What is there already may come
        again."""
        request = self._http.build_request(
            "PUT",
            f"/api/v1/webhooks/content/{digest}",
            content=content,
            headers={**self._access.credential_headers(), "Content-Type": media_type},
            timeout=httpx.Timeout(UPLOAD_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS),
        )
        response = self._send(request, repeatable=True)
        if not response.is_success:
            self._read(response)

    def changes(self, *, since: int, generation: str, limit: int) -> dict[str, Any]:
        """A part of the feed of changes. Public. Raises FeedRestarted where it begins anew."""
        params = {"since": str(since), "limit": str(limit)}
        params |= {"generation": generation} if generation else {}
        try:
            feed = self._call("GET", "/api/v1/changes", params=params, authenticated=False)
        except RequestRefused as error:
            if error.status == 410:
                raise FeedRestarted(str(error), status=error.status) from None
            raise
        if not isinstance(feed.get("next"), int) or not isinstance(feed.get("head"), int):
            raise NoAnswer("the feed tells no numbers: do tool and marketplace fit together?")
        _list_in(feed, "changes")
        return feed

    def end_of_changes(self) -> dict[str, Any]:
        """The end of the feed, with the fingerprint of all skills."""
        head = self.changes(since=0, generation="", limit=1)["head"]
        feed = self.changes(since=head, generation="", limit=1000)
        while feed["next"] < feed["head"]:
            feed = self.changes(since=feed["next"], generation="", limit=1000)
        return feed

    def content(self, digest: str) -> bytes:
        """Content by its digest. Public. Raises RequestRefused where the marketplace does not have
        it (404), or does not serve it (410, 423, 451)."""
        request = self._http.build_request("GET", f"/content/{digest}")
        response = self._send(request, repeatable=True)
        if not response.is_success:
            self._read(response)
        return response.content

    def restore_skills(self, skills: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Add skills of a mirror; what became of them."""
        return self._call("POST", "/api/v1/admin/restore", body={"skills": list(skills)})

    def patiently(self, call: Callable[[], T], *, seconds: float, longest_pause: float) -> T:
        """Make a call again while the marketplace is away, for so long. Raises NoAnswer then."""
        end = self.surroundings.monotonic() + seconds
        pause = 1.0
        while True:
            try:
                return call()
            except NoAnswer:
                if self.surroundings.monotonic() + pause > end:
                    raise
            self.surroundings.sleep(pause)
            pause = min(pause * 2, longest_pause)

    def _listed(
        self,
        route: str,
        name: str,
        wanted: Mapping[str, str | None],
        cursor: str | None,
        limit: int,
    ) -> tuple[list[Any], str | None]:
        items: list[Any] = []
        while len(items) < limit:
            page = {"cursor": cursor, "limit": str(min(limit - len(items), BATCH_SIZE))}
            parameters = {**wanted, **page}
            batch = self._call(
                "GET",
                f"/api/v1/admin/{route}",
                params={key: value for key, value in parameters.items() if value is not None},
            )
            items += _list_in(batch, name)
            following = batch.get("nextCursor")
            if not isinstance(following, str):
                return items, None
            if following == cursor:
                raise NoAnswer(f"the list of {route} does not advance: its cursor repeats")
            cursor = following
        return items, cursor

    def _redrive(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("POST", "/api/v1/admin/dead-letters/redrive", body=body)

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        authenticated: bool = True,
        patience: float = 0,
        repeatable: bool = True,
    ) -> dict[str, Any]:
        request = self._http.build_request(
            method,
            path,
            params=params,
            json=body,
            headers=self._access.credential_headers() if authenticated else None,
            timeout=httpx.Timeout(READ_TIMEOUT_SECONDS + patience, connect=CONNECT_TIMEOUT_SECONDS),
        )
        return self._read(self._send(request, repeatable=repeatable))

    def _send(self, request: httpx.Request, *, repeatable: bool) -> httpx.Response:
        passing = _PASSING_STATUSES if repeatable else _NOT_TAKEN_STATUSES
        delays = _delays()
        while True:
            delay = next(delays, None)
            try:
                response = self._http.send(request)
            except httpx.RequestError as error:
                if delay is None or not (repeatable or _was_not_sent(error)):
                    raise self._unreachable(error) from None  # the cause may quote the headers
            else:
                if response.status_code not in passing or delay is None:
                    return response
                delay = max(delay, min(_retry_after(response), LONGEST_DELAY_SECONDS))
            self.surroundings.sleep(delay)

    def _unreachable(self, error: httpx.RequestError) -> NoAnswer:
        reason = (
            "it did not answer in time"
            if isinstance(error, httpx.TimeoutException)
            else (self._access.redact(str(error)) or type(error).__name__)
        )
        return NoAnswer(f"{self._access.origin} cannot be reached: {reason}")

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = json.loads(self._access.redact(response.text))
        except ValueError:
            answer = None
        if response.is_success and isinstance(answer, dict):
            return answer
        raise self._refusal(response, answer)

    def _refusal(self, response: httpx.Response, answer: object) -> CliError:
        status = response.status_code
        if response.is_redirect:
            target = self._access.redact(response.headers.get("Location", "elsewhere"))
            return NoAnswer(
                f"{self._access.origin} redirects to {target}: give the marketplace's own address",
                status=status,
            )
        if not isinstance(answer, dict):
            kind = response.headers.get("Content-Type", "no content type")
            return NoAnswer(
                f"{self._access.origin} answered {status} with {kind} instead of a JSON object:"
                " is this a marketplace?",
                status=status,
            )
        sentence = describe_problem(answer, status)
        if status in {401, 403}:
            return AccessRefused(sentence, status=status)
        if status >= 500 or status in _PASSING_STATUSES:
            return NoAnswer(sentence, status=status, retry_after=_retry_after(response))
        return RequestRefused(sentence, status=status)


def describe_problem(problem: Mapping[str, Any], status: int) -> str:
    """Problem details (RFC 9457) as one sentence, with what is wrong with each field."""
    title = _text(problem.get("title")) or "the request was refused"
    detail = _text(problem.get("detail"))
    sentence = f"{title} ({status})" + (f": {detail}" if detail and detail != title else "")
    errors = problem.get("errors")
    faults = [_describe_fault(fault) for fault in errors] if isinstance(errors, list) else []
    return sentence + "".join(f"; {fault}" for fault in faults if fault)


def _describe_fault(fault: object) -> str:
    """``field: what is wrong``, whatever members the two are called by."""
    if not isinstance(fault, Mapping):
        return _text(fault)
    where = next((_text(fault[key]) for key in ("field", "pointer", "name") if fault.get(key)), "")
    what = next(
        (_text(fault[key]) for key in ("detail", "message", "reason") if fault.get(key)), ""
    )
    return f"{where}: {what}" if where and what else where or what or _text(dict(fault))


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _skill_path(slug: str) -> str:
    return f"/api/v1/admin/skills/{quote(slug, safe='')}"


def _was_not_sent(error: httpx.RequestError) -> bool:
    return isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))


def _delays() -> Iterator[float]:
    """The pauses between the attempts; exhausted when the last one is made."""
    for attempt in range(ATTEMPTS - 1):
        yield FIRST_DELAY_SECONDS * 2**attempt


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks for, a day at most; 0 for none, a date or nonsense."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), 86_400.0) if text.isascii() and text.isdigit() else 0.0


def _list_in(answer: Mapping[str, Any], name: str) -> list[Any]:
    value = answer.get(name)
    if not isinstance(value, list):
        raise NoAnswer(f"the answer has no list {name!r}: do tool and marketplace fit together?")
    return value


def _field(item: object, name: str) -> object:
    return item.get(name) if isinstance(item, Mapping) else None
