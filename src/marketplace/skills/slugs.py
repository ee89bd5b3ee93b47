"""Slugs: the public key of a skill, and what makes two skills the same one.

Pure functions, no I/O. A skill's *identity* is its repository and its base slug; its *slug* is
the first free one of a fixed list of candidates. The rule is public and permanent: links carry
slugs, so a change here would break every one of them.

Lengths, in characters:

* repository owner: at most 39 (GitHub account names)
* repository name: at most 100 (GitHub repository names)
* skill name, and so the base slug: at most 64 (Agent Skills specification, field ``name``)
* slug: at most ``MAX_SLUG_LENGTH``, the three joined with a digest

Nothing here truncates; the length is checked where a name is accepted.
"""

import functools
import hashlib
import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

MAX_OWNER_LENGTH: Final = 39
KEY_DIGEST_LENGTH: Final = 32
MAX_REPOSITORY_LENGTH: Final = 100
MAX_BASE_SLUG_LENGTH: Final = 64
DIGEST_LENGTH: Final = 10
"""Hexadecimal digits, four bits each."""
MAX_SLUG_LENGTH: Final = (
    MAX_OWNER_LENGTH + 1 + MAX_REPOSITORY_LENGTH + 1 + MAX_BASE_SLUG_LENGTH + 1 + DIGEST_LENGTH
)
"""216 characters on GitHub. Another forge's host, of at most 253, comes in front: with its longest
KV prefix that is still under KV's 512 bytes for a key."""

MAX_REPOSITORY_URL_LENGTH: Final = 2048
"""Of any repository, also of one stored long ago; what was parsed is kept, and must stay small."""

RESERVED_SLUGS: Final = frozenset({"count", "categories", "search"})
"""Words that are routes under ``/api/v1/skills/``; a skill of that slug could not be reached."""

NAME_PATTERN: Final = "^[A-Za-z0-9 ._-]+$"
_NAME: Final = re.compile(NAME_PATTERN)
_SEPARATORS: Final = re.compile(r"[^A-Za-z0-9]+")
_DIGEST_SHAPE: Final = re.compile(rf"-[0-9a-f]{{{DIGEST_LENGTH}}}\Z")
_UNSAFE: Final = re.compile(r"[^\x21-\x7e]|\\")
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?\Z")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~-]+\Z")
_SCP_FORM: Final = re.compile(r"[^@/:]+@(?P<host>[^/:]+):(?P<path>[^/].*)\Z")
_SCHEMES: Final = frozenset({"https", "http", "git", "ssh", "git+https", "git+ssh"})
_DEFAULT_PORTS: Final = frozenset({None, 80, 443})
_GITHUB: Final = "github.com"


class _Repository(NamedTuple):
    """A repository address taken apart; ``owner`` and ``name`` keep the case they came in."""

    host: str
    owner: str
    name: str


