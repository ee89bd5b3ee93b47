"""Records of any generation are read as skills."""

from typing import Any

import msgspec
import pytest

from marketplace.skills.skill import Skill
from marketplace.skills.stored import read_skill
from marketplace.skills.tiers import CertTier
from tests.doubles.marketplace import make_skill

BEFORE = {"slug": "reader", "repository": "https://github.com/acme/tools"}


def labels_of(record: dict[str, Any]) -> tuple[str, ...]:
    return read_skill(record).labels


def test_a_skill_has_no_labels_unless_it_is_given_some() -> None:
    assert labels_of(BEFORE) == ()


@pytest.mark.parametrize(
    ("tier", "labels"),
    [
        ("SCANNED", ("community",)),
        (None, ("community",)),
        ("VERIFIED", ("community", "verified")),
        ("CERTIFIED", ("community", "verified")),
    ],
)
def test_a_record_from_before_verdicts_claims_no_check_that_was_not_made(
    tier: str | None, labels: tuple[str, ...]
) -> None:
    record = {**BEFORE, "labels": ["community", "verified"], "certTier": tier}
    assert labels_of(record) == labels


def test_what_a_repository_says_is_read_as_it_was_stored() -> None:
    """So the record of a skill stays equal to its row, whatever its tier has become."""
    skill = make_skill(labels=("verified",), cert_tier=CertTier.SCANNED)
    read = read_skill(msgspec.json.decode(msgspec.json.encode(skill)))
    assert (read, read.revision) == (skill, skill.revision)
    assert isinstance(read, Skill)
