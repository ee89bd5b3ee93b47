"""Points in time as text: UTC, milliseconds, ``2026-11-24T08:15:30.123Z`` (RFC 3339).

One fixed width, so that text order is time order in Python, PostgreSQL (``COLLATE "C"``) and KV.
"""

import math
from datetime import UTC, datetime, timedelta

EPOCH = "1970-01-01T00:00:00.000Z"


def format_timestamp(moment: datetime) -> str:
    """Format an aware datetime; sub-millisecond digits are cut, never rounded up."""
    utc = moment.astimezone(UTC).replace(tzinfo=None)
    return utc.isoformat(timespec="milliseconds") + "Z"  # strftime does not pad early years


def parse_timestamp(text: str) -> datetime:
    """Parse RFC 3339 text of any offset or precision; without an offset it is taken as UTC.

    Raises ValueError for anything else, and for moments outside the years 1 to 9999 of UTC.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:  # the offset leads out of the years there are
        raise ValueError(f"no moment in UTC: {text!r:.100}") from error


def normalize_timestamp(text: str) -> str:
    """Raises ValueError."""
    return format_timestamp(parse_timestamp(text))


def shifted(moment: str, seconds: float) -> str:
    """The moment so many seconds later; earlier, where they are negative. Raises ValueError."""
    return format_timestamp(parse_timestamp(moment) + timedelta(seconds=seconds))


def hour_of(moment: str) -> str:
    """The beginning of the hour of a moment in this module's form."""
    return f"{moment[:13]}:00:00.000Z"


def seconds_between(earlier: str, later: str) -> float:
    """Seconds from ``earlier`` to ``later``; negative when they are the other way round."""
    return (parse_timestamp(later) - parse_timestamp(earlier)) / timedelta(seconds=1)


def age_in_seconds(moment: str, now: str) -> float | None:
    """Seconds from ``moment`` to ``now``; None where ``moment``, read from a store, is damaged."""
    try:
        return seconds_between(moment, now)
    except ValueError:
        return None


def seconds_since(moment: str, now: str) -> float:
    """As `age_in_seconds`. A damaged moment counts as infinitely old, so nothing waits for it."""
    age = age_in_seconds(moment, now)
    return math.inf if age is None else age
