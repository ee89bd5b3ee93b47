"""Which slugs a skill may get, as far as KV and the seed tell. PostgreSQL decides among them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from marketplace.kv.records import Records, read_records
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError
from marketplace.skills.skill import Skill, replaces
from marketplace.skills.slugs import assignable_candidates


@dataclass(frozen=True, slots=True)
class SlugPlan:
    """A skill to publish, with what KV knows about the slugs that it may get."""

    skill: Skill  # the message's, unless the state that KV holds stands
    candidates: Sequence[str]  # free or its own, as far as KV and the seed tell; its own first
    own: Skill | None  # what KV holds of this identity
    checked: bool  # whether KV could be asked; without that nothing may be written there
    trusted: bool  # whether the skill may change a listed one


async def read_wanted_records(env: Env, skills: Iterable[Skill]) -> Records:
    """The records of all slugs that these skills may get; empty where KV is away."""
    slugs = sorted({slug for skill in skills for slug in _wanted_slugs(env, skill)})
    try:
        return await read_records(env, slugs)
    except KvError as error:
        env.log("slugs-not-checked", level="warning", reason=error.reason, source="kv")
        return {}


def _wanted_slugs(env: Env, skill: Skill) -> Sequence[str]:
    """The slug rule's candidates; a seed skill has its slug already."""
    candidates = assignable_candidates(skill.repo_url, skill.base_slug)
    seeded = env.seed.by_identity.get(skill.identity)
    return candidates if seeded is None else (seeded.name, candidates[-1])


def certain_slug(skill: Skill) -> str:
    """The slug that carries the digest of the identity: no other skill can be given it."""
    return assignable_candidates(skill.repo_url, skill.base_slug)[-1]


def plan_slug(
    env: Env, states: Sequence[Skill], records: Records, *, trusted: bool = True
) -> SlugPlan:
    """Choose among the states of one skill, and leave out slugs that another identity holds in KV
    or in the seed.

    PostgreSQL alone decides what is free. But a row that it lost, or never received while it was
    away, is still in KV under its slug.
    """
    identity, wanted = states[0].identity, _wanted_slugs(env, states[0])
    holders = {slug: found for slug in wanted if isinstance(found := records.get(slug), Skill)}

    def is_free(slug: str) -> bool:
        claims = (env.seed.by_name.get(slug), holders.get(slug))
        return all(claim is None or claim.identity == identity for claim in claims)

    candidates = [slug for slug in wanted[:-1] if is_free(slug)] + [wanted[-1]]
    owned = [holders[slug] for slug in candidates if slug in holders]
    own = max(owned, key=lambda record: record.revision, default=None)
    # A row that PostgreSQL lost comes back as KV has it, and not older.
    newer = [s for s in states if own is None or replaces(s, own, trusted=trusted)]
    skill = max(newer or owned, key=lambda state: state.revision)
    # A published skill keeps its slug, also where PostgreSQL lost the row or was away.
    kept = skill if own is None else own
    candidates.sort(key=lambda slug: slug != kept.name)
    return SlugPlan(skill, candidates, own, wanted[-1] in records, trusted or not newer)
