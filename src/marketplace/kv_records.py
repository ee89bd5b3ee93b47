"""The published skills in KV: one record a skill under ``skill:{slug}``, never deleted.

A record's value is the whole skill as JSON; its metadata is the listing summary, so that one list
call brings a thousand of them. Where a summary does not fit, the value is read instead.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import msgspec

from marketplace import kv_access
from marketplace.env import Env
from marketplace.kv_keys import ALIAS_PREFIX, SKILL_PREFIX, is_slug, skill_key
from marketplace.models import (
    MAX_SCORE,
    CertMethod,
    CertTier,
    InvalidRecord,
    PublishedSummary,
    Skill,
    SkillSummary,
    read_skill,
)
from marketplace.slugs import identity_of
from marketplace.storage import KV_BULK_GET_LIMIT, KV_METADATA_LIMIT, KvKey, KvListPage, RecordKey
from marketplace.timestamps import EPOCH

MAX_WARNINGS: Final = 20
"""Log lines about single malformed records in one enumeration; the rest is counted."""


class Moved(msgspec.Struct, frozen=True):
    """A record that was left behind: the skill ``name`` lives under ``moved_to`` now."""

    name: str
    moved_to: str


class _CompactSummary(msgspec.Struct, frozen=True, array_like=True, tag="s1", gc=False):
    """A PublishedSummary as a JSON array. Another order or set of fields is another tag."""

    revision: str
    name: str
    base_slug: str  # empty when it is the name, as it nearly always is
    display_name: str
    description: str
    author: str
    repo_url: str
    skill_path: str
    license: str | None
    category: str
    current_version: str
    cert_tier: CertTier
    cert_method: CertMethod
    cert_score: int
    certified_at: str | None
    labels: tuple[str, ...]
    extensible: bool
    trending_score_7d: float
    trending_score_30d: float
    published_at: str
    updated_at: str


class _CompactMoved(msgspec.Struct, frozen=True, array_like=True, tag="m1"):
    name: str
    moved_to: str


class _SummaryHead(msgspec.Struct, frozen=True, array_like=True, tag="s1"):
    """The first fields of a _CompactSummary."""

    revision: str
    name: str


class _CompactAlias(msgspec.Struct, frozen=True, array_like=True, tag="a1"):
    name: str
    slug: str


_MOMENTS: Final = re.compile(
    r"(?:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z){3}", re.ASCII
)  # of the timestamps of a summary, one after the other

_encoder = msgspec.json.Encoder()
_record_decoder = msgspec.json.Decoder(_CompactSummary | _CompactMoved)
_summary_decoder = msgspec.json.Decoder(_CompactSummary)
_head_decoder = msgspec.json.Decoder(_SummaryHead | _CompactMoved)
_alias_decoder = msgspec.json.Decoder(_CompactAlias)

_PLAIN_REPOSITORY = re.compile(
    r"https://[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9_][\w.~-]*/[A-Za-z0-9_][\w.~-]*",
    re.ASCII,
)


# --- summaries as text ------------------------------------------------------------------------


def encode_summary(published: PublishedSummary) -> bytes:
    """A summary as compact JSON, the form that metadata and index pages hold."""
    values = msgspec.structs.asdict(published.summary)
    if values["base_slug"] == values["name"]:
        values["base_slug"] = ""
    return _encoder.encode(_CompactSummary(revision=published.revision, **values))


def decode_summary(text: bytes | str) -> PublishedSummary:
    """Read `encode_summary`'s form. Raises InvalidRecord, also for what no skill can have."""
    try:
        compact = _summary_decoder.decode(text)
        _check_nul(text, compact)
        return _published(compact)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRecord(str(error)[:200]) from error


def decode_for_matching(text: bytes) -> SkillSummary:
    """Read `encode_summary`'s form for filters and sort keys alone, in a fourth of the time.

    What comes back has a summary's fields, but an empty ``base_slug`` where it is the name, and
    was checked when it was encoded, not now. Raises msgspec.MsgspecError, ValueError.
    """
    return cast("SkillSummary", _summary_decoder.decode(text))


def _published(compact: _CompactSummary) -> PublishedSummary:
    values = msgspec.structs.asdict(compact)
    revision = values.pop("revision")
    values["base_slug"] = values["base_slug"] or compact.name
    summary = SkillSummary(**values)
    _check_identity(summary)
    if not 0 <= summary.cert_score <= MAX_SCORE or not _MOMENTS.fullmatch(
        summary.published_at + summary.updated_at + (summary.certified_at or EPOCH)
    ):
        raise InvalidRecord("a score or a time that no skill has")
    return PublishedSummary(summary, revision)


def _check_nul(text: bytes | str, compact: msgspec.Struct) -> None:
    """No skill has the character that PostgreSQL cannot hold. Looked for where the text has
    something like it only, since enumerations do this for every skill."""
    if (b"\\u0000" in text) if isinstance(text, bytes) else ("\\u0000" in text):
        for value in msgspec.structs.astuple(compact):
            texts = value if isinstance(value, tuple) else (value,)
            if any(isinstance(each, str) and "\0" in each for each in texts):
                raise InvalidRecord("a NUL character")


