"""Tables and sentences for a terminal.

Every value that comes from the marketplace goes through ``plain``: strangers write names and
details, which must neither style nor control the operator's terminal.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.answers import (
    Act,
    Acted,
    AuditEntry,
    DeadLetter,
    Health,
    Rebuild,
    RedriveResult,
    Report,
    Rule,
    RuleReceipt,
    Scanning,
    ShownSkill,
    Source,
)
from cli.reporting import Outcome as ReportOutcome
from cli.reporting import Reported
from cli.scanning import Scanned
from cli.submitting import Outcome, Result
from scanner.findings import Severity
from scanner.skills import ScannedSkill, Verdict

_STATUS_STYLES: Final = {"ok": "bold green", "drift": "bold yellow"}  # any other: red
_SKILL_STYLES: Final = {"LISTED": "bold green", "WITHDRAWN": "bold yellow"}  # any other: red
_STORES: Final = {"log": "acceptance log", "postgres": "PostgreSQL", "kv": "KV record"}
_SHOWN: Final = (
    *("name", "status", "repoUrl", "skillPath", "category", "labels", "currentVersion", "commit"),
    *("contentDigest", "repositoryId", "ownerId", "certTier", "certScore", "verdict", "verdictAt"),
    *("verdictReason", "provisional", "scanFailedAt", "sourceGoneAt", "publishedAt", "updatedAt"),
)
"""The fields of a skill that are shown anyway; others only where the stores differ."""
_OUTCOME_STYLES: Final = {  # any other: red
    "redriven": "green",
    "already-redriven": "yellow",
    Outcome.SUBMITTED: "green",
    Outcome.PASSED: "green",
    Outcome.DUPLICATE: "yellow",
    Outcome.ALREADY_VERIFIED: "yellow",
    ReportOutcome.REPORTED: "green",
    ReportOutcome.LEFT: "yellow",
}
_VERDICT_STYLES: Final = {Verdict.PASS: "bold green", Verdict.WITHDRAWN: "bold yellow"}


def plain(value: object, style: str = "") -> Text:
    """A value as text without any markup or control character."""
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no", style=style)
    if isinstance(value, float):
        value = f"{value:,.1f}"
    elif isinstance(value, int):
        value = f"{value:,}"
    return Text("".join(c if c.isprintable() else "\ufffd" for c in str(value)), style=style)


def health(report: Health) -> RenderableType:
    """The health answer: verdict, counts, sources, drifts, what to do, and the rest."""
    parts: list[RenderableType] = [
        Text("Marketplace: ").append_text(
            plain(report.status, _STATUS_STYLES.get(report.status, "bold red"))
        ),
        _counts(report),
        _sources(report.sources),
    ]
    if report.drifts:
        parts.append(_drifts(report))
    if report.findings:
        parts.append(_findings(report))
    if report.recommendations:
        parts.append(_recommendations(report))
    parts.append(_facts(report))
    return Group(*parts)


def _table(title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=False
        )
    return table


def _counts(report: Health) -> Table:
    table = _table("Skills", "source", "count", "counted at", right=["count"])
    for source, count, name in (
        ("PostgreSQL (prisma_count)", report.prisma_count, "postgres"),
        ("KV records (kv_enumerated_count)", report.kv_enumerated_count, "kv"),
        ("KV index (kv_index_count)", report.kv_index_count, "kv_index"),
        ("seed (seed_count)", report.seed_count, ""),
    ):
        number = Text("unreadable", "bold red") if count is None else plain(count)
        table.add_row(source, number, plain(report.counted_at.get(name)))
    return table


def _sources(sources: Mapping[str, Source]) -> Table:
    table = _table(
        "Sources", "source", "state", "latency", "age", "error", right=["latency", "age"]
    )
    for name, source in sources.items():
        if source.reachable is False:
            state = Text("unreachable", "bold red")
        elif source.damaged:
            state = Text("damaged", "bold red")
        else:
            state = Text("ok", "green") if source.is_fine else Text("error", "bold red")
        table.add_row(
            plain(name),
            state,
            plain(None) if source.latency_ms is None else plain(f"{source.latency_ms:,.0f} ms"),
            plain(None) if source.age_seconds is None else plain(duration(source.age_seconds)),
            plain(source.error, "red") if source.error else plain(None),
        )
    return table


def _drifts(report: Health) -> Table:
    table = _table("Drifts", "kind", "sources", "counts", "difference", "message")
    for drift in report.drifts:
        table.add_row(
            plain(drift.kind, "yellow"),
            plain(" / ".join(drift.sources)),
            plain(" / ".join("-" if count is None else f"{count:,}" for count in drift.counts)),
            plain(drift.difference),
            plain(drift.message),
        )
    return table


def _findings(report: Health) -> Table:
    table = _table("Findings", "kind", "sources", "number", "since", "examples")
    for finding in report.findings:
        table.add_row(
            plain(finding.kind, "yellow"),
            plain(" / ".join(finding.sources)),
            plain(finding.number),
            plain(finding.since),
            plain(", ".join(finding.examples)),
        )
    return table


def _recommendations(report: Health) -> Table:
    table = _table("What to do", "action", "reason", "call")
    for item in report.recommendations:
        table.add_row(plain(item.action, "bold"), plain(item.reason), plain(item.call, "cyan"))
    return table


def _facts(report: Health) -> Table:
    table = _table("Operation", "what", "state")
    letters = report.dead_letters
    if letters is None or letters.total is None:
        waiting = Text("unreadable", "bold red")
    else:
        reasons = ", ".join(f"{reason}: {n:,}" for reason, n in sorted(letters.by_reason.items()))
        waiting = plain(f"{letters.total:,}" + (f" ({reasons})" if reasons else ""))
    table.add_row("dead letters", waiting)
    if report.open_rules:
        table.add_row("rules being applied", plain(report.open_rules))
    table.add_row("scans that wait", _scans(report.scanning))
    if report.scanning is not None:
        done = f"{report.scanning.handed_out:,} handed out, {report.scanning.results:,} results"
        table.add_row("scans in 24 hours", plain(done))
    for name, facts in (
        ("oldest pending submission", report.oldest_pending),
        ("last repair", report.last_repair),
        ("last check by cron", report.last_check),
        ("heap", report.heap),
        ("KV operations of this answer", report.kv_operations),
    ):
        table.add_row(name, _pairs(facts))
    return table


def _scans(scanning: Scanning | None) -> Text:
    if scanning is None:
        return Text("unreadable", "bold red")
    counts = ", ".join(f"{reason}: {count:,}" for reason, count in scanning.waiting.items())
    if scanning.oldest_age_seconds is None:
        return plain(counts)
    age = duration(scanning.oldest_age_seconds)
    return plain(f"{counts}; the oldest ({scanning.oldest_reason}) for {age}")


def _pairs(facts: Mapping[str, Any] | None) -> Text:
    """The plain values of an object; what is nested is for ``--json``."""
    if not facts:
        return plain(None)
    values = {name: value for name, value in facts.items() if not isinstance(value, (dict, list))}
    return Text(", ").join(Text.assemble(plain(name), " ", plain(v)) for name, v in values.items())


def rebuild(report: Rebuild) -> RenderableType:
    """A rebuild's report."""
    if not report.complete:
        verdict = Text("Rebuild goes on", "bold yellow")
    elif report.ok and not report.errors:
        verdict = Text("Rebuild complete", "bold green")
    else:
        verdict = Text("Rebuild complete, with errors", "bold red")
    if report.dry_run:
        verdict.append(" (dry run: nothing was changed)")
    if report.duration_ms is not None:
        verdict.append(f" after {duration(report.duration_ms / 1000)}")
    table = _table("", "what", "number", right=["number"])
    for name, number in (
        ("skills in the index", report.rebuilt),
        ("written to PostgreSQL", report.prisma_backfilled),
        ("written to KV", report.kv_backfilled),
        ("conflicts resolved", report.conflicts_resolved),
        ("metadata in KV restored", report.metadata_restored),
        ("aliases repaired", report.aliases_repaired),
        ("aliases that lead nowhere (kept)", report.orphaned_aliases),
        ("records in error", report.errors),
        ("steps cut off and repeated", report.resumed),
    ):
        table.add_row(name, plain(number))
    parts: list[RenderableType] = [verdict, table]
    if report.error_details:
        details = _table("Records in error", "key", "reason")
        for detail in report.error_details:
            details.add_row(plain(detail.key), plain(detail.reason))
        parts.append(details)
    return Group(*parts)


