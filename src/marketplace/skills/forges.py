"""Which repositories may be submitted: those of known forges, by https and on its default port.

What is stored already is not held to this: it stays readable whatever it names (see ``slugs``).
"""

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import quote, urlsplit

from marketplace.skills.slugs import (
    MAX_OWNER_LENGTH,
    MAX_REPOSITORY_LENGTH,
    repository_name,
    repository_owner,
    repository_page,
)

KNOWN_FORGES: Final = ("github.com", "gitlab.com", "bitbucket.org", "codeberg.org")

_EXAMPLE: Final = "https://github.com/owner/repository"
_AUTHORITY: Final = re.compile(r"[^/?#\\]*")
_HOST: Final = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_OWNER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9_.-]+")
_WITHOUT_GROUPS: Final = frozenset({"github.com", "bitbucket.org", "codeberg.org"})
_OWNERS_WITHOUT_DOT: Final = frozenset({"github.com", "bitbucket.org"})


class UnknownForge(ValueError):
    """A repository of a host that is no known forge; the message names those that are."""

    field: Final = "repoUrl"


def require_known_forge(repo_url: str, added: Collection[str] = ()) -> None:
    """Refuse a `repository_address` of another host than the known forges and the ``added`` ones.

    Raises UnknownForge.
    """
    forges = (*KNOWN_FORGES, *added)
    if urlsplit(repo_url).netloc not in forges:
        raise UnknownForge(f"must be a repository of one of these: {', '.join(forges)}")


def repository_address(repo_url: str) -> str:
    """The address of a submitted repository as it is kept: ``https://{host}/{owner}/{name}``.

    Raises ValueError; the message says what to send.
    """
    host = _host(repo_url)
    owner, name = repository_owner(repo_url), repository_name(repo_url)
    groups = owner.split("/")
    if len(groups) > 1 and host in _WITHOUT_GROUPS:
        raise ValueError(f"must end after the repository: https://{host}/{'/'.join(groups[:2])}")
    if len(owner) > MAX_OWNER_LENGTH:
        raise ValueError(f"the owner must have at most {MAX_OWNER_LENGTH} characters")
    if len(name) > MAX_REPOSITORY_LENGTH:
        raise ValueError(f"the repository must have at most {MAX_REPOSITORY_LENGTH} characters")
    if not all(_OWNER.fullmatch(group) for group in groups):
        raise ValueError("the owner has a character that owners do not have")
    if "." in owner and host in _OWNERS_WITHOUT_DOT:
        raise ValueError(f"an owner on {host} has no dot in the name")
    if not _REPOSITORY.fullmatch(name):
        raise ValueError("the repository has a character that repositories do not have")
    return f"https://{host}/{owner}/{name}"


_RAW: Final = {
    "github.com": "https://raw.githubusercontent.com/{repository}/{commit}/{path}",
    "gitlab.com": "https://gitlab.com/{repository}/-/raw/{commit}/{path}",
    "bitbucket.org": "https://bitbucket.org/{repository}/raw/{commit}/{path}",
    "codeberg.org": "https://codeberg.org/{repository}/raw/commit/{commit}/{path}",
}


def raw_file(repo_url: str, commit: str | None, path: str) -> str | None:
    """Where a forge gives out a file as it was at a commit; None for a forge that we do not know
    that of. Raises ValueError."""
    page = urlsplit(repository_page(repo_url))
    form = _RAW.get(page.netloc)
    if form is None or commit is None:
        return None
    return form.format(
        repository=page.path.strip("/"), commit=quote(commit), path=quote(path.strip("/"))
    )


def _host(repo_url: str) -> str:
    if not repo_url.startswith("https://"):
        raise ValueError(f"must start with https://, as in {_EXAMPLE}")
    authority = _AUTHORITY.match(repo_url, len("https://"))
    assert authority is not None  # noqa: S101 - the pattern matches nothing too
    if "@" in authority[0]:
        raise ValueError(f"must not contain a user name or password: send {_EXAMPLE}")
    host = authority[0].removesuffix(":443")  # the default port
    if ":" in host:
        raise ValueError(f"must not name a port: send {_EXAMPLE}")
    if not _HOST.fullmatch(host):
        raise ValueError(f"has no valid host: send {_EXAMPLE}")
    return "github.com" if host.lower() == "www.github.com" else host.lower()
