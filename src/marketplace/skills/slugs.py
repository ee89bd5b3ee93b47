"""Slugs: the public key of a skill, and what makes two skills the same one.

Pure functions, no I/O. A skill's *identity* is its repository and its base slug; its *slug* is
the first free one of a fixed list of candidates. The rule is public and permanent: links carry
slugs, so a change here would break every one of them.

Lengths, in characters:

* repository owner: at most 39 (GitHub account names)
* repository name: at most 100 (GitHub repository names)
* skill name, and so the base slug: at most 64 (Agent Skills specification, field ``name``)
* slug: at most ``MAX_SLUG_LENGTH``, the three joined with a digest

Nothing here truncates; who accepts a name checks its length.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable


MAX_OWNER_LENGTH: Final = 39
MAX_REPOSITORY_LENGTH: Final = 100
MAX_BASE_SLUG_LENGTH: Final = 64
DIGEST_LENGTH: Final = 10
"""Hexadecimal digits, four bits each."""
MAX_SLUG_LENGTH: Final = (
    MAX_OWNER_LENGTH + 1 + MAX_REPOSITORY_LENGTH + 1 + MAX_BASE_SLUG_LENGTH + 1 + DIGEST_LENGTH
)
"""216 characters; with its longest KV prefix still well under KV's 512 bytes for a key."""

MAX_REPOSITORY_URL_LENGTH: Final = 2048
"""Of any repository, also of one stored long ago; what was parsed is kept, and must stay small."""

RESERVED_SLUGS: Final = frozenset({"count", "categories", "search"})
"""Words that are routes under ``/api/v1/skills/``; a skill of that slug could not be reached."""

_SEPARATORS: Final = re.compile(r"[^A-Za-z0-9]+")
_DIGEST_SHAPE: Final = re.compile(rf"-[0-9a-f]{{{DIGEST_LENGTH}}}\Z")
_UNSAFE: Final = re.compile(r"[^\x21-\x7e]|\\")
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?\Z")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~-]+\Z")
_SCP_FORM: Final = re.compile(r"[^@/:]+@(?P<host>[^/:]+):(?P<path>[^/].*)\Z")
_SCHEMES: Final = frozenset({"https", "http", "git", "ssh", "git+https", "git+ssh"})
_DEFAULT_PORTS: Final = frozenset({None, 80, 443})


class _Repository(NamedTuple):
    """A repository address taken apart; ``owner`` and ``name`` keep the case they came in."""

    host: str
    owner: str
    name: str


def slugify(text: str) -> str:
    """Return ``text`` as a slug: ``"My @Skill #1!!"`` becomes ``"my-skill-1"``.

    Every run of characters other than ASCII letters and digits becomes one ``-``; none is left
    at either end. Only A-Z are lower-cased. Other letters separate, like punctuation, so the
    result is always of ``[a-z0-9-]`` and does not depend on a Unicode version: ``str.lower``
    would turn the Kelvin sign into ``k`` and add a combining dot to a Turkish capital I.

    The result is empty when ``text`` has no ASCII letter or digit. It is never longer than
    ``text``, and a slug is its own slug.
    """
    return _SEPARATORS.sub("-", text).strip("-").lower()


@functools.lru_cache(maxsize=1024)  # the same few are asked for again and again
def _parse_repository(repo_url: str) -> _Repository:
    text = repo_url.strip()
    if len(text) > MAX_REPOSITORY_URL_LENGTH:
        raise ValueError(f"repository URL has more than {MAX_REPOSITORY_URL_LENGTH} characters")
    if _UNSAFE.search(text):
        raise ValueError("repository URL has a character that no repository URL has")
    if scp_form := _SCP_FORM.match(text):
        text = f"ssh://{scp_form['host']}/{scp_form['path']}"
    elif "://" not in text:
        text = f"https://{text}"
    parts = urlsplit(text)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"repository URL has the unsupported scheme {parts.scheme!r}")
    host = (parts.hostname or "").removesuffix(".")
    if not _HOST.match(host):
        raise ValueError("repository URL has no valid host")
    if host == "www.github.com":
        host = "github.com"
    port = parts.port
    is_web = parts.scheme in {"https", "http", "git+https"}
    address = f"{host}:{port}" if is_web and port not in _DEFAULT_PORTS else host

    segments = [segment for segment in parts.path.split("/") if segment]
    if host == "github.com":
        segments = segments[:2]  # what follows is a page of the repository: /tree/main/…
    elif "-" in segments:
        segments = segments[: segments.index("-")]  # GitLab's mark of the same
    if len(segments) < 2:
        raise ValueError("repository URL does not name an owner and a repository")
    while segments[-1].lower().endswith(".git"):
        segments[-1] = segments[-1][: -len(".git")]
    if any(not _SEGMENT.match(segment) or segment in {".", ".."} for segment in segments):
        raise ValueError("repository URL has an invalid owner or repository name")
    return _Repository(address, "/".join(segments[:-1]), segments[-1])


