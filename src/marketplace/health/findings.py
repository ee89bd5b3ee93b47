"""What health finds and recommends, and the one word that it says about everything."""

from collections.abc import Sequence
from typing import Final, Literal

from marketplace.health.differences import Kind, Suspect
from marketplace.health.report import REBUILD_CALL, REDRIVE_CALL, Finding, Health, Recommendation
from marketplace.kv.index.manifest import IndexHeader
from marketplace.ports.dead_letter import PASSING_REASONS, DeadLetterReason
from marketplace.ports.env import Env
from marketplace.ports.errors import DatabaseRefused, OlderDatabase, OtherDatabase, StorageError
from marketplace.ports.kv import KV_LIST_LIMIT

PENDING_TOLERATED: Final = 3_600.0  # seconds
SCAN_TOLERATED: Final = 86_400.0  # seconds that the oldest request may wait for a scanner

EXAMPLES: Final = 20  # of one finding
FALLBACK_TRUNCATED: Final = "fallback-truncated"

_SOURCES: Final[dict[Kind, tuple[str, ...]]] = {
    Kind.RECORD_UNREADABLE: ("kv",),
    Kind.INDEX_ENTRY_MISSING: ("kv", "kv_index"),
    Kind.INDEX_ENTRY_OLDER: ("kv", "kv_index"),
    Kind.INDEX_ENTRY_UNKNOWN: ("kv", "kv_index"),
    Kind.INDEX_PAGE_UNREADABLE: ("kv_index",),
}
"""Those of other kinds are PostgreSQL and KV's records."""

_TOLD: Final = {
    Kind.RECORD_MISSING: "rows have no record in KV",
    Kind.RECORD_OLDER: "records are older than their rows",
    Kind.RECORD_UNREADABLE: "records cannot be read",
    Kind.ROW_MISSING: "records have no row in PostgreSQL",
    Kind.ROW_OLDER: "rows are older than their records",
    Kind.OTHER_SLUG: "records are under another slug than their rows",
    Kind.TAKEN_SLUG: "records without a row are under the slug of another skill's row",
    Kind.INDEX_ENTRY_MISSING: "skills are not in the index",
    Kind.INDEX_ENTRY_OLDER: "entries of the index are older than their skills",
    Kind.INDEX_ENTRY_UNKNOWN: "entries of the index have neither record nor row",
    Kind.INDEX_PAGE_UNREADABLE: "pages of the index are gone or damaged",
    Kind.ALIAS_MISSING_IN_KV: "old slugs lead on in PostgreSQL only",
    Kind.ALIAS_MISSING_IN_DATABASE: "old slugs lead on in KV only",
}

_REBUILD: Final = "Rebuild."
_WAIT: Final = "Wait for the next check, which adds them to the index. Rebuild if they stay."
_LOOK: Final = "Look at these records; a rebuild replaces those that have a row."
_ACTIONS: Final = {
    Kind.RECORD_UNREADABLE: _LOOK,
    Kind.INDEX_ENTRY_MISSING: _WAIT,
    Kind.INDEX_ENTRY_OLDER: _WAIT,
}
"""What to do about findings of these kinds; about any other: rebuild."""

_CHECKS: Final = {
    "postgres": "Check that the database is up and that Hyperdrive reaches it.",
    "kv": "Check the KV namespace and its binding SUBMISSIONS_KV.",
    "kv_index": "Check the KV namespace and its binding SUBMISSIONS_KV.",
}
_UNDECIDED: Final = {
    DeadLetterReason.TOO_MANY_WITHDRAWN: (
        "Look whether a scanner errs, before you let these verdicts pass by redriving them.",
        "verdicts would have taken more skills off the listing than may leave in an hour.",
    ),
    DeadLetterReason.CHANGED_HANDS: (
        "Look at each repository, then accept its owner or leave the skill as it was.",
        "results come from a repository that changed hands.",
    ),
}
"""What waits for an operator's decision: what to do, and what is told behind the number."""

_REFUSED: Final = (
    "PostgreSQL answers and refuses every session; waiting does not help. Correct the user,"
    " password and database in Hyperdrive's configuration, or what the database lets in."
)
_OTHER: Final = (
    "PostgreSQL is another database than the marketplace's; it is neither read nor written, nor"
    " repaired. Correct the binding HYPERDRIVE. Only if the marketplace's database is gone for good"
    " take this one over: python -m cli rebuild --adopt."
)
_OLDER: Final = (
    "PostgreSQL lacks changes that it had before, as after restoring a dump. It is neither read nor"
    " written until the rebuild that was asked for has brought them back; it waits a minute for KV."
    " If none is under way, rebuild."
)


