"""The rules of the Agent Skills specification (agentskills.io) on a SKILL.md, and what it says.

The specification's own library, skills-ref, is not used: docs/scanning.md tells why. What the
marketplace keeps beside the specification's fields stands under `metadata`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from scanner.findings import Finding, Severity
from scanner.frontmatter import BadFrontmatter, Document, Value, read_frontmatter

MAX_NAME_LENGTH: Final = 64
MAX_DESCRIPTION_LENGTH: Final = 1024
MAX_COMPATIBILITY_LENGTH: Final = 500
MAX_LINES: Final = 500  # the specification's advice

# What the marketplace takes.
MAX_VERSION_LENGTH: Final = 64
MAX_CATEGORY_LENGTH: Final = 40
MAX_LABELS: Final = 16
MAX_LABEL_LENGTH: Final = 32

_FIELDS: Final = (
    *("name", "description", "license", "compatibility", "metadata", "allowed-tools"),
)
_NAME: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_VERSION: Final = re.compile(
    r"v?\d{1,10}(?:\.\d{1,10}){0,2}(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?(?:\+[0-9A-Za-z.-]+)?",
    re.ASCII,
)
# No line end or tab in a label; no other control character in any text.
_UNFIT: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LINE_ENDS: Final = re.compile("[\t\n\u2028\u2029]")
_WITHDRAWN: Final = "withdrawn"


@dataclass(slots=True)
class Reading:
    """What a SKILL.md says. ``name`` is empty where it says none that is valid."""

    name: str = ""
    description: str = ""
    license: Value | None = None
    version: str | None = None
    category: str | None = None
    labels: list[str] = field(default_factory=list)
    is_withdrawn: bool = False
    findings: list[Finding] = field(default_factory=list)


def read_skill_md(path: str, content: bytes) -> Reading:
    """What the SKILL.md at ``path`` of the repository says, and what is wrong with it."""
    reading = Reading()
    try:
        _Reader(path, read_frontmatter(content), reading).read()
    except BadFrontmatter as error:
        finding = Finding(path=path, line=error.line, severity=Severity.ERROR, message=str(error))
        reading.findings.append(finding)
        return reading
    if content.count(b"\n") > MAX_LINES:
        message = f"it has more than {MAX_LINES} lines; move some into files beside it"
        reading.findings.append(
            Finding(path=path, line=MAX_LINES + 1, severity=Severity.WARNING, message=message)
        )
    return reading


class _Reader:
    def __init__(self, path: str, document: Document, reading: Reading) -> None:
        self._path: Final = path
        self._document: Final = document
        self._fields: Final = document.fields
        self._reading: Final = reading

    def read(self) -> None:
        for name, line in self._document.repeated.items():
            self._error(line, f"{name!r} stands there twice")
        self._read_name()
        self._read_description()
        self._read_compatibility()
        self._reading.license = self._text("license")
        self._text("allowed-tools")
        self._read_metadata()
        for name, value in self._fields.items():
            if name not in _FIELDS:
                self._warn(value.line, f"the specification has no field {name!r:.80}")

    def _read_name(self) -> None:
        value = self._required("name", MAX_NAME_LENGTH)
        if value is None or value.text is None:
            return
        name = value.text.strip()
        if not _NAME.fullmatch(name):
            message = "'name' must be of a-z, 0-9 and single hyphens, none at its ends"
            self._error(value.line, message)
            return
        self._reading.name = name
        folder = self._path.split("/")[-2:-1]
        if folder and folder != [name]:  # the repository's root has another name in each checkout
            self._error(value.line, f"'name' must be that of the folder, {folder[0]!r:.100}")

    def _read_description(self) -> None:
        value = self._required("description", MAX_DESCRIPTION_LENGTH)
        if value is not None and value.text is not None and self._is_fit(value, "description"):
            self._reading.description = value.text.strip()

    def _read_compatibility(self) -> None:
        value = self._text("compatibility")
        if value is not None and not 1 <= len(value.text or "") <= MAX_COMPATIBILITY_LENGTH:
            message = f"'compatibility' must have 1 to {MAX_COMPATIBILITY_LENGTH} characters"
            self._error(value.line, message)

    def _required(self, name: str, longest: int) -> Value | None:
        """A text of at most so many characters. None, and an error found, where it is none."""
        if name not in self._fields:
            self._error(1, f"{name!r} is missing")
            return None
        value = self._fields[name]
        if value.text is None:
            self._error(value.line, f"{name!r} must be a text")
        elif not value.text.strip():
            self._error(value.line, f"{name!r} is empty")
        elif not value.is_string:
            message = f"{name!r} is no text to those who read YAML: put it in quotes"
            self._error(value.line, message)
        elif len(value.text.strip()) > longest:
            self._error(value.line, f"{name!r} has more than {longest:,} characters")
        else:
            return value
        return None

    def _text(self, name: str) -> Value | None:
        value = self._fields.get(name)
        if value is not None and value.text is None:
            self._error(value.line, f"{name!r} must be a text")
            return None
        return value

    def _is_fit(self, value: Value, name: str) -> bool:
        found = _UNFIT.search(value.text or "")
        if found is not None:
            message = f"{name!r} must not contain the character U+{ord(found[0]):04X}"
            self._error(value.line, message)
        return found is None

    def _read_metadata(self) -> None:
        metadata = self._fields.get("metadata")
        told = metadata.fields() if metadata is not None else {}
        if told is None:
            told = {}
            if metadata is not None and metadata.text != "":
                self._error(metadata.line, "'metadata' must be names with values")
        for name, value in told.items():
            if not value.is_string and not (name == "labels" and value.text is None):
                self._warn(value.line, f"metadata.{name:.80} should be a text: quote it")
        self._read_version(told.get("version") or self._fields.get("version"))
        self._read_category(told.get("category") or self._fields.get("category"))
        self._read_labels(told.get("labels") or self._fields.get("labels"))
        state = told.get("marketplace")
        if state is not None and state.text is not None:
            self._reading.is_withdrawn = state.text.strip().lower() == _WITHDRAWN
            if not self._reading.is_withdrawn:
                self._warn(state.line, "metadata.marketplace means nothing but 'withdrawn'")

    def _read_version(self, value: Value | None) -> None:
        if value is None:
            return
        version = (value.text or "").strip()
        if len(version) <= MAX_VERSION_LENGTH and _VERSION.fullmatch(version):
            self._reading.version = version
        else:
            self._warn(value.line, "the version is none like 1.2.3 and is not shown")

    def _read_category(self, value: Value | None) -> None:
        if value is None:
            return
        category = (value.text or "").strip()
        if len(category) <= MAX_CATEGORY_LENGTH and _NAME.fullmatch(category):
            self._reading.category = category
        else:
            self._warn(value.line, "the category must be of a-z, 0-9 and single hyphens")

    def _read_labels(self, value: Value | None) -> None:
        """A list, or a text with commas, as the specification has texts only."""
        if value is None:
            return
        labels = list(dict.fromkeys(label for label in _labels(value) if label))
        fitting = [
            label
            for label in labels
            if len(label) <= MAX_LABEL_LENGTH
            and not (_UNFIT.search(label) or _LINE_ENDS.search(label))
        ]
        self._reading.labels = fitting[:MAX_LABELS]
        if self._reading.labels != labels or not labels:
            message = f"up to {MAX_LABELS} labels of up to {MAX_LABEL_LENGTH} characters are shown"
            self._warn(value.line, message)

    def _error(self, line: int, message: str) -> None:
        self._found(line, Severity.ERROR, message)

    def _warn(self, line: int, message: str) -> None:
        self._found(line, Severity.WARNING, message)

    def _found(self, line: int, severity: Severity, message: str) -> None:
        finding = Finding(path=self._path, line=line, severity=severity, message=message)
        self._reading.findings.append(finding)


def _labels(value: Value) -> Iterator[str]:
    items = value.items
    if items is not None:
        return (item.text.strip() for item in items if item.text is not None)
    return (label.strip() for label in (value.text or "").split(","))
