"""What a SKILL.md must be, and what is read of it."""

import pytest

from marketplace.skills import skill as listed
from marketplace.skills.versions import is_version
from scanner import licenses, specification, tree
from scanner.findings import Severity
from scanner.specification import Reading, read_skill_md
from tests.unit.scanner.repositories import skill_md


def read(text: str | bytes, path: str = "skills/csv/SKILL.md") -> Reading:
    return read_skill_md(path, text if isinstance(text, bytes) else text.encode())


def told(reading: Reading) -> list[str]:
    return [f"{f.line} {f.severity}: {f.message}" for f in reading.findings]


def front(*lines: str) -> str:
    return "\n".join(["---", *lines, "---", "", "Text", ""])


GOOD = ("name: csv", "description: Cleans.")


def test_a_good_one_has_no_finding() -> None:
    reading = read(
        front(
            *GOOD,
            "license: MIT",
            "compatibility: Needs git",
            "allowed-tools: Bash(git:*) Read",
            "metadata:",
            '  version: "1.2.3"',
            "  category: data-tools",
            "  labels: csv, clean data, csv",
        )
    )
    assert reading.findings == []
    assert (reading.name, reading.description) == ("csv", "Cleans.")
    assert (reading.version, reading.category) == ("1.2.3", "data-tools")
    assert reading.labels == ["csv", "clean data"]
    assert reading.license is not None
    assert reading.license.text == "MIT"
    assert not reading.is_withdrawn


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1 error: it must begin with a line ---"),
        ("# Title\n", "1 error: it must begin with a line ---"),
        ("----\nname: csv\n----\n", "1 error: it must begin with a line ---"),
        ("---\nname: csv\n", "1 error: no line --- ends"),
        ("---\nname: csv\n--- x\n", "1 error: no line --- ends"),
        (b"---\nname: csv\ndescription: \xff\n---\n", "3 error: it is not UTF-8"),
        (front("name: csv", "description: Use when: x"), "3 error: its YAML cannot be read"),
        (front("name: csv", "a: b", "  c: d"), "4 error: its YAML cannot be read"),
        (front("name: [csv"), "2 error: its YAML cannot be read"),
        (front("name: *nothing"), "2 error: its YAML cannot be read"),
        (front("name: \x01"), "2 error: its YAML cannot be read"),
        (front("- csv"), "2 error: its YAML must be names with values"),
        (front(), "2 error: its YAML must be names with values"),
        (front("? [a]", ": b"), "2 error: a name in its YAML is no text"),
        (front(*GOOD, "metadata:", "  ? [a]", "  : b"), "5 error: a name in its YAML is no text"),
        (front("x: " + "[" * 5000), "2 error: its YAML is nested too deep"),
        (front("x: " + "y" * 70_000), "1 error: its YAML has more than 64 KiB"),
        (front("description: x"), "1 error: 'name' is missing"),
        (front("name: csv"), "1 error: 'description' is missing"),
        (front("name:", "description: x"), "2 error: 'name' is empty"),
        (front("name: csv", 'description: "  "'), "3 error: 'description' is empty"),
        (front("name: [csv]", "description: x"), "2 error: 'name' must be a text"),
        (front("name: 12", "description: x"), "2 error: 'name' is no text to those"),
        (front("name: csv", "description: 2026-01-01"), "3 error: 'description' is no text"),
        (front("name: " + "c" * 65, "description: x"), "2 error: 'name' has more than 64"),
        (front("name: csv", "description: " + "x" * 1025), "3 error: 'description' has more"),
        (front("name: Csv", "description: x"), "2 error: 'name' must be of a-z"),
        (front("name: -csv", "description: x"), "2 error: 'name' must be of a-z"),
        (front("name: csv-", "description: x"), "2 error: 'name' must be of a-z"),
        (front("name: a--b", "description: x"), "2 error: 'name' must be of a-z"),
        (front("name: a_b", "description: x"), "2 error: 'name' must be of a-z"),
        (front("name: \u00e4", "description: x"), "2 error: 'name' must be of a-z"),
        (front('name: "csv\\n"', "description: x", "name: csv"), "4 error: 'name' stands there"),
        (front("name: other", "description: x"), "2 error: 'name' must be that of the folder"),
        (front("name: csv", 'description: "a\\0b"'), "3 error: 'description' must not contain"),
        (front("name: csv", 'description: "a\\u202eb"'), "3 error: 'description' must not"),
        (front(*GOOD, "compatibility:"), "4 error: 'compatibility' must have 1 to 500"),
        (front(*GOOD, "compatibility: " + "x" * 501), "4 error: 'compatibility' must have"),
        (front(*GOOD, "license: [MIT]"), "4 error: 'license' must be a text"),
        (front(*GOOD, "allowed-tools: [Read]"), "4 error: 'allowed-tools' must be a text"),
        (front(*GOOD, "metadata: x"), "4 error: 'metadata' must be names with values"),
    ],
)
def test_an_error_has_its_line(text: str | bytes, expected: str) -> None:
    reading = read(text)
    assert any(each.startswith(expected) for each in told(reading)), told(reading)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["homepage: x"], "4 warning: the specification has no field 'homepage'"),
        (["metadata:", "  version: 1.10"], "5 warning: metadata.version should be a text"),
        (["metadata:", "  a: {b: c}"], "5 warning: metadata.a should be a text"),
        (["metadata:", "  version: newest"], "5 warning: the version is none like 1.2.3"),
        (["metadata:", "  category: Data Tools"], "5 warning: the category must be"),
        (["metadata:", "  labels: " + "x" * 33], "5 warning: up to 16 labels"),
        (["metadata:", "  labels: ''"], "5 warning: up to 16 labels"),
        (["metadata:", '  labels: ["a\\tb"]'], "5 warning: up to 16 labels"),
        (["metadata:", "  marketplace: hidden"], "5 warning: metadata.marketplace means"),
    ],
)
def test_a_warning_has_its_line_and_fails_nothing(lines: list[str], expected: str) -> None:
    reading = read(front(*GOOD, *lines))
    assert any(each.startswith(expected) for each in told(reading)), told(reading)
    assert all(finding.severity is Severity.WARNING for finding in reading.findings)