def _check_identity(summary: SkillSummary) -> None:
    """Raise ValueError where ``summary.identity`` would. Quick for addresses in their plain form,
    since enumerations do this for every skill."""
    if not is_slug(summary.name):
        raise InvalidRecord(f"no usable slug: {summary.name!r:.80}")
    plain = _PLAIN_REPOSITORY.fullmatch(summary.repo_url)
    if not plain or (summary.base_slug != summary.name and not is_slug(summary.base_slug)):
        identity_of(summary.repo_url, summary.base_slug)


def encode_metadata(skill: Skill) -> str | None:
    """A skill's summary as KV metadata: the text of a JSON array.

    None when the text, serialised once more as a JSON string, exceeds KV's 1,024 bytes; such a
    record is written without and read by value.
    """
    return _fitting(encode_summary(skill.published_summary()))


def _fitting(text: bytes) -> str | None:
    metadata = text.decode()
    return metadata if len(_encoder.encode(metadata)) <= KV_METADATA_LIMIT else None


def decode_metadata(slug: str, metadata: object) -> PublishedSummary | Moved | None:
    """The summary in the metadata of ``skill:{slug}``, or where the skill has moved to.

    None for all that cannot be used: none at all, that of an older generation, damage, or
    metadata that belongs to another slug. The record's value decides then.
    """
    if not isinstance(metadata, str):
        return None
    try:
        compact = _record_decoder.decode(metadata)
        _check_nul(metadata, compact)
        if compact.name != slug:
            return None
        if isinstance(compact, _CompactMoved):
            return Moved(slug, compact.moved_to) if is_slug(compact.moved_to) else None
        return _published(compact)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None  # by contract: unusable, whatever the reason


def decode_revision(slug: str, metadata: object) -> str | Moved | None:
    """The revision alone, or where the skill has moved to: a tenth of `decode_metadata`'s time.

    None where the metadata does not begin as it should; what comes after is not looked at.
    """
    if not isinstance(metadata, str):
        return None
    try:
        head = _head_decoder.decode(metadata)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None  # by contract: unusable, whatever the reason
    if head.name != slug:
        return None
    if isinstance(head, _SummaryHead):
        return head.revision
    return Moved(slug, head.moved_to) if is_slug(head.moved_to) else None


def encode_alias_metadata(alias: str, slug: str) -> str | None:
    """An alias and its target as KV metadata, so that enumerations see both."""
    return _fitting(_encoder.encode(_CompactAlias(alias, slug)))


def _alias_target(alias: str, metadata: object) -> str | None:
    if not isinstance(metadata, str):
        return None
    try:
        compact = _alias_decoder.decode(metadata)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None  # an alias of an older generation: its value has the target
    return compact.slug if compact.name == alias else None


# --- single records ---------------------------------------------------------------------------

Record = Skill | Moved | InvalidRecord | None
"""What is under ``skill:{slug}``: a skill, a forwarding note, something unreadable, or nothing."""


def decode_skill_record(slug: str, value: kv_access.Value) -> Record:
    """Read the value of ``skill:{slug}``, of any generation."""
    if value is None or isinstance(value, InvalidRecord):
        return value
    try:
        record = kv_access.decode_json(value)
        if isinstance(record, dict) and "movedTo" in record:
            return _read_moved(slug, record["movedTo"])
        return read_skill(record, slug=slug)
    except InvalidRecord as error:
        return error
    except (ValueError, ArithmeticError, RecursionError) as error:
        return InvalidRecord(str(error)[:200])


def _read_moved(slug: str, target: object) -> Moved:
    if not isinstance(target, str) or not is_slug(target):
        raise InvalidRecord("movedTo is not a slug")
    return Moved(slug, target)


async def read_records(env: Env, slugs: Sequence[str]) -> Mapping[str, Record]:
    """The records of these slugs, one operation for every hundred. Raises KvError."""
    values = await kv_access.read_all_values(env, [skill_key(slug) for slug in slugs])
    return {slug: decode_skill_record(slug, values[skill_key(slug)]) for slug in slugs}


async def read_record(env: Env, slug: str) -> Record:
    """The record of one slug. Raises KvError."""
    return (await read_records(env, [slug]))[slug]


def encode_skill(skill: Skill) -> bytes:
    """A whole skill as JSON. Raises InvalidRecord for one that could not be read back."""
    try:
        identity_of(skill.repo_url, skill.base_slug)
        value = _encoder.encode(skill)
    except ValueError as error:
        raise InvalidRecord(str(error)) from error
    if not is_slug(skill.name):
        raise InvalidRecord(f"no usable slug: {skill.name!r:.80}")
    if len(value) > kv_access.MAX_RECORD_BYTES:
        raise InvalidRecord(f"larger than {kv_access.MAX_RECORD_BYTES} bytes")
    return value


