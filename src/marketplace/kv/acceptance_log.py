"""The acceptance log: what scanners and operators said, each under a key of its own.

An entry is written once and never changed, and holds all that it takes to do again what it did.
Its metadata tells the identity and the kind, so that a walk costs one list call for a thousand.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from marketplace.basics.json_text import Unreadable
from marketplace.kv import access as kv_access
from marketplace.kv.keys import act_key, act_prefix, verdict_key, verdict_prefix
from marketplace.ports.env import Env
from marketplace.ports.kv import KV_METADATA_LIMIT
from marketplace.skills.acts import Act
from marketplace.skills.scan import Scan
from marketplace.skills.skill import digest_of

T = TypeVar("T")


class LoggedAct(msgspec.Struct, frozen=True, rename="camel"):
    """An act with the identity of its skill: the value of an ``act:`` key."""

    identity: str
    act: Act


async def log_verdict(env: Env, scan: Scan) -> None:
    """Keep a verdict for good. Raises KvError; ValueError where it names no skill."""
    key = verdict_key(scan.identity, scan.scanned_at, scan.submission_id, digest_of(scan))
    await _write(env, key, msgspec.json.encode(scan), [scan.identity, scan.verdict])


async def log_act(env: Env, identity: str, act: Act) -> None:
    """Keep an act for good. Raises KvError."""
    value = msgspec.json.encode(LoggedAct(identity, act))
    await _write(env, act_key(identity, act.at, act.id), value, [identity, act.kind])


async def _write(env: Env, key: str, value: bytes, told: Sequence[str]) -> None:
    metadata = msgspec.json.encode(told).decode()
    fits = len(msgspec.json.encode(metadata)) <= KV_METADATA_LIMIT
    await kv_access.put_value(env, key, value, metadata=metadata if fits else None)


async def read_verdicts(env: Env, identity: str) -> list[Scan]:
    """Every verdict on a skill, the oldest first. Raises KvError."""
    return await _read(env, verdict_prefix(identity), Scan)


async def read_acts(env: Env, identity: str) -> list[Act]:
    """Every act on a skill, the oldest first. Raises KvError."""
    return [logged.act for logged in await _read(env, act_prefix(identity), LoggedAct)]


async def _read(env: Env, prefix: str, kind: type[T]) -> list[T]:
    names: list[str] = []
    async for page in kv_access.list_all_keys(env, prefix):
        names += [key.name for key in page.keys]
    values = await kv_access.read_all_values(env, names)
    entries: list[T] = []
    for key in names:
        entry = kv_access.decode_record(values[key], kind)
        if isinstance(entry, Unreadable):
            env.log("log-entry-malformed", level="error", key=key, reason=str(entry))
        elif entry is not None:
            entries.append(entry)
    return entries
