"""Which slugs a skill may get, as far as KV and the seed tell. PostgreSQL decides among them."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from marketplace.kv.aliases import Claims, read_claims
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError
from marketplace.skills.change import Change, Knowing, Waiting
from marketplace.skills.merging import merge
from marketplace.skills.skill import Skill
from marketplace.skills.slugs import assignable_candidates, known_slugs


@dataclass(frozen=True, slots=True)
class SlugPlan:
    """A change of a skill, with what KV and the seed know about it and its slugs."""

    change: Change
    candidates: Sequence[str]  # free or its own, as far as KV and the seed tell; its own first
    owned: Sequence[Skill]  # the records of this identity, the newest one first
    checked: bool  # whether KV could be asked; without that nothing may be written there

    @property
    def identity(self) -> str:
        """Of the skill."""
        return self.change.identity

    @property
    def own(self) -> Skill | None:
        """What KV holds of this identity."""
        return next(iter(self.owned), None)


async def read_wanted_slugs(env: Env, identities: Iterable[str]) -> Claims:
    """What KV has under all slugs that these skills may get; nothing where KV is away."""
    slugs = sorted({slug for identity in identities for slug in _known_slugs(env, identity)})
    try:
        return await read_claims(env, slugs)
    except KvError as error:
        env.log("slugs-not-checked", level="warning", reason=error.reason, source="kv")
        return Claims()


def _wanted_slugs(env: Env, identity: str) -> Sequence[str]:
    """The slug rule's candidates; a seed skill has its slug already, or the next one beside what
    is published."""
    candidates = _candidates(identity)
    seeded = env.seed.by_identity.get(identity)
    own = () if seeded is None else (seeded.name,)
    return tuple(dict.fromkeys([*own, *candidates]))


def _known_slugs(env: Env, identity: str) -> Sequence[str]:
    """The slugs that a skill may have, or may have got before."""
    repo_url, _, base_slug = identity.rpartition("#")
    wanted = _wanted_slugs(env, identity)
    return list(dict.fromkeys([*wanted, *known_slugs(repo_url, base_slug)]))


def _candidates(identity: str) -> Sequence[str]:
    repo_url, _, base_slug = identity.rpartition("#")
    return assignable_candidates(repo_url, base_slug)


def certain_slug(identity: str) -> str:
    """The slug that carries the digest of the identity: no other skill can be given it."""
    return _candidates(identity)[-1]


def plan_slug(env: Env, change: Change, claims: Claims) -> SlugPlan:
    """Leave out slugs that another identity holds in KV or in the seed, or has left in KV.

    PostgreSQL alone decides what is free. But a row that it lost, or never received while it was
    away, is still in KV under its slug, and an old link in its alias; and the seed is the oldest
    state of its skills. An alias of which nobody can tell where it leads is left alone.
    """
    identity, wanted = change.identity, _wanted_slugs(env, change.identity)
    slugs = _known_slugs(env, identity)
    holders = {slug: s for slug in slugs if isinstance(s := claims.records.get(slug), Skill)}
    left = {slug: claims.old[slug] for slug in slugs if slug in claims.old}

    def is_free(slug: str) -> bool:
        if slug in left and _identity_of(left[slug]) != identity:
            return False
        held = (env.seed.by_name.get(slug), holders.get(slug))
        return all(claim is None or claim.identity == identity for claim in held)

    candidates = [slug for slug in wanted[:-1] if is_free(slug)] + [wanted[-1]]
    perhaps = (holders.get(slug, left.get(slug)) for slug in slugs)
    owned = [skill for skill in perhaps if skill is not None and skill.identity == identity]
    owned.sort(key=lambda record: record.revision, reverse=True)
    shown = [*owned, *([change.skill] if isinstance(change, Waiting) else [])]
    if shown:  # a skill keeps its slug, also where PostgreSQL lost or lacks the row
        candidates = list(dict.fromkeys([shown[0].name, *candidates]))
    seeded = env.seed.by_identity.get(identity)
    known = functools.reduce(merge, owned) if owned else seeded
    change = change if known is None else Knowing(change, known)
    return SlugPlan(change, candidates, owned, wanted[-1] in claims.records)


def _identity_of(skill: Skill | None) -> str | None:
    return None if skill is None else skill.identity