def dead_letters(letters: Sequence[DeadLetter]) -> RenderableType:
    """Dead letters, one a line."""
    if not letters:
        return Text("No dead letters.", "green")
    table = _table(
        f"{len(letters):,} dead letters",
        "id",
        "message",
        "reason",
        "detail",
        "attempts",
        "redrives",
        "failed at",
        right=["attempts", "redrives"],
    )
    for letter in letters:
        table.add_row(
            plain(letter.id),
            plain(_message(letter.body)),
            plain(letter.reason, "yellow"),
            plain(letter.detail),
            plain(letter.attempts),
            plain(letter.redrives),
            plain(letter.failed_at),
        )
    return table


def audit(entries: Sequence[AuditEntry]) -> RenderableType:
    """What was changed, one call a line."""
    if not entries:
        return Text("No entries.", "green")
    table = _table(
        f"{len(entries):,} entries",
        "at",
        "principal",
        "action",
        "target",
        "before",
        "after",
        "reason",
    )
    for entry in entries:
        table.add_row(
            plain(entry.at),
            plain(entry.principal, "bold"),
            plain(entry.action, "yellow"),
            plain(entry.target),
            _document(entry.before),
            _document(entry.after),
            plain(entry.reason),
        )
    return table


def _document(value: object) -> Text:
    return _pairs(value) if isinstance(value, Mapping) else plain(value)


