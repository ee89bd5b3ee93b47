"""What a scan found, and what it makes of a skill."""

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec

from marketplace.basics.timestamps import seconds_since
from marketplace.skills.acts import ActKind, in_force, of_kind
from marketplace.skills.merging import as_said, merge
from marketplace.skills.skill import DEFAULT_CATEGORY, DEFAULT_VERSION, Skill
from marketplace.skills.slugs import identity_of, repository_author, slugify
from marketplace.skills.stored import storable
from marketplace.skills.submission import Submission
from marketplace.skills.tiers import CertMethod, CertTier, Verdict

MAX_FILES: Final = 1000
GONE_SECONDS: Final = 86_400.0
"""How long a repository must have been gone, as two scans found, before that counts."""

READ_AGAIN_SECONDS: Final = 7 * 86_400.0
"""After which a listed skill is read again, though nobody asks for it."""


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a skill's folder: path within it, size in bytes, SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


def files_digest(files: Iterable[File]) -> str:
    """SHA-256 of the lines ``path NUL size NUL sha256``, in the order of the paths."""
    lines = sorted(f"{file.path}\0{file.size}\0{file.sha256}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Facts(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the repository says a skill is, as a scanner read it."""

    name: str
    display_name: str | None = None
    description: str = ""
    version: str = DEFAULT_VERSION
    license: str | None = None
    labels: tuple[str, ...] = ()
    category: str = DEFAULT_CATEGORY
    extensible: bool = False
    extension_points: tuple[str, ...] = ()


class Scan(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A scanner's verdict on a submission, with all that it read; never changed.

    ``scanned_at`` is the moment that orders verdicts. ``repo_url``, ``skill_name`` and
    ``base_slug`` are those of its skill, so that an entry of the log tells everything but the
    files, which are kept for themselves by ``files_digest``. Entries from before have ``files``.
    ``scanned_by``: the principal that reported it.
    """

    submission_id: str
    repo_url: str
    skill_name: str
    base_slug: str
    verdict: Verdict
    score: int
    scanned_at: str
    cert_tier: CertTier = CertTier.SCANNED
    cert_method: CertMethod = CertMethod.AUTOMATED_SCAN
    reason: str | None = None
    skill: Facts | None = None
    path: str | None = None
    commit: str | None = None
    ref: str | None = None
    repository_id: str | None = None
    owner_id: str | None = None
    content_digest: str | None = None
    skill_md_digest: str | None = None
    files: tuple[File, ...] = ()
    files_digest: str | None = None
    scanned_by: str | None = None

    @property
    def identity(self) -> str:
        """The identity of the skill that it is about. Raises ValueError."""
        return identity_of(self.repo_url, self.base_slug)


class ScanReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a scanner reports of a submission. ``scanned_at``: when, by its own clock."""

    submission_id: str
    verdict: Verdict
    score: int
    scanned_at: str | None = None
    cert_tier: CertTier = CertTier.SCANNED
    cert_method: CertMethod = CertMethod.AUTOMATED_SCAN
    reason: str | None = None
    skill: Facts | None = None
    path: str | None = None
    commit: str | None = None
    ref: str | None = None
    repository_id: str | None = None
    owner_id: str | None = None
    content_digest: str | None = None
    skill_md_digest: str | None = None
    files: tuple[File, ...] = ()

    def on(self, submission: Submission, now: str, by: str | None = None) -> Scan:
        """The verdict that is kept, of what was submitted, as received at ``now`` from ``by``.

        Its moment is the scanner's, between the server's moments of asking and of receipt.
        """
        values = {field: getattr(self, field) for field in self.__struct_fields__}
        name = submission.skill_name if self.skill is None else self.skill.name
        values |= {
            "scanned_at": min(max(self.scanned_at or now, submission.created_at), now),
            "repo_url": submission.repo_url,
            "skill_name": name,
            "base_slug": submission.base_slug if self.skill is None else slugify(name),
            "files": (),
            "files_digest": files_digest(self.files) if self.files else None,
            "scanned_by": by,
        }
        return Scan(**values)


class Refusal(StrEnum):
    """Why a verdict changes nothing."""

    NOT_LISTED = "not-listed"  # there is nothing that it could mark or withdraw
    OTHER_PATH = "other-path"  # the listed folder is another one, and was not found gone
    CHANGED_HANDS = "changed-hands"  # the forge says that it is another repository or owner
    UNUSABLE = "unusable"  # it is damaged and makes no skill
    TOO_MANY_WITHDRAWN = "too-many-withdrawn"  # others left within the hour


def that_count(verdicts: Iterable[Scan]) -> list[Scan]:
    """Of all verdicts on a skill, the oldest first, those that say something of it.

    A repository that was not there counts as gone when a scan found the same GONE_SECONDS before,
    and none has found it in between.
    """
    counting: list[Scan] = []
    gone_since: str | None = None
    for scan in verdicts:
        gone_since = (gone_since or scan.scanned_at) if scan.verdict is Verdict.GONE else None
        if gone_since is None or seconds_since(gone_since, scan.scanned_at) >= GONE_SECONDS:
            counting.append(scan)
    return counting


def apply_scan(stored: Skill | None, scan: Scan) -> Skill | Refusal:
    """What a verdict makes of a skill."""
    try:
        if stored is None:
            return _new(scan) if scan.verdict is Verdict.PASS else Refusal.NOT_LISTED
        refusal = refusal_of(stored, scan)
        return merge(stored, _state(as_said(stored), scan)) if refusal is None else refusal
    except ValueError:
        return Refusal.UNUSABLE


def refusal_of(stored: Skill, scan: Scan) -> Refusal | None:
    """Why a stored skill does not take a verdict, or None."""
    if _is_elsewhere(stored, scan):
        return Refusal.OTHER_PATH
    return Refusal.CHANGED_HANDS if has_changed_hands(stored, scan) else None


def refusal_of_state(stored: Skill, other: Skill) -> Refusal | None:
    """Why a stored skill does not take another state of it, made without knowing the stored one,
    or None."""
    told = not (stored.provisional or other.provisional)
    if told and other.skill_path != stored.skill_path:
        return Refusal.OTHER_PATH
    return Refusal.CHANGED_HANDS if has_changed_hands(stored, other) else None


def _is_elsewhere(stored: Skill, scan: Scan) -> bool:
    if scan.path is None or stored.provisional or scan.path == stored.skill_path:
        return False
    found_gone = stored.verdict is Verdict.WITHDRAWN and stored.decided_at < scan.scanned_at
    return not (found_gone and scan.verdict is Verdict.PASS)


def has_changed_hands(stored: Skill, other: Scan | Skill) -> bool:
    """Whether the forge's ids of repository and owner are others than the ones that stand."""
    accepted = of_kind(in_force(stored.acts), ActKind.ACCEPT_OWNER)
    for field in ("repository_id", "owner_id"):
        right = {getattr(stored, field), accepted and getattr(accepted, field)} - {None}
        if right and getattr(other, field) not in (None, *right):
            return True
    return False


def _new(scan: Scan) -> Skill:
    """The skill of a first PASS; its slug is the base slug until publishing decides it."""
    blank = Skill(
        name=scan.base_slug,
        base_slug=scan.base_slug,
        display_name=scan.skill_name,
        description="",
        author=repository_author(scan.repo_url),
        repo_url=scan.repo_url,
        skill_path=scan.path or "",
        provisional=True,
        published_at=scan.scanned_at,
        updated_at=scan.scanned_at,
    )
    return _state(blank, scan)


def _state(skill: Skill, scan: Scan) -> Skill:
    """A skill of which everything is old but what the scan found."""
    found: dict[str, Any] = {
        "verdict": scan.verdict,
        "verdict_at": scan.scanned_at,
        "verdict_reason": scan.reason,
        "scanned_by": scan.scanned_by,
    }
    if scan.verdict is Verdict.PASS:
        found |= {
            "cert_score": scan.score,
            "cert_tier": scan.cert_tier,
            "cert_method": scan.cert_method,
            "certified_at": scan.scanned_at,
            # In whatever order the verdicts come.
            "published_at": min(skill.published_at, scan.scanned_at),
        }
        found |= {} if scan.skill is None else _content(scan, scan.skill)
    return storable(msgspec.structs.replace(skill, **found))


def _content(scan: Scan, facts: Facts) -> dict[str, Any]:
    """The repository's address stays as it is listed: its letter case is a submitter's."""
    return {
        "display_name": facts.display_name or facts.name,
        "description": facts.description,
        "skill_path": scan.path or "",
        "license": facts.license,
        "category": facts.category,
        "current_version": facts.version,
        "labels": facts.labels,
        "extensible": facts.extensible or bool(facts.extension_points),
        "extension_points": facts.extension_points,
        "commit": scan.commit,
        "ref": scan.ref,
        "repository_id": scan.repository_id,
        "owner_id": scan.owner_id,
        "content_digest": scan.content_digest,
        "skill_md_digest": scan.skill_md_digest,
        "files_digest": scan.files_digest,
        "provisional": False,
        "read_at": scan.scanned_at,
        "updated_at": scan.scanned_at,
    }
