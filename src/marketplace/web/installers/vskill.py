"""The npm program `vskill`: what its calls read beside what `/api/v1` tells anyway."""

from typing import Any, Final

from marketplace.skills.skill import Skill, SkillSummary
from marketplace.skills.slugs import repository_name, repository_owner
from marketplace.skills.tiers import CertTier

_TRUST: Final = {CertTier.SCANNED: "T2", CertTier.VERIFIED: "T3", CertTier.CERTIFIED: "T4"}
_UNTRUSTED: Final = "T1"


def found(summary: SkillSummary) -> dict[str, Any]:
    """A skill of a listing as the program's search reads it."""
    return {
        "name": summary.name,
        "author": summary.author,
        "repoUrl": summary.repo_url,
        "certTier": summary.cert_tier,
        "description": summary.description,
        "currentVersion": summary.current_version,
        "vskillInstalls": summary.installs,
        "githubStars": 0,
        "ownerSlug": repository_owner(summary.repo_url),
        "repoSlug": repository_name(summary.repo_url),
        "skillSlug": summary.base_slug,
        "alternateRepos": [],
        "isBlocked": False,  # no blocked skill is found
        "isTainted": summary.scan_failed_at is not None,
        "threatType": None,
        "severity": None,
    } | trust(summary)


def told(skill: Skill) -> dict[str, Any]:
    """What the program reads of one skill, beside its fields."""
    provenance = skill.commit is not None and skill.content_digest is not None
    return {"sha": skill.commit, "provenanceVerified": provenance} | trust(skill)


def trust(skill: SkillSummary) -> dict[str, Any]:
    """The tier by the program's names, and the score."""
    tier = _TRUST[skill.cert_tier] if skill.scan_failed_at is None else _UNTRUSTED
    return {"trustTier": tier, "trustScore": skill.cert_score}