def reports(found: Sequence[Report]) -> RenderableType:
    """What visitors reported, one report a line."""
    if not found:
        return Text("No reports.", "green")
    table = _table(f"{len(found):,} reports", "id", "skill", "reason", "text", "at", "resolution")
    for report in found:
        resolution = Text("open", "bold yellow")
        if report.resolved_by is not None:
            resolution = plain(f"{report.resolved_by}: {report.resolution}")
        table.add_row(
            plain(report.id),
            plain(report.slug, "bold"),
            plain(report.reason, "yellow"),
            plain(report.text),
            plain(report.at),
            resolution,
        )
    return table


def skill(shown: ShownSkill) -> RenderableType:
    """A skill: its copies, what was done to it, its versions, what scans said, its submissions."""
    parts: list[RenderableType] = [
        Text.assemble(
            _skill_status(shown.skill.get("name"), shown.skill.get("status")),
            ", as ",
            plain(shown.source),
            " has it",
        ),
        _copies(shown),
    ]
    if shown.finding is None:
        parts.append(Text("The copies agree.", "green"))
    else:
        parts.append(plain(shown.finding, "bold red"))
    parts += [_acts("Acts", shown.acts), _versions(shown), _verdicts(shown), _submissions(shown)]
    return Group(*parts)


def _skill_status(slug: object, status: object) -> Text:
    return Text.assemble(
        plain(slug, "bold"), ": ", plain(status, _SKILL_STYLES.get(str(status), "bold red"))
    )


def _copies(shown: ShownSkill) -> Table:
    table = _table("Copies", "field", "PostgreSQL", "KV record")
    row = shown.row or {}
    record = shown.record if isinstance(shown.record, dict) else {}
    if shown.row is None and shown.record is None:
        row = record = shown.skill  # of the seed, or of a source that has neither
    more = [field for field in shown.different if field not in _SHOWN]
    for field in (*_SHOWN, *more):
        style = "bold red" if field in shown.different else ""
        table.add_row(
            plain(field, style), _value(row.get(field), style), _value(record.get(field), style)
        )
    return table


def _value(value: object, style: str = "") -> Text:
    if isinstance(value, list):
        if all(isinstance(each, str) for each in value):
            return plain(", ".join(value), style)
        value = f"{len(value)} of them"
    return plain(value if isinstance(value, (str, int, float)) or value is None else "…", style)


def _acts(title: str, acts: Sequence[Act]) -> RenderableType:
    if not acts:
        return Text(f"{title}: none.")
    table = _table(title, "id", "kind", "at", "by", "reason", "in force")
    for act in acts:
        if act.is_in_force:
            state = Text("yes", "bold yellow")
        elif act.lifts:
            state = plain(f"lifts {', '.join(act.lifts)}")
        else:
            state = plain(None if act.lifted_by is None else f"lifted by {act.lifted_by}")
        table.add_row(
            plain(act.id),
            plain(act.kind, "bold"),
            plain(act.at),
            plain(act.by),
            plain(act.reason),
            state,
        )
    return table


