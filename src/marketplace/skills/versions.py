"""Order of skill versions, as strings that sort bytewise in Python, in PostgreSQL and in KV alike.

Source of the order: Semantic Versioning 2.0.0, section 11 (precedence). Build metadata is ignored.
"""

import functools
import re
from typing import Literal, TypeAlias

_VERSION = re.compile(
    r"v?(?P<numbers>\d{1,10}(?:\.\d{1,10}){0,2})"
    r"(?:-(?P<prerelease>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
    r"(?:\+[0-9A-Za-z.-]+)?",
    re.ASCII,
)
MAX_VERSION_LENGTH = 64
_DIGITS = 10
_RELEASE = "~"  # sorts after every character that a pre-release identifier may start with
_UNREADABLE = "!"  # sorts before every digit: a version nobody can read never wins

VersionBump: TypeAlias = Literal["major", "minor", "patch"]
_BUMPS: tuple[VersionBump, ...] = ("major", "minor", "patch")


def is_version(text: str) -> bool:
    """Whether ``text`` is ``[v]major[.minor[.patch]][-prerelease][+build]``."""
    return len(text) <= MAX_VERSION_LENGTH and _VERSION.fullmatch(text) is not None


@functools.lru_cache(maxsize=1024)  # the same few are asked for again and again
def version_order(text: str) -> str:
    """A sort key: ``version_order(a) < version_order(b)`` exactly when version a precedes b.

    Text that is no version (records older than validation) sorts before every version.
    """
    match = _VERSION.fullmatch(text)
    if match is None or len(text) > MAX_VERSION_LENGTH:
        return f"{_UNREADABLE}{text[:MAX_VERSION_LENGTH]}"
    numbers = [*match["numbers"].split("."), "0", "0"][:3]
    release = ".".join(number.zfill(_DIGITS)[-_DIGITS:] for number in numbers)
    prerelease = match["prerelease"]
    if prerelease is None:
        return release + _RELEASE
    return f"{release}-" + "".join(_identifier_order(part) for part in prerelease.split("."))


def version_bump(before: str, after: str) -> VersionBump | None:
    """Which number of a version the step to a later one raises; a release that ends its
    pre-releases raises the last. None where the step is none forward, or either is no version."""
    if not (is_version(before) and is_version(after)):
        return None
    old, new = version_order(before), version_order(after)
    if new <= old:
        return None
    pairs = zip(_BUMPS, _numbers(old), _numbers(new), strict=True)
    return next((bump for bump, one, other in pairs if one != other), "patch")


def _numbers(order: str) -> list[str]:
    """The three numbers of a version, of its sort key."""
    return order[: 3 * _DIGITS + 2].split(".")


def _identifier_order(identifier: str) -> str:
    """Numeric identifiers come first; the space ends each, so that a prefix sorts first."""
    if identifier.isdigit():
        return f"0{identifier.zfill(MAX_VERSION_LENGTH)} "
    return f"1{identifier} "
