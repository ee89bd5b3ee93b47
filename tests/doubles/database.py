"""The skill database in memory: same answers as PostgreSQL, by the rules of ``listing`` itself.

Held to the same contract tests as the real one (tests/contract). Between its ``before`` and its
``after`` hook each operation is one uninterrupted step, as a statement is in PostgreSQL.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

import msgspec

from marketplace.ports.database import (
    Counted,
    Difference,
    DifferenceKind,
    ListingRow,
    ListingRows,
    RecordKey,
    SkillDatabase,
    Upserted,
    UpsertResult,
)
from marketplace.ports.dead_letter import DeadLetter
from marketplace.ports.errors import DatabaseConflict, DatabaseError, DatabaseRejected
from marketplace.skills.change import Change
from marketplace.skills.fingerprint import Fingerprint
from marketplace.skills.listing_rules import ListingQuery, cursor_rank, matches, rank
from marketplace.skills.merging import merge
from marketplace.skills.scan import Refusal
from marketplace.skills.seed import Claim, Seed
from marketplace.skills.skill import KEPT, MOMENTS, Skill, SkillSummary
from marketplace.skills.slugs import slugify

Hook = Callable[[str], Awaitable[None]]
"""Awaited with the operation's name (``connect``, ``upsert_skill``, …).

An exception from ``before``: the operation is not carried out. From ``after``: it is, but the
caller sees the exception, as when the answer to a COMMIT is lost.
"""

_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


async def no_hook(operation: str) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Held:
    """A skill in a store, with what is asked of it over and over."""

    skill: Skill
    identity: str
    revision: str
    summary: SkillSummary
    revision_in_kv: str | None = None

    @classmethod
    def of(cls, skill: Skill, revision_in_kv: str | None = None) -> "Held":
        """What is held of a skill."""
        return cls(skill, skill.identity, skill.revision, skill.summary(), revision_in_kv)

    @property
    def name(self) -> str:
        """Its slug."""
        return self.skill.name


@dataclass(frozen=True, slots=True)
class _Lease:
    holder: str
    expires_at: str


@dataclass
class DatabaseDouble:
    """The tables, shared by all sessions, and the hooks. ``connect`` is a DatabaseConnector."""

    before: Hook = no_hook
    after: Hook = no_hook
    refuses: Callable[[Skill], bool] = lambda _: False  # as a constraint that nobody reckoned with
    rows: dict[str, Held] = field(default_factory=dict)  # by identity
    identities: dict[str, str] = field(default_factory=dict)  # by slug
    aliases: dict[str, str] = field(default_factory=dict)  # identities, by old slug
    dead_letters: dict[str, DeadLetter] = field(default_factory=dict)
    leases: dict[str, _Lease] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)

    async def connect(self) -> SkillDatabase:
        """Open a session."""
        await self.before("connect")
        session = DoubleSession(self)
        await self.after("connect")
        return session

    def check(self, skill: Skill) -> None:
        """Raise DatabaseError for what the table's constraints refuse."""
        if _breaks_a_constraint(skill) or self.refuses(skill):
            raise DatabaseRejected(f"a constraint refuses {skill.name}")

    def first_free(self, candidates: Iterable[str], identity: str) -> str | None:
        """The first slug that neither a row nor an alias of another identity has."""
        for candidate in candidates:
            owners = {self.identities.get(candidate), self.aliases.get(candidate)}
            if owners <= {None, identity}:
                return candidate
        return None

    def put(self, row: Held) -> None:
        """Insert or replace the identity's row."""
        old = self.rows.get(row.identity)
        if old is not None:
            del self.identities[old.skill.name]
        self.rows[row.identity] = row
        self.identities[row.skill.name] = row.identity

    def update(self, present: Held, changed: Skill) -> Upserted:
        """Replace a row by a state made from it; the slug and what is measured stay."""
        if changed.revision == present.revision:
            return Upserted.UNCHANGED
        values = {field: getattr(present.skill, field) for field in KEPT}
        self.put(Held.of(msgspec.structs.replace(changed, **values), present.revision_in_kv))
        return Upserted.UPDATED

    def matching(self, query: ListingQuery) -> list[SkillSummary]:
        """The listed summaries, in no particular order."""
        return [row.summary for row in self.rows.values() if matches(row.summary, query)]

    def claims(self, seed: Seed) -> list[Claim]:
        """What the seed gives way to."""
        return [
            Claim(row.name, row.identity)
            for row in self.rows.values()
            if row.identity in seed.by_identity or row.name in seed.claimable
        ]


