"""A skill as the feed of changes tells it, so that everybody can mirror it; and back.

Of a listed skill that is all that its revision counts: who acted on it, and why, is left out. Of a
withheld one nothing is told but which one it is and what its page says of that. What is counted
(installs, trends) is left out: it changes without a change of the skill.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from marketplace.basics.json_text import InvalidData
from marketplace.basics.timestamps import EPOCH
from marketplace.skills.acts import Act, ActKind, Severity, in_force
from marketplace.skills.merging import as_listed
from marketplace.skills.skill import KEPT, Skill, Status
from marketplace.skills.slugs import repository_author
from marketplace.skills.stored import storable
from marketplace.skills.tiers import Verdict
from marketplace.skills.withholding import Withholding, withholding_of

BY_OPERATOR: Final = "operator"
BY_REPOSITORY: Final = "repository"

_MIRROR: Final = "mirror"  # by whom acts are that were read from one
_COUNTED: Final = frozenset(
    field.encode_name
    for field in msgspec.structs.fields(Skill)
    if field.name in KEPT and field.name != "name"
)
_canonical = msgspec.json.Encoder(order="sorted")


class Tombstone(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is told of a withheld skill. ``withheld_by``: BY_OPERATOR, or BY_REPOSITORY, which a
    later scan can lift. ``content_digest``: of a blocked one."""

    name: str
    base_slug: str
    repo_url: str
    status: Status
    moment: str
    withheld_by: str
    published_at: str = EPOCH
    reason: str | None = None
    threat_type: str | None = None
    severity: Severity | None = None
    evidence_urls: tuple[str, ...] = ()
    content_digest: str | None = None


class Identified(msgspec.Struct, frozen=True, rename="camel"):
    """The members that every item has, for those who read one."""

    identity: str
    status: Status
    revision: str = ""
    digest: str = ""
    seed: bool = False
    aliases: tuple[str, ...] = ()


def item_of(
    skill: Skill, revision: str, *, aliases: Sequence[str] = (), seed: bool = False
) -> dict[str, Any]:
    """The skill for the feed, as JSON can hold it. ``aliases``: the slugs that it has left."""
    is_listed = skill.status is Status.LISTED
    told = _listed(skill) | {"revision": revision} if is_listed else _withheld(skill)
    told |= {"identity": skill.identity, "aliases": list(aliases), "seed": seed}
    return told | {"digest": digest_of_item(told)}


def digest_of_item(item: Mapping[str, Any]) -> str:
    """SHA-256 of an item's JSON, without its ``number`` and ``digest``: keys sorted, no spaces."""
    told = {name: value for name, value in item.items() if name not in ("number", "digest")}
    return hashlib.sha256(_canonical.encode(told)).hexdigest()


def _listed(skill: Skill) -> dict[str, Any]:
    acts = tuple(_without_words(act) for act in skill.acts)
    told = msgspec.to_builtins(msgspec.structs.replace(skill, acts=acts))
    told = {name: value for name, value in told.items() if name not in _COUNTED}
    return told | {"moment": _changed_at(skill)}


def _without_words(act: Act) -> Act:
    return msgspec.structs.replace(
        act, reason="", by="", threat_type=None, severity=None, evidence_urls=()
    )


def _changed_at(skill: Skill) -> str:
    """The latest of the moments that its revision begins with."""
    acted = [act.at for act in skill.acts[-1:]]
    return max([skill.decided_at, skill.certified_at or EPOCH, skill.facts_at, *acted])


def _withheld(skill: Skill) -> dict[str, Any]:
    told = withholding_of(skill) or Withholding(status=skill.status)
    kinds = {act.kind for act in in_force(skill.acts)}
    by_operator = bool(kinds & {ActKind.BLOCK, ActKind.WITHDRAW})
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        Tombstone(
            name=skill.name,
            base_slug=skill.base_slug,
            repo_url=skill.repo_url,
            status=skill.status,
            moment=told.at or _changed_at(skill),
            withheld_by=BY_OPERATOR if by_operator else BY_REPOSITORY,
            published_at=skill.published_at,
            reason=told.reason,
            threat_type=told.threat_type,
            severity=told.severity,
            evidence_urls=told.evidence_urls,
            content_digest=skill.content_digest if skill.status is Status.BLOCKED else None,
        )
    )


def read_item(item: Mapping[str, Any]) -> tuple[Skill, tuple[str, ...]]:
    """The skill of an item, and the slugs that it has left.

    Of a listed skill it has the revision that the item tells. One that is withheld is made of what
    is told of it: a scan that is allowed to lifts it, and tells the rest. Raises InvalidData.
    """
    try:
        known = msgspec.convert(item, Identified)
        if known.digest != digest_of_item(item):
            raise InvalidData("its digest is another one")
        if known.status is Status.LISTED:
            skill = as_listed(storable(msgspec.convert(item, Skill)))
        else:
            skill = as_listed(storable(_stub(msgspec.convert(item, Tombstone))))
    except ValueError as error:
        raise InvalidData(str(error)) from error
    if skill.identity != known.identity or skill.status is not known.status:
        raise InvalidData("identity or status is not what its fields give")
    if skill.status is Status.LISTED and skill.revision != known.revision:
        raise InvalidData("its revision is not what its fields give")
    return skill, known.aliases


def _stub(told: Tombstone) -> Skill:
    by_repository = told.withheld_by == BY_REPOSITORY and told.status is Status.WITHDRAWN
    return Skill(
        name=told.name,
        base_slug=told.base_slug,
        display_name=told.base_slug,
        description="",
        author=repository_author(told.repo_url),
        repo_url=told.repo_url,
        content_digest=told.content_digest,
        published_at=told.published_at,
        provisional=True,
        verdict=Verdict.WITHDRAWN if by_repository else Verdict.PASS,
        verdict_at=told.moment if by_repository else None,
        verdict_reason=told.reason if by_repository else None,
        acts=() if by_repository else (_act_of(told),),
    )


def _act_of(told: Tombstone) -> Act:
    return Act(
        id=hashlib.sha256(f"{told.repo_url}#{told.base_slug} {told.moment}".encode()).hexdigest()[
            :16
        ],
        kind=ActKind.BLOCK if told.status is Status.BLOCKED else ActKind.WITHDRAW,
        reason=told.reason or "",
        at=told.moment,
        by=_MIRROR,
        threat_type=told.threat_type,
        severity=told.severity,
        evidence_urls=told.evidence_urls,
    )