def find(
    env: Env, suspects: Sequence[Suspect], records: int | None, index: IndexHeader | None
) -> list[Finding]:
    """The differences that are no delay, and what would be missing with PostgreSQL away."""
    findings = []
    for kind in Kind:
        found = sorted(
            (suspect for suspect in suspects if suspect.kind is kind and suspect.confirmed),
            key=lambda suspect: suspect.name,
        )
        if found:
            finding = Finding(
                kind=kind,
                sources=_SOURCES.get(kind, ("postgres", "kv")),
                number=len(found),
                examples=[suspect.name for suspect in found[:EXAMPLES]],
                since=min(suspect.since for suspect in found),
                recommendation=_ACTIONS.get(kind, _REBUILD),
            )
            findings.append(finding)
    listed_at_most = env.settings.enumeration_page_budget * KV_LIST_LIMIT
    if records is not None and records > listed_at_most and index is not None and index.problem:
        finding = Finding(
            kind=FALLBACK_TRUNCATED,
            sources=("kv", "kv_index"),
            number=records - listed_at_most,
            examples=[],
            since=env.now(),
            recommendation=_REBUILD,
        )
        findings.append(finding)
    return findings


def _tell(finding: Finding) -> str:
    if finding.kind == FALLBACK_TRUNCATED:
        return f"With PostgreSQL away, listings would lack {finding.number} skills."
    named = ", ".join(finding.examples[:3])
    more = ", …" if finding.number > 3 else ""
    return f"{finding.number} {_TOLD[Kind(finding.kind)]}: {named}{more}."


def recommend(health: Health, database_failure: StorageError | None) -> None:
    add = health.recommendations.append
    for name, state in health.sources.items():
        if state.reachable:
            continue
        reason = f"{name}: {state.error}"
        match database_failure if name == "postgres" else None:
            case DatabaseRefused():
                add(Recommendation(action=_REFUSED, reason=reason))
            case OtherDatabase():
                add(Recommendation(action=_OTHER, reason=reason))
            case OlderDatabase():
                add(Recommendation(action=_OLDER, reason=reason, call=REBUILD_CALL))
            case _:
                add(Recommendation(action=_CHECKS[name], reason=reason))
    index = health.sources["kv_index"]
    if health.drifts:
        reason = " ".join(drift.message for drift in health.drifts)
        add(Recommendation(action="Rebuild.", reason=reason, call=REBUILD_CALL))
    elif index.reachable and index.error:
        reason = f"The index cannot be used: {index.error}"
        add(Recommendation(action="Rebuild.", reason=reason, call=REBUILD_CALL))
    elif isinstance(health.last_repair, dict) and health.last_repair.get("ok") is False:
        reason = "The last repair did not come to a good end; its report says why."
        add(Recommendation(action="Rebuild again.", reason=reason, call=REBUILD_CALL))
    _recommend_on_findings(health)
    passing = sum(health.dead_letters.by_reason.get(reason, 0) for reason in PASSING_REASONS)
    if passing:
        reason = f"{passing} messages failed for a passing reason."
        add(Recommendation(action="Redrive them.", reason=reason, call=REDRIVE_CALL))
    for reason, (action, told) in _UNDECIDED.items():
        if waiting := health.dead_letters.by_reason.get(reason, 0):
            add(Recommendation(action=action, reason=f"{waiting} {told}"))
    pending = health.oldest_pending
    if pending and pending["age_seconds"] > PENDING_TOLERATED:
        hours = pending["age_seconds"] / 3600
        reason = f"Submission {pending['id']} passed {hours:.1f} hours ago and is not published."
        add(Recommendation(action="Check the publish queue, dead letters and cron.", reason=reason))
    scanning = health.scanning
    age = scanning.oldest_age_seconds if scanning else None
    if scanning and age is not None and age > SCAN_TOLERATED:
        reason = (
            f"The oldest scan ({scanning.oldest_reason}) waits for {age / 86_400:.1f} days;"
            f" within 24 hours {scanning.handed_out} were handed out and {scanning.results}"
            " results came."
        )
        add(Recommendation(action="Check that scanners run and keep up.", reason=reason))


def recommend_on_content(health: Health, *, has_archive: bool) -> None:
    """What to do about the archive of content."""
    add, content = health.recommendations.append, health.content
    if not has_archive:
        reason = "The binding CONTENT is missing: no content is taken or served."
        add(Recommendation(action="Bind the R2 bucket in wrangler.toml.", reason=reason))
    if content is not None and content.not_uploaded:
        named = ", ".join(content.not_uploaded_of)
        reason = f"{content.not_uploaded} digests are named and not uploaded, as of {named}."
        action = "Let scanners upload what they name: submit these skills with rescan."
        add(Recommendation(action=action, reason=reason))
    if content is not None and content.not_licensed:
        named = ", ".join(content.not_licensed_ones)
        reason = (
            f"{content.not_licensed} digests are stored, and no licence lets them be kept, as"
            f" {named}."
        )
        action = "Purge them, or add their licence to CONTENT_LICENSES."
        add(Recommendation(action=action, reason=reason))


def _recommend_on_findings(health: Health) -> None:
    by_action: dict[str, list[Finding]] = {}
    for finding in health.findings:
        by_action.setdefault(finding.recommendation, []).append(finding)
    for action, findings in by_action.items():
        reason = " ".join(map(_tell, findings))
        call = None if action == _WAIT else REBUILD_CALL
        health.recommendations.append(Recommendation(action=action, reason=reason, call=call))


def status_of(health: Health) -> Literal["ok", "drift", "failing"]:
    if any(not state.reachable for state in health.sources.values()):
        return "failing"
    return "drift" if health.drifts else "ok"
