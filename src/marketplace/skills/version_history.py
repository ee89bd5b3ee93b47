"""The versions of a skill: which change of what is listed makes one, and what is told of it."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from marketplace.skills.acts import ActKind, Acts
from marketplace.skills.merging import as_said, merge
from marketplace.skills.scan import Scan, apply_scan, that_count
from marketplace.skills.skill import Skill, digest_of
from marketplace.skills.tiers import CertTier

PLACE_PATTERN: Final = r"^[01]_\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z_[0-9a-f]{16}$"

_WORDS: Final = {
    "display_name": "name",
    "description": "description",
    "skill_path": "path",
    "license": "license",
    "category": "category",
    "labels": "labels",
    "extensible": "extension points",
    "extension_points": "extension points",
    "content_digest": "files",
}
"""Fields by what a reader calls them."""


class SkillVersion(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One version as it was listed first; later scans and acts do not change it.

    ``place`` orders the versions of an identity. ``created_at``: when a scanner read it.
    """

    identity: str
    place: str
    version: str
    commit: str | None
    content_digest: str | None
    skill_md_digest: str | None
    cert_tier: CertTier
    cert_score: int
    created_at: str
    diff_summary: str
    license: str | None = None  # of a version from before it was kept: not known


def place_of(skill: Skill) -> str:
    """Where a state's version stands among those of its skill; the greater one is the newer.

    The order in which `merging.merge` lets one statement of the repository replace another, so
    that what is listed is never older than a version.
    """
    read = 0 if skill.provisional else 1
    return f"{read}_{skill.facts_at}_{digest_of(skill.content())}"


def is_new_version(before: Skill | None, after: Skill) -> bool:
    """Whether a change of a skill is one of its version or its content.

    A scan that tells no digest does not say that the content is another one.
    """
    if before is None or (before.provisional and not after.provisional):
        return True
    return before.current_version != after.current_version or (
        after.content_digest not in (None, before.content_digest)
    )


def version_of(before: Skill | None, after: Skill) -> SkillVersion:
    """The version that a state is, told as a change of the state before; None: the first one."""
    return SkillVersion(
        identity=after.identity,
        place=place_of(after),
        version=after.current_version,
        commit=after.commit,
        content_digest=after.content_digest,
        skill_md_digest=after.skill_md_digest,
        cert_tier=after.cert_tier,
        cert_score=after.cert_score,
        created_at=after.facts_at,
        diff_summary=_summary(before, after),
        license=after.license,
    )


def versions_told(
    verdicts: Iterable[Scan], acts: Acts, present: Skill | None = None
) -> Sequence[SkillVersion]:
    """The versions that all verdicts on a skill tell of, the newest first.

    ``present``: the skill as it is known besides, of which the verdicts may lack the beginning.
    """
    owners = tuple(act for act in acts if act.kind in (ActKind.ACCEPT_OWNER, ActKind.RESTORE))
    state: Skill | None = None
    versions: list[SkillVersion] = []
    for scan in that_count(verdicts):
        outcome = apply_scan(state, scan)
        if isinstance(outcome, Skill):
            if state is None:
                outcome = msgspec.structs.replace(outcome, acts=owners)
            versions += _new(state, outcome)
            state = outcome
    if present is not None:
        versions += _new(state, present if state is None else merge(state, present))
    return sorted(versions, key=lambda version: version.place, reverse=True)


def _new(before: Skill | None, after: Skill) -> list[SkillVersion]:
    return [version_of(before, after)] if is_new_version(before, after) else []


def _summary(before: Skill | None, after: Skill) -> str:
    version = after.current_version
    if before is None:
        told = (
            "before a scan has told its version" if after.provisional else f"as version {version}"
        )
        return f"First listed {told}."
    if before.provisional and not after.provisional:
        return f"First read by a scan, as version {version}."
    before, after = as_said(before), as_said(after)
    same = before.current_version == version
    step = (
        f"Version {version} as before" if same else f"Version {before.current_version} → {version}"
    )
    words = _changed(before, after)
    if words:
        return f"{step}; {_listed(words)} changed."
    if before.content_digest is None and after.content_digest is not None:
        return f"{step}; its files have a digest now."
    return f"{step}."


def _changed(before: Skill, after: Skill) -> list[str]:
    """What changed, in words; a digest that either lacks tells nothing about the files."""
    values = ((field, getattr(before, field), getattr(after, field)) for field in _WORDS)
    words = [
        _WORDS[field]
        for field, old, new in values
        if old != new and not (field == "content_digest" and None in (old, new))
    ]
    return list(dict.fromkeys(words))


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
