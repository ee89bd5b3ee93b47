"""How many skills verdicts take out of the listing: the bound on what a scanner gone mad can do.

What left within the hour is kept in PostgreSQL and changed by compare-and-set.
"""

from typing import Final

import msgspec

from marketplace.basics.timestamps import seconds_since
from marketplace.operations.reports import read_state
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseConflict
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.skill import digest_of

WITHDRAWN_AN_HOUR: Final = 20
SHARE_AN_HOUR: Final = 0.005  # of the listed skills, where that is more
HOUR_SECONDS: Final = 3600.0
_MAX_ATTEMPTS: Final = 5
_STATE: Final = "withdrawals"

_Moments = dict[str, str]  # by the digest of an identity


async def may_withdraw(env: Env, identity: str) -> bool:
    """Whether a verdict may take this skill out of the listing now; if so, it is counted, once
    an hour. Raises DatabaseError."""
    database, key = await get_db(env), digest_of(identity)
    for _ in range(_MAX_ATTEMPTS):
        document = await database.load_state(_STATE)
        kept = read_state(env, _STATE, document, _Moments) or {}
        recent = {k: at for k, at in kept.items() if seconds_since(at, env.now()) < HOUR_SECONDS}
        if key in recent:
            return True
        if len(recent) >= WITHDRAWN_AN_HOUR and len(recent) >= await _share(env, database):
            return False
        value = msgspec.json.encode(recent | {key: env.now()})
        if await database.replace_state(_STATE, value, before=document):
            return True
    raise DatabaseConflict(f"others counted withdrawals {_MAX_ATTEMPTS} times in between")


async def _share(env: Env, database: SkillDatabase) -> int:
    counted = await database.count_skills(ListingQuery(), seed=env.seed)
    return int(counted.value * SHARE_AN_HOUR)
