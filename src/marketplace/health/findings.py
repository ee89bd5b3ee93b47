"""What health finds and recommends, and the one word that it says about everything."""

from typing import Final, Literal

from marketplace.health.report import REBUILD_CALL, REDRIVE_CALL, Health, Recommendation
from marketplace.ports.dead_letter import PASSING_REASONS, DeadLetterReason
from marketplace.ports.errors import DatabaseRefused, OlderDatabase, OtherDatabase, StorageError

PENDING_TOLERATED: Final = 3_600.0  # seconds
SCAN_TOLERATED: Final = 86_400.0  # seconds that the oldest request may wait for a scanner

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


def status_of(health: Health) -> Literal["ok", "drift", "failing"]:
    if any(not state.reachable for state in health.sources.values()):
        return "failing"
    return "drift" if health.drifts else "ok"
