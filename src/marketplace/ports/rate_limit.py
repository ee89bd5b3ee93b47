"""How often one caller may do what anybody may do. ``wrangler.toml`` has the numbers."""

from dataclasses import dataclass
from typing import Protocol


class RateLimit(Protocol):
    """Counts the calls of each key for itself."""

    async def take(self, key: str) -> bool:
        """Count a call; whether it is within the limit. Raises RateLimitError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """The limits of a deployment; one that is None is missing from its configuration.

    A binding has the name of its field, in capitals.
    """

    submissions_by_client: RateLimit | None = None
    submissions_by_owner: RateLimit | None = None
    reports_by_client: RateLimit | None = None
    installs_by_client: RateLimit | None = None
