"""Tells the marketplace what a scan found: asks for the skill, hands over its content, reports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from cli.client import BATCH_SIZE, MarketplaceClient
from cli.errors import CliError, NoAnswer, RequestRefused
from scanner.findings import Finding
from scanner.skills import ScannedSkill, Verdict, archive_of
from scanner.sources import Source
from scanner.tree import Refused, Unreadable

MAX_CALL_BYTES: Final = 200 * 1024  # the marketplace takes 256 KiB
MAX_REASON_LENGTH: Final = 500
MARKDOWN: Final = "text/markdown"
ZIP: Final = "application/zip"
_NO_ROUTE: Final = frozenset({404, 405, 501})


class Outcome(StrEnum):
    """What became of a report."""

    REPORTED = "reported"
    REFUSED = "refused"  # by the marketplace, with its reason
    BLOCKED = "blocked"  # an operator keeps it out; nothing was reported
    LEFT = "left"  # nothing can be said of it now; it is handed out again


class Reported(msgspec.Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """A skill, what was said of it, and what became of that.

    ``content`` says why its content is not there, if it should be.
    """

    path: str
    outcome: Outcome
    name: str = ""
    verdict: Verdict | None = None
    submission_id: str | None = None
    reason: str | None = None
    content: str | None = None


def is_done(told: Reported) -> bool:
    """Whether the marketplace has all that it should have of a skill."""
    return told.outcome is Outcome.REPORTED and told.content is None


@dataclass(frozen=True, slots=True)
class Repository:
    """Whose the skills are: its address, and the forge's own ids where they are known."""

    url: str
    repository_id: str | None = None
    owner_id: str | None = None