def slugify(text: str) -> str:
    """``"My @Skill #1!!"`` as ``"my-skill-1"``; empty without an ASCII letter or digit.

    Other letters separate, like punctuation, so that the result does not depend on a Unicode
    version: ``str.lower`` would turn the Kelvin sign into ``k`` and add a combining dot to a
    Turkish capital I.
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
        host = _GITHUB
    port = parts.port
    is_web = parts.scheme in {"https", "http", "git+https"}
    address = f"{host}:{port}" if is_web and port not in _DEFAULT_PORTS else host

    segments = [segment for segment in parts.path.split("/") if segment]
    if host == _GITHUB:
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
    """The one form of a repository's URL: ``https://github.com/owner/repo``, lower case.

    On other hosts than GitHub nested groups are kept: without them two repositories would be one.
    It is for comparing, not for showing or fetching: a host may be case-sensitive where this is
    not. Raises ValueError.
    """
    return repository_page(repo_url).lower()


def repository_page(repo_url: str) -> str:
    """Where a browser finds the repository, also of ``git@…``. Raises ValueError."""
    repository = _parse_repository(repo_url)
    return f"https://{repository.host}/{repository.owner}/{repository.name}"


def repository_owner(repo_url: str) -> str:
    """The owner (nested groups: ``group/subgroup``), in the case it is written in. Raises
    ValueError."""
    return _parse_repository(repo_url).owner


def repository_author(repo_url: str) -> str:
    """Who a skill's author is: the owner, and on another forge than GitHub ``gitlab.com/owner``.
    Raises ValueError."""
    repository = _parse_repository(repo_url)
    return repository.owner if is_on_github(repo_url) else f"{repository.host}/{repository.owner}"


def author_of(repo_url: str, stored: str) -> str:
    """The author of a stored skill; on another forge than GitHub as the repository tells, since it
    may have been stored without the forge. Raises ValueError."""
    return stored if is_on_github(repo_url) else repository_author(repo_url)


def is_on_github(repo_url: str) -> bool:
    """Raises ValueError."""
    plain = repo_url.startswith(f"https://{_GITHUB}/")  # as nearly all of them are
    return plain or _parse_repository(repo_url).host == _GITHUB


def github_repository(repo_url: str) -> str | None:
    """``owner/repo`` as GitHub has it; None for a repository on another forge. Raises
    ValueError."""
    if not is_on_github(repo_url):
        return None
    repository = _parse_repository(repo_url)
    return f"{repository.owner}/{repository.name}"


def repository_name(repo_url: str) -> str:
    """The name, without ``.git``, in the case it is written in. Raises ValueError."""
    return _parse_repository(repo_url).name


def key_digest(text: str) -> str:
    """32 hexadecimal digits that stand for an identity, or another text, in keys."""
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGEST_LENGTH]


def identity_of(repo_url: str, base_slug: str) -> str:
    """What makes two skills the same: ``https://github.com/owner/repo#base-slug``.

    Raises ValueError.
    """
    if not is_slug(base_slug):
        raise ValueError(f"not a slug: {base_slug!r}")
    return f"{normalize_repository(repo_url)}#{base_slug}"


def slug_candidates(repo_url: str, base_slug: str) -> tuple[str, str, str, str]:
    """The slugs that a skill may have, in the order in which they are tried. Raises ValueError.

    ``slug``, ``owner-slug``, ``owner-repo-slug``, ``owner-repo-slug-digest``; the digest is of the
    identity. On another forge than GitHub the owner is ``gitlab-com-owner``, so that no owner there
    takes a slug of their namesake's on GitHub. The first three are tried only where
    `assignable_candidates` has them.
    """
    return _candidates(repo_url, base_slug, repository_author(repo_url))


def known_slugs(repo_url: str, base_slug: str) -> tuple[str, ...]:
    """All slugs that this rule gives a skill or has ever given it. Raises ValueError.

    Those of other forges than GitHub had no host in front; who has such a slug keeps it.
    """
    given = slug_candidates(repo_url, base_slug)
    before = _candidates(repo_url, base_slug, repository_owner(repo_url))
    return tuple(dict.fromkeys([*given, *before]))


def _candidates(repo_url: str, base_slug: str, author: str) -> tuple[str, str, str, str]:
    identity = identity_of(repo_url, base_slug)
    owner, name = slugify(author), slugify(repository_name(repo_url))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:DIGEST_LENGTH]
    return (
        base_slug,
        _join(owner, base_slug),
        _join(owner, name, base_slug),
        _join(owner, name, base_slug, digest),
    )


def _join(*parts: str) -> str:
    return "-".join(part for part in parts if part)


def assignable_candidates(repo_url: str, base_slug: str) -> tuple[str, ...]:
    """The candidates that may be given, without repeats; the last has the digest.

    Reserved ones are left out. So are those before the last that end like a digest: no skill
    can then take, by its mere name, the last slug of another. The last one is therefore free
    unless two identities share their name parts and 40 bits of SHA-256. Raises ValueError.
    """
    *readable, last = slug_candidates(repo_url, base_slug)
    usable = (s for s in readable if s not in RESERVED_SLUGS and not _DIGEST_SHAPE.search(s))
    return tuple(dict.fromkeys([*usable, last]))


def is_name(text: str) -> bool:
    """Whether a skill may be called so from now on: other characters would be lost in its slug, as
    in "C++" and "C#"."""
    return bool(_NAME.fullmatch(text))


def is_slug(text: str) -> bool:
    """Whether ``text`` is what the slug rule makes of itself."""
    return bool(text) and slugify(text) == text
