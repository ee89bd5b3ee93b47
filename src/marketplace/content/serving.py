"""Whose content a digest is, and whether it is handed out.

A digest is served where a listed skill names it, now or in an earlier version, under a licence of
``settings.content_licenses``, and no rule in force matches the digest. PostgreSQL tells who names
it. With that away the skill that an address names tells it itself, as it is looked up in KV; and
the acceptance log tells the rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from marketplace.catalog import lookup
from marketplace.catalog.lookup import PerhapsMissing
from marketplace.catalog.source_chain import Reading
from marketplace.catalog.versions import versions_of
from marketplace.kv.acceptance_log import read_rules
from marketplace.ports.database import ContentNaming, SkillDatabase
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseBusy, DatabaseError
from marketplace.skills.licenses import is_open
from marketplace.skills.rules import Matches, Rule, RuleKind, Target, rules_applied
from marketplace.skills.skill import Skill
from marketplace.skills.withholding import Standing, standing_of


@dataclass(frozen=True, slots=True)
class Named:
    """A skill that names a digest, the licence of that state, and the rule that forbids the
    digest, if one does."""

    skill: Skill
    license: str | None
    rule: Rule | None = None


async def find_named(env: Env, digest: str, *, slug: str | None = None) -> Named | None:
    """Of the skills that name a digest the one that lets it be handed out, if one does.

    ``slug``: of a skill that the caller believes to name it. Raises DatabaseBusy, KvError, and
    PerhapsMissing where a source that could tell is away.
    """
    reading = Reading(env)
    try:
        namings, rules = await reading.from_database(lambda database: _ask(database, digest))
    except DatabaseBusy:
        raise
    except DatabaseError:  # noted by the reading
        namings = []
        rules = await reading.from_kv(lambda: read_rules(env, [_target(digest)]))
    naming = max(namings, key=lambda each: _handed_out(env, each), default=None)
    if naming is None and slug is not None:
        naming = await _by_slug(env, digest, slug)
    if naming is not None:
        return Named(naming.skill, naming.license, _forbidding(rules, naming.skill))
    if reading.reasons:
        raise PerhapsMissing(digest, reading.reasons)
    return None


async def find_forbidden(env: Env, digest: str) -> ContentNaming | None:
    """A skill that names a digest, where none does under a licence that lets it be kept.

    What PostgreSQL cannot tell now is kept: the walk over the archive finds it.
    """
    try:
        namings = await (await get_db(env)).find_content(digest)
    except DatabaseError as error:
        env.log("license-not-checked", level=error.level, reason=error.reason)
        return None
    licenses = env.settings.content_licenses
    is_kept = any(is_open(each.license, licenses) for each in namings)
    return None if is_kept else next(iter(namings), None)


async def _ask(
    database: SkillDatabase, digest: str
) -> tuple[Sequence[ContentNaming], Sequence[Rule]]:
    return await database.find_content(digest), await database.find_rules([_target(digest)], [])


def _target(digest: str) -> Target:
    return Target(Matches.CONTENT_DIGEST, digest)


def _forbidding(rules: Sequence[Rule], skill: Skill) -> Rule | None:
    """The gravest of the rules in force. One that was applied to the skill itself is told by its
    status: an operator may have made an exception of the skill."""
    applied = rules_applied(skill)
    standing = [rule for rule in rules if rule.lifted_at is None and rule.id not in applied]
    return max(standing, key=lambda rule: rule.kind is RuleKind.BLOCK, default=None)


def _handed_out(env: Env, naming: ContentNaming) -> tuple[bool, bool]:
    """Sorts the skill last that lets the digest be handed out, or lacks least for it."""
    listed = standing_of(naming.skill) is Standing.LISTED
    return listed, is_open(naming.license, env.settings.content_licenses)


async def _by_slug(env: Env, digest: str, slug: str) -> ContentNaming | None:
    found = await lookup.get_skill_by_name(env, slug)
    if found is None:
        return None
    skill = found.value
    if digest in (skill.content_digest, skill.skill_md_digest):
        return ContentNaming(skill, skill.license)
    page = (await versions_of(env, found)).value
    for version in page.versions:
        if digest in (version.content_digest, version.skill_md_digest):
            return ContentNaming(skill, version.license)
    return None
