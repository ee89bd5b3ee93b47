"""Keeping KV's list of withheld skills up to date."""

from collections.abc import Sequence
from typing import Final

from marketplace.kv.withheld import WithheldKeys, read_withheld, write_withheld
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, KvError
from marketplace.skills.skill import Skill, Status
from marketplace.skills.withholding import WithheldKey, key_of

_REWRITES: Final = 3  # of a list that keeps changing, before the check takes over


async def update_withheld(
    env: Env, stored: Sequence[Skill] = (), waiting: Sequence[Skill] = ()
) -> None:
    """Write the list anew where a skill has come into it or left it.

    ``stored``: skills that PostgreSQL has taken; ``waiting``: those that KV alone has. Raises
    nothing: the next check writes the list too.
    """
    try:
        present = await read_withheld(env)
        changed = [key_of(skill) for skill in (*stored, *waiting)]
        if all(_agrees(present, key) for key in changed):
            return
        await _rewrite(env, present, changed, [key_of(skill) for skill in waiting])
    except KvError as error:
        env.log("withheld-not-written", level="error", reason=error.reason)


async def refresh_withheld(env: Env) -> None:
    """Write the list as PostgreSQL has it, where KV has another. Raises DatabaseError, KvError."""
    keys = await (await get_db(env)).withheld_keys()
    if {key.identity: key for key in keys} != await _readable(env):
        await write_withheld(env, keys)


async def _readable(env: Env) -> WithheldKeys | None:
    try:
        return await read_withheld(env)
    except KvError as error:
        if error.reason != "damaged":
            raise
        return None


def _agrees(present: WithheldKeys, key: WithheldKey) -> bool:
    listed = key.status is Status.LISTED
    return present.get(key.identity) == (None if listed else key)


async def _rewrite(
    env: Env,
    present: WithheldKeys,
    changed: Sequence[WithheldKey],
    waiting: Sequence[WithheldKey],
) -> None:
    """Of two writers at once the last one may have read the older list: each looks again."""
    written: WithheldKeys | None = None
    for _ in range(_REWRITES):
        try:
            rows = await (await get_db(env)).withheld_keys()
            keys = _with({key.identity: key for key in rows}, waiting)
        except DatabaseError as error:
            env.log("withheld-merged", level=error.level, reason=error.reason)
            keys = _with(present, changed)
        if keys == written:
            return
        await write_withheld(env, keys.values())
        written = keys


def _with(keys: WithheldKeys, changed: Sequence[WithheldKey]) -> WithheldKeys:
    merged = {**keys, **{key.identity: key for key in changed}}
    return {i: key for i, key in merged.items() if key.status is not Status.LISTED}
