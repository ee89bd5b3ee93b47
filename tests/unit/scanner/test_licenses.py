"""Which licence a skill has: said by its SKILL.md, or known word for word."""

import pytest

from scanner.licenses import MAX_TEXT_BYTES, expression, is_license_file, license_of, recognised
from tests.unit.scanner.repositories import MIT

OTHER = b"You may look at it."
KNOWN = MIT.encode()


@pytest.mark.parametrize(
    "text",
    [
        MIT,
        MIT.replace("MIT License\n", "The MIT License (MIT)\n"),
        MIT.replace("MIT License\n\n", ""),
        MIT.replace("\n", "\r\n"),
        MIT.replace("Copyright (c) 2026 Somebody", "Copyright 2020-2026 A & B\nCopyright \u00a9 C"),
        MIT.replace(" in\nthe Software", " in the\nSoftware").upper(),
    ],
)
def test_a_known_text_is_recognised(text: str) -> None:
    assert recognised(text.encode()) == "MIT"


@pytest.mark.parametrize(
    "text",
    [
        MIT + "\nThe Software may not be sold.",
        "Commons Clause\n\n" + MIT,
        MIT.replace("WITHOUT WARRANTY", "WITH A WARRANTY"),
        MIT.replace("sublicense, ", ""),
        "MIT",
        "",
    ],
)
def test_another_text_is_another_licence(text: str) -> None:
    assert recognised(text.encode()) is None


def test_a_text_without_end_is_not_looked_at() -> None:
    assert recognised(KNOWN + b" " * MAX_TEXT_BYTES) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT", "MIT"),
        ("apache-2.0", "Apache-2.0"),
        ("MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        ("MIT License", None),
        ("LicenseRef-Own", None),
        ("Proprietary", None),
        (" OR ".join(["Apache-2.0"] * 6), None),
        ("(MIT", None),
    ],
)
def test_spdx_expressions(text: str, expected: str | None) -> None:
    assert expression(text) == expected


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("LICENSE", True),
        ("license.txt", True),
        ("LICENCE.md", True),
        ("LICENSE-MIT", True),
        ("COPYING", True),
        ("licenses.py", False),
        ("SKILL.md", False),
        ("docs/LICENSE", False),
    ],
)
def test_license_files_by_name(name: str, is_one: bool) -> None:
    assert is_license_file(name) is is_one


@pytest.mark.parametrize(
    ("declared", "own", "above", "expected", "unclear"),
    [
        ("MIT", {}, {}, "MIT", None),
        ("MIT", {"LICENSE": KNOWN}, {}, "MIT", None),
        ("MIT", {"LICENSE": OTHER}, {}, "MIT", None),
        ("MIT OR ISC", {"LICENSE": KNOWN}, {}, "MIT OR ISC", None),
        ("ISC", {"LICENSE": KNOWN}, {}, None, "the file beside it MIT"),
        ("See LICENSE.txt", {"LICENSE.txt": KNOWN}, {}, "MIT", None),
        ("See LICENSE.txt", {"LICENSE.txt": OTHER}, {}, None, "no known licence"),
        ("Proprietary", {}, {"LICENSE": KNOWN}, None, "no SPDX expression"),
        ("See LICENSE", {}, {"LICENSE": KNOWN}, None, "names no file"),
        (None, {"LICENSE": KNOWN}, {}, "MIT", None),
        (None, {"LICENSE": OTHER}, {"LICENSE": KNOWN}, None, "no known licence"),
        (None, {"LICENSE": KNOWN, "COPYING": OTHER}, {}, None, "no known licence alone"),
        (None, {}, {"LICENSE": KNOWN}, "MIT", None),
        (None, {}, {}, None, "it has no licence"),
        ("", {}, {}, None, "it has no licence"),
    ],
)
def test_what_counts(
    declared: str | None,
    own: dict[str, bytes],
    above: dict[str, bytes],
    expected: str | None,
    unclear: str | None,
) -> None:
    known, reason = license_of(declared, own, above)
    assert known == expected
    assert (reason is None) is (unclear is None)
    assert (unclear or "") in (reason or "")