async def write_record(env: Env, skill: Skill) -> None:
    """Write ``skill:{skill.name}`` with its metadata, over whatever is there: who calls decides
    which state is the newer one. Raises KvError, InvalidRecord."""
    value = encode_skill(skill)
    await kv_access.put_value(env, skill_key(skill.name), value, metadata=encode_metadata(skill))


async def write_moved(env: Env, old_slug: str, new_slug: str) -> None:
    """Replace a record by a note of where its skill lives now. Raises KvError."""
    value = _encoder.encode({"movedTo": new_slug})
    metadata = _fitting(_encoder.encode(_CompactMoved(old_slug, new_slug)))
    await kv_access.put_value(env, skill_key(old_slug), value, metadata=metadata)


# --- all records ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Malformed:
    """A record that cannot be read, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Alias:
    """An old slug; ``target`` is None where only the alias' value tells it."""

    name: str
    target: str | None


@dataclass(slots=True)
class PublishedPage:
    """What one list page of ``skill:*`` holds.

    ``cursor`` goes on after this page; None: it was the last one. ``last_slug`` is the greatest
    slug that the page has a record of, readable or not: with the one before as lower end, it
    bounds the range of slugs that this page speaks for (None: no record; the range stays open).
    ``waiting`` has the slugs whose records are not read yet.
    """

    cursor: str | None = None
    last_slug: str | None = None
    summaries: list[PublishedSummary] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    aliases: list[Alias] = field(default_factory=list)
    malformed: list[Malformed] = field(default_factory=list)
    without_metadata: list[str] = field(default_factory=list)
    """Slugs of skills that had to be read by value, though their summary fits into metadata."""
    waiting: list[str] = field(default_factory=list)

    def record_keys(self) -> list[RecordKey]:
        """The skills of the page as the database compares them."""
        return [
            RecordKey(entry.summary.name, entry.summary.identity, entry.revision)
            for entry in self.summaries
        ]


async def enumerate_published_skills(
    env: Env,
    *,
    cursor: str | None = None,
    page_budget: int | None = None,
    leave_waiting: bool = False,
) -> AsyncIterator[PublishedPage]:
    """Every record under ``skill:*``, a list page at a time: summaries, aliases, what is broken.

    One list call a page, and one bulk get for every hundred records without usable metadata.
    At most ``page_budget`` list calls (None: to the end); all was seen when the last page's
    cursor is None. Malformed records are logged by name (at most MAX_WARNINGS, then counted by
    page) and never hide others. Memory: one page of summaries and one bulk get of values.
    With ``leave_waiting`` values are left to `read_waiting`, for who has little time: reading them
    is what may take long. Raises KvError.
    """
    warnings = Warnings(env)
    pages = kv_access.list_all_keys(env, SKILL_PREFIX, cursor=cursor, page_budget=page_budget)
    async for keys in pages:
        page = _sort_keys(keys)
        if not leave_waiting:
            await read_waiting(env, page)
        warnings.add(page.malformed)
        yield page


async def read_waiting(env: Env, page: PublishedPage) -> None:
    """Read a page's waiting records into it, one operation for every hundred. Raises KvError."""
    for chunk in kv_access.chunks(page.waiting, KV_BULK_GET_LIMIT):
        values = await kv_access.read_values(env, [skill_key(slug) for slug in chunk])
        for slug in chunk:
            _sort_record(page, slug, decode_skill_record(slug, values[skill_key(slug)]))
    page.waiting = []


def _sort_keys(keys: KvListPage) -> PublishedPage:
    page = PublishedPage(cursor=keys.cursor)
    for key in keys.keys:
        _sort_key(page, key)
    return page


def _sort_key(page: PublishedPage, key: KvKey) -> None:
    """Enter what a key and its metadata tell."""
    if key.name.startswith(ALIAS_PREFIX):
        alias = key.name.removeprefix(ALIAS_PREFIX)
        page.aliases.append(Alias(alias, _alias_target(alias, key.metadata)))
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


def _sort_record(page: PublishedPage, slug: str, record: Record) -> None:
    match record:
        case Skill():
            page.summaries.append(record.published_summary())
            if encode_metadata(record) is not None:
                page.without_metadata.append(slug)
        case Moved():
            page.moved.append(record)
        case InvalidRecord():
            page.malformed.append(Malformed(skill_key(slug), str(record)))
        case None:
            page.malformed.append(Malformed(skill_key(slug), "listed, but has no value"))


class Warnings:
    """Logs malformed records: MAX_WARNINGS by name, the rest counted as they come."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._left = MAX_WARNINGS

    def add(self, malformed: Sequence[Malformed]) -> None:
        """Log some more."""
        log = self._env.log
        for broken in malformed[: self._left]:
            log("kv-record-malformed", level="warning", key=broken.key, reason=broken.reason)
        if len(malformed) > self._left:
            not_named = len(malformed) - self._left
            log("kv-records-malformed", level="warning", not_named=not_named)
        self._left = max(0, self._left - len(malformed))
