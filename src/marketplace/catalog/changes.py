"""The feed of changes: each skill once, at its latest change, for those who keep a mirror.

PostgreSQL alone tells it, whole or not at all. A row's number is the one that its last change took;
it rises in the order of commits, so that nobody who follows ever misses one. The seed is no row: a
skill of it has its place as number, and one that had to give way to a published skill has the
number of the last change that may have moved it.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from marketplace.basics.concurrency import in_turns
from marketplace.catalog.source_chain import Reading
from marketplace.ports.database import Changes
from marketplace.ports.env import Env
from marketplace.skills.fingerprint import Fingerprint, add_versions_to_digest
from marketplace.skills.mirrored import item_of
from marketplace.skills.seed import Seed
from marketplace.skills.skill import Skill

MAX_CHANGES: Final = 1000  # of one answer
SEED_NUMBERS: Final = 1000
"""Numbers up to this one are the seed's; those of PostgreSQL follow."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A part of the feed. ``next``: the number to go on after; equal to ``head`` at the end, where
    ``fingerprint`` is that of all skills, listed or withheld."""

    changes: Sequence[dict[str, Any]]
    next: int
    head: int
    generation: str
    fingerprint: Fingerprint | None


class FeedRestarted(Exception):
    """The number that was named says nothing here: begin anew from 0."""

    def __init__(self, why: str, feed: Feed) -> None:
        super().__init__(f"{why}: begin anew from 0.")
        self.feed = feed


async def read_changes(env: Env, *, since: int, limit: int, generation: str | None = None) -> Feed:
    """The changes after a number, up to ``limit``, and those of the last one's number.

    Raises FeedRestarted where the number is not of this ``generation``, and DatabaseError.
    """
    after = max(since - SEED_NUMBERS, 0)
    found = await Reading(env).from_database(
        lambda database: database.list_changes(since=after, limit=limit, seed=env.seed)
    )
    feed = await _feed(found, env.seed, since=since, limit=limit)
    if generation not in (None, feed.generation):
        raise FeedRestarted("The marketplace has another generation", feed)
    if since > feed.head:
        raise FeedRestarted(f"There is no change {since} yet", feed)
    return feed


async def _feed(found: Changes, seed: Seed, *, since: int, limit: int) -> Feed:
    placed = _numbered(seed, found)
    revisions = _revisions(seed.skills)
    entries = [
        _Entry(number, skill, revisions[skill.identity], is_seed=True)
        for number, skill in placed
        if number > since
    ] + [
        _Entry(row.number + SEED_NUMBERS, row.skill, row.revision, row.aliases)
        for row in found.rows
    ]
    entries.sort(key=lambda entry: (entry.number, entry.skill.name))
    shown = _cut(entries, limit)  # where further rows follow, these are as many as the limit
    head = found.head + SEED_NUMBERS
    is_last = found.fingerprint is not None and len(shown) == len(entries)
    return Feed(
        changes=[entry.item() async for entry in in_turns(shown)],
        next=head if is_last else shown[-1].number,
        head=head,
        generation=f"{found.generation}-{_digest(seed.skills)}",
        fingerprint=_whole(found.fingerprint, placed, revisions) if is_last else None,
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """A change, before it is made an item of the feed."""

    number: int
    skill: Skill
    revision: str
    aliases: tuple[str, ...] = ()
    is_seed: bool = False

    def item(self) -> dict[str, Any]:
        told = item_of(self.skill, self.revision, aliases=self.aliases, seed=self.is_seed)
        return {"number": self.number} | told


def _numbered(seed: Seed, found: Changes) -> list[tuple[int, Skill]]:
    """The seed as it is listed beside the rows, each with its number."""
    moved = SEED_NUMBERS + max((number for number, _ in found.claims), default=0)
    places = {skill.identity: place for place, skill in enumerate(seed.skills, 1)}
    return [
        (places[skill.identity] if seed.by_name.get(skill.name) is not None else moved, skill)
        for skill in seed.beside([claim for _, claim in found.claims])
    ]


def _cut(entries: Sequence[_Entry], limit: int) -> Sequence[_Entry]:
    """At most ``limit``, and what has the number of the last one."""
    if len(entries) <= limit:
        return entries
    last = entries[limit - 1].number
    return [entry for entry in entries if entry.number <= last]


def _whole(
    rows: Fingerprint | None, placed: Sequence[tuple[int, Skill]], revisions: Mapping[str, str]
) -> Fingerprint | None:
    if rows is None:
        return None
    versions = [(skill.name, revisions[skill.identity]) for _, skill in placed]
    return Fingerprint(rows.count + len(versions), add_versions_to_digest(rows.digest, versions))


@functools.lru_cache(maxsize=2)
def _revisions(skills: tuple[Skill, ...]) -> Mapping[str, str]:
    """By identity. A seed never changes, and making these takes longer than the rest."""
    return {skill.identity: skill.revision for skill in skills}


@functools.lru_cache(maxsize=2)
def _digest(skills: tuple[Skill, ...]) -> str:
    """Tells one seed from another, and the order, by which its numbers go."""
    revisions = _revisions(skills)
    text = " ".join(f"{skill.name} {revisions[skill.identity]}" for skill in skills)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
