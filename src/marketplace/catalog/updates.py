"""Which installed skills have updates: all that was asked, or nothing."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from marketplace.basics.concurrency import map_bounded
from marketplace.basics.json_text import Unreadable
from marketplace.catalog.answer import Answer, Source
from marketplace.catalog.source_chain import Reading
from marketplace.kv.aliases import find_over_aliases
from marketplace.kv.outbox import list_outbox_summaries
from marketplace.kv.records import Record, read_records
from marketplace.kv.withheld import WithheldKeys, read_withheld
from marketplace.ports.env import Env
from marketplace.ports.errors import DatabaseBusy, DatabaseError, KvError
from marketplace.skills.seed import Seed
from marketplace.skills.skill import PublishedSummary, Skill, SkillSummary, Status
from marketplace.skills.slugs import known_slugs
from marketplace.skills.updates import FoundInstalled, Installed, Update, update_of


async def check_updates(env: Env, installed: Sequence[Installed]) -> Answer[list[Update]]:
    """What is told of each, in order: one statement or, with PostgreSQL away, KV's records, which
    do not tell what was listed before.

    Raises KvError where neither tells it of all, and DatabaseBusy.
    """
    reading = Reading(env)
    identities = [identity_asked(each, env.seed) for each in installed]
    try:
        found = await reading.from_database(
            lambda database: database.find_installed(installed, identities)
        )
        source = Source.POSTGRES
    except DatabaseBusy:
        raise
    except DatabaseError:  # noted by the reading
        found = await reading.from_kv(lambda: _find_in_kv(env, installed, identities))
        source = Source.KV_ENUMERATION
    updates = [
        update_of(each, skill or found_in_seed(env.seed, identity))
        for each, identity, skill in zip(installed, identities, found, strict=True)
    ]
    return reading.answer(updates, source)


def identity_asked(installed: Installed, seed: Seed) -> str:
    """Where no slug leads to a skill: the identity that was named, or a seed skill's."""
    seeded = seed.claimable.get(installed.slug)
    return installed.identity if seeded is None else seeded.identity


def found_in_seed(seed: Seed, identity: str) -> FoundInstalled | None:
    skill = seed.by_identity.get(identity)
    return None if skill is None else FoundInstalled(skill)


async def _find_in_kv(
    env: Env, installed: Sequence[Installed], identities: Sequence[str]
) -> list[FoundInstalled | None]:
    """Raises KvError, also where one of the records cannot be read."""
    slugs = sorted({each.slug for each in installed} - {""})
    candidates = {identity: _candidates(identity) for identity in identities if identity}
    others = sorted({slug for some in candidates.values() for slug in some})
    reads: tuple[Callable[[], Awaitable[Any]], ...] = (
        lambda: find_over_aliases(env, slugs),
        lambda: read_records(env, others, at_once=True),
        lambda: list_outbox_summaries(env),
        lambda: read_withheld(env),
    )
    named, placed, waiting, withheld = await map_bounded(reads, lambda read: read())
    found: list[FoundInstalled | None] = []
    for each, identity in zip(installed, identities, strict=True):
        record: Record = named.get(each.slug)
        if record is None:
            perhaps = (placed[slug] for slug in candidates.get(identity, ()))
            record = next((other for other in perhaps if _is_of(other, identity)), None)
        if isinstance(record, Unreadable):
            raise KvError(f"the record of {each.name:.300}: {record}", reason="damaged")
        own = record if isinstance(record, Skill) else None
        skill = _newest(own, each, identity, waiting) or env.seed.by_identity.get(identity)
        found.append(None if skill is None else FoundInstalled(_as_withheld(skill, withheld)))
    return found


def _candidates(identity: str) -> tuple[str, ...]:
    repository, _, base_slug = identity.rpartition("#")
    return known_slugs(repository, base_slug)


def _is_of(record: Record, identity: str) -> bool:
    return isinstance(record, Skill) and record.identity == identity


def _newest(
    record: Skill | None, installed: Installed, identity: str, waiting: Sequence[PublishedSummary]
) -> SkillSummary | None:
    """A record, or a newer state of its skill that waits for PostgreSQL."""
    identity = identity if record is None else record.identity
    states = [
        state
        for state in waiting
        if state.summary.identity == identity
        or (record is None and state.summary.name == installed.slug)
    ]
    newest = max(states, key=lambda state: state.revision, default=None)
    if newest is None or (record is not None and record.revision >= newest.revision):
        return record
    return newest.summary


def _as_withheld(skill: SkillSummary, withheld: WithheldKeys) -> SkillSummary:
    """The skill, withheld where KV's list says so: its record may be a state from before."""
    key = withheld.get(skill.identity)
    if key is None or skill.status is not Status.LISTED:
        return skill
    return msgspec.structs.replace(skill, status=key.status)
