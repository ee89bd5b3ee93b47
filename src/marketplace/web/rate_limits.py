"""How often a client without a credential may call: the one place that asks the limits."""

import asyncio
import ipaddress
from typing import Final

from fastapi import Request

from marketplace.ports.env import Env
from marketplace.ports.errors import RateLimitError
from marketplace.ports.principal import Principal
from marketplace.ports.rate_limit import RateLimit
from marketplace.skills.slugs import normalize_repository
from marketplace.web.context import env_of

PERIOD_SECONDS: Final = 60
"""Of each limit in ``wrangler.toml``. Periods begin with the minute."""

CLIENT_HEADER: Final = "cf-connecting-ip"  # set by Cloudflare, whatever the client sends
_IPV6_NETWORK: Final = 64  # bits; a client has a whole network of this size to itself
_MAX_KEY_LENGTH: Final = 200


class TooManyCalls(Exception):
    """A client or an owner has used up a limit (429)."""

    def __init__(self, what: str, *, retry_after: int) -> None:
        super().__init__(f"There were too many {what} within a minute. Try again later.")
        self.retry_after = retry_after


async def limit_submissions(request: Request, caller: Principal | None, repo_url: str) -> None:
    """Count a submission of its client, and of the repository's owner. Raises TooManyCalls."""
    env = env_of(request)
    limits = env.rate_limits
    owner = normalize_repository(repo_url).rpartition("/")[0]
    await _limit(
        env,
        caller,
        (limits.submissions_by_client, _client(request), "submissions of one client"),
        (limits.submissions_by_owner, owner, "submissions of this owner's repositories"),
    )


async def limit_reports(request: Request, caller: Principal | None) -> None:
    """Count a report of its client. Raises TooManyCalls."""
    env = env_of(request)
    limit = env.rate_limits.reports_by_client
    await _limit(env, caller, (limit, _client(request), "reports of one client"))


async def limit_installs(request: Request, caller: Principal | None, count: int) -> None:
    """Count so many installs of their client. Raises TooManyCalls."""
    env = env_of(request)
    limit = env.rate_limits.installs_by_client
    asked = (limit, _client(request), "installs of one client")
    await _limit(env, caller, *[asked] * count)


async def _limit(
    env: Env, caller: Principal | None, *asked: tuple[RateLimit | None, str, str]
) -> None:
    """Ask one limit after the other. A call that no limit can judge goes through, with one line."""
    if caller is not None:
        return
    unasked: list[RateLimitError] = []
    for limit, key, what in asked:
        try:
            within = await _take(env, limit, key[:_MAX_KEY_LENGTH])
        except RateLimitError as error:
            unasked.append(error)
        else:
            if not within:
                passed = int(env.clock().timestamp()) % PERIOD_SECONDS
                raise TooManyCalls(what, retry_after=PERIOD_SECONDS - passed)
    if unasked:
        env.log(
            "limit-not-asked", level="warning", reason=unasked[0].reason, detail=str(unasked[0])
        )


async def _take(env: Env, limit: RateLimit | None, key: str) -> bool:
    if limit is None:
        raise RateLimitError("the binding is missing from the configuration", reason="missing")
    try:
        async with asyncio.timeout(env.settings.rate_limit_timeout):
            return await limit.take(key)
    except TimeoutError as error:
        raise RateLimitError("no answer in time", reason="timeout") from error


def _client(request: Request) -> str:
    text = request.headers.get(CLIENT_HEADER, "unknown")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    if address.version == 4:
        return text
    return str(ipaddress.ip_network((address, _IPV6_NETWORK), strict=False))
