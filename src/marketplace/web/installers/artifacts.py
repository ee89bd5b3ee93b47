"""What an installer downloads to install a skill: the one place that decides it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from marketplace.basics.json_text import Unreadable
from marketplace.catalog.answer import Answer
from marketplace.catalog.lookup import PerhapsMissing
from marketplace.kv.files import Files, read_files
from marketplace.ports.env import Env, get_content_store
from marketplace.skills.forges import raw_file
from marketplace.skills.licenses import is_open
from marketplace.skills.skill import Skill

SKILL_MD: Final = "SKILL.md"


class ArtifactKind(StrEnum):
    """As the discovery index names them."""

    ARCHIVE = "archive"
    SKILL_MD = "skill-md"


@dataclass(frozen=True, slots=True)
class Artifact:
    """Bytes by their SHA-256. ``url``: an address, or a path on this host."""

    kind: ArtifactKind
    url: str
    digest: str


async def artifact_of(env: Env, found: Answer[Skill]) -> Artifact | None:
    """The skill's archive as it is kept here; or of a skill that is one file that file, kept here
    or in its repository at the commit that was scanned. None where there is neither.

    Raises ContentError, KvError; PerhapsMissing where the sources that answered know too little of
    the skill: an installer takes "nothing" for "removed".
    """
    skill = found.value
    if await _is_served(env, skill, skill.content_digest):
        return _kept_here(ArtifactKind.ARCHIVE, skill.content_digest)
    if is_single_file(await files_of(env, skill)) and skill.skill_md_digest is not None:
        if await _is_served(env, skill, skill.skill_md_digest):
            return _kept_here(ArtifactKind.SKILL_MD, skill.skill_md_digest)
        url = raw_file(skill.repo_url, skill.commit, f"{skill.skill_path}/{SKILL_MD}")
        if url is not None:
            return Artifact(ArtifactKind.SKILL_MD, url, skill.skill_md_digest)
    if found.degraded:
        raise PerhapsMissing(f"an artifact of {skill.name}", found.reasons)
    return None


async def files_of(env: Env, skill: Skill) -> Files:
    """The files of a skill as a scanner listed them; none where no list is kept. Raises KvError."""
    if skill.files_digest is None:
        return ()
    stored = await read_files(env, skill.files_digest)
    return () if stored is None or isinstance(stored, Unreadable) else stored


def is_single_file(files: Files) -> bool:
    """Whether a SKILL.md is all that there is."""
    return [file.path for file in files] == [SKILL_MD]


def _kept_here(kind: ArtifactKind, digest: str | None) -> Artifact:
    return Artifact(kind, f"/content/{digest}", digest or "")


async def _is_served(env: Env, skill: Skill, digest: str | None) -> bool:
    """Whether `GET /content/{digest}` would answer for this skill. Raises ContentError."""
    if digest is None or not is_open(skill.license, env.settings.content_licenses):
        return False
    stored = await get_content_store(env).find(digest)
    return stored is not None and stored.purged_at is None
