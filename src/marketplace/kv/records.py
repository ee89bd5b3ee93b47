"""The published skills in KV: one record a skill under ``skill:{slug}``, never deleted.

A record's value is the whole skill as JSON; its metadata is the listing summary, so that one list
call brings a thousand of them. Where a summary does not fit, the value is read instead.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from marketplace.basics import json_text
from marketplace.basics.concurrency import in_turns
from marketplace.basics.json_text import InvalidData, Unreadable
from marketplace.kv import access as kv_access
from marketplace.kv.keys import ALIAS_PREFIX, SKILL_PREFIX, skill_key
from marketplace.kv.summaries import (
    Moved,
    alias_target,
    decode_metadata,
    encode_metadata,
    fitting_metadata,
    json_encoder,
)
from marketplace.ports.database import RecordKey
from marketplace.ports.env import Env
from marketplace.ports.kv import KvKey
from marketplace.skills.skill import PublishedSummary, Skill
from marketplace.skills.slugs import identity_of, is_slug
from marketplace.skills.stored import read_skill

MAX_WARNINGS: Final = 20  # about single records in one enumeration; the rest is counted

Record: TypeAlias = kv_access.Stored[Skill | Moved]
"""What is under ``skill:{slug}``: a skill, a forwarding note, something unreadable, or nothing."""

Records = Mapping[str, Record]
"""What KV holds under slugs that were looked at; others are absent."""


def decode_skill_record(slug: str, value: kv_access.Value) -> Record:
    """Read the value of ``skill:{slug}``, of any generation."""

    def decode(text: bytes) -> Skill | Moved:
        record = json_text.decode(text)
        if not isinstance(record, dict) or "movedTo" not in record:
            return read_skill(record, slug=slug)
        target = record["movedTo"]
        if not isinstance(target, str) or not is_slug(target):
            raise InvalidData("movedTo is not a slug")
        return Moved(slug, target)

    return kv_access.decode_value(value, decode)


async def read_records(
    env: Env, slugs: Sequence[str], *, at_once: bool = False
) -> Mapping[str, Record]:
    """One operation for every hundred; ``at_once``: several of them under way. Raises KvError."""
    read = kv_access.read_many_values if at_once else kv_access.read_all_values
    values = await read(env, [skill_key(slug) for slug in slugs])
    return {slug: decode_skill_record(slug, values[skill_key(slug)]) for slug in slugs}


async def read_record(env: Env, slug: str) -> Record:
    return (await read_records(env, [slug]))[slug]


def encode_skill(skill: Skill) -> bytes:
    """A whole skill as JSON. Raises InvalidData for one that could not be read back."""
    try:
        identity_of(skill.repo_url, skill.base_slug)
        value = json_encoder.encode(skill)
    except ValueError as error:
        raise InvalidData(str(error)) from error
    if not is_slug(skill.name):
        raise InvalidData(f"no usable slug: {skill.name!r:.80}")
    if len(value) > kv_access.MAX_RECORD_BYTES:
        raise InvalidData(f"larger than {kv_access.MAX_RECORD_BYTES} bytes")
    return value


async def write_record(env: Env, skill: Skill) -> None:
    """Overwrites; the caller makes sure that this is the newest state.

    Raises KvError, InvalidData.
    """
    value = encode_skill(skill)
    await kv_access.put_value(env, skill_key(skill.name), value, metadata=encode_metadata(skill))


async def write_moved(env: Env, old_slug: str, new_slug: str) -> None:
    """Replace a record by a note of where its skill lives now. Raises KvError."""
    value = json_encoder.encode({"movedTo": new_slug})
    metadata = fitting_metadata(json_encoder.encode(Moved(old_slug, new_slug)))
    await kv_access.put_value(env, skill_key(old_slug), value, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Malformed:
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Alias:
    name: str
    target: str | None  # None where only the alias' value tells it


@dataclass(slots=True)
class PublishedPage:
    """What one list page of ``skill:*`` holds.

    ``last_slug`` is the greatest slug that the page has a record of, readable or not: with the one
    before as lower end, it bounds the range of slugs that this page tells about (None: no record;
    the range stays open).
    """

    cursor: str | None = None  # of the next page; None: this is the last one
    last_slug: str | None = None
    summaries: list[PublishedSummary] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    aliases: list[Alias] = field(default_factory=list)
    malformed: list[Malformed] = field(default_factory=list)
    without_metadata: list[str] = field(default_factory=list)
    """Slugs of skills that had to be read by value, though their summary fits into metadata."""
    waiting: list[str] = field(default_factory=list)  # slugs whose records are not read yet

    def record_keys(self) -> list[RecordKey]:
        return [
            RecordKey(s.summary.name, s.summary.identity, s.revision, s.summary.published_at)
            for s in self.summaries
        ]


async def enumerate_published_skills(
    env: Env,
    *,
    cursor: str | None = None,
    page_budget: int | None = None,
    leave_waiting: bool = False,
) -> AsyncIterator[PublishedPage]:
    """Every record under ``skill:*``, a list page at a time: summaries, aliases, what is broken.

    At most ``page_budget`` list calls (None: to the end), and one bulk get for every hundred
    records without usable metadata, unless ``leave_waiting`` leaves these to `read_waiting`: they
    are what may take long. Malformed records never hide others. Memory: one page of summaries and
    one bulk get of values. Raises KvError.
    """
    warnings = Warnings(env)
    pages = kv_access.list_all_keys(env, SKILL_PREFIX, cursor=cursor, page_budget=page_budget)
    async for keys in pages:
        page = PublishedPage(cursor=keys.cursor)
        async for key in in_turns(keys.keys):
            _sort_key(page, key)
        if not leave_waiting:
            await read_waiting(env, page)
        warnings.add(page.malformed)
        yield page


async def read_waiting(env: Env, page: PublishedPage) -> None:
    """Read a page's waiting records into it, one operation for every hundred. Raises KvError."""
    async for key, value in kv_access.read_each(env, [skill_key(slug) for slug in page.waiting]):
        slug = key.removeprefix(SKILL_PREFIX)
        match decode_skill_record(slug, value):
            case Skill() as skill:
                page.summaries.append(skill.published_summary())
                if encode_metadata(skill) is not None:
                    page.without_metadata.append(slug)
            case Moved() as moved:
                page.moved.append(moved)
            case Unreadable() as unreadable:
                page.malformed.append(Malformed(key, str(unreadable)))
            case None:
                page.malformed.append(Malformed(key, "listed, but has no value"))
    page.waiting = []


def _sort_key(page: PublishedPage, key: KvKey) -> None:
    """Enter what a key and its metadata tell."""
    if key.name.startswith(ALIAS_PREFIX):
        alias = key.name.removeprefix(ALIAS_PREFIX)
        page.aliases.append(Alias(alias, alias_target(alias, key.metadata)))
        return
    slug = key.name.removeprefix(SKILL_PREFIX)
    if not is_slug(slug):
        page.malformed.append(Malformed(key.name, "the key is not a slug"))
        return
    page.last_slug = slug
    match decode_metadata(slug, key.metadata):
        case PublishedSummary() as published:
            page.summaries.append(published)
        case Moved() as moved:
            page.moved.append(moved)
        case None:
            page.waiting.append(slug)


class Warnings:
    """Logs malformed records: MAX_WARNINGS by name, the rest counted as they come."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._left = MAX_WARNINGS

    def add(self, malformed: Sequence[Malformed]) -> None:
        log = self._env.log
        for broken in malformed[: self._left]:
            log("kv-record-malformed", level="warning", key=broken.key, reason=broken.reason)
        not_named = len(malformed) - self._left
        if not_named > 0:
            log("kv-records-malformed", level="warning", not_named=not_named)
        self._left = max(0, self._left - len(malformed))
