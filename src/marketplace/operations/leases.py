"""A lease keeps two runs of one job apart.

It expires by itself, so that a crash holds it only for a while.
"""

from datetime import timedelta
from typing import Final

from marketplace.basics.timestamps import format_timestamp
from marketplace.kv.state import acquire_lease, release_lease
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, KvError

LEASE_SECONDS: Final = 240.0  # below the five minutes between two checks


async def take_lease(env: Env, name: str, holder: str) -> bool:
    """Take the lease in PostgreSQL or, with that away, in KV. Raises KvError."""
    expires_at = format_timestamp(env.clock() + timedelta(seconds=LEASE_SECONDS))
    try:
        database = await get_db(env)
        return await database.acquire_lease(name, holder, now=env.now(), expires_at=expires_at)
    except DatabaseError as error:
        env.log("postgres unavailable: lease taken in kv", level="warning", reason=error.reason)
    return await acquire_lease(env, name, holder, expires_at=expires_at)


async def give_lease_back(env: Env, name: str, holder: str) -> None:
    """Give the lease back, wherever it was; one that stays expires by itself."""
    try:
        database = await get_db(env)
        await database.release_lease(name, holder)
    except DatabaseError as error:
        env.log("lease not released in postgres", level="warning", reason=error.reason)
    try:
        await release_lease(env, name, holder)
    except KvError as error:
        env.log("lease not released in kv", level="warning", reason=error.reason)
