"""Licences under which anybody may hand on a skill as it is: SPDX identifiers and expressions."""

import re
from collections.abc import Iterable
from typing import Final

OPEN_LICENSES: Final = (
    "0BSD",
    "AFL-3.0",
    "AGPL-3.0",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-2.0",
    "Artistic-2.0",
    "BlueOak-1.0.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC-BY-4.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "EPL-2.0",
    "EUPL-1.2",
    "GPL-2.0",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "ISC",
    "LGPL-2.1",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unlicense",
    "Zlib",
)
"""The list without a setting."""

_OR: Final = re.compile(r"\s+or\s+", re.IGNORECASE)
_AND: Final = re.compile(r"\s+and\s+", re.IGNORECASE)
_WITH: Final = re.compile(r"\s+with\s+", re.IGNORECASE)


def is_open(license_: str | None, open_licenses: Iterable[str]) -> bool:
    """Whether a licence, or one that can be chosen in an expression, is among these.

    An exception (``WITH``) only permits more. What is no licence of the list, has parentheses or
    is not stated counts as not open.
    """
    known = {each.casefold() for each in open_licenses}
    return any(
        all(_WITH.split(each.strip())[0].casefold() in known for each in _AND.split(choice))
        for choice in _OR.split((license_ or "").strip())
    )
