"""Skills as every store can hold them, and the reading of stored records of any generation."""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from marketplace.basics.timestamps import EPOCH, normalize_timestamp
from marketplace.skills.skill import (
    DEFAULT_CATEGORY,
    MAX_CATEGORY_LENGTH,
    MAX_DISPLAY_NAME_LENGTH,
    MAX_EXTENSION_POINT_LENGTH,
    MAX_EXTENSION_POINTS,
    MAX_LABEL_LENGTH,
    MAX_LABELS,
    MAX_LICENSE_LENGTH,
    MAX_SCORE,
    Skill,
    revision_encoder,
    shorten,
)
from marketplace.skills.slugs import MAX_REPOSITORY_URL_LENGTH, repository_owner, slugify
from marketplace.skills.versions import MAX_VERSION_LENGTH

# Records from before validation may exceed the limits above. They are cut to what every store can
# hold: PostgreSQL's index entries have at most 2,704 bytes, a record 256 KiB, a key 512 bytes.
MAX_STORED_DESCRIPTION_BYTES: Final = 16 * 1024
MAX_STORED_PATH_LENGTH: Final = 2048
MAX_STORED_SLUG_LENGTH: Final = 506
MAX_AUTHOR_LENGTH: Final = 256
MAX_IDENTITY_LENGTH: Final = 2048


class InvalidRecord(ValueError):
    """A stored record that cannot be read as a skill; the message says what is wrong with it."""


_ALIASES_OF_FIELDS: Mapping[str, tuple[str, ...]] = {
    "name": ("slug",),
    "displayName": ("display_name", "title"),
    "repoUrl": ("repo_url", "repositoryUrl", "repository"),
    "currentVersion": ("current_version", "version"),
    "certTier": ("cert_tier", "tier"),
    "certMethod": ("cert_method",),
    "certScore": ("cert_score", "score"),
    "certifiedAt": ("certified_at",),
    "publishedAt": ("published_at", "createdAt"),
    "updatedAt": ("updated_at",),
    "extensionPoints": ("extension_points",),
    "skillPath": ("skill_path", "path"),
    "baseSlug": ("base_slug",),
    "trendingScore7d": ("trending_score_7d",),
    "trendingScore30d": ("trending_score_30d",),
}


def read_skill(record: object, *, slug: str | None = None) -> Skill:
    """Read a decoded JSON record of any generation as a Skill that every store takes.

    ``slug`` is the slug that the record's key names; it wins over the record's own name, since
    the key is what links point to. Missing optional fields and unreadable times get their
    defaults, values beyond the limits are cut to them (see `storable`). Raises InvalidRecord when
    the record has no usable slug or repository, or a field of a wrong type.
    """
    if not isinstance(record, Mapping):
        raise InvalidRecord(f"expected a JSON object, found {type(record).__name__}")
    values = _known_fields(record)
    name = slug or values.get("name")
    if not isinstance(name, str) or not name or slugify(name) != name:
        raise InvalidRecord(f"no usable slug: {name!r:.80}")
    repo_url = values.get("repoUrl")
    if not isinstance(repo_url, str) or not repo_url:
        raise InvalidRecord("no repoUrl")
    values |= {"name": name}
    values.setdefault("baseSlug", name)
    values.setdefault("displayName", name)
    values.setdefault("description", "")
    if not values.get("author"):
        values["author"] = _owner(repo_url)
    for field in ("publishedAt", "updatedAt", "certifiedAt"):
        _normalize_time(values, field)
    if "updatedAt" not in values and "publishedAt" in values:
        values["updatedAt"] = values["publishedAt"]
    score = values.get("certScore")
    if isinstance(score, float) and math.isfinite(score):
        values["certScore"] = round(score)
    try:
        return storable(msgspec.convert(values, Skill, strict=False))
    except ValueError as error:  # msgspec.ValidationError is one
        raise InvalidRecord(str(error)) from error


_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


def storable(skill: Skill) -> Skill:
    """The skill as PostgreSQL, KV and the index all can hold it, so that none of them ever lacks
    a skill that another has. Idempotent.

    Too long texts and lists are cut, NUL characters (which PostgreSQL has no room for) replaced,
    scores brought into their range, trending scores that are no numbers set to 0. Raises
    InvalidRecord for what cannot be mended: the slug, the repository, times, broken Unicode.
    """
    try:
        revision_encoder.encode(skill)  # refuses broken Unicode
    except ValueError as error:
        raise InvalidRecord(str(error)) from error
    stored = msgspec.structs.replace(
        skill,
        display_name=_cut(skill.display_name, MAX_DISPLAY_NAME_LENGTH),
        description=shorten(_without_nul(skill.description), MAX_STORED_DESCRIPTION_BYTES),
        author=_cut(skill.author, MAX_AUTHOR_LENGTH),
        skill_path=_cut(skill.skill_path, MAX_STORED_PATH_LENGTH),
        license=None if skill.license is None else _cut(skill.license, MAX_LICENSE_LENGTH),
        category=_cut(skill.category, MAX_CATEGORY_LENGTH) or DEFAULT_CATEGORY,
        current_version=_cut(skill.current_version, MAX_VERSION_LENGTH),
        cert_score=min(max(skill.cert_score, 0), MAX_SCORE),
        labels=tuple(_cut(label, MAX_LABEL_LENGTH) for label in skill.labels[:MAX_LABELS]),
        extension_points=tuple(
            _cut(point, MAX_EXTENSION_POINT_LENGTH)
            for point in skill.extension_points[:MAX_EXTENSION_POINTS]
        ),
        trending_score_7d=_finite(skill.trending_score_7d),
        trending_score_30d=_finite(skill.trending_score_30d),
    )
    _check_storable(stored)
    return stored


def _check_storable(skill: Skill) -> None:
    if slugify(skill.name) != skill.name or not 0 < len(skill.name) <= MAX_STORED_SLUG_LENGTH:
        raise InvalidRecord(f"no usable slug: {skill.name!r:.80}")
    moments = (skill.published_at, skill.updated_at, skill.certified_at or EPOCH)
    if not all(_MOMENT.fullmatch(moment) for moment in moments):
        raise InvalidRecord(f"not all times: {moments!r:.120}")
    if len(skill.repo_url) > MAX_REPOSITORY_URL_LENGTH:
        raise InvalidRecord(f"a repoUrl of {len(skill.repo_url)} characters")
    try:
        identity = skill.identity
    except ValueError as error:
        raise InvalidRecord(str(error)) from error
    if len(identity) > MAX_IDENTITY_LENGTH:
        raise InvalidRecord(f"an identity of {len(identity)} characters")


def _cut(text: str, length: int) -> str:
    return _without_nul(text)[:length]


def _without_nul(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _owner(repo_url: str) -> str:
    try:
        return repository_owner(repo_url)
    except ValueError as error:
        raise InvalidRecord(str(error)) from error


def _known_fields(record: Mapping[Any, Any]) -> dict[str, Any]:
    """The record's values under their present names; ``null`` counts as missing."""
    values: dict[str, Any] = {}
    for field in _FIELD_NAMES:
        for key in (field, *_ALIASES_OF_FIELDS.get(field, ())):
            if record.get(key) is not None:
                values[field] = record[key]
                break
    return values


def _normalize_time(values: dict[str, Any], field: str) -> None:
    """Bring a time into its one form; what is no time counts as missing."""
    try:
        values[field] = normalize_timestamp(values[field])
    except (KeyError, ValueError, TypeError):
        values.pop(field, None)  # no skill is hidden because nobody can say how old it is


_FIELD_NAMES = tuple(field.encode_name for field in msgspec.structs.fields(Skill))
