"""Which database KV has acknowledged: read before each use of it, written after changes.

What KV shows may be a minute old. An earlier number only lets a loss pass that a later one would
show; it never accuses a good database, as the number of a database that loses nothing only grows.
So numbers may be written by anybody at any time. An instance is replaced by an operator's adoption
alone; the later adoption counts, so that nobody who has not heard of it takes it back.
"""

import asyncio
from dataclasses import replace
from typing import Final

import msgspec

from marketplace.basics.json_text import Unreadable
from marketplace.kv import access as kv_access
from marketplace.kv.keys import ACKNOWLEDGED_KEY
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env, send_messages
from marketplace.ports.errors import (
    KvError,
    KvTimeout,
    OlderDatabase,
    QueueError,
    StorageError,
    UntrustedDatabase,
)
from marketplace.ports.known_database import Acknowledged, Expectation, Standing

READ_EVERY: Final = 30.0  # seconds
GOOD_FOR: Final = 45.0  # seconds; with the minute that KV may be late less than two minutes
READ_AGAIN: Final = 2.0  # after a failure
WAIT_SECONDS: Final = 0.6  # for KV at most: a read of PostgreSQL has a second for everything
WRITE_EVERY: Final = 1.0
TELL_EVERY: Final = 600.0  # one line of an isolate, however many requests it has
ASK_EVERY: Final = 60.0  # for a repair
ASK_AGAIN: Final = 5.0  # where PostgreSQL was as acknowledged meanwhile: it lost something again

REPAIR_DATABASE: Final = "repairDatabase"
"""In a message of the maintenance queue: the number that the last change had."""


async def expect_acknowledged(env: Env) -> Expectation:
    """What KV says of the database, at most READ_EVERY seconds after it was read.

    Without an answer of KV what the isolate knows counts; if that is nothing, any database does.
    Raises nothing.
    """
    known = env.database.known
    now = _now()
    if now >= known.read_next:
        if now - known.read_at < GOOD_FOR:  # the others need not wait for this one
            known.read_next = now + READ_EVERY
        await _read(env)
    return known.expectation


async def _read(env: Env) -> None:
    known, begun = env.database.known, _now()
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            found = await read_acknowledged(env)
    except (KvError, TimeoutError) as error:
        reason = error.reason if isinstance(error, KvError) else KvTimeout.reason
        env.log("acknowledged-not-read", level="warning", reason=reason)
        known.read_next = _now() + READ_AGAIN
    else:
        known.learn(found)
        known.read_at, known.read_next = begun, begun + READ_EVERY


def repairing(env: Env, *, adopt: bool = False) -> Env:
    """The Env of a repair: it may use the acknowledged instance though changes are missing.

    ``adopt``: and any other one. A repair ends with `acknowledge_repaired`.
    """

    async def expect(env: Env) -> Expectation:
        expectation = await expect_acknowledged(env)
        return replace(
            expectation, instance=None if adopt else expectation.instance, repairing=True
        )

    return replace(env, expect_database=expect)


async def note_missing(env: Env, database: SkillDatabase) -> bool:
    """Note in the database that changes are missing, if it is not as acknowledged; whether any
    are. Nothing but repairs can use it then. Raises DatabaseError."""
    await expect_acknowledged(env)
    return await database.note_missing(env.database.known.expectation.standing)


async def acknowledge(env: Env, *, every: float = WRITE_EVERY) -> None:
    """Tell KV how far the database has come, at most once in ``every`` seconds. Raises nothing.

    A KV without an id takes the first one that is seen; not where it could not be read.
    """
    known = env.database.known
    known.ask_every = ASK_AGAIN  # what is missed next was lost after this
    standing = known.expectation.standing
    if standing is None or not known.kv_was_read or _now() - known.written < every:
        return
    present = Acknowledged(instance=standing.instance, changes=standing.changes, since=known.since)
    if _is_known(known.in_kv, present):
        return
    known.written = _now()
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await write_acknowledged(env, present)
    except (KvError, TimeoutError) as error:
        reason = error.reason if isinstance(error, KvError) else KvTimeout.reason
        env.log("acknowledged-not-written", level="warning", reason=reason)
        return
    if known.in_kv is None:
        env.log("database-adopted", instance=present.instance, changes=present.changes)
    known.in_kv = present


def _is_known(in_kv: Acknowledged | None, present: Acknowledged) -> bool:
    if in_kv is None or (in_kv.instance, in_kv.since) != (present.instance, present.since):
        return False
    return in_kv.changes >= present.changes


async def acknowledge_repaired(env: Env, database: SkillDatabase) -> None:
    """The end of a repair: the database lacks nothing more, and KV acknowledges it as it is.

    Raises DatabaseError, KvError; may be repeated.
    """
    standing = await database.note_complete()
    known = env.database.known
    is_other = known.expectation.instance not in (None, standing.instance)
    present = Acknowledged(
        instance=standing.instance,
        changes=standing.changes,
        since=env.now() if is_other else known.since,
    )
    await kv_access.write_again_if_refused(lambda: write_acknowledged(env, present))
    if is_other:
        env.log("database-adopted", instance=present.instance, changes=present.changes)
    known.learn(present)


async def note_distrust(env: Env, error: StorageError) -> None:
    """Tell of a database that is not trusted, and ask for the repair of one that lacks changes.

    Once in a while an isolate, not each time. Raises nothing.
    """
    if not isinstance(error, UntrustedDatabase):
        return
    known, now = env.database.known, _now()
    standing = known.expectation.standing or Standing("", 0)
    if now - known.told >= TELL_EVERY:
        known.told = now
        env.log(
            "database-not-trusted",
            level="error",
            reason=error.reason,
            detail=str(error),
            instance=standing.instance,
            changes=standing.changes,
        )
    if isinstance(error, OlderDatabase) and now - known.repair_asked >= known.ask_every:
        known.repair_asked, known.ask_every = now, ASK_EVERY
        await _ask_for_repair(env, standing)


async def _ask_for_repair(env: Env, known: Standing) -> None:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await send_messages(env, env.maintenance_queue, [{REPAIR_DATABASE: known.changes}])
    except (QueueError, TimeoutError) as error:
        reason = error.reason if isinstance(error, QueueError) else "timeout"
        env.log("repair-not-asked-for", level="error", reason=reason)


async def read_acknowledged(env: Env) -> Acknowledged | None:
    """Raises KvError, also where the value is damaged."""
    value = await kv_access.get_value(env, ACKNOWLEDGED_KEY)
    found = kv_access.decode_record(value, Acknowledged)
    if isinstance(found, Unreadable):
        raise KvError(f"{ACKNOWLEDGED_KEY}: {found}", reason="damaged")
    return found


async def write_acknowledged(env: Env, present: Acknowledged) -> None:
    """Raises KvError."""
    await kv_access.put_value(env, ACKNOWLEDGED_KEY, msgspec.json.encode(present))


def _now() -> float:
    return asyncio.get_running_loop().time()
