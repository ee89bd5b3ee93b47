"""Old slugs that keep working: ``skill:alias:{old}`` leads to the slug that the skill has now."""

from typing import Final

import msgspec

from marketplace import kv_access, kv_records
from marketplace.env import Env
from marketplace.kv_keys import alias_key, is_slug, skill_key
from marketplace.models import InvalidRecord

MAX_ALIAS_HOPS: Final = 8
"""Renames that a chain of aliases may have; each is one KV operation for the reader."""

_TARGET_FIELDS: Final = ("slug", "target", "newSlug", "movedTo")


async def write_alias(env: Env, alias: str, slug: str) -> None:
    """Let ``alias`` lead to ``slug``. Raises KvError; ValueError unless both are slugs, and two."""
    if not is_slug(alias) or not is_slug(slug) or alias == slug:
        raise ValueError(f"cannot alias {alias!r:.80} to {slug!r:.80}")
    value = msgspec.json.encode({"slug": slug})
    metadata = kv_records.encode_alias_metadata(alias, slug)
    await kv_access.put_value(env, alias_key(alias), value, metadata=metadata)


async def mark_moved(env: Env, old_slug: str, new_slug: str) -> None:
    """Leave a forwarding note in place of the record of ``old_slug``, and an alias.

    Call it once the record under ``new_slug`` is written. The alias comes first: cut off in
    between, the old record is still there and a repeat completes the move.
    Raises KvError; ValueError as `write_alias`.
    """
    await write_alias(env, old_slug, new_slug)
    await kv_records.write_moved(env, old_slug, new_slug)


async def resolve_alias(env: Env, slug: str) -> str | None:
    """The slug under which KV has the skill that ``slug`` once named; ``slug`` itself if it does.

    Follows aliases and forwarding notes over at most MAX_ALIAS_HOPS renames. None when there is
    nothing; a chain that ends nowhere, runs in a circle or is too long is logged. Raises KvError.
    """
    seen = [slug]
    while len(seen) <= MAX_ALIAS_HOPS + 1:
        following = await _follow(env, seen[-1])
        if following == seen[-1]:
            return following
        if following is None or following in seen:
            break
        seen.append(following)
    if len(seen) > 1:
        env.log("alias-unresolved", level="warning", alias=slug, chain=seen[1:])
    return None


async def _follow(env: Env, slug: str) -> str | None:
    """Where a slug leads to: itself where there is a record, even one that is damaged."""
    keys = [skill_key(slug), alias_key(slug)]
    values = await kv_access.read_values(env, keys)
    record = kv_records.decode_skill_record(slug, values[keys[0]])
    if isinstance(record, kv_records.Moved):
        return record.moved_to
    if record is not None:
        return slug
    return _read_alias(values[keys[1]])


def _read_alias(value: kv_access.Value) -> str | None:
    """The target in an alias' value: an object, a JSON string, or the bare slug."""
    if value is None or isinstance(value, InvalidRecord):
        return None
    try:
        target = kv_access.decode_json(value)
    except InvalidRecord:
        target = value.decode(errors="replace")
    if isinstance(target, dict):
        target = next((target[name] for name in _TARGET_FIELDS if name in target), None)
    return target if isinstance(target, str) and is_slug(target) else None
