"""What the archive has of one skill."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum

from marketplace.content import archive
from marketplace.ports.env import Env
from marketplace.ports.errors import ContentError
from marketplace.skills.licenses import is_open
from marketplace.skills.skill import Skill


class Availability(StrEnum):
    """Whether content can be had here, or why not."""

    STORED = "stored"
    NOT_NAMED = "not-named"  # no scan told a digest
    NOT_LICENSED = "not-licensed"  # its licence lets nobody else hand it on
    NOT_UPLOADED = "not-uploaded"
    PURGED = "purged"
    UNKNOWN = "unknown"  # the archive does not answer


@dataclass(frozen=True, slots=True)
class Kept:
    """An archive or a SKILL.md: its digest, and whether it can be had."""

    digest: str | None
    availability: Availability

    @property
    def is_stored(self) -> bool:
        return self.availability is Availability.STORED


@dataclass(frozen=True, slots=True)
class SkillContent:
    """What there is of a skill as it was read last. Whether it may be handed out at all the
    skill's standing says."""

    skill: Skill
    archive: Kept
    skill_md: Kept

    @property
    def is_uncertain(self) -> bool:
        """Whether the archive does not answer."""
        return Availability.UNKNOWN in (self.archive.availability, self.skill_md.availability)


async def content_of(env: Env, skill: Skill) -> SkillContent:
    """What the archive has of a skill. Never raises because of the archive."""
    kept, skill_md = await asyncio.gather(
        _kept(env, skill, skill.content_digest), _kept(env, skill, skill.skill_md_digest)
    )
    return SkillContent(skill, kept, skill_md)


async def _kept(env: Env, skill: Skill, digest: str | None) -> Kept:
    if digest is None:
        return Kept(None, Availability.NOT_NAMED)
    if not is_open(skill.license, env.settings.content_licenses):
        return Kept(digest, Availability.NOT_LICENSED)
    try:
        stored = await archive.find(env, digest)
    except ContentError as error:
        env.log("content-not-asked", level=error.level, slug=skill.name, reason=error.reason)
        return Kept(digest, Availability.UNKNOWN)
    if stored is None:
        return Kept(digest, Availability.NOT_UPLOADED)
    purged = stored.purged_at is not None
    return Kept(digest, Availability.PURGED if purged else Availability.STORED)
