"""The well-known skills that ship with the Worker: always listed, canonical for their slugs."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from marketplace.skills.skill import Skill, SkillSummary
from marketplace.skills.stored import read_skill

SEED_FILE = Path(__file__).parent / "seed_data" / "skills.json"


@dataclass(frozen=True, slots=True)
class Seed:
    """The seed skills in file order, with the look-ups that reads and publishing need."""

    skills: tuple[Skill, ...]
    by_name: Mapping[str, Skill]
    by_identity: Mapping[str, Skill]
    summaries: tuple[SkillSummary, ...]

    @property
    def names(self) -> Sequence[str]:
        return tuple(self.by_name)


EMPTY_SEED = Seed((), {}, {}, ())


def read_seed(document: bytes) -> Seed:
    """Read the seed file. Raises ValueError on a malformed record or a repeated slug."""
    skills = tuple(
        read_skill(record) for record in msgspec.json.decode(document, type=list[dict[str, object]])
    )
    by_name = {skill.name: skill for skill in skills}
    by_identity = {skill.identity: skill for skill in skills}
    if not len(skills) == len(by_name) == len(by_identity):
        raise ValueError("the seed repeats a slug or an identity")
    return Seed(skills, by_name, by_identity, tuple(skill.summary() for skill in skills))


@functools.cache
def load_seed() -> Seed:
    """The seed that ships with this code, read once: it is plain data and never changes."""
    return read_seed(SEED_FILE.read_bytes())
