"""Old slugs that keep working: ``skill:alias:{old}`` leads to the slug that the skill has now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from marketplace.basics import json_text
from marketplace.basics.json_text import Unreadable
from marketplace.kv import access as kv_access
from marketplace.kv import records as kv_records
from marketplace.kv.keys import ALIAS_PREFIX, alias_key, skill_key
from marketplace.kv.summaries import CompactAlias, Moved, fitting_metadata
from marketplace.ports.env import Env
from marketplace.skills.skill import Skill
from marketplace.skills.slugs import is_slug

MAX_ALIAS_HOPS: Final = 8  # renames in a chain; each is one KV operation for the reader
_TARGET_FIELDS: Final = ("slug", "target", "newSlug", "movedTo")


async def write_alias(env: Env, alias: str, slug: str) -> None:
    """Let ``alias`` lead to ``slug``. Raises KvError; ValueError unless both are slugs, and two."""
    if not is_slug(alias) or not is_slug(slug) or alias == slug:
        raise ValueError(f"cannot alias {alias!r:.80} to {slug!r:.80}")
    value = msgspec.json.encode({"slug": slug})
    metadata = fitting_metadata(msgspec.json.encode(CompactAlias(alias, slug)))
    await kv_access.put_value(env, alias_key(alias), value, metadata=metadata)


async def mark_moved(env: Env, old_slug: str, new_slug: str) -> None:
    """Leave a forwarding note in place of the record of ``old_slug``, and an alias.

    Call it once the record under ``new_slug`` is written. The alias comes first: cut off in
    between, the old record is still there and a repeat completes the move. Raises as `write_alias`.
    """
    await write_alias(env, old_slug, new_slug)
    await kv_records.write_moved(env, old_slug, new_slug)


@dataclass(frozen=True, slots=True)
class Chain:
    """Where a slug leads to: itself first, then over aliases and forwarding notes."""

    slugs: tuple[str, ...]
    record: Skill | Unreadable | None = None  # under the last one

    @property
    def is_live(self) -> bool:
        return self.record is not None


async def follow_aliases(env: Env, slug: str) -> Chain:
    """Follow aliases and forwarding notes over at most MAX_ALIAS_HOPS renames.

    A chain that ends nowhere, runs in a circle or is too long is logged. Raises KvError.
    """
    seen = [slug]
    while len(seen) <= MAX_ALIAS_HOPS + 1:
        slug = seen[-1]
        values = await kv_access.read_values(env, [skill_key(slug), alias_key(slug)])
        record, following = _target(slug, values)
        if record is not None:
            return Chain(tuple(seen), record)
        if following is None or following in seen:
            break
        seen.append(following)
    if len(seen) > 1:
        env.log("alias-unresolved", level="warning", alias=seen[0], chain=seen[1:])
    return Chain(tuple(seen))


async def find_over_aliases(env: Env, slugs: Sequence[str]) -> dict[str, Skill | Unreadable]:
    """The records that slugs lead to; absent where there is none.

    All are followed at once, a hop at a time, with one operation for each hundred records, and for
    each hundred aliases of the slugs that have none. Raises KvError.
    """
    waiting, found = {slug: slug for slug in slugs}, dict[str, Skill | Unreadable]()
    for _ in range(MAX_ALIAS_HOPS + 1):
        records = await kv_records.read_records(env, sorted(set(waiting.values())), at_once=True)
        missing = [alias_key(slug) for slug, record in records.items() if record is None]
        aliases = await kv_access.read_many_values(env, missing)
        following = {}
        for asked, slug in waiting.items():
            match records[slug]:
                case None:
                    following[asked] = _read_alias(aliases[alias_key(slug)])
                case Moved(moved_to=target):
                    following[asked] = target
                case record:
                    found[asked] = record
        waiting = {asked: target for asked, target in following.items() if target is not None}
        if not waiting:
            break
    return found


@dataclass(frozen=True, slots=True)
class Claims:
    """What KV has under some slugs. ``targets``: those of them that a skill has left, with the slug
    that each leads to; ``old``: with the skill there, None where that cannot be told."""

    records: kv_records.Records = field(default_factory=dict)
    targets: Mapping[str, str] = field(default_factory=dict)
    old: Mapping[str, Skill | None] = field(default_factory=dict)


async def read_claims(env: Env, slugs: Sequence[str]) -> Claims:
    """The records of slugs, and where those without one lead to.

    One operation for every fifty slugs, and for each hop that an old slug leads over. Raises
    KvError.
    """
    keys = [key for slug in slugs for key in (skill_key(slug), alias_key(slug))]
    values = await kv_access.read_all_values(env, keys)
    records = {
        slug: kv_records.decode_skill_record(slug, values[skill_key(slug)]) for slug in slugs
    }
    targets = {}
    for slug in slugs:
        record, target = _target(slug, values)
        if target is not None and record is None:
            targets[slug] = target
    found = await find_over_aliases(env, sorted(set(targets.values()))) if targets else {}
    old = {slug: _skill(found.get(target)) for slug, target in targets.items()}
    return Claims(records, targets, old)


def _skill(record: Skill | Unreadable | None) -> Skill | None:
    return record if isinstance(record, Skill) else None


@dataclass(frozen=True, slots=True)
class AliasPage:
    """Old slugs that KV has an alias of; ``cursor``: where the next page begins, None: nowhere."""

    aliases: Sequence[str]
    cursor: str | None


async def list_aliases(env: Env, *, cursor: str | None, limit: int) -> AliasPage:
    """One page of the aliases. Raises KvError."""
    page = await kv_access.list_page(env, ALIAS_PREFIX, cursor=cursor, limit=limit)
    slugs = [key.name.removeprefix(ALIAS_PREFIX) for key in page.keys]
    return AliasPage([slug for slug in slugs if is_slug(slug)], page.cursor)


async def unresolved_aliases(env: Env, aliases: Mapping[str, str]) -> dict[str, str]:
    """Those of these aliases that lead to no record, each with where its chain ends.

    The values of ``aliases`` are where to begin. All are followed at once, a hop at a time, with
    one operation for fifty of them. Raises KvError.
    """
    waiting, ended = dict(aliases), dict[str, str]()
    for _ in range(MAX_ALIAS_HOPS + 1):
        slugs = sorted(set(waiting.values()))
        keys = [key for slug in slugs for key in (skill_key(slug), alias_key(slug))]
        values = await kv_access.read_all_values(env, keys)
        following = {}
        for alias, slug in waiting.items():
            record, target = _target(slug, values)
            if target is not None and record is None:
                following[alias] = target
            elif record is None:
                ended[alias] = slug
        waiting = following
        if not waiting:
            break
    return ended | waiting


async def alias_targets(env: Env, aliases: Sequence[kv_records.Alias]) -> dict[str, str]:
    """Where aliases lead to, one hop; the value is read of those without metadata, and what leads
    nowhere is left out. Raises KvError."""
    unread = [alias.name for alias in aliases if alias.target is None]
    values = await kv_access.read_all_values(env, [alias_key(name) for name in unread])
    read = {name: _read_alias(values[alias_key(name)]) for name in unread}
    targets = {alias.name: alias.target or read.get(alias.name) for alias in aliases}
    return {name: target for name, target in targets.items() if target is not None}


def _target(
    slug: str, values: Mapping[str, kv_access.Value]
) -> tuple[Skill | Unreadable | None, str | None]:
    """The record under a slug, even a damaged one; if there is none, where the slug leads to."""
    record = kv_records.decode_skill_record(slug, values[skill_key(slug)])
    if isinstance(record, Moved):
        return None, record.moved_to
    return record, _read_alias(values[alias_key(slug)])


def _read_alias(value: kv_access.Value) -> str | None:
    """The target in an alias' value: an object, a JSON string, or the bare slug."""
    if not isinstance(value, bytes):
        return None
    try:
        target = json_text.decode(value)
    except json_text.InvalidData:
        target = value.decode(errors="replace")
    if isinstance(target, dict):
        target = next((target[name] for name in _TARGET_FIELDS if name in target), None)
    return target if isinstance(target, str) and is_slug(target) else None
