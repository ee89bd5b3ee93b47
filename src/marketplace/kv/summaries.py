"""A skill's summary as compact JSON: the metadata of its record, and the lines of the index.

The metadata of a forwarding note and of an alias have the same form.
"""

import operator
import re
from typing import Any, Final, cast

import msgspec

from marketplace.basics.json_text import InvalidData
from marketplace.basics.timestamps import EPOCH
from marketplace.ports.kv import KV_METADATA_LIMIT
from marketplace.skills.skill import (
    ADDED_TO_SUMMARY,
    MAX_AUTHOR_LENGTH,
    MAX_SCORE,
    SUMMARY_MOMENTS,
    PublishedSummary,
    Skill,
    SkillSummary,
)
from marketplace.skills.slugs import author_of, identity_of, is_slug


class Moved(msgspec.Struct, frozen=True, array_like=True, tag="m1"):
    """A record that was left behind: the skill ``name`` lives under ``moved_to`` now."""

    name: str
    moved_to: str


# A PublishedSummary as a JSON array: the revision, then the summary's fields in their order. The
# base slug is empty when it is the name, as it nearly always is. Arrays from before a field was
# added end before it and are read with its default; one that ends earlier is damaged.
_CompactSummary = msgspec.defstruct(
    "_CompactSummary",
    [
        ("revision", str),
        *(
            (field.name, field.type, *([field.default] if field.name in ADDED_TO_SUMMARY else []))
            for field in msgspec.structs.fields(SkillSummary)
        ),
    ],
    frozen=True,
    array_like=True,
    tag="s1",
    gc=False,
)


class SummaryHead(msgspec.Struct, frozen=True, array_like=True, tag="s1"):
    """The first fields of a _CompactSummary."""

    revision: str
    name: str


class CompactAlias(msgspec.Struct, frozen=True, array_like=True, tag="a1"):
    name: str
    slug: str


_MOMENTS: Final = re.compile(
    rf"(?:\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z){{{len(SUMMARY_MOMENTS)}}}", re.ASCII
)  # of the timestamps of a summary, one after the other
_moments_of = operator.attrgetter(*SUMMARY_MOMENTS)

_ON_GITHUB: Final = "https://github.com/"  # whose authors are as they were stored

json_encoder = msgspec.json.Encoder()
_record_decoder = msgspec.json.Decoder(_CompactSummary | Moved)
_summary_decoder = msgspec.json.Decoder(_CompactSummary)
_head_decoder = msgspec.json.Decoder(SummaryHead | Moved)
_alias_decoder = msgspec.json.Decoder(CompactAlias)

_PLAIN_REPOSITORY = re.compile(
    r"https://[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9_][\w.~-]*/[A-Za-z0-9_][\w.~-]*",
    re.ASCII,
)


def encode_summary(published: PublishedSummary) -> bytes:
    """A summary as compact JSON, the form that metadata and index pages hold."""
    values = msgspec.structs.asdict(published.summary)
    if values["base_slug"] == values["name"]:
        values["base_slug"] = ""
    return json_encoder.encode(_CompactSummary(revision=published.revision, **values))


def decode_summary(text: bytes | str) -> PublishedSummary:
    """Read `encode_summary`'s form. Raises InvalidData, also for what no skill can have."""
    try:
        compact = _summary_decoder.decode(text)
        _check_nul(text, compact)
        return _published(compact)
    except (ValueError, RecursionError) as error:
        raise InvalidData(str(error)[:200]) from error


def decode_for_matching(text: bytes) -> SkillSummary:
    """Read `encode_summary`'s form for filters and sort keys alone, in a fourth of the time.

    What comes back has a summary's fields, but an empty ``base_slug`` where it is the name, and
    was checked when it was encoded, not now. Raises ValueError.
    """
    summary = cast("SkillSummary", _summary_decoder.decode(text))
    if summary.repo_url.startswith(_ON_GITHUB):
        return summary
    return _with_author(summary)


