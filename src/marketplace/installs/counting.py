"""What installers report: counted by day. PostgreSQL alone keeps it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from marketplace.catalog.updates import found_in_seed, identity_asked
from marketplace.ports.env import Env, get_db
from marketplace.skills.slugs import identity_of, normalize_repository, slugify
from marketplace.skills.updates import Installed

DAY_LENGTH: Final = len("2026-12-01")
_NOTHING: Final = Installed(name="", version="")


@dataclass(frozen=True, slots=True)
class Install:
    """An install. ``name``: the skill's slug, ``owner/repository/skill``, or what the repository
    ``repo_url`` calls it."""

    name: str
    repo_url: str | None = None


def day_of(moment: str) -> str:
    """The day (UTC) of a moment."""
    return moment[:DAY_LENGTH]


async def count_installs(env: Env, reported: Sequence[Install]) -> list[bool]:
    """Count each install, one that comes twice as two; which name a skill that is known, listed or
    not.

    Raises DatabaseError, and nothing is counted then.
    """
    identities = await _identities(env, reported)
    counts = Counter(identity for identity in identities if identity)
    if counts:
        await (await get_db(env)).add_installs(counts, day=day_of(env.now()))
    return [bool(identity) for identity in identities]


async def _identities(env: Env, reported: Sequence[Install]) -> list[str]:
    """The skills that are named, empty where nobody knows one. Raises DatabaseError.

    Each is looked for by its repository, if that is told, and by its name.
    """
    named = [Installed(name=each.name, version="") for each in reported]
    wanted = [_identity(each) for each in reported]
    wanted += [identity_asked(each, env.seed) for each in named]
    asked = [*[_NOTHING] * len(reported), *named]
    rows = await (await get_db(env)).find_installed(asked, wanted)
    seeded = (found_in_seed(env.seed, identity) for identity in wanted)
    found = [row or seed for row, seed in zip(rows, seeded, strict=True)]
    known = ["" if each is None else each.skill.identity for each in found]
    pairs = zip(reported, known[: len(reported)], known[len(reported) :], strict=True)
    return [own or (name if _is_of(name, each) else "") for each, own, name in pairs]


def _identity(reported: Install) -> str:
    try:
        return identity_of(reported.repo_url or "", slugify(reported.name))
    except ValueError:
        return ""


def _is_of(identity: str, reported: Install) -> bool:
    """Whether a skill is one of the repository that was told, if any was."""
    if reported.repo_url is None:
        return True
    try:
        return identity.startswith(f"{normalize_repository(reported.repo_url)}#")
    except ValueError:
        return False
