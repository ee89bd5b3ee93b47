"""The versions of a skill that was looked up: the table's or, without it, the acceptance log's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from marketplace.catalog.answer import Answer, Source
from marketplace.catalog.source_chain import Reading
from marketplace.kv.acceptance_log import read_verdicts
from marketplace.ports.env import Env
from marketplace.ports.errors import DatabaseBusy, DatabaseError
from marketplace.skills.skill import Skill
from marketplace.skills.version_history import SkillVersion, version_of, versions_told

MAX_VERSIONS: Final = 100  # of one page
MAX_VERDICTS: Final = 200  # the newest, that one look at the log reads: two bulk gets


@dataclass(frozen=True, slots=True)
class VersionPage:
    """Versions, the newest first; ``next_cursor``: the place to go on before, if there are more."""

    versions: Sequence[SkillVersion]
    next_cursor: str | None


async def versions_of(
    env: Env, found: Answer[Skill], *, before: str | None = None, limit: int = MAX_VERSIONS
) -> Answer[VersionPage]:
    """A page of the versions of a skill, older than the place ``before``.

    A skill from before there were versions has its present one. Raises KvError where PostgreSQL is
    away and the log cannot be read.
    """
    skill, reading = found.value, Reading(env, list(found.reasons))
    identity = skill.identity
    if not _lacks_postgres(found):
        try:
            rows = await reading.from_database(
                lambda database: database.list_versions(identity, before=before, limit=limit + 1)
            )
        except DatabaseBusy:
            raise
        except DatabaseError:  # noted by the reading
            pass
        else:
            if rows or before is not None:
                return reading.answer(_cut(rows, limit), Source.POSTGRES)
            return reading.answer(_cut([version_of(None, skill)], limit), found.source)
    told = await reading.from_kv(lambda: _told_by_log(reading, found))
    older = [version for version in told if before is None or version.place < before]
    return reading.answer(_cut(older, limit), Source.KV_ENUMERATION)


def _lacks_postgres(found: Answer[Skill]) -> bool:
    return any(reason.startswith(f"{Source.POSTGRES}:") for reason in found.reasons)


def _cut(versions: Sequence[SkillVersion], limit: int) -> VersionPage:
    page = versions[:limit]
    return VersionPage(page, page[-1].place if len(versions) > limit else None)


async def _told_by_log(reading: Reading, found: Answer[Skill]) -> Sequence[SkillVersion]:
    """Where the log has more verdicts than one look reads, the oldest versions are left out."""
    skill = found.value
    verdicts = await read_verdicts(reading.env, skill.identity, newest=MAX_VERDICTS + 1)
    versions = versions_told(verdicts[-MAX_VERDICTS:], skill.acts, skill)
    if len(verdicts) <= MAX_VERDICTS:
        return versions
    reading.reasons.append(f"{Source.KV_ENUMERATION}: older verdicts")
    return versions[:-1]  # the oldest one seems to be the first
