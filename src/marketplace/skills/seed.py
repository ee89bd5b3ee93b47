"""The well-known skills that ship with the Worker, as the oldest states of their identities."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from marketplace.skills.skill import Skill
from marketplace.skills.slugs import assignable_candidates
from marketplace.skills.stored import read_skill

SEED_FILE = Path(__file__).parent / "seed_data" / "skills.json"


class Claim(NamedTuple):
    """A published skill, which the seed gives way to: its identity and its slug, or one that it has
    left and that leads to it."""

    name: str
    identity: str


@dataclass(frozen=True, slots=True)
class Seed:
    """The seed skills in file order, with the look-ups that reads and publishing need.

    ``claimable``: every slug that one of them may have; where several may, the one whose slug in
    the file it is, or else the first.
    """

    skills: tuple[Skill, ...]
    by_name: Mapping[str, Skill]
    by_identity: Mapping[str, Skill]
    claimable: Mapping[str, Skill]

    def beside(self, claims: Iterable[Claim]) -> tuple[Skill, ...]:
        """The seed as it is listed beside published skills.

        One that is published itself is listed, or withheld, as that. One whose slug another skill
        has, or has left, gets the next candidate that neither a published nor a seed skill has.
        """
        claims = list(claims)
        if not claims:
            return self.skills
        published = {claim.identity for claim in claims}
        taken = {claim.name for claim in claims}
        listed = [skill for skill in self.skills if skill.identity not in published]
        placed: list[Skill] = []
        for skill in listed:
            free = (s for s in slugs_of_seed(skill) if s not in taken and self._may_have(skill, s))
            placed.append(skill.renamed(next(free, slugs_of_seed(skill)[-1])))
            taken.add(placed[-1].name)
        return tuple(placed)

    def _may_have(self, skill: Skill, slug: str) -> bool:
        other = self.by_name.get(slug)
        return other is None or other is skill

    def find(self, name: str, claims: Iterable[Claim]) -> Skill | None:
        """The skill that is listed under a slug beside published skills."""
        return next((skill for skill in self.beside(claims) if skill.name == name), None)


def slugs_of_seed(skill: Skill) -> tuple[str, ...]:
    """The slugs that a skill of the seed may have, its own first."""
    candidates = assignable_candidates(skill.repo_url, skill.base_slug)
    return tuple(dict.fromkeys((skill.name, *candidates)))


EMPTY_SEED = Seed((), {}, {}, {})


def seed_of(skills: Sequence[Skill]) -> Seed:
    """The seed of these skills. Raises ValueError on a repeated slug or identity."""
    by_name = {skill.name: skill for skill in skills}
    by_identity = {skill.identity: skill for skill in skills}
    if not len(skills) == len(by_name) == len(by_identity):
        raise ValueError("the seed repeats a slug or an identity")
    claimable = {
        slug: skill for skill in reversed(skills) for slug in slugs_of_seed(skill)
    } | by_name
    return Seed(tuple(skills), by_name, by_identity, claimable)


def read_seed(document: bytes) -> Seed:
    """Read the seed file. Raises ValueError on a malformed record or a repeated slug."""
    records = msgspec.json.decode(document, type=list[dict[str, object]])
    return seed_of([read_skill(record) for record in records])


@functools.cache
def load_seed() -> Seed:
    """The seed that ships with this code, read once: it is plain data and never changes."""
    return read_seed(SEED_FILE.read_bytes())