def _versions(shown: ShownSkill) -> RenderableType:
    if not shown.versions:
        return Text("Versions: none.")
    columns = ("read at", "version", "tier", "score", "commit", "what changed")
    table = _table("Versions", *columns, right=["score"])
    for version in shown.versions:
        table.add_row(
            plain(version.created_at),
            plain(version.version, "bold"),
            plain(version.cert_tier),
            plain(version.cert_score),
            plain(version.commit),
            plain(version.diff_summary),
        )
    return table


def _verdicts(shown: ShownSkill) -> RenderableType:
    if not shown.verdicts:
        return Text("Verdicts: none.")
    table = _table(
        "Verdicts",
        *("scanned at", "verdict", "score", "path", "commit", "repository id", "owner id"),
        *("submission", "reason"),
        right=["score"],
    )
    for verdict in shown.verdicts:
        table.add_row(
            plain(verdict.scanned_at),
            plain(verdict.verdict, "bold"),
            plain(verdict.score),
            plain(verdict.path),
            plain(verdict.commit),
            plain(verdict.repository_id),
            plain(verdict.owner_id),
            plain(verdict.submission_id),
            plain(verdict.reason),
        )
    return table


def _submissions(shown: ShownSkill) -> RenderableType:
    if not shown.submissions:
        return Text("Submissions: none.")
    table = _table("Submissions", "id", "state", "received at")
    for submission in shown.submissions:
        table.add_row(plain(submission.id), plain(submission.state), plain(submission.received_at))
    return table


def in_force(shown: ShownSkill) -> RenderableType:
    """The acts that a restore can lift; and why there may be none."""
    if shown.in_force or shown.skill.get("status") != "WITHDRAWN":
        return _acts("Acts in force", shown.in_force)
    return Text("Acts in force: none. Its newest verdict withdrew it: a PASS brings it back.")


def acted(result: Acted) -> RenderableType:
    """What an act made of a skill, which stores took it, and how it is undone."""
    act = result.act
    table = _table("", "store", "has it")
    for store, taken in result.stores.items():
        answer = Text("yes", "green") if taken else Text("not yet", "bold red")
        table.add_row(plain(_STORES.get(store, store)), answer)
    parts: list[RenderableType] = [
        Text.assemble(
            _skill_status(result.slug, result.status),
            " after ",
            plain(f"{act.kind} {act.id}", "bold"),
            " by ",
            plain(act.by),
        ),
        table,
    ]
    if not result.is_everywhere:
        parts.append(Text("It is kept. The checks every five minutes bring it to the others."))
    if not result.stores.get("postgres", True):
        parts.append(
            Text("PostgreSQL, once it is back, answers without it until then.", "bold red")
        )
    if act.kind != "RESTORE":
        undo = f"python -m cli restore {result.slug} {act.id} --reason …"
        parts.append(Text("To undo it: ").append_text(plain(undo, "cyan")))
    return Group(*parts)


def rules(found: Sequence[Rule]) -> RenderableType:
    """Rules, one a line."""
    if not found:
        return Text("No rules.", "green")
    table = _table(
        f"{len(found):,} rules", "id", "kind", "matches", "value", "threat", "reason", "by", "state"
    )
    for rule in found:
        table.add_row(
            plain(rule.id),
            plain(rule.kind, "yellow"),
            plain(rule.matches),
            plain(rule.value, "bold"),
            plain(None if rule.threat_type is None else f"{rule.threat_type} ({rule.severity})"),
            plain(rule.reason),
            plain(rule.by),
            _rule_state(rule),
        )
    return table


def _rule_state(rule: Rule) -> Text:
    under_way = "" if rule.applied_at else ", being applied"
    if rule.lifted_by is None:
        return plain(f"in force{under_way}", "bold yellow")
    return plain(f"lifted by {rule.lifted_by}: {rule.lift_reason}{under_way}")


