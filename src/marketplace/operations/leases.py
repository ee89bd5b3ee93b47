"""A lease keeps two runs of one job apart.

It is in PostgreSQL and expires by itself, so that a crash does not keep it for ever. With
PostgreSQL away the work runs without one: running it twice at once does no harm.
"""

from datetime import timedelta
from typing import Final

from marketplace.basics.timestamps import format_timestamp
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError

LEASE_SECONDS: Final = 240.0  # below the five minutes between two checks


async def take_lease(env: Env, name: str, holder: str) -> bool:
    """Whether the work may run: the lease is taken, or PostgreSQL is away."""
    expires_at = format_timestamp(env.clock() + timedelta(seconds=LEASE_SECONDS))
    try:
        database = await get_db(env)
        return await database.acquire_lease(name, holder, now=env.now(), expires_at=expires_at)
    except DatabaseError as error:
        env.log("lease-not-taken", level=error.level, reason=error.reason)
        return True


async def give_lease_back(env: Env, name: str, holder: str) -> None:
    """Give the lease back; one that stays expires by itself."""
    try:
        await (await get_db(env)).release_lease(name, holder)
    except DatabaseError as error:
        env.log("lease-not-released", level=error.level, reason=error.reason)
