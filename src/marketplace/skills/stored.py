"""Skills as every store can hold them, and the reading of stored records of any generation."""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from marketplace.basics.json_text import InvalidData
from marketplace.basics.timestamps import normalize_timestamp
from marketplace.skills.skill import (
    DEFAULT_CATEGORY,
    LIMITS,
    MOMENTS,
    AtMost,
    Skill,
    revision_encoder,
    shorten,
)
from marketplace.skills.slugs import (
    MAX_REPOSITORY_URL_LENGTH,
    author_of,
    is_slug,
    repository_author,
)
from marketplace.skills.tiers import CertTier

# As the limits in ``skill``: what every store can hold.
MAX_STORED_DESCRIPTION_BYTES: Final = 16 * 1024
MAX_STORED_SLUG_LENGTH: Final = 506
MAX_IDENTITY_LENGTH: Final = 2048

_OLD_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "name": ("slug",),
    "display_name": ("title",),
    "repo_url": ("repositoryUrl", "repository"),
    "skill_path": ("path",),
    "current_version": ("version",),
    "cert_tier": ("tier",),
    "cert_score": ("score",),
    "published_at": ("createdAt",),
}
_FIELDS: Final = msgspec.structs.fields(Skill)
_SPELLINGS: Final = {
    field.encode_name: (field.encode_name, field.name, *_OLD_SPELLINGS.get(field.name, ()))
    for field in _FIELDS
}
_TIMES: Final = tuple(field.encode_name for field in _FIELDS if field.name in MOMENTS)


def read_skill(record: object, *, slug: str | None = None) -> Skill:
    """Read a decoded JSON record of any generation as a Skill that every store takes.

    ``slug`` is the slug that the record's key names; it wins over the record's own name, since
    the key is what links point to. Missing optional fields and unreadable times get their
    defaults, values beyond the limits are cut to them (see `storable`). Raises InvalidData when
    the record has no usable slug or repository, or a field of a wrong type.
    """
    if not isinstance(record, Mapping):
        raise InvalidData(f"expected a JSON object, found {type(record).__name__}")
    values = _known_fields(record)
    name = slug or values.get("name")
    if not isinstance(name, str) or not is_slug(name):
        raise InvalidData(f"no usable slug: {name!r:.80}")
    repo_url = values.get("repoUrl")
    if not isinstance(repo_url, str) or not repo_url:
        raise InvalidData("no repoUrl")
    values |= {"name": name}
    values.setdefault("baseSlug", name)
    values.setdefault("displayName", name)
    values.setdefault("description", "")
    if not values.get("author"):
        values["author"] = _owner(repo_url)
    for field in _TIMES:
        _normalize_time(values, field)
    if "updatedAt" not in values and "publishedAt" in values:
        values["updatedAt"] = values["publishedAt"]
    if "certScore" in values:
        values["certScore"] = _score(values["certScore"])
    try:
        skill = storable(msgspec.convert(values, Skill, strict=False))
    except ValueError as error:  # msgspec.ValidationError is one
        raise InvalidData(str(error)) from error
    return skill if "verdict" in values else _without_default_label(skill)


def _score(value: object) -> int:
    """0 for what is no number: it hides no skill."""
    if isinstance(value, bool):
        return 0
    try:
        number = float(value)  # type: ignore[arg-type]  # TypeError tells what is neither
    except (TypeError, ValueError, OverflowError):
        return 0
    return round(number) if math.isfinite(number) else 0


def _without_default_label(skill: Skill) -> Skill:
    """Records from before verdicts have a label by default that nobody's check stands behind."""
    if skill.cert_tier is not CertTier.SCANNED:
        return skill
    labels = tuple(label for label in skill.labels if label != "verified")
    return msgspec.structs.replace(skill, labels=labels)


_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


def storable(skill: Skill) -> Skill:
    """The skill as PostgreSQL, KV and the index all can hold it, so that none of them ever lacks
    a skill that another has. Idempotent.

    Too long texts and lists are cut, NUL characters (which PostgreSQL has no room for) replaced,
    whole numbers brought into their range, fractions that are no numbers set to 0. Raises
    InvalidData for what cannot be mended: the slug, the repository, times, broken Unicode.
    """
    try:
        revision_encoder.encode(skill)  # refuses broken Unicode
    except ValueError as error:
        raise InvalidData(str(error)) from error
    stored = msgspec.structs.replace(skill, author=_author(skill))
    mended = {
        field: fitting
        for field, limit in LIMITS.items()
        if (fitting := _mended(value := getattr(stored, field), limit)) != value
    }
    stored = msgspec.structs.replace(stored, **mended)
    stored = msgspec.structs.replace(
        stored,
        description=shorten(stored.description, MAX_STORED_DESCRIPTION_BYTES),
        category=stored.category or DEFAULT_CATEGORY,
    )
    _check_storable(stored)
    return stored


def _check_storable(skill: Skill) -> None:
    if not is_slug(skill.name) or len(skill.name) > MAX_STORED_SLUG_LENGTH:
        raise InvalidData(f"no usable slug: {skill.name!r:.80}")
    moments = [getattr(skill, field) for field in MOMENTS]
    if not all(moment is None or _MOMENT.fullmatch(moment) for moment in moments):
        raise InvalidData(f"not all times: {moments!r:.120}")
    if len(skill.repo_url) > MAX_REPOSITORY_URL_LENGTH:
        raise InvalidData(f"a repoUrl of {len(skill.repo_url)} characters")
    try:
        identity = skill.identity
    except ValueError as error:
        raise InvalidData(str(error)) from error
    if len(identity) > MAX_IDENTITY_LENGTH:
        raise InvalidData(f"an identity of {len(identity)} characters")


def _mended(value: Any, at_most: AtMost) -> Any:
    if type(value) is str:  # and not an enumeration
        return _cut(value, at_most.limit)
    if isinstance(value, tuple):
        items = value[: at_most.limit]
        return tuple(_cut(each, at_most.each) if type(each) is str else each for each in items)
    if type(value) is int:  # and not a bool
        return min(max(value, 0), at_most.limit)
    if isinstance(value, float) and not math.isfinite(value):
        return 0.0
    return value


def _cut(text: str, length: int) -> str:
    return without_nul(text)[:length]


def without_nul(text: str) -> str:
    """The text as PostgreSQL can hold it."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _author(skill: Skill) -> str:
    try:
        return author_of(skill.repo_url, skill.author)
    except ValueError as error:
        raise InvalidData(str(error)) from error


def _owner(repo_url: str) -> str:
    try:
        return repository_author(repo_url)
    except ValueError as error:
        raise InvalidData(str(error)) from error


def _known_fields(record: Mapping[Any, Any]) -> dict[str, Any]:
    """The record's values under their present names; ``null`` counts as missing."""
    values: dict[str, Any] = {}
    for field, spellings in _SPELLINGS.items():
        for key in spellings:
            if record.get(key) is not None:
                values[field] = record[key]
                break
    return values


def _normalize_time(values: dict[str, Any], field: str) -> None:
    try:
        values[field] = normalize_timestamp(values[field])
    except (KeyError, ValueError, TypeError):
        values.pop(field, None)  # no skill is hidden because nobody can say how old it is