def rule_receipt(receipt: RuleReceipt) -> RenderableType:
    """What became of a call on a rule."""
    verdict = f"{receipt.applied:,} skills changed by this call. "
    verdict += "None is left." if receipt.complete else "The marketplace goes on with the others."
    parts: list[RenderableType] = [rules([receipt.rule]), Text(verdict)]
    missing = ", ".join(name for name, took in receipt.stores.items() if not took)
    if missing:
        parts.append(plain(f"Not kept in: {missing}. The next check brings it there.", "yellow"))
    return Group(*parts)


def _message(body: object) -> object:
    """The message's submission id, or else the first 80 characters of the message."""
    if isinstance(body, Mapping) and isinstance(body.get("submissionId"), str):
        return body["submissionId"]
    text = str(body)
    return text if len(text) <= 80 else text[:79] + "…"


def redriven(results: Sequence[RedriveResult], remaining: object) -> RenderableType:
    """What became of each letter."""
    table = _table(f"{len(results):,} dead letters", "id", "outcome", "reason")
    for result in results:
        style = _OUTCOME_STYLES.get(result.outcome, "red")
        table.add_row(plain(result.id), plain(result.outcome, style), plain(result.reason))
    return Group(table, Text("Remaining: ").append_text(plain(remaining)))


def submitted(results: Sequence[Result]) -> RenderableType:
    """The outcome of each entry of a file."""
    table = _table(f"{len(results):,} submissions", "#", "skill", "outcome", "id or slug", "reason")
    for result in results:
        table.add_row(
            plain(result.number),
            plain(result.name),
            plain(result.outcome.value, _OUTCOME_STYLES.get(result.outcome, "red")),
            plain(result.id or result.slug),
            plain(result.reason),
        )
    return table


def duration(seconds: float) -> str:
    """Seconds for people: ``0.4 s``, ``12 s``, ``5 min``, ``3.5 h``, ``2.1 d``."""
    for limit, unit, size in (
        (10, "s", 1),
        (120, "s", 1),
        (7_200, "min", 60),
        (172_800, "h", 3_600),
    ):
        if seconds < limit:
            return f"{seconds / size:.{1 if limit in {10, 172_800} else 0}f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def scan(scanned: Scanned) -> RenderableType:
    """The skills that were read."""
    parts: list[RenderableType] = []
    if scanned.source.commit is not None:
        where = f"Commit {scanned.source.commit}"
        of_branch = "" if scanned.source.ref is None else f" of {scanned.source.ref}"
        parts.append(plain(where + of_branch))
    parts.append(_scanned(scanned.skills))
    return Group(*parts)


def findings(scanned: Scanned) -> list[Text]:
    """What is wrong with the skills, in the form in which editors find the place."""
    found = [finding for skill in scanned.skills for finding in skill.findings]
    return [
        plain(finding, "red" if finding.severity is Severity.ERROR else "yellow")
        for finding in [*found, *scanned.findings]
    ]


def _scanned(skills: Sequence[ScannedSkill]) -> Table:
    right = ["files", "score"]
    table = _table(
        f"{len(skills):,} skills",
        *("path", "name", "version", "licence", *right, "verdict", "archive"),
        right=right,
    )
    for skill in skills:
        style = _VERDICT_STYLES.get(skill.verdict, "bold red")
        table.add_row(
            plain(skill.path or "."),
            plain(skill.name or None),
            plain(skill.version),
            plain(skill.license),
            plain(len(skill.files)),
            plain(skill.score if skill.verdict is Verdict.PASS else None),
            plain(skill.verdict, style),
            plain(skill.content_digest and skill.content_digest[:8]),
        )
    return table


def reported_line(told: Reported) -> Text:
    """What became of a report, on one line."""
    style = _OUTCOME_STYLES.get(told.outcome, "red")
    line = plain(told.outcome, style).append_text(plain(f" {told.verdict or '-'} "))
    line.append_text(plain(f"{told.name or '-'} at {told.path or '.'}", "bold"))
    for text in (told.reason, told.content):
        if text:
            line.append_text(plain(f": {text}"))
    return line


def followed(outcomes: Mapping[ReportOutcome, int], no_content: str | None) -> RenderableType:
    """How many requests ended how."""
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
    parts = [plain(counts or "No requests.")]
    if no_content:
        parts.append(plain(no_content, "yellow"))
    return Group(*parts)
