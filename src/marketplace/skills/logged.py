"""What the acceptance log makes of a skill: every verdict on it, in the order of their moments."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from marketplace.skills.acts import Acts, union
from marketplace.skills.merging import as_listed, as_said
from marketplace.skills.scan import Facts, Refusal, Scan, apply_scan, that_count
from marketplace.skills.skill import Skill
from marketplace.skills.tiers import Verdict


@dataclass(frozen=True, slots=True)
class Logged:
    """What the log has of one skill: the verdicts that stand, the oldest first, and the acts."""

    verdicts: tuple[Scan, ...] = ()
    acts: Acts = ()

    def with_verdict(self, scan: Scan) -> "Logged":
        """This log and a verdict that it may not show yet."""
        others = (other for other in self.verdicts if other != scan)
        return Logged(tuple(sorted((*others, scan), key=_moment)), self.acts)


_BEFORE_THE_LOG: Final = "before-the-log"
"""Stands in for submissions in the verdicts that are made of a row."""

NOTHING_LOGGED: Final = Logged()


@dataclass(frozen=True, slots=True)
class Folded:
    """What a log made of a state: a state, or None where no verdict lists the skill; and the
    verdicts that were refused in their turn."""

    skill: Skill | None
    refused: Sequence[tuple[Scan, Refusal]]

    def refusal_of(self, scan: Scan) -> Refusal | None:
        return next((refusal for other, refusal in self.refused if other == scan), None)


def fold(stored: Skill | None, logged: Logged) -> Folded:
    """Every verdict and act of a log on a state, as if each had come in its turn."""
    skill, refused = with_acts(stored, logged.acts), []
    for scan in logged.verdicts:
        outcome = apply_scan(skill, scan)
        if isinstance(outcome, Skill):
            skill = with_acts(outcome, logged.acts)
        else:
            refused.append((scan, outcome))
    return Folded(skill, refused)


def with_acts(skill: Skill | None, acts: Acts) -> Skill | None:
    if skill is None or not acts:
        return skill
    return as_listed(msgspec.structs.replace(skill, acts=union(skill.acts, acts)))


def that_stand(verdicts: Iterable[Scan], *, listed: Collection[str] = ()) -> list[Scan]:
    """Of all verdicts on a skill, the oldest first, those that a fold counts.

    A FAIL takes back the PASS on its submission, unless that had listed the skill before:
    ``listed`` are the submissions that did.
    """
    counting = that_count(verdicts)
    failed = {scan.submission_id for scan in counting if scan.verdict is Verdict.FAIL}
    return [
        scan
        for scan in counting
        if scan.verdict is not Verdict.PASS or scan.submission_id not in failed - set(listed)
    ]


def verdicts_of(skill: Skill) -> list[Scan]:
    """Verdicts that a fold makes this state of, but for its acts: for one from before the log.

    None has a later moment than the verdict that stands, so that none changes it.
    """
    said = as_said(skill)
    read_at = min(said.facts_at, said.decided_at)
    first = _verdict(said, Verdict.PASS, min(said.published_at, read_at))
    told = [first] if first.scanned_at < read_at else []
    if not said.provisional:
        told.append(_read(said, read_at))
    if said.certified_at is not None and said.certified_at > read_at:
        told.append(_verdict(said, Verdict.PASS, said.certified_at))
    if said.verdict is not Verdict.PASS:
        told.append(_verdict(said, said.verdict, said.decided_at))
    return told or [first]


def _verdict(said: Skill, verdict: Verdict, moment: str) -> Scan:
    return Scan(
        submission_id=f"{_BEFORE_THE_LOG}-{verdict.lower()}",
        repo_url=said.repo_url,
        skill_name=said.display_name,
        base_slug=said.base_slug,
        verdict=verdict,
        score=said.cert_score,
        scanned_at=moment,
        cert_tier=said.cert_tier,
        cert_method=said.cert_method,
        reason=said.verdict_reason if moment == said.decided_at else None,
        scanned_by=said.scanned_by if moment == said.decided_at else None,
        path=said.skill_path,
    )


def _read(said: Skill, moment: str) -> Scan:
    facts = Facts(
        name=said.display_name,
        display_name=said.display_name,
        description=said.description,
        version=said.current_version,
        license=said.license,
        labels=said.labels,
        category=said.category,
        extensible=said.extensible,
        extension_points=said.extension_points,
    )
    forge, digests = ("repository_id", "owner_id"), ("content_digest", "skill_md_digest")
    fields = ("commit", "ref", *forge, *digests, "files_digest")
    read = {field: getattr(said, field) for field in fields}
    return msgspec.structs.replace(_verdict(said, Verdict.PASS, moment), skill=facts, **read)


def _moment(scan: Scan) -> str:
    return scan.scanned_at
