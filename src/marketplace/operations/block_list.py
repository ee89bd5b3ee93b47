"""The list of blocked skills, for installers: complete, or not given at all."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from marketplace.kv.acceptance_log import read_acts
from marketplace.kv.records import enumerate_published_skills, read_records
from marketplace.kv.withheld import read_withheld
from marketplace.ports.database import SkillDatabase
from marketplace.ports.env import READ_BUDGET_SECONDS, Env, get_db
from marketplace.ports.errors import (
    DatabaseBusy,
    DatabaseError,
    DatabaseTimeout,
    KvError,
    KvTimeout,
)
from marketplace.skills.acts import Severity, union
from marketplace.skills.merging import as_listed
from marketplace.skills.skill import Skill, Status
from marketplace.skills.slugs import identity_of, normalize_repository, repository_author, slugify
from marketplace.skills.withholding import withholding_of

UNKNOWN_THREAT: Final = "unknown"  # where only the summary of a skill can be read

_PAGE: Final = 500  # rows of one statement
_MARGIN_SECONDS: Final = 0.2  # of a statement, before its read is given up
_RECORDS_SECONDS: Final = 0.35  # left for the records of those that are found to be blocked

T = TypeVar("T")


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
    """Every blocked skill. Raises KvError where no source can name them all in time, and
    DatabaseBusy."""
    end = _now() + READ_BUDGET_SECONDS
    try:
        skills = await _from_database(env, _rows)
    except DatabaseBusy:
        raise
    except DatabaseError as error:
        _note(env, error)
        found = await _kept_in_kv(env, end)
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
    end = _now() + READ_BUDGET_SECONDS
    try:
        skills = await _from_database(env, lambda database: _named(database, slug, repository))
    except DatabaseBusy:
        raise
    except DatabaseError as error:
        _note(env, error)
        skills = await _kept_in_kv(env, end)
    asked = [skill for skill in skills if _is_asked_for(skill, slug, repository)]
    return next(iter(_entries(asked)), None)


async def _from_database(env: Env, read: Callable[[SkillDatabase], Awaitable[T]]) -> T:
    """What PostgreSQL says, in the time that a read has. Raises DatabaseError; DatabaseBusy where
    it answers others meanwhile."""
    reads = None if env.fallback_cache is None else env.fallback_cache.reads
    if reads is not None and reads.is_silent():
        raise DatabaseTimeout("it is silent and was not asked", reason="silent")
    begun, limit = _now(), env.settings.database_read_timeout
    try:
        async with asyncio.timeout(limit):
            database = await get_db(env)
            database.limit_statements(limit - _MARGIN_SECONDS)  # PostgreSQL itself says so then
            try:
                return await read(database)
            finally:
                database.limit_statements(None)
    except TimeoutError as error:
        if reads is not None and reads.answers(begun, begun + limit):
            raise DatabaseBusy(f"no answer within {limit} s; others were answered") from error
        raise DatabaseTimeout(f"no answer within {limit} s") from error


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


async def _kept_in_kv(env: Env, end: float) -> list[Skill]:
    """The blocked skills by KV's list, its records and, where these differ, the log."""
    until = end - _RECORDS_SECONDS
    listed, recorded = await asyncio.gather(
        _part(env, "withheld", until, _listed_in_kv), _part(env, "records", until, _recorded_in_kv)
    )
    if listed is None and recorded is None:
        raise KvError("neither the list of withheld skills nor all records can be read")
    try:
        async with asyncio.timeout_at(end):
            return await _blocked(env, {**(recorded or {}), **(listed or {})}, listed)
    except TimeoutError as error:
        raise KvTimeout("the records of blocked skills were not read in time") from error


_Slugs = dict[str, str]
"""Of blocked skills, by identity."""


async def _blocked(env: Env, slugs: _Slugs, listed: _Slugs | None) -> list[Skill]:
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


async def _part(
    env: Env, source: str, end: float, read: Callable[[Env], Awaitable[_Slugs | None]]
) -> _Slugs | None:
    """What a part of KV says; None where it cannot be read in time."""
    try:
        async with asyncio.timeout_at(end):
            return await read(env)
    except (KvError, TimeoutError) as error:
        reason = error.reason if isinstance(error, KvError) else KvTimeout.reason
        env.log("block-list-part-failed", level="warning", source=source, reason=reason)
        return None


async def _listed_in_kv(env: Env) -> _Slugs:
    keys = (await read_withheld(env)).values()
    return {key.identity: key.name for key in keys if key.status is Status.BLOCKED}


async def _recorded_in_kv(env: Env) -> _Slugs | None:
    """By all records; None where they are too many to be read."""
    found: _Slugs = {}
    cursor: str | None = None
    budget = env.settings.enumeration_page_budget
    async for page in enumerate_published_skills(env, page_budget=budget):
        cursor = page.cursor
        for entry in page.summaries:
            if entry.summary.status is Status.BLOCKED:
                found[entry.summary.identity] = entry.summary.name
    return found if cursor is None else None


def _now() -> float:
    return asyncio.get_running_loop().time()
