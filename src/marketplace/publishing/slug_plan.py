"""Which slugs a skill may get, as far as KV and the seed tell. PostgreSQL decides among them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from marketplace.kv.records import Records, read_records
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError
from marketplace.skills.change import Change, Knowing, Waiting
from marketplace.skills.skill import Skill
from marketplace.skills.slugs import assignable_candidates


@dataclass(frozen=True, slots=True)
class SlugPlan:
    """A change of a skill, with what KV and the seed know about it and its slugs."""

    change: Change
    candidates: Sequence[str]  # free or its own, as far as KV and the seed tell; its own first
    own: Skill | None  # what KV holds of this identity
    checked: bool  # whether KV could be asked; without that nothing may be written there

    @property
    def identity(self) -> str:
        """Of the skill."""
        return self.change.identity


async def read_wanted_records(env: Env, identities: Iterable[str]) -> Records:
    """The records of all slugs that these skills may get; empty where KV is away."""
    slugs = sorted({slug for identity in identities for slug in _wanted_slugs(env, identity)})
    try:
        return await read_records(env, slugs)
    except KvError as error:
        env.log("slugs-not-checked", level="warning", reason=error.reason, source="kv")
        return {}


def _wanted_slugs(env: Env, identity: str) -> Sequence[str]:
    """The slug rule's candidates; a seed skill has its slug already."""
    candidates = _candidates(identity)
    seeded = env.seed.by_identity.get(identity)
    return candidates if seeded is None else (seeded.name, candidates[-1])


def _candidates(identity: str) -> Sequence[str]:
    repo_url, _, base_slug = identity.rpartition("#")
    return assignable_candidates(repo_url, base_slug)


def certain_slug(identity: str) -> str:
    """The slug that carries the digest of the identity: no other skill can be given it."""
    return _candidates(identity)[-1]


def plan_slug(env: Env, change: Change, records: Records) -> SlugPlan:
    """Leave out slugs that another identity holds in KV or in the seed.

    PostgreSQL alone decides what is free. But a row that it lost, or never received while it was
    away, is still in KV under its slug; and the seed is the oldest state of its skills.
    """
    identity, wanted = change.identity, _wanted_slugs(env, change.identity)
    holders = {slug: found for slug in wanted if isinstance(found := records.get(slug), Skill)}

    def is_free(slug: str) -> bool:
        claims = (env.seed.by_name.get(slug), holders.get(slug))
        return all(claim is None or claim.identity == identity for claim in claims)

    candidates = [slug for slug in wanted[:-1] if is_free(slug)] + [wanted[-1]]
    owned = [holders[slug] for slug in candidates if slug in holders]
    own = max(owned, key=lambda record: record.revision, default=None)
    shown = own or (change.skill if isinstance(change, Waiting) else None)
    if shown is not None:  # a skill keeps its slug, also where PostgreSQL lost or lacks the row
        candidates.sort(key=lambda slug: slug != shown.name)
    known = own or env.seed.by_identity.get(identity)
    change = change if known is None else Knowing(change, known)
    return SlugPlan(change, candidates, own, wanted[-1] in records)
