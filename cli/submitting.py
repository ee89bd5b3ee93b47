"""Submits skills one after the other and, if asked to, reports each as passed by a scanner."""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from cli.client import BATCH_SIZE, MarketplaceClient
from cli.errors import RequestRefused
from cli.submission_file import Entry

_NOT_YET_PUBLISHED: Final = {"RECEIVED", "SCANNED"}
_FACTS: Final = {
    "displayName",
    "description",
    "version",
    "license",
    "labels",
    "category",
    "extensible",
    "extensionPoints",
}


class Outcome(StrEnum):
    """What became of an entry."""

    SUBMITTED = "submitted"
    DUPLICATE = "duplicate"
    ALREADY_VERIFIED = "already-verified"
    PASSED = "passed"
    FAILED = "failed"


class Result(msgspec.Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """An entry, its outcome and, where it failed, why."""

    number: int
    outcome: Outcome
    name: str = ""
    id: str | None = None
    state: str | None = None
    slug: str | None = None
    reason: str | None = None


class Submitter:
    """Keeps the results as they come, so that what was done before an abort is still shown."""

    def __init__(self, client: MarketplaceClient, *, scan_score: int | None) -> None:
        """With ``scan_score``, every submission is an operator's, and reported as passed with that
        score."""
        self._client = client
        self._scan_score = scan_score
        self._to_pass: list[tuple[Result, Mapping[str, Any]]] = []
        self.results: list[Result] = []

    def submit(self, entries: Iterable[Entry], advance: Callable[[], None]) -> None:
        """Submit all; ``advance`` is called after each entry.

        An entry that is refused does not stop the others. Raises CliError for a failure that would
        stop all others as well.
        """
        for entry in entries:
            result = self._submit_one(entry)
            self.results.append(result)
            if self._scan_score is not None and result.state in _NOT_YET_PUBLISHED:
                self._to_pass.append((result, entry.submission or {}))
            if len(self._to_pass) == BATCH_SIZE:
                self._pass()
            advance()
        self._pass()

    def _submit_one(self, entry: Entry) -> Result:
        if entry.submission is None:
            return Result(number=entry.number, outcome=Outcome.FAILED, reason=entry.problem)
        name = str(entry.submission.get("skillName", ""))
        try:
            answer = self._client.submit(entry.submission, as_operator=self._scan_score is not None)
        except RequestRefused as refusal:
            return Result(
                number=entry.number, outcome=Outcome.FAILED, name=name, reason=str(refusal)
            )
        if answer.get("alreadyVerified"):
            outcome = Outcome.ALREADY_VERIFIED
        else:
            outcome = Outcome.DUPLICATE if answer.get("duplicate") else Outcome.SUBMITTED
        return Result(
            number=entry.number,
            outcome=outcome,
            name=name or _text(answer, "skillName") or "",
            id=_text(answer, "id"),
            state=_text(answer, "state"),
            slug=_text(answer, "slug"),
        )

    def _pass(self) -> None:
        """Report the collected submissions as passed, as a scanner does.

        They stay collected until the report is answered.
        """
        passed = [pair for pair in self._to_pass if pair[0].id is not None]
        waiting = {result.id: result for result, _ in passed}
        if not waiting:
            return
        verdicts = [
            {"submissionId": result.id, "verdict": "PASS", "score": self._scan_score}
            | _facts(result, submission)
            for result, submission in passed
        ]
        answer = self._client.report_verdicts(verdicts)
        accepted = answer.get("accepted") or []
        reasons = {
            rejection.get("submissionId"): rejection.get("reason")
            for rejection in answer.get("rejected") or []
        }
        for id_, result in waiting.items():
            if id_ in accepted:
                result.outcome = Outcome.PASSED
            else:
                result.outcome = Outcome.FAILED
                result.reason = f"the verdict was rejected: {reasons.get(id_) or 'no reason given'}"
        self._to_pass.clear()


def _facts(result: Result, submission: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says of a skill, told as what a scanner read."""
    if not result.name:
        return {}
    skill = {"name": result.name} | {name: submission[name] for name in _FACTS & submission.keys()}
    path = {"path": submission["skillPath"]} if submission.get("skillPath") else {}
    return {"skill": skill, **path}


def _text(answer: dict[str, Any], name: str) -> str | None:
    value = answer.get(name)
    return value if isinstance(value, str) else None
