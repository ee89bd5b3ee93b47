"""What an installer is told of an installed skill, by versions and by what was listed before."""

from typing import Any

import pytest

from marketplace.skills.skill import Status
from marketplace.skills.tiers import CertTier
from marketplace.skills.updates import FoundInstalled, Installed, digits_of, update_of
from marketplace.skills.versions import version_bump
from marketplace.skills.withholding import Standing
from tests.examples import JANUARY, skill

ABSURD = ("", " ", "v", "v1.", "1.2.3.4", "-1", "9" * 200, "1." + "9" * 11, "🦊", "NaN", "1.0.0-")


@pytest.mark.parametrize(
    ("before", "after", "bump"),
    [
        ("1.2.3", "2.0.0", "major"),
        ("1.2.3", "1.10.0", "minor"),
        ("1.2.3", "1.2.10", "patch"),
        ("1.0.0-rc.1", "1.0.0", "patch"),
        ("1.0.0-rc.1", "1.0.0-rc.2", "patch"),
        ("1.0.0-rc.1", "1.1.0-rc.1", "minor"),
        ("v1", "1.0.1", "patch"),
        ("1.0.0", "9999999999", "major"),
        ("9999999999.0.0", "9999999999.0.1", "patch"),
        ("v1", "1.0.0+build", None),
        ("2.0.0", "1.9.9", None),
    ],
)
def test_a_bump_is_the_first_number_that_rises(before: str, after: str, bump: str | None) -> None:
    assert version_bump(before, after) == bump


@pytest.mark.parametrize("absurd", ABSURD)
def test_what_is_no_version_has_no_bump(absurd: str) -> None:
    assert version_bump(absurd, "1.0.0") is None
    assert version_bump("1.0.0", absurd) is None
    assert version_bump(absurd, absurd) is None


def told(version: str, superseded: bool = False, **fields: Any) -> tuple[str, bool, str | None]:
    found = FoundInstalled(skill(**{"current_version": "1.4.0", **fields}), superseded)
    update = update_of(Installed(name="pdf-tools", version=version), found)
    assert update.installed == version
    assert update.status is Standing.LISTED
    return update.latest, update.update_available, update.version_bump


def test_a_later_version_is_an_update() -> None:
    assert told("1.3.9") == ("1.4.0", True, "minor")
    assert told("1.4.0") == ("1.4.0", False, None)
    assert told("v1.4") == ("1.4.0", False, None)
    assert told("1.5.0") == ("1.4.0", False, None)


def test_what_was_listed_before_has_an_update_whatever_its_number_says() -> None:
    assert told("9999999999", superseded=True) == ("1.4.0", True, None)
    assert told("1.4.0", superseded=True) == ("1.4.0", True, None)
    assert told("1.3.0", superseded=True) == ("1.4.0", True, "minor")


@pytest.mark.parametrize("absurd", ABSURD)
def test_absurd_versions_are_compared_and_shown(absurd: str) -> None:
    """An installed one comes before every version; a listed one is never later than another."""
    assert told(absurd) == ("1.4.0", True, None)
    assert told("1.0.0", current_version=absurd) == (absurd, False, None)
    assert told(absurd, current_version=absurd) == (absurd, False, None)


@pytest.mark.parametrize(
    ("fields", "standing"),
    [
        ({"status": Status.BLOCKED}, Standing.BLOCKED),
        ({"status": Status.WITHDRAWN}, Standing.WITHDRAWN),
        ({"scan_failed_at": JANUARY}, Standing.SCAN_FAILED),
        ({"scan_failed_at": JANUARY, "status": Status.BLOCKED}, Standing.BLOCKED),
    ],
)
def test_no_update_is_told_of_what_is_not_handed_out(
    fields: dict[str, Any], standing: Standing
) -> None:
    listed = skill(current_version="9.0.0", cert_tier=CertTier.VERIFIED, **fields)
    update = update_of(
        Installed(name="pdf-tools", version="1.0.0"), FoundInstalled(listed, superseded=True)
    )
    assert (update.latest, update.update_available, update.version_bump, update.cert_tier) == (
        *("1.0.0", False),
        *(None, None),
    )
    assert update.status is standing


def test_a_name_that_nobody_knows_is_told_as_up_to_date_and_unknown() -> None:
    update = update_of(Installed(name="Nobody's", version="3"), None)
    assert (update.name, update.installed, update.latest) == ("Nobody's", "3", "3")
    assert (update.update_available, update.status) == (False, Standing.UNKNOWN)


def test_a_name_is_a_slug_or_a_repository_and_a_name_in_it() -> None:
    named = {
        "pdf-tools": ("pdf-tools", ""),
        "Acme/Tools/PDF Tools": ("", skill().identity),
        "My Skill": ("", ""),
        "a/b": ("", ""),
        "a/b/": ("", ""),
        "/b/c": ("", ""),
        "..//c": ("", ""),
        "a/b/🦊": ("", ""),
        "": ("", ""),
    }
    for name, expected in named.items():
        each = Installed(name=name, version="")
        assert (each.slug, each.identity) == expected, name


@pytest.mark.parametrize(
    ("sha", "digits"),
    [
        ("sha256:" + "AB" * 32, "ab" * 32),
        ("c0ffee1", "c0ffee1"),
        ("c0ffee", ""),
        ("a" * 65, ""),
        ("%" * 10, ""),
        ("", ""),
        (None, ""),
    ],
)
def test_digits_are_those_of_a_commit_or_a_digest(sha: str | None, digits: str) -> None:
    assert digits_of(sha) == digits
