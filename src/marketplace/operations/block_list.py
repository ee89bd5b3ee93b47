"""The list of blocked skills, for installers: complete, or not given at all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from marketplace.kv.acceptance_log import read_acts
from marketplace.kv.records import enumerate_published_skills, read_records
from marketplace.kv.withheld import read_withheld
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, KvError
from marketplace.skills.acts import Severity, union
from marketplace.skills.merging import as_listed
from marketplace.skills.skill import Skill, Status
from marketplace.skills.slugs import identity_of, normalize_repository, repository_author, slugify
from marketplace.skills.withholding import withholding_of

UNKNOWN_THREAT: Final = "unknown"  # where only the summary of a skill can be read

_PAGE: Final = 500  # rows of one statement


class Blocked(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An entry of the list. ``content_hash``: SHA-256 of the archive that was last read."""

    skill_name: str
    content_hash: str | None
    threat_type: str
    severity: Severity
    reason: str
    evidence_urls: tuple[str, ...]
    discovered_at: str
    repo_url: str


@dataclass(frozen=True, slots=True)
class BlockList:
    """``reasons`` tell why PostgreSQL did not answer, if KV did."""

    entries: Sequence[Blocked]
    reasons: tuple[str, ...] = ()

    @property
    def last_updated(self) -> str | None:
        return max((entry.discovered_at for entry in self.entries), default=None)


async def read_block_list(env: Env) -> BlockList:
    """Every blocked skill. Raises KvError where no source can name them all."""
    try:
        skills = await _rows(await get_db(env))
    except DatabaseError as error:
        _note(env, error)
        found = await _kept_in_kv(env)
        return BlockList(_entries(found), (f"postgres: {error.reason}",))
    return BlockList(_entries(skills))


async def find_blocked(env: Env, name: str, repo_url: str | None) -> Blocked | None:
    """The blocked skill of a name (a slug, or what its repository calls it) and a repository.

    Without a repository the name is the slug. Raises KvError as `read_block_list`; ValueError for
    what is no repository.
    """
    slug = slugify(name)
    repository = None if repo_url is None else normalize_repository(repo_url)
    if not slug:
        return None
    try:
        skills = await _named(await get_db(env), slug, repository)
    except DatabaseError as error:
        _note(env, error)
        skills = await _kept_in_kv(env)
    asked = [skill for skill in skills if _is_asked_for(skill, slug, repository)]
    return next(iter(_entries(asked)), None)


def _note(env: Env, error: DatabaseError) -> None:
    env.log(
        "read-falls-back",
        level=error.level,
        source="postgres",
        reason=error.reason,
        detail=str(error),
    )


def _is_asked_for(skill: Skill, slug: str, repository: str | None) -> bool:
    if repository is None:
        return skill.name == slug
    return normalize_repository(skill.repo_url) == repository and slug in (
        skill.name,
        skill.base_slug,
    )


def _entries(skills: Iterable[Skill]) -> list[Blocked]:
    return [_entry(skill) for skill in skills if skill.status is Status.BLOCKED]


def _entry(skill: Skill) -> Blocked:
    told = withholding_of(skill)
    return Blocked(
        skill_name=skill.name,
        content_hash=skill.content_digest,
        threat_type=(told and told.threat_type) or UNKNOWN_THREAT,
        severity=(told and told.severity) or Severity.HIGH,
        reason=(told and told.reason) or "",
        evidence_urls=told.evidence_urls if told else (),
        discovered_at=(told and told.at) or skill.updated_at,
        repo_url=skill.repo_url,
    )


async def _rows(database: SkillDatabase) -> list[Skill]:
    blocked: list[Skill] = []
    after: str | None = ""
    while after is not None:
        page = await database.list_withheld(after=after, limit=_PAGE)
        blocked += [skill for skill in page if skill.status is Status.BLOCKED]
        after = page[-1].name if len(page) == _PAGE else None
    return blocked


async def _named(database: SkillDatabase, slug: str, repository: str | None) -> list[Skill]:
    found = [await database.get_skill(slug)]
    if repository is not None:
        found.append(await database.get_skill_by_identity(identity_of(repository, slug)))
    return [skill for skill in found if skill is not None]


async def _kept_in_kv(env: Env) -> list[Skill]:
    """The blocked skills by KV's list, its records and, where these differ, the log."""
    listed, recorded = await _listed_in_kv(env), await _recorded_in_kv(env)
    if listed is None and recorded is None:
        raise KvError("neither the list of withheld skills nor all records can be read")
    slugs = {**(recorded or {}), **(listed or {})}
    records = await read_records(env, sorted(slugs.values()))
    blocked: list[Skill] = []
    for identity, slug in slugs.items():
        record = records[slug]
        if not isinstance(record, Skill) or record.identity != identity:
            record = _unread(identity, slug)
        agrees = record.status is Status.BLOCKED and (listed is None or identity in listed)
        if not agrees:
            acts = union(record.acts, await read_acts(env, identity))
            record = as_listed(msgspec.structs.replace(record, acts=acts))
        blocked.append(record)
    return blocked


def _unread(identity: str, slug: str) -> Skill:
    """A skill of which identity and slug are known."""
    repo_url, _, base_slug = identity.rpartition("#")
    return Skill(
        name=slug,
        base_slug=base_slug,
        display_name=slug,
        description="",
        author=repository_author(repo_url),
        repo_url=repo_url,
    )


async def _listed_in_kv(env: Env) -> dict[str, str] | None:
    """The slugs of blocked skills by identity; None where the list cannot be read."""
    try:
        keys = (await read_withheld(env)).values()
    except KvError as error:
        env.log("block-list-part-failed", level="warning", source="withheld", reason=error.reason)
        return None
    return {key.identity: key.name for key in keys if key.status is Status.BLOCKED}


async def _recorded_in_kv(env: Env) -> dict[str, str] | None:
    """As `_listed_in_kv`, by records; None where not all can be read."""
    found: dict[str, str] = {}
    cursor: str | None = None
    budget = env.settings.enumeration_page_budget
    try:
        async for page in enumerate_published_skills(env, page_budget=budget):
            cursor = page.cursor
            for entry in page.summaries:
                if entry.summary.status is Status.BLOCKED:
                    found[entry.summary.identity] = entry.summary.name
    except KvError as error:
        env.log("block-list-part-failed", level="warning", source="records", reason=error.reason)
        return None
    return found if cursor is None else None
