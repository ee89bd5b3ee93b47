"""A set of skills as a count and a digest, cheap to compare."""

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec

from marketplace.skills.skill import PublishedSummary, Skill, Status


def add_to_digest(digest: str, summaries: Iterable[PublishedSummary]) -> str:
    versions = ((entry.summary.name, entry.revision) for entry in summaries)
    return add_versions_to_digest(digest, versions)


def add_versions_to_digest(digest: str, versions: Iterable[tuple[str, str]]) -> str:
    total = int(digest, 16)
    for name, revision in versions:
        text = f"{name} {revision}"
        total += int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return f"{total % 2**64:016x}"


def add_items(digest: str, skills: Iterable[Skill]) -> str:
    """As the feed tells its whole: of what is withheld the status stands for the revision."""
    versions = (
        (skill.name, skill.revision if skill.status is Status.LISTED else skill.status)
        for skill in skills
    )
    return add_versions_to_digest(digest, versions)


class Fingerprint(msgspec.Struct, frozen=True, rename="camel"):
    """The set of skills that a source holds, cheap to compare: count and digest.

    ``digest`` is the sum, modulo 2**64, of the first 8 bytes (big-endian) of
    ``sha256(f"{slug} {revision}")`` over all skills, as 16 hex digits: independent of order and
    addable over pages.
    """

    count: int
    digest: str


NO_SKILLS: Final = Fingerprint(count=0, digest="0" * 16)
"""The fingerprint of an empty source."""
