"""Where members of two sources differ, and for how long.

KV is a minute late, and a publish writes one source after the other: what one look finds proves
nothing. So each difference is kept with the revision that one source lacked. It is a finding once
a look LOOK_AGAIN_SECONDS later finds that the source still lacks that very revision.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from marketplace.basics.concurrency import map_bounded
from marketplace.basics.json_text import Unreadable
from marketplace.basics.timestamps import seconds_since
from marketplace.kv.aliases import alias_targets
from marketplace.kv.index.manifest import Manifest
from marketplace.kv.index.versions import PAGES_AT_ONCE, IndexVersions, read_page, recent_versions
from marketplace.kv.keys import SKILL_PREFIX
from marketplace.kv.records import Alias, PublishedPage, Records, read_records
from marketplace.ports.database import AliasKey, Difference, DifferenceKind, SkillDatabase
from marketplace.ports.env import Env
from marketplace.skills.fingerprint import NO_SKILLS, add_versions_to_digest
from marketplace.skills.skill import Skill

LOOK_AGAIN_SECONDS: Final = 60.0
"""As late as KV may be: it shows by then what was in it at the first look."""
MAX_SUSPECTS: Final = 50
"""Differences of one kind that are kept; with more of them the number is a floor."""
_AT_ONCE: Final = 200  # differences of one page


class Kind(StrEnum):
    """How a source differs from another one."""

    RECORD_MISSING = "record-missing"
    RECORD_OLDER = "record-older"
    RECORD_UNREADABLE = "record-unreadable"
    ROW_MISSING = "row-missing"
    ROW_OLDER = "row-older"
    OTHER_SLUG = "other-slug"
    TAKEN_SLUG = "taken-slug"
    INDEX_ENTRY_MISSING = "index-entry-missing"
    INDEX_ENTRY_OLDER = "index-entry-older"
    INDEX_ENTRY_UNKNOWN = "index-entry-unknown"
    INDEX_PAGE_UNREADABLE = "index-page-unreadable"
    ALIAS_MISSING_IN_KV = "alias-missing-in-kv"
    ALIAS_MISSING_IN_DATABASE = "alias-missing-in-database"


_KINDS: Final = {
    DifferenceKind.MISSING_IN_DATABASE: Kind.ROW_MISSING,
    DifferenceKind.MISSING_IN_KV: Kind.RECORD_MISSING,
    DifferenceKind.NEWER_IN_DATABASE: Kind.RECORD_OLDER,
    DifferenceKind.NEWER_IN_KV: Kind.ROW_OLDER,
    DifferenceKind.OTHER_SLUG: Kind.OTHER_SLUG,
    DifferenceKind.TAKEN_SLUG: Kind.TAKEN_SLUG,
}
_ROW_LEADS: Final = {Kind.RECORD_MISSING, Kind.RECORD_OLDER}
_OF_SKILLS: Final = {*_KINDS.values(), Kind.RECORD_UNREADABLE}
_OF_ALIASES: Final = {Kind.ALIAS_MISSING_IN_KV, Kind.ALIAS_MISSING_IN_DATABASE}


ADDED_TO_INDEX: Final = {Kind.INDEX_ENTRY_MISSING, Kind.INDEX_ENTRY_OLDER}
"""What a check mends by adding the skills to the index."""


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """A difference as it was found first. ``revision`` is the one that a source lacks, of the
    skill ``identity``; ``name`` a slug or, of a page of the index, its key."""

    kind: Kind
    name: str
    since: str
    identity: str = ""
    revision: str = ""
    confirmed: bool = False


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk over all records counted: each page at one moment in both sources, so that what
    is published meanwhile makes no difference."""

    begun_at: str
    finished_at: str = ""
    records: int = 0
    rows: int = 0
    digest: str = NO_SKILLS.digest  # of the records

    def with_page(self, page: PublishedPage, rows: int) -> "Counts":
        versions = [(entry.summary.name, entry.revision) for entry in page.summaries]
        return msgspec.structs.replace(
            self,
            records=self.records + len(versions),
            rows=self.rows + rows,
            digest=add_versions_to_digest(self.digest, versions),
        )


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a walk goes on: after the slug ``after`` and the old slug ``alias_after``."""

    counts: Counts
    cursor: str | None = None
    after: str = ""
    alias_after: str = ""


class Look:
    """Compares pages of records with the rows and the index, from a place on.

    ``is_same``: records and rows are known to be the same set, and are not compared.
    """

    def __init__(
        self,
        env: Env,
        database: SkillDatabase,
        place: Place,
        manifest: Manifest | None,
        *,
        is_same: bool = False,
    ) -> None:
        self.place = place
        self.suspects: list[Suspect] = []
        self._env = env
        self._database = database
        self._index = None if manifest is None else IndexVersions(env, manifest)
        self._is_same = is_same

    async def take(self, page: PublishedPage) -> None:
        """Compare a page, and move the place behind it. Raises KvError, DatabaseError."""
        after, rows = self.place.after, 0
        for broken in page.malformed:
            self._note(Kind.RECORD_UNREADABLE, broken.key.removeprefix(SKILL_PREFIX))
        await self._compare_aliases(page)
        if page.cursor is None or page.last_slug is not None:  # else the range stays open
            rows = await self._compare_range(page, after)
        self.place = msgspec.structs.replace(
            self.place,
            counts=self.place.counts.with_page(page, rows),
            cursor=page.cursor,
            after=page.last_slug or after,
            alias_after=max([self.place.alias_after, *(alias.name for alias in page.aliases)]),
        )

    async def _compare_range(self, page: PublishedPage, after: str) -> int:
        """Note what differs in the range of a page; the number of rows in it."""
        until = None if page.cursor is None else page.last_slug
        keys = {key.name: key for key in page.record_keys()}
        expected = {name: (key.identity, key.revision) for name, key in keys.items()}
        differences: Sequence[Difference] = []
        rows, compared_until = len(keys), until
        if not self._is_same:
            rows = await self._database.count_range(after=after, until=until)
            differences = await self._database.compare_range(
                list(keys.values()), after=after, until=until, limit=_AT_ONCE
            )
            if len(differences) >= _AT_ONCE:  # more than anybody looks at
                compared_until = differences[-1].name
        broken = {found.key.removeprefix(SKILL_PREFIX) for found in page.malformed}
        for found in differences:
            kind, row, key = _KINDS[found.kind], found.row, keys.get(found.name)
            if kind in _ROW_LEADS and row is not None:
                expected[row.name] = (row.identity, row.revision)
                if row.name not in broken:
                    self._note(kind, row.name, row.identity, row.revision)
            elif key is not None:
                self._note(kind, key.name, key.identity, key.revision)
        others = {moved.name for moved in page.moved} | broken
        for found in differences:
            if found.kind is DifferenceKind.OTHER_SLUG:
                others |= {found.name, found.row.name} if found.row else {found.name}
        await self._compare_index(expected, others, after, compared_until)
        return rows

    async def _compare_index(
        self,
        expected: Mapping[str, tuple[str, str]],
        others: set[str],
        after: str,
        until: str | None,
    ) -> None:
        """``expected``: identity and revision by slug; the index may have ``others`` or not."""
        if self._index is None:
            return
        index = await self._index.within(after, until)
        for page in index.unreadable:
            self._note(Kind.INDEX_PAGE_UNREADABLE, page.key)
        for slug, (identity, revision) in expected.items():
            found = index.entries.get(slug)
            if slug in others or index.may_have(slug) or (until is not None and slug > until):
                continue
            if found is None:
                self._note(Kind.INDEX_ENTRY_MISSING, slug, identity, revision)
            elif found < revision:
                self._note(Kind.INDEX_ENTRY_OLDER, slug, identity, revision)
        for slug in sorted(index.entries.keys() - expected.keys() - others):
            self._note(Kind.INDEX_ENTRY_UNKNOWN, slug)

    async def _compare_aliases(self, page: PublishedPage) -> None:
        after = self.place.alias_after
        if page.cursor is not None and not page.aliases:
            return
        until = None if page.cursor is None else page.aliases[-1].name
        targets = await alias_targets(self._env, page.aliases)
        leading = [AliasKey(alias, slug) for alias, slug in targets.items()]
        unusable = {alias.name for alias in page.aliases} - targets.keys()
        for lacking in await self._database.compare_aliases(
            leading, after=after, until=until, limit=_AT_ONCE
        ):
            if lacking.in_kv:
                self._note(Kind.ALIAS_MISSING_IN_DATABASE, lacking.alias)
            elif lacking.alias not in unusable:
                self._note(Kind.ALIAS_MISSING_IN_KV, lacking.alias)

    def _note(self, kind: Kind, name: str, identity: str = "", revision: str = "") -> None:
        now = self._env.now()
        self.suspects.append(
            Suspect(kind=kind, name=name, since=now, identity=identity, revision=revision)
        )


def join(known: Sequence[Suspect], found: Iterable[Suspect]) -> list[Suspect]:
    """What was known stays as it was found first; of each kind MAX_SUSPECTS are kept."""
    joined = {(suspect.kind, suspect.name): suspect for suspect in known}
    number = {kind: sum(suspect.kind is kind for suspect in known) for kind in Kind}
    for suspect in found:
        key = (suspect.kind, suspect.name)
        if key not in joined and number[suspect.kind] < MAX_SUSPECTS:
            joined[key] = suspect
            number[suspect.kind] += 1
    return list(joined.values())


async def look_again(
    env: Env, database: SkillDatabase, manifest: Manifest | None, suspects: Sequence[Suspect]
) -> list[Suspect]:
    """Those that are still there, and confirmed where it is time. Raises KvError, DatabaseError."""
    if not suspects:
        return []
    now = env.now()
    present = await _read_again(env, database, manifest, suspects)
    return [
        msgspec.structs.replace(
            suspect,
            confirmed=suspect.confirmed or seconds_since(suspect.since, now) >= LOOK_AGAIN_SECONDS,
        )
        for suspect in suspects
        if present.still_shows(suspect)
    ]


@dataclass(frozen=True, slots=True)
class _Present:
    """What the sources have now of what suspects are about."""

    records: Records  # by slug
    rows: Mapping[str, Skill]  # by identity
    aliases: Set[str]  # that KV has
    lacking: Set[str]  # aliases that the table lacks
    manifest: Manifest | None
    recent: Mapping[str, str]  # revisions in the index, by slug
    unreadable: Set[str]  # pages of the index, by key

    def still_shows(self, suspect: Suspect) -> bool:
        record, row = self.records.get(suspect.name), self.rows.get(suspect.identity)
        own = isinstance(record, Skill) and record.identity == suspect.identity
        match suspect.kind:
            case Kind.RECORD_UNREADABLE:
                return isinstance(record, Unreadable)
            case Kind.RECORD_MISSING:
                return row is not None and row.name == suspect.name and not own
            case Kind.RECORD_OLDER:
                return isinstance(record, Skill) and own and record.revision < suspect.revision
            case Kind.ROW_MISSING | Kind.TAKEN_SLUG:
                return own and row is None
            case Kind.ROW_OLDER:
                return own and row is not None and row.revision < suspect.revision
            case Kind.OTHER_SLUG:
                return own and row is not None and row.name != suspect.name
            case Kind.ALIAS_MISSING_IN_KV:
                return suspect.name not in self.aliases
            case Kind.ALIAS_MISSING_IN_DATABASE:
                return suspect.name in self.lacking
            case Kind.INDEX_PAGE_UNREADABLE:
                return suspect.name in self.unreadable
            case _:
                return self._index_shows(suspect)

    def _index_shows(self, suspect: Suspect) -> bool:
        """A page never changes: an entry comes with the recent ones, or with another generation,
        which is looked at anew."""
        if self.manifest is None or (self.manifest.rebuilt_at or "") > suspect.since:
            return False
        if suspect.kind is Kind.INDEX_ENTRY_UNKNOWN:
            return True
        return self.recent.get(suspect.name, "") < suspect.revision


async def _read_again(
    env: Env, database: SkillDatabase, manifest: Manifest | None, suspects: Sequence[Suspect]
) -> _Present:
    of_skills = [s for s in suspects if s.kind in _OF_SKILLS]
    names = list(dict.fromkeys(suspect.name for suspect in of_skills))
    identities = sorted({suspect.identity for suspect in of_skills if suspect.identity})
    asked = [Alias(s.name, None) for s in suspects if s.kind in _OF_ALIASES]
    aliases = await alias_targets(env, asked)
    keys = [AliasKey(alias, slug) for alias, slug in aliases.items()]
    nothing_else = ""
    lacking = (
        await database.compare_aliases(keys, after="", until=nothing_else, limit=len(keys))
        if keys
        else []
    )
    pages = {s.name for s in suspects if s.kind is Kind.INDEX_PAGE_UNREADABLE}
    named = [page for page in manifest.pages if page.key in pages] if manifest else []
    read = await map_bounded(named, lambda page: read_page(env, page), at_once=PAGES_AT_ONCE)
    return _Present(
        records=await read_records(env, names, at_once=True),
        rows=await database.get_skills(identities) if identities else {},
        aliases=aliases.keys(),
        lacking={found.alias for found in lacking},
        manifest=manifest,
        recent=recent_versions(manifest) if manifest else {},
        unreadable={p.key for p, found in zip(named, read, strict=True) if found is None},
    )
