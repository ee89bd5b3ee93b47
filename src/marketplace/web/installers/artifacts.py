"""What an installer downloads to install a skill: the one place that decides it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from marketplace.basics.json_text import Unreadable
from marketplace.catalog.answer import Answer
from marketplace.catalog.lookup import PerhapsMissing
from marketplace.content.skill_content import Kept, content_of
from marketplace.kv.files import Files, read_files
from marketplace.ports.env import Env
from marketplace.skills.forges import raw_file
from marketplace.skills.skill import Skill
from marketplace.web.content_addresses import content_url

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
    or, unless that is gone, in its repository at the commit that was scanned. None where there is
    neither.

    Raises KvError; PerhapsMissing where it cannot be told, as an installer takes "nothing" for
    "removed".
    """
    skill = found.value
    content = await content_of(env, skill)
    if content.archive.is_stored:
        return _kept_here(ArtifactKind.ARCHIVE, content.archive, skill)
    if is_single_file(await files_of(env, skill)):
        if content.skill_md.is_stored:
            return _kept_here(ArtifactKind.SKILL_MD, content.skill_md, skill)
        url = _in_repository(skill)
        if url is not None and skill.skill_md_digest is not None:
            return Artifact(ArtifactKind.SKILL_MD, url, skill.skill_md_digest)
    reasons = list(found.reasons)
    if content.is_uncertain:
        reasons.append("content: no answer")
    if reasons:
        raise PerhapsMissing(f"an artifact of {skill.name}", reasons)
    return None


def nothing_to_install(skill: Skill) -> str:
    """Why a skill without an artifact cannot be installed from here, for people."""
    if skill.source_gone_at is not None:
        return f"Nothing is kept here of {skill.name}, and its repository {skill.repo_url} is gone."
    return f"Nothing is kept here of {skill.name}; install it from {skill.repo_url}."


async def files_of(env: Env, skill: Skill) -> Files:
    """The files of a skill as a scanner listed them; none where no list is kept. Raises KvError."""
    if skill.files_digest is None:
        return ()
    stored = await read_files(env, skill.files_digest)
    return () if stored is None or isinstance(stored, Unreadable) else stored


def is_single_file(files: Files) -> bool:
    """Whether a SKILL.md is all that there is."""
    return [file.path for file in files] == [SKILL_MD]


def _in_repository(skill: Skill) -> str | None:
    """The address of its SKILL.md."""
    if skill.source_gone_at is not None:
        return None
    return raw_file(skill.repo_url, skill.commit, f"{skill.skill_path}/{SKILL_MD}")


def _kept_here(kind: ArtifactKind, kept: Kept, skill: Skill) -> Artifact:
    return Artifact(kind, content_url(kept, skill.name), str(kept.digest))
