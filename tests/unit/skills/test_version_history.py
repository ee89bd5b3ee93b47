"""The sentence of a version, and what verdicts tell of versions."""

import re
from typing import Any

import pytest

from marketplace.skills.acts import ActKind
from marketplace.skills.merging import as_listed
from marketplace.skills.scan import Facts, Scan
from marketplace.skills.skill import Skill
from marketplace.skills.tiers import Verdict
from marketplace.skills.version_history import PLACE_PATTERN, place_of, version_of, versions_told
from tests.examples import FEBRUARY, JANUARY, MARCH, act, skill, with_acts

OWNERS = {JANUARY: "1", MARCH: "2"}


def sentence(before: dict[str, Any], **after: Any) -> str:
    return version_of(skill(**before), skill(**{**before, **after})).diff_summary


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"current_version": "1.3.0", "description": "New.", "labels": ("a",)},
            "Version 1.2.0 → 1.3.0; description and labels changed.",
        ),
        ({"current_version": "1.3.0"}, "Version 1.2.0 → 1.3.0."),
        ({"content_digest": "b" * 64}, "Version 1.2.0 as before; files changed."),
        (
            {"display_name": "P", "license": "MIT", "content_digest": "b" * 64},
            "Version 1.2.0 as before; name, license and files changed.",
        ),
        (
            {"extensible": True, "extension_points": ("x",), "category": "data", "skill_path": "p"},
            "Version 1.2.0 as before; path, category and extension points changed.",
        ),
        ({"current_version": "9999999999"}, "Version 1.2.0 → 9999999999."),
    ],
)
def test_a_sentence_names_what_changed(changed: dict[str, Any], expected: str) -> None:
    assert sentence({"current_version": "1.2.0", "content_digest": "a" * 64}, **changed) == expected


def test_a_digest_that_was_not_told_before_is_no_change_of_the_files() -> None:
    assert sentence({}, content_digest="a" * 64) == (
        "Version 1.0.0 as before; its files have a digest now."
    )


def test_what_an_operator_corrects_is_not_in_the_sentence() -> None:
    before = skill()
    corrected = with_acts(skill(current_version="2.0.0"), act(ActKind.CORRECT, category="data"))
    assert version_of(before, corrected).diff_summary == "Version 1.0.0 → 2.0.0."


def test_a_place_is_a_cursor() -> None:
    for provisional in (True, False):
        assert re.fullmatch(PLACE_PATTERN, place_of(skill(provisional=provisional)))


def scan(at: str, version: str = "1.0.0", **fields: Any) -> Scan:
    read = Facts(name="pdf-tools", version=version)
    values = {"verdict": Verdict.PASS, "score": 90, "skill": read, **fields}
    return Scan(
        submission_id="s",
        repo_url=skill().repo_url,
        skill_name="pdf-tools",
        base_slug="pdf-tools",
        scanned_at=at,
        **values,
    )


def told(verdicts: list[Scan], acts: Any = (), present: Skill | None = None) -> list[str]:
    return [version.version for version in versions_told(verdicts, acts, present)]


def test_only_what_a_pass_says_is_a_version() -> None:
    verdicts = [
        scan(JANUARY),
        scan("2026-01-02T00:00:00.000Z", "6.6.6", verdict=Verdict.FAIL),
        scan("2026-01-03T00:00:00.000Z", "7.7.7", path="another/folder"),
        scan(FEBRUARY, "1.1.0"),
        scan(MARCH, "1.1.0"),
    ]
    assert told(verdicts) == ["1.1.0", "1.0.0"]
    assert told([scan(JANUARY, verdict=Verdict.FAIL)]) == []


def test_a_repository_that_changed_hands_tells_versions_once_an_operator_accepts_it() -> None:
    verdicts = [scan(at, f"1.0.{id_}", owner_id=id_) for at, id_ in OWNERS.items()]
    accepted = act(ActKind.ACCEPT_OWNER, owner_id="2")
    lifted = act(ActKind.RESTORE, MARCH, lifts=(accepted.id,))
    assert told(verdicts) == ["1.0.1"]
    assert told(verdicts, (accepted,)) == ["1.0.2", "1.0.1"]
    assert told(verdicts, (accepted, lifted)) == ["1.0.1"]


def test_what_is_known_besides_comes_in_at_its_place() -> None:
    assert told([], present=skill(current_version="3.0.0")) == ["3.0.0"]
    newer = as_listed(skill(current_version="3.0.0", updated_at=MARCH))
    assert told([scan(JANUARY)], present=newer) == ["3.0.0", "1.0.0"]
    older = as_listed(skill(current_version="0.1.0", updated_at="2025-01-01T00:00:00.000Z"))
    assert told([scan(JANUARY)], present=older) == ["1.0.0"]
