"""All that the sources know of one skill, for operators: what can be read, and what failed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from marketplace.catalog.answer import Answer
from marketplace.catalog.versions import versions_of
from marketplace.kv.acceptance_log import read_verdicts
from marketplace.kv.records import read_record
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, KvError
from marketplace.publishing.acts import acts_on
from marketplace.publishing.submissions import submissions_on
from marketplace.skills.acts import Acts
from marketplace.skills.scan import Scan
from marketplace.skills.skill import Skill
from marketplace.skills.submission import SubmissionStatus
from marketplace.skills.version_history import SkillVersion


@dataclass(slots=True)
class Dossier:
    """``skill``: as it was found; ``record``: what KV has, a text where that is no skill.

    ``reasons`` tell what could not be read.
    """

    skill: Skill
    acts: Acts
    row: Skill | None = None
    record: Skill | str | None = None
    versions: Sequence[SkillVersion] = ()
    verdicts: Sequence[Scan] = ()
    submissions: Sequence[SubmissionStatus] = ()
    reasons: list[str] = field(default_factory=list)


async def read_dossier(env: Env, found: Answer[Skill]) -> Dossier:
    """Everything about a skill that was looked up. A source that fails is noted, not raised."""
    skill = found.value
    dossier = Dossier(skill, await acts_on(env, skill), reasons=list(found.reasons))
    for name, read in (("row", _row), ("versions", _versions), ("kv", _in_kv)):
        try:
            await read(env, found, dossier)
        except (DatabaseError, KvError) as error:
            dossier.reasons.append(f"{name}: {error.reason}")
    return dossier


async def _row(env: Env, found: Answer[Skill], dossier: Dossier) -> None:
    dossier.row = await (await get_db(env)).get_skill_by_identity(found.value.identity)


async def _versions(env: Env, found: Answer[Skill], dossier: Dossier) -> None:
    answer = await versions_of(env, found)
    dossier.versions = answer.value.versions
    dossier.reasons += [reason for reason in answer.reasons if reason not in dossier.reasons]


async def _in_kv(env: Env, found: Answer[Skill], dossier: Dossier) -> None:
    skill = found.value
    record = await read_record(env, skill.name)
    dossier.record = record if record is None or isinstance(record, Skill) else str(record)
    dossier.verdicts = await read_verdicts(env, skill.identity)
    ids = [verdict.submission_id for verdict in dossier.verdicts]
    dossier.submissions = await submissions_on(env, skill.identity, ids)
