"""How the scanners keep up with their work list."""

from marketplace.basics.timestamps import seconds_between, shifted
from marketplace.health.report import Scanning
from marketplace.ports.scan_request import ScanReason, ScanWork
from marketplace.skills.scan import READ_AGAIN_SECONDS


def describe_scanning(work: ScanWork, now: str) -> Scanning:
    """A skill that is due has waited since then, not since it was read."""
    waiting = {reason.value: 0 for reason in ScanReason}
    since: list[tuple[str, ScanReason]] = []
    for reason, asked in work.asked.items():
        waiting[reason] += asked.count
        if asked.since is not None:
            since.append((asked.since, reason))
    waiting[ScanReason.DUE] += work.unread.count
    if work.unread.since is not None:
        since.append((shifted(work.unread.since, READ_AGAIN_SECONDS), ScanReason.DUE))
    scanning = Scanning(
        waiting=waiting,
        handed_out=sum(hour.handed_out for hour in work.hours),
        results=sum(hour.results for hour in work.hours),
        hours=list(work.hours),
    )
    if since:
        oldest, reason = min(since)
        scanning.oldest_age_seconds = seconds_between(oldest, now)
        scanning.oldest_reason = reason
    return scanning