def normalize_repository(repo_url: str) -> str:
    """Return the one form of a repository's URL: ``https://github.com/owner/repo``, lower case.

    Without ``.git``, trailing slash, query, fragment, credentials and default port, whether it
    came as ``https``, ``http``, ``git``, ``ssh``, ``git@host:owner/repo`` or without a scheme.
    On GitHub everything after the repository is dropped; on other hosts nested groups are kept,
    as leaving them out would make one repository of two. It is for comparing, not for showing or
    fetching: a host may be case-sensitive where this is not.

    Raises:
        ValueError: there is no host, owner or repository in it, or a part of it is invalid.
    """
    repository = _parse_repository(repo_url)
    return f"https://{repository.host}/{repository.owner}/{repository.name}".lower()


def repository_owner(repo_url: str) -> str:
    """Return the owner in a repository's URL, in the case it is written in.

    On hosts with nested groups it is the whole path of groups, ``group/subgroup``.

    Raises:
        ValueError: as for `normalize_repository`.
    """
    return _parse_repository(repo_url).owner


def repository_name(repo_url: str) -> str:
    """Return the name in a repository's URL, without ``.git``, in the case it is written in.

    Raises:
        ValueError: as for `normalize_repository`.
    """
    return _parse_repository(repo_url).name


def identity_of(repo_url: str, base_slug: str) -> str:
    """Return what a skill is compared by: ``https://github.com/owner/repo#base-slug``.

    Raises:
        ValueError: the URL is invalid, or ``base_slug`` is empty or not a slug.
    """
    if not is_slug(base_slug):
        raise ValueError(f"not a slug: {base_slug!r}")
    return f"{normalize_repository(repo_url)}#{base_slug}"


def slug_candidates(repo_url: str, base_slug: str) -> tuple[str, str, str, str]:
    """Return the slugs a skill may have, in the order in which they are tried.

    ``slug``, ``owner-slug``, ``owner-repo-slug``, ``owner-repo-slug-digest``; the digest is the
    first ``DIGEST_LENGTH`` hexadecimal digits of the SHA-256 of the identity. The first three
    are tried only where `assignable_candidates` has them.

    Raises:
        ValueError: as for `identity_of`.
    """
    identity = identity_of(repo_url, base_slug)
    repository = _parse_repository(repo_url)
    owner, name = slugify(repository.owner), slugify(repository.name)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:DIGEST_LENGTH]
    return (
        base_slug,
        _join(owner, base_slug),
        _join(owner, name, base_slug),
        _join(owner, name, base_slug, digest),
    )


def _join(*parts: str) -> str:
    return "-".join(part for part in parts if part)


def available(candidate: str) -> bool:
    """Tell whether a slug may be given at all, whoever asks: not empty and not reserved."""
    return bool(candidate) and candidate not in RESERVED_SLUGS


def assignable_candidates(repo_url: str, base_slug: str) -> tuple[str, ...]:
    """Return the candidates that may really be given, without repeats; the last has the digest.

    Reserved ones are left out. So are those before the last that end like a digest: no skill
    can then take, by its mere name, the slug that is another's last resort. The last one is
    therefore free unless two identities share their name parts and 40 bits of SHA-256.

    Raises:
        ValueError: as for `identity_of`.
    """
    *readable, last = slug_candidates(repo_url, base_slug)
    usable = [slug for slug in readable if available(slug) and not _DIGEST_SHAPE.search(slug)]
    return tuple(dict.fromkeys([*usable, last]))


def assign_slugs(entries: Iterable[tuple[str, str]]) -> list[str]:
    """Return the slugs of a closed set of skills, given as pairs of repository URL and base slug.

    First come, first served, so adding entries at the end changes no earlier slug. An identity
    that comes again gets the slug that it has.

    Raises:
        ValueError: an entry is invalid, as for `identity_of`.
        LookupError: every candidate of an entry is taken, which takes a digest collision.
    """
    owners: dict[str, str] = {}
    slugs: list[str] = []
    for repo_url, base_slug in entries:
        identity = identity_of(repo_url, base_slug)
        for candidate in assignable_candidates(repo_url, base_slug):
            if owners.setdefault(candidate, identity) == identity:
                slugs.append(candidate)
                break
        else:
            raise LookupError(f"no slug is left for {identity}")
    return slugs


def is_slug(text: str) -> bool:
    """Whether ``text`` is what the slug rule makes of itself."""
    return bool(text) and slugify(text) == text