def _published(compact: Any) -> PublishedSummary:
    values = msgspec.structs.asdict(compact)
    revision = values.pop("revision")
    values["base_slug"] = values["base_slug"] or compact.name
    summary = SkillSummary(**values)
    _check_identity(summary)
    if not summary.repo_url.startswith(_ON_GITHUB):
        summary = _with_author(summary)
    if not 0 <= summary.cert_score <= MAX_SCORE or not _MOMENTS.fullmatch(
        "".join([EPOCH if moment is None else moment for moment in _moments_of(summary)])
    ):
        raise InvalidData("a score or a time that no skill has")
    return PublishedSummary(summary, revision)


def _with_author(summary: SkillSummary) -> SkillSummary:
    """Of another forge than GitHub; summaries from before authors had the forge are kept as they
    are."""
    author = author_of(summary.repo_url, summary.author)[:MAX_AUTHOR_LENGTH]
    return msgspec.structs.replace(summary, author=author)


def _check_nul(text: bytes | str, compact: msgspec.Struct) -> None:
    """No skill has the character that PostgreSQL cannot hold. Looked for where the text has
    something like it only, since enumerations do this for every skill."""
    if (b"\\u0000" in text) if isinstance(text, bytes) else ("\\u0000" in text):
        for value in msgspec.structs.astuple(compact):
            texts = value if isinstance(value, tuple) else (value,)
            if any(isinstance(each, str) and "\0" in each for each in texts):
                raise InvalidData("a NUL character")


def _check_identity(summary: SkillSummary) -> None:
    """Raise ValueError where ``summary.identity`` would. Quick for addresses in their plain form,
    since enumerations do this for every skill."""
    if not is_slug(summary.name):
        raise InvalidData(f"no usable slug: {summary.name!r:.80}")
    plain = _PLAIN_REPOSITORY.fullmatch(summary.repo_url)
    if not plain or (summary.base_slug != summary.name and not is_slug(summary.base_slug)):
        identity_of(summary.repo_url, summary.base_slug)


def encode_metadata(skill: Skill) -> str | None:
    """A skill's summary as KV metadata: the text of a JSON array.

    None when the text, serialised once more as a JSON string, exceeds KV's 1,024 bytes; such a
    record is written without and read by value.
    """
    return fitting_metadata(encode_summary(skill.published_summary()))


def fitting_metadata(text: bytes) -> str | None:
    metadata = text.decode()
    return metadata if len(json_encoder.encode(metadata)) <= KV_METADATA_LIMIT else None


def decode_metadata(slug: str, metadata: object) -> PublishedSummary | Moved | None:
    """The summary in the metadata of ``skill:{slug}``, or where the skill has moved to.

    None for all that cannot be used: none at all, that of an older generation, damage, or
    metadata that belongs to another slug. The record's value decides then.
    """
    compact = _decode_of(slug, metadata, _record_decoder)
    if compact is None or isinstance(compact, Moved):
        return compact
    try:
        _check_nul(cast("str", metadata), compact)
        return _published(compact)
    except ValueError:
        return None


def decode_revision(slug: str, metadata: object) -> str | Moved | None:
    """The revision alone, or where the skill has moved to: a tenth of `decode_metadata`'s time.

    None where the metadata does not begin as it should; what comes after is not looked at.
    """
    head = _decode_of(slug, metadata, _head_decoder)
    return head.revision if isinstance(head, SummaryHead) else head


def alias_target(alias: str, metadata: object) -> str | None:
    """None for an alias of an older generation: its value has the target."""
    compact = _decode_of(alias, metadata, _alias_decoder)
    return None if compact is None else compact.slug


def _decode_of(slug: str, metadata: object, decoder: msgspec.json.Decoder[Any]) -> Any:
    """What metadata of this slug holds; None when it cannot be used, whatever the reason."""
    if not isinstance(metadata, str):
        return None
    try:
        found = decoder.decode(metadata)
    except (ValueError, RecursionError):
        return None
    leads_nowhere = isinstance(found, Moved) and not is_slug(found.moved_to)
    return None if found.name != slug or leads_nowhere else found
