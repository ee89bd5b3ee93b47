"""The slug rule applied to a closed set of skills."""

from collections.abc import Iterable

from marketplace.skills.slugs import assignable_candidates, identity_of


def assign_slugs(entries: Iterable[tuple[str, str]]) -> list[str]:
    """The slugs of repository URLs and base slugs, first come, first served; a repeated identity
    gets the slug that it has."""
    owners: dict[str, str] = {}
    return [
        next(
            candidate
            for candidate in assignable_candidates(*entry)
            if owners.setdefault(candidate, identity_of(*entry)) == identity_of(*entry)
        )
        for entry in entries
    ]
