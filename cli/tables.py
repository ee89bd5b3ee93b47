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
    AuditEntry,
    DeadLetter,
    Health,
    Rebuild,
    RedriveResult,
    Report,
    Scanning,
    Source,
)
from cli.submitting import Outcome, Result

_STATUS_STYLES: Final = {"ok": "bold green", "drift": "bold yellow"}  # any other: red
_OUTCOME_STYLES: Final = {  # any other: red
    "redriven": "green",
    "already-redriven": "yellow",
    Outcome.SUBMITTED: "green",
    Outcome.PASSED: "green",
    Outcome.DUPLICATE: "yellow",
    Outcome.ALREADY_VERIFIED: "yellow",
}


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
    table = _table("Skills", "source", "count", right=["count"])
    for source, count in (
        ("PostgreSQL (prisma_count)", report.prisma_count),
        ("KV records (kv_enumerated_count)", report.kv_enumerated_count),
        ("KV index (kv_index_count)", report.kv_index_count),
        ("seed (seed_count)", report.seed_count),
    ):
        table.add_row(source, Text("unreadable", "bold red") if count is None else plain(count))
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