def test_a_long_one_is_warned_of() -> None:
    assert told(read(front(*GOOD) + "x\n" * 500))[0].startswith("501 warning")


def test_numbers_stay_as_they_are_written() -> None:
    assert read(front(*GOOD, "metadata:", "  version: 1.10")).version == "1.10"
    assert read(front(*GOOD, "version: 2.0")).version == "2.0"


@pytest.mark.parametrize("line", ["  marketplace: withdrawn", "  marketplace: 'Withdrawn'"])
def test_an_owner_withdraws(line: str) -> None:
    assert read(front(*GOOD, "metadata:", line)).is_withdrawn


def test_labels_may_be_a_list() -> None:
    reading = read(front(*GOOD, "metadata:", "  labels: [a, b]"))
    assert reading.labels == ["a", "b"]
    assert reading.findings == []


def test_the_root_of_a_repository_is_called_as_each_checkout_likes() -> None:
    assert read(skill_md("csv"), path="SKILL.md").findings == []


def test_line_ends_and_a_byte_order_mark_do_not_matter() -> None:
    text = "\ufeff" + front(*GOOD, "metadata: x").replace("\n", "\r\n")
    assert told(read(text)) == ["4 error: 'metadata' must be names with values"]


def test_dashes_in_a_text_end_nothing() -> None:
    assert read(front("name: csv", "description: a --- b")).description == "a --- b"


def test_aliases_cost_nothing() -> None:
    """Twenty million values, if they were all looked at, and of a deeper text far more."""
    many = "[" + ", ".join(["x"] * 8_000) + "]"
    names = ", ".join(f"k{number}: *m" for number in range(2_500))
    assert read(front(*GOOD, f"x: &m {many}", f"metadata: {{{names}}}")).name == "csv"
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert read(front(*GOOD, "a0: &a0 [x]", *levels, "metadata: {x: *a9}")).name == "csv"


def test_the_limits_are_the_marketplaces() -> None:
    assert specification.MAX_NAME_LENGTH == listed.MAX_SKILL_NAME_LENGTH
    assert specification.MAX_DESCRIPTION_LENGTH == listed.MAX_DESCRIPTION_LENGTH
    assert specification.MAX_CATEGORY_LENGTH == listed.MAX_CATEGORY_LENGTH
    assert specification.MAX_LABELS == listed.MAX_LABELS
    assert specification.MAX_LABEL_LENGTH == listed.MAX_LABEL_LENGTH
    assert licenses.MAX_LICENSE_LENGTH == listed.MAX_LICENSE_LENGTH
    assert tree.MAX_PATH_LENGTH == listed.MAX_PATH_LENGTH


@pytest.mark.parametrize(
    "text", ["1", "1.0", "v1.2.3", "1.2.3-rc.1+b", "1.2.3.4", "x", "", "1.2-", "1" * 65, "\u0661"]
)
def test_a_version_is_what_the_marketplace_takes(text: str) -> None:
    reading = read(front(*GOOD, "metadata:", f"  version: '{text}'"))
    assert (reading.version == text) is (bool(text) and is_version(text))
