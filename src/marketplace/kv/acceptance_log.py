"""The acceptance log: what scanners and operators said, each under a key of its own.

An entry is written once and never changed, and holds all that it takes to do again what it did.
Its metadata tells the identity and the kind, so that a walk costs one list call for a thousand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from marketplace.basics.json_text import Unreadable
from marketplace.kv import access as kv_access
from marketplace.kv.keys import ACT_PREFIX, act_key, act_prefix, verdict_key, verdict_prefix
from marketplace.ports.env import Env
from marketplace.ports.kv import KV_METADATA_LIMIT
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.scan import Scan
from marketplace.skills.skill import digest_of

T = TypeVar("T")


class LoggedAct(msgspec.Struct, frozen=True, rename="camel"):
    """An act with the identity of its skill: the value of an ``act:`` key."""

    identity: str
    act: Act


def key_of_verdict(scan: Scan) -> str:
    """The key of a verdict's entry. Raises ValueError where it names no skill."""
    return verdict_key(scan.identity, scan.scanned_at, scan.submission_id, digest_of(scan))


async def log_verdict(env: Env, scan: Scan) -> None:
    """Keep a verdict for good. Raises KvError; ValueError where it names no skill."""
    value = msgspec.json.encode(scan)
    await _write(env, key_of_verdict(scan), value, [scan.identity, scan.verdict])


async def log_act(env: Env, identity: str, act: Act) -> None:
    """Keep an act for good. Raises KvError."""
    value = msgspec.json.encode(LoggedAct(identity, act))
    await _write(env, act_key(identity, act.at, act.id), value, [identity, act.kind])


async def _write(env: Env, key: str, value: bytes, told: Sequence[str]) -> None:
    metadata = msgspec.json.encode(told).decode()
    fits = len(msgspec.json.encode(metadata)) <= KV_METADATA_LIMIT
    await kv_access.put_value(env, key, value, metadata=metadata if fits else None)


async def read_verdicts(env: Env, identity: str, *, newest: int | None = None) -> list[Scan]:
    """The verdicts on a skill, the oldest first: all, or so many of the newest. Raises KvError."""
    return await _read(env, verdict_prefix(identity), Scan, newest=newest)


async def read_acts(env: Env, identity: str) -> list[Act]:
    """Every act on a skill, the oldest first. Raises KvError."""
    return [logged.act for logged in await _read(env, act_prefix(identity), LoggedAct)]


@dataclass(frozen=True, slots=True)
class ActPage:
    """Which acts a part of the log has: their ids by the identities of their skills."""

    ids: Mapping[str, set[str]]
    cursor: str | None  # of the next part


async def list_acts(env: Env, *, cursor: str | None = None, limit: int) -> ActPage:
    """One list call, and one bulk get for every hundred entries without metadata. Raises
    KvError."""
    page = await kv_access.list_page(env, ACT_PREFIX, cursor=cursor, limit=limit)
    ids: dict[str, set[str]] = {}
    untold: list[str] = []
    for key in page.keys:
        told = kv_access.decode_record(_encoded(key.metadata), tuple[str, ActKind])
        if isinstance(told, tuple):
            ids.setdefault(told[0], set()).add(key.name.rpartition(":")[2])
        else:
            untold.append(key.name)
    for logged in await _read_entries(env, untold, LoggedAct):
        ids.setdefault(logged.identity, set()).add(logged.act.id)
    return ActPage(ids, page.cursor)


def _encoded(metadata: object) -> bytes | None:
    return metadata.encode() if isinstance(metadata, str) else None


async def _read(env: Env, prefix: str, kind: type[T], *, newest: int | None = None) -> list[T]:
    names: list[str] = []
    async for page in kv_access.list_all_keys(env, prefix):
        names += [key.name for key in page.keys]
    return await _read_entries(env, names if newest is None else names[-newest:], kind)


async def _read_entries(env: Env, names: Sequence[str], kind: type[T]) -> list[T]:
    values = await kv_access.read_all_values(env, names)
    entries: list[T] = []
    for key in names:
        entry = kv_access.decode_record(values[key], kind)
        if isinstance(entry, Unreadable):
            env.log("log-entry-malformed", level="error", key=key, reason=str(entry))
        elif entry is not None:
            entries.append(entry)
    return entries
