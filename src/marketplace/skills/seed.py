"""The well-known skills that ship with the Worker, as the oldest states of their identities."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from marketplace.skills.skill import Skill
from marketplace.skills.slugs import assignable_candidates
from marketplace.skills.stored import read_skill

SEED_FILE = Path(__file__).parent / "seed_data" / "skills.json"


class Claim(NamedTuple):
    """A published skill, which the seed gives way to: its slug and its identity."""

    name: str
    identity: str


@dataclass(frozen=True, slots=True)
class Seed:
    """The seed skills in file order, with the look-ups that reads and publishing need.

    ``claimable``: every slug that one of them may have.
    """

    skills: tuple[Skill, ...]
    by_name: Mapping[str, Skill]
    by_identity: Mapping[str, Skill]
    claimable: Mapping[str, Skill]

    def beside(self, claims: Iterable[Claim]) -> tuple[Skill, ...]:
        """The seed as it is listed beside published skills.

        One that is published itself is listed, or withheld, as that. One whose slug another skill
        has gets the next candidate.
        """
        owners = {claim.name: claim.identity for claim in claims}
        published = set(owners.values())
        if not owners:
            return self.skills
        return tuple(
            _placed(skill, owners) for skill in self.skills if skill.identity not in published
        )


def _placed(skill: Skill, owners: Mapping[str, str]) -> Skill:
    free = (name for name in _slugs(skill) if owners.get(name, skill.identity) == skill.identity)
    return skill.renamed(next(free))


def _slugs(skill: Skill) -> Iterable[str]:
    return dict.fromkeys((skill.name, *assignable_candidates(skill.repo_url, skill.base_slug)))


EMPTY_SEED = Seed((), {}, {}, {})


def read_seed(document: bytes) -> Seed:
    """Read the seed file. Raises ValueError on a malformed record or a repeated slug."""
    skills = tuple(
        read_skill(record) for record in msgspec.json.decode(document, type=list[dict[str, object]])
    )
    by_name = {skill.name: skill for skill in skills}
    by_identity = {skill.identity: skill for skill in skills}
    if not len(skills) == len(by_name) == len(by_identity):
        raise ValueError("the seed repeats a slug or an identity")
    claimable = {slug: skill for skill in skills for slug in _slugs(skill)}
    return Seed(skills, by_name, by_identity, claimable)


@functools.cache
def load_seed() -> Seed:
    """The seed that ships with this code, read once: it is plain data and never changes."""
    return read_seed(SEED_FILE.read_bytes())