class Reporter:
    """Collects results and sends them in calls that the marketplace takes. Keeps what became of
    them as it comes, so that it can be shown after an abort."""

    def __init__(self, client: MarketplaceClient, kept: Callable[[Reported], None]) -> None:
        """``kept`` is told of each skill once that is decided."""
        self._client: Final = client
        self._kept: Final = kept
        self._waiting: list[tuple[Reported, dict[str, Any]]] = []
        self._bytes = 0
        self.no_content: str | None = None
        """Why this marketplace takes no content at all, once it said so."""

    def submit(self, repository: Repository, skill: ScannedSkill) -> Reported | None:
        """Ask for a scan of a skill, which is what a report answers. None, and the outcome is
        kept, where none is wanted. Raises CliError."""
        name = skill.name or skill.path.rpartition("/")[2]
        told = Reported(path=skill.path, name=name, outcome=Outcome.REFUSED, verdict=skill.verdict)
        body = {"repoUrl": repository.url, "skillPath": skill.path, "rescan": True}
        try:
            answer = self._client.submit(
                body | ({"skillName": name} if name else {}), as_operator=True
            )
        except RequestRefused as refusal:
            told.reason = str(refusal)
            self._kept(told)
            return None
        told.submission_id = answer["id"] if isinstance(answer.get("id"), str) else None
        if answer.get("blocked"):
            told.outcome, told.reason = Outcome.BLOCKED, "an operator has blocked it"
        elif told.submission_id is None:
            told.reason = "it was read a short time ago, and no scan is wanted"
        else:
            return told
        self._kept(told)
        return None

    def report(
        self,
        told: Reported,
        repository: Repository,
        source: Source,
        skill: ScannedSkill,
        at: datetime,
    ) -> None:
        """Hand over a skill's content, if its licence allows, and collect the result. ``at`` is
        when its source was opened. Raises CliError."""
        if skill.may_be_kept:
            try:
                told.content = self._upload(source, skill)
            except (Refused, Unreadable) as error:
                told.outcome, told.reason = Outcome.LEFT, str(error)
                self._kept(told)
                return
        self.add(told, result_of(told, repository, source, skill, at))

    def add(self, told: Reported, result: dict[str, Any]) -> None:
        """Collect a result. Raises CliError."""
        size = len(msgspec.json.encode(result))
        if size > MAX_CALL_BYTES:
            result = {name: value for name, value in result.items() if name != "files"}
            size = len(msgspec.json.encode(result))
            told.content = told.content or "its list of files is too long to be reported"
        if self._bytes + size > MAX_CALL_BYTES or len(self._waiting) == BATCH_SIZE:
            self.send()
        self._waiting.append((told, result))
        self._bytes += size

    def send(self) -> None:
        """Send what is collected. Raises CliError; it stays collected then."""
        if not self._waiting:
            return
        answer = self._client.report_verdicts([result for _, result in self._waiting])
        accepted = answer.get("accepted") or []
        reasons = {
            rejection.get("submissionId"): rejection.get("reason")
            for rejection in answer.get("rejected") or []
        }
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        for told, _ in waiting:
            if told.submission_id in accepted:
                told.outcome = Outcome.REPORTED
            else:
                told.outcome = Outcome.REFUSED
                told.reason = str(reasons.get(told.submission_id) or "no reason given")
            self._kept(told)

    def drop(self, error: CliError) -> None:
        """Give up what is collected, because of an error."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        for told, _ in waiting:
            told.outcome, told.reason = Outcome.LEFT, str(error)
            self._kept(told)

    def _upload(self, source: Source, skill: ScannedSkill) -> str | None:
        """Hand over archive and SKILL.md; why the marketplace does not have them, or None. Raises
        NoAnswer, AccessRefused, Refused, Unreadable."""
        if self.no_content is not None:
            return self.no_content
        archive, skill_md = archive_of(source.tree, skill)
        try:
            self._client.upload(str(skill.skill_md_digest), skill_md, MARKDOWN)
            self._client.upload(str(skill.content_digest), archive, ZIP)
        except (RequestRefused, NoAnswer) as error:
            if error.status in _NO_ROUTE:
                self.no_content = f"this marketplace takes no content ({error.status})"
                return self.no_content
            if isinstance(error, NoAnswer):
                raise
            return str(error)
        return None


def result_of(
    told: Reported, repository: Repository, source: Source, skill: ScannedSkill, at: datetime
) -> dict[str, Any]:
    """What is reported of a skill. The texts of one that did not pass are not."""
    result = _result(told, skill.verdict, at) | {
        "path": skill.path,
        "commit": source.commit,
        "ref": source.ref,
        "repositoryId": repository.repository_id,
        "ownerId": repository.owner_id,
        "reason": _reason(skill),
    }
    if skill.verdict is Verdict.PASS:
        facts = {
            "name": skill.name,
            "description": skill.description,
            "version": skill.version,
            "license": skill.license,
            "category": skill.category,
            "labels": skill.labels,
        }
        result |= {
            "score": skill.score,
            "skill": _without_none(facts),
            "contentDigest": skill.content_digest,
            "skillMdDigest": skill.skill_md_digest,
            "files": msgspec.to_builtins(skill.files),
        }
    return _without_none(result)


def absence(told: Reported, verdict: Verdict, at: datetime, **more: str | None) -> dict[str, Any]:
    """What is reported where there is nothing to read."""
    return _without_none(_result(told, verdict, at) | {"reason": told.reason} | more)


def _result(told: Reported, verdict: Verdict, at: datetime) -> dict[str, Any]:
    moment = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"submissionId": told.submission_id, "verdict": verdict, "scannedAt": moment}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _reason(skill: ScannedSkill) -> str | None:
    if skill.verdict is Verdict.WITHDRAWN:
        return "its owner has withdrawn it: metadata.marketplace in SKILL.md"
    return _joined(skill.errors)


def _joined(findings: Sequence[Finding]) -> str | None:
    text = "; ".join(f"{finding.path}:{finding.line}: {finding.message}" for finding in findings)
    printable = "".join(character if character.isprintable() else "\ufffd" for character in text)
    if len(printable) > MAX_REASON_LENGTH:
        printable = printable[: MAX_REASON_LENGTH - 1] + "…"
    return printable or None
