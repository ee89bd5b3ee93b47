"""The licence of a skill as an SPDX expression, or why none is known.

A text is recognised only if it is a known one word for word, whatever its line breaks, punctuation
and copyright lines: a licence with one more condition is another licence. The texts of the GNU
licences are not among them, since they do not tell "only" from "or later".
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

MAX_LICENSE_LENGTH: Final = 64  # what the marketplace keeps
MAX_TEXT_BYTES: Final = 256 * 1024

_FILE: Final = re.compile(r"(?:licen[cs]e|copying|unlicense)(?:[.-][\w.-]+)?", re.IGNORECASE)
_COPYRIGHT_LINE: Final = re.compile(
    r"^[\W_]*(?:copyright\s+(?:\(c\)|©|\d{4}|[\[<{])|\(c\)\s|©|all rights reserved\W*$).*$",
    re.IGNORECASE | re.MULTILINE,
)
_WORDS: Final = re.compile(r"[a-z0-9]+")
_TITLE: Final = re.compile(
    r"(?:(?:the )?mit license(?: mit)?|(?:the )?isc license(?: isc)?"
    r"|(?:the )?(?:bsd [23] clause|[23] clause bsd|bsd)(?: license)?) "
)
_KNOWN: Final = {
    # SHA-256 of the words. Apache-2.0 with the appendix, without, and without its last line.
    "045649cdaf85384ba827242062f2f3b36409835c98d297e25177cb1faf7c2847": "Apache-2.0",
    "108490d21e2d3edc9128233e48fabc169818d0c7c5f0bbdd58231a367d2d6c87": "Apache-2.0",
    "6ed232a1aaf66db92997c53c056b853f2a64b9f74585489f71cbae1bb4d6d166": "Apache-2.0",
    "0cf21bdfd1964a97a8615e128534845826afbc887edc95aa5c925cbf64386b5c": "MIT",
    # Who is not liable: the author, or the copyright holder.
    "217da0747cec63a2e734185db11cbaa819bcd9e5b83cd12f812128fffe66e26a": "ISC",
    "88b7717fcdd81146db5806f169a2882599b1b6575d65b88971edaa913b7dbfa4": "ISC",
    # The copyright holder or owner, and with or without numbers before the conditions.
    "a56fee4b2f66331ed54da4950ef9c9391453fd1490b4d8ea202bc29683bcbd30": "BSD-2-Clause",
    "5151319f99abfc15f9a1aab05c799faf3b0e5715fac5a5812b9d3566ae984374": "BSD-2-Clause",
    "7be8178e4e9d0dea6ff4b04bd52bd086d7ea8386a5a6e09760df916bae5d42d2": "BSD-2-Clause",
    "9b83d3dee0616d07b82a272dd9bf5134a9f402b750f5ee6188458073b0a32ff2": "BSD-3-Clause",
    "cc3432eb2f19bb6fe96706bad75b6fce1039db64fb70486899bf6425dea4d9cb": "BSD-3-Clause",
    "53075742228962c7ea381b8242c64602fa32e7b8f52facb6d13ee4f9c596ddfa": "BSD-3-Clause",
    "95f6a0d094cf3da6a140310541c7b576789031b600469b70877b34f97918e4c9": "MPL-2.0",
    "96bdc7f63190fb4bd1ae584b890300ed7517d858b34c945642a3b9b2f1612a5f": "CC0-1.0",
}


def is_license_file(name: str) -> bool:
    """Whether a file is called as licences are."""
    return _FILE.fullmatch(name) is not None


def expression(text: str) -> str | None:
    """The SPDX expression that a text is, in SPDX's own letter case; None if it is none."""
    try:
        known: str = canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        return None
    return known if len(known) <= MAX_LICENSE_LENGTH and "LicenseRef-" not in known else None


def recognised(content: bytes) -> str | None:
    """The SPDX id of a licence's text, or None."""
    if len(content) > MAX_TEXT_BYTES:
        return None
    text = _COPYRIGHT_LINE.sub("", content.decode(errors="replace"))
    words = " ".join(_WORDS.findall(text.lower()))
    title = _TITLE.match(words)
    body = words[title.end() :] if title else words
    return _KNOWN.get(hashlib.sha256(body.encode()).hexdigest())


def license_of(
    declared: str | None, own: Mapping[str, bytes], above: Mapping[str, bytes]
) -> tuple[str | None, str | None]:
    """The licence of a skill, and what is unclear about it.

    ``declared`` is what its SKILL.md says; ``own`` are the licence files in its folder by name,
    ``above`` those in the repository's root, which count where the skill itself says nothing.
    """
    texts = own or ({} if declared else above)
    found = {recognised(content) for content in texts.values()}
    if not declared:
        if not texts:
            return None, "it has no licence: 'license' names none, and there is no LICENSE file"
        known = found.pop() if len(found) == 1 else None
        unclear = f"no known licence alone: {', '.join(sorted(texts))}; name it in 'license'"
        return known, None if known else unclear
    spdx = expression(declared)
    if spdx is not None:
        others = sorted(each for each in found if each and each not in re.split(r"[ ()]+", spdx))
        if others:
            return None, f"'license' says {spdx}, the file beside it {', '.join(others)}"
        return spdx, None
    # "Complete terms in LICENSE.txt", as the specification proposes.
    named = {name: text for name, text in own.items() if name.lower() in declared.lower()}
    if len(named) == 1:
        known = recognised(next(iter(named.values())))
        return known, None if known else f"no known licence: {next(iter(named))}"
    return None, "'license' is no SPDX expression such as MIT or Apache-2.0, and names no file"
