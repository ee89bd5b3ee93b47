"""Whether a newer state of an installed skill is listed.

What was listed later is newer, whatever the author calls it; the author's version decides where
nothing is known of the installed one.
"""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from marketplace.skills.skill import Skill, SkillSummary
from marketplace.skills.slugs import identity_of, is_slug, slugify
from marketplace.skills.tiers import CertTier
from marketplace.skills.version_history import SkillVersion
from marketplace.skills.versions import VersionBump, is_version, version_bump, version_order
from marketplace.skills.withholding import Standing, standing_of

MIN_DIGITS: Final = 7  # of an abbreviated commit
_DIGITS: Final = re.compile(rf"[0-9a-f]{{{MIN_DIGITS},64}}", re.ASCII)


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """An installed skill. ``name``: its slug, or ``owner/repository/skill``.

    ``digits``: those of a commit or a digest that it was installed from, perhaps abbreviated; empty
    where there is none.
    """

    name: str
    version: str
    digits: str = ""

    @property
    def slug(self) -> str:
        return self.name if is_slug(self.name) else ""

    @property
    def identity(self) -> str:
        """Of a skill that is named by its repository; empty otherwise."""
        owner, slash, rest = self.name.partition("/")
        repository, slash, skill = rest.partition("/")
        if not slash:
            return ""
        try:
            return identity_of(f"https://github.com/{owner}/{repository}", slugify(skill))
        except ValueError:
            return ""


class FoundInstalled(msgspec.Struct, frozen=True):
    """The skill that is installed, and whether the installed state is known to be an older one."""

    skill: SkillSummary
    superseded: bool = False


class Update(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What an installer is told of an installed skill.

    Of a skill that is not handed out, ``latest`` is the installed version, and there is no tier.
    """

    name: str
    installed: str
    latest: str
    update_available: bool
    version_bump: VersionBump | None
    cert_tier: CertTier | None
    status: Standing


def digits_of(sha: str | None) -> str:
    """The hexadecimal digits of a commit or a digest; empty for what is neither."""
    digits = (sha or "").lower().removeprefix("sha256:")
    return digits if _DIGITS.fullmatch(digits) else ""


def update_of(installed: Installed, found: FoundInstalled | None) -> Update:
    """What is told of an installed skill, or of a name that nothing is known of."""
    standing = Standing.UNKNOWN if found is None else standing_of(found.skill)
    if found is None or standing is not Standing.LISTED:
        return Update(
            name=installed.name,
            installed=installed.version,
            latest=installed.version,
            update_available=False,
            version_bump=None,
            cert_tier=None,
            status=standing,
        )
    latest = found.skill.current_version
    newer = is_version(latest) and version_order(installed.version) < version_order(latest)
    return Update(
        name=installed.name,
        installed=installed.version,
        latest=latest,
        update_available=newer or found.superseded,
        version_bump=version_bump(installed.version, latest) if newer else None,
        cert_tier=found.skill.cert_tier,
        status=standing,
    )


def is_superseded(installed: Installed, skill: Skill, versions: Iterable[SkillVersion]) -> bool:
    """Whether what is installed is one of the skill's versions and not the one that is listed.

    An installer may hash in its own way: digits that were never listed say nothing.
    """
    if _names(installed.digits, skill):
        return False
    listed = (skill.current_version, skill.content_digest)
    return any(
        (each.version == installed.version and each.version != skill.current_version)
        or (_names(installed.digits, each) and (each.version, each.content_digest) != listed)
        for each in versions
    )


def _names(digits: str, state: Skill | SkillVersion) -> bool:
    told = (state.commit, state.content_digest, state.skill_md_digest)
    return bool(digits) and any(each is not None and each.startswith(digits) for each in told)
