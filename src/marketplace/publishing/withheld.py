"""Keeping KV's list of withheld skills up to date.

Reading the list may show one from a minute ago, so whether it has to be written is told from a
digest in PostgreSQL of what was written last.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec

from marketplace.kv.withheld import WithheldKeys, encode_withheld, read_withheld, write_withheld
from marketplace.operations.reports import read_state
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, KvError
from marketplace.skills.skill import Skill, Status
from marketplace.skills.withholding import WithheldKey, key_of

_REWRITES: Final = 3  # of a list that keeps changing, before the check takes over
_WRITTEN: Final = "withheld"


async def update_withheld(
    env: Env, stored: Sequence[Skill] = (), waiting: Sequence[Skill] = ()
) -> None:
    """Write the list anew where it is not what was written last.

    ``stored``: skills that PostgreSQL has taken; ``waiting``: those that KV alone has. Raises
    nothing: the next check writes the list too.
    """
    try:
        try:
            await _write_changes(env, [key_of(skill) for skill in waiting])
        except DatabaseError as error:
            env.log("withheld-merged", level=error.level, reason=error.reason)
            present = await read_withheld(env)
            keys = _with(present, [key_of(skill) for skill in (*stored, *waiting)])
            if keys != present:
                await write_withheld(env, keys.values())
    except KvError as error:
        env.log("withheld-not-written", level="error", reason=error.reason)


async def refresh_withheld(env: Env) -> None:
    """Write the list as PostgreSQL has it, where KV has another. Raises DatabaseError, KvError."""
    database = await get_db(env)
    keys = _by_identity(await database.withheld_keys())
    if keys != await _readable(env):
        await _write(env, database, keys)


async def _readable(env: Env) -> WithheldKeys | None:
    try:
        return await read_withheld(env)
    except KvError as error:
        if error.reason != "damaged":
            raise
        return None


async def _write_changes(env: Env, waiting: Sequence[WithheldKey]) -> None:
    """Of two writers at once the last one may have read the older rows: each looks again."""
    database = await get_db(env)
    for _ in range(_REWRITES):
        keys = _with(_by_identity(await database.withheld_keys()), waiting)
        if read_state(env, _WRITTEN, await database.load_state(_WRITTEN), str) == _digest(keys):
            return
        await _write(env, database, keys)


async def _write(env: Env, database: SkillDatabase, keys: WithheldKeys) -> None:
    await write_withheld(env, keys.values())
    await database.save_state(_WRITTEN, msgspec.json.encode(_digest(keys)))


def _digest(keys: WithheldKeys) -> str:
    return sha256(encode_withheld(keys.values())).hexdigest()


def _by_identity(keys: Sequence[WithheldKey]) -> WithheldKeys:
    return {key.identity: key for key in keys}


def _with(keys: WithheldKeys, changed: Sequence[WithheldKey]) -> WithheldKeys:
    merged = {**keys, **_by_identity(changed)}
    return {i: key for i, key in merged.items() if key.status is not Status.LISTED}