_P = ParamSpec("_P")
_T = TypeVar("_T")
_Operation = Callable[
    Concatenate["DoubleSession", _P],
    Coroutine[Any, Any, _T],
]


def _operation(
    step: Callable[Concatenate["DoubleSession", _P], _T],
) -> _Operation[_P, _T]:
    """A method of the port: one step between the hooks."""

    @functools.wraps(step)
    async def operation(self: "DoubleSession", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        if self.closed:
            raise DatabaseError("the session is closed")
        await self.tables.before(step.__name__)
        result = step(self, *args, **kwargs)
        await self.tables.after(step.__name__)
        return result

    return operation


class DoubleSession:
    """One session with the double; see ``ports.database.SkillDatabase`` for what its methods do."""

    def __init__(self, tables: DatabaseDouble) -> None:
        self.tables = tables
        self.closed = False

    @_operation
    def list_skills(
        self, query: ListingQuery, *, seed: Seed, offset: int, limit: int
    ) -> ListingRows:
        found = [(rank(summary, query), summary) for summary in self.tables.matching(query)]
        found.sort(key=lambda entry: entry[0])
        after = cursor_rank(query)
        listed = [entry for entry in found if after is None or after < entry[0]]
        rows = [
            ListingRow(position.key, position.name, msgspec.json.encode(summary))
            for position, summary in listed[offset : offset + limit]
        ]
        return ListingRows(rows, len(found), self.tables.claims(seed))

    @_operation
    def get_skill(self, name: str) -> Skill | None:
        identity = self.tables.identities.get(name) or self.tables.aliases.get(name)
        return None if identity is None else self._skill_of(identity)

    @_operation
    def get_skill_by_identity(self, identity: str) -> Skill | None:
        return self._skill_of(identity)

    @_operation
    def get_skills(self, identities: Sequence[str]) -> Mapping[str, Skill]:
        found = {identity: self._skill_of(identity) for identity in identities}
        return {identity: skill for identity, skill in found.items() if skill is not None}

    @_operation
    def count_skills(self, query: ListingQuery, *, seed: Seed) -> Counted[int]:
        return Counted(len(self.tables.matching(query)), self.tables.claims(seed))

    @_operation
    def count_categories(self, *, seed: Seed) -> Counted[Mapping[str, int]]:
        found = self.tables.matching(ListingQuery())
        counts = Counter(summary.category for summary in found)
        return Counted(dict(sorted(counts.items())), self.tables.claims(seed))

    @_operation
    def upsert_skill(
        self,
        change: Change,
        *,
        candidates: Sequence[str],
        row: Skill | None = None,
    ) -> UpsertResult | Refusal:
        tables, identity = self.tables, change.identity
        present = tables.rows.get(identity)
        changed = change.onto(None if present is None else present.skill)
        if isinstance(changed, Refusal):
            return changed
        tables.check(changed)
        if present is not None:
            outcome = tables.update(present, changed)
            return UpsertResult(tables.rows[identity].skill, outcome)
        name = tables.first_free(candidates, identity)
        if name is None:
            raise DatabaseConflict(f"no slug is free for {identity}")
        tables.put(Held.of(msgspec.structs.replace(changed, name=name)))
        return UpsertResult(tables.rows[identity].skill, Upserted.INSERTED)

    @_operation
    def upsert_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        return self._upsert_all(skills)

    @_operation
    def check_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        tables = self.tables
        rows, identities = dict(tables.rows), dict(tables.identities)
        try:
            return self._upsert_all(skills)
        finally:
            tables.rows, tables.identities = rows, identities

    def _upsert_all(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        merged: dict[str, Skill] = {}
        for skill in skills:
            present = merged.get(skill.identity) or self._skill_of(skill.identity)
            merged[skill.identity] = skill if present is None else merge(present, skill)
        for skill in merged.values():
            self.tables.check(skill)
        unplaced = {}
        for identity, skill in sorted(merged.items()):
            row = self.tables.rows.get(identity)
            if row is not None:
                self.tables.update(row, skill)
            elif self.tables.first_free([skill.name], identity):
                self.tables.put(Held.of(skill))
            else:
                unplaced[identity] = skill
        return [skill for identity, skill in merged.items() if identity in unplaced]

    @_operation
    def add_alias(self, alias: str, identity: str) -> None:
        if slugify(alias) != alias or not alias:
            raise DatabaseRejected(f"not a slug: {alias!r}")
        self.tables.aliases.setdefault(alias, identity)

    @_operation
    def mark_in_kv(self, versions: Sequence[RecordKey]) -> Sequence[str]:
        moved_on = []
        for version in versions:
            row = self.tables.rows.get(version.identity)
            if row is None:
                continue
            if row.skill.name == version.name:
                self.tables.rows[version.identity] = replace(row, revision_in_kv=version.revision)
            if (row.skill.name, row.revision) != (version.name, version.revision):
                moved_on.append(version.name)
        return sorted(moved_on)

    @_operation
    def skills_not_in_kv(self, *, limit: int) -> Sequence[Skill]:
        skills = [
            row.skill for row in self.tables.rows.values() if row.revision != row.revision_in_kv
        ]
        skills.sort(key=lambda skill: (skill.updated_at, skill.name))
        return skills[:limit]

    @_operation
    def compare_range(
        self,
        records: Sequence[RecordKey],
        *,
        after: str,
        until: str | None,
        limit: int | None = None,
    ) -> Sequence[Difference]:
        differences = [found for record in records if (found := self._difference(record))]
        named = {record.identity for record in records}
        differences += [
            Difference(DifferenceKind.MISSING_IN_KV, row.skill.name, row.skill)
            for row in self.tables.rows.values()
            if row.identity not in named
            and row.skill.name > after
            and (until is None or row.skill.name <= until)
        ]
        differences.sort(key=lambda found: (found.name, found.kind == DifferenceKind.MISSING_IN_KV))
        if limit is None or limit >= len(differences):
            return differences
        last = differences[limit - 1].name
        return [found for found in differences if found.name <= last]

    @_operation
    def fingerprint(self) -> Fingerprint:
        rows = self.tables.rows.values()
        total = sum(_digest(f"{row.skill.name} {row.revision}") for row in rows)
        return Fingerprint(count=len(rows), digest=f"{total % 2**64:016x}")

    @_operation
    def store_dead_letter(self, letter: DeadLetter) -> None:
        letter = msgspec.structs.replace(
            letter,
            body=msgspec.json.decode(msgspec.json.encode(letter.body)),
            reason=letter.reason.replace("\0", "\N{REPLACEMENT CHARACTER}"),
            detail=letter.detail.replace("\0", "\N{REPLACEMENT CHARACTER}"),
        )
        stored = self.tables.dead_letters.get(letter.id)
        if stored is None or _last_event(stored) <= _last_event(letter):
            redrives = max(letter.redrives, stored.redrives if stored else 0)
            self.tables.dead_letters[letter.id] = msgspec.structs.replace(letter, redrives=redrives)

    @_operation
    def list_dead_letters(
        self, *, reason: str | None, after: str | None, limit: int
    ) -> Sequence[DeadLetter]:
        letters = [
            letter
            for letter in self._open_letters()
            if reason in (None, letter.reason) and (after is None or letter.id > after)
        ]
        return letters[:limit]

    @_operation
    def list_redrivable(self, *, reason: str | None, limit: int) -> Sequence[DeadLetter]:
        letters = [
            letter
            for letter in self._open_letters()
            if isinstance(letter.body, Mapping) and reason in (None, letter.reason)
        ]
        return sorted(letters, key=lambda letter: letter.failed_at)[:limit]

    @_operation
    def mark_redriven(self, ids: Sequence[str], *, at: str) -> None:
        for letter in self._open_letters():
            if letter.id in ids and letter.failed_at < at:
                self.tables.dead_letters[letter.id] = msgspec.structs.replace(
                    letter, redrives=letter.redrives + 1, redriven_at=at
                )

    @_operation
    def get_dead_letters(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        letters = self.tables.dead_letters
        return [letters[id_] for id_ in sorted(set(ids)) if id_ in letters]

    @_operation
    def count_dead_letters(self) -> Mapping[str, int]:
        return dict(sorted(Counter(letter.reason for letter in self._open_letters()).items()))

    @_operation
    def acquire_lease(self, name: str, holder: str, *, now: str, expires_at: str) -> bool:
        held = self.tables.leases.get(name)
        if held is not None and held.holder != holder and held.expires_at > now:
            return False
        self.tables.leases[name] = _Lease(holder, expires_at)
        return True

    @_operation
    def release_lease(self, name: str, holder: str) -> None:
        held = self.tables.leases.get(name)
        if held is not None and held.holder == holder:
            del self.tables.leases[name]

    @_operation
    def save_state(self, name: str, value: bytes) -> None:
        self.tables.states[name] = value

    @_operation
    def replace_state(self, name: str, value: bytes, *, before: bytes | None) -> bool:
        if self.tables.states.get(name) != before:
            return False
        self.tables.states[name] = value
        return True

    @_operation
    def load_state(self, name: str) -> bytes | None:
        return self.tables.states.get(name)

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _skill_of(self, identity: str) -> Skill | None:
        row = self.tables.rows.get(identity)
        return None if row is None else row.skill

    def _open_letters(self) -> list[DeadLetter]:
        letters = self.tables.dead_letters
        return [letters[id_] for id_ in sorted(letters) if letters[id_].is_open]

    def _difference(self, record: RecordKey) -> Difference | None:
        mine = self.tables.rows.get(record.identity)
        if mine is None:
            taken = record.name in self.tables.identities
            kind = DifferenceKind.TAKEN_SLUG if taken else DifferenceKind.MISSING_IN_DATABASE
            return Difference(kind, record.name)
        if mine.skill.name != record.name:
            return Difference(DifferenceKind.OTHER_SLUG, record.name, mine.skill)
        if mine.revision == record.revision:
            return None
        older = mine.revision < record.revision
        kind = DifferenceKind.NEWER_IN_KV if older else DifferenceKind.NEWER_IN_DATABASE
        return Difference(kind, record.name, mine.skill)


def _digest(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


def _breaks_a_constraint(skill: Skill) -> bool:
    values = msgspec.structs.astuple(skill)
    moments = [getattr(skill, field) for field in MOMENTS]
    return (
        not 0 <= skill.cert_score <= 100
        or not all(math.isfinite(value) for value in values if isinstance(value, float))
        or not all(_TIMESTAMP.fullmatch(moment) for moment in moments if moment is not None)
        or any("\0" in text for text in _texts(values))
    )


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _texts(item)


def _last_event(letter: DeadLetter) -> tuple[str, bool]:
    """Of a failure and a redrive at one moment the failure counts as the later event."""
    return max(letter.failed_at, letter.redriven_at or ""), letter.is_open
