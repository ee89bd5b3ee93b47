"""The skill database in memory: same answers as PostgreSQL, by ``skills.listing_rules`` itself.

Held to the same contract tests as the real one (tests/contract). Between its ``before`` and its
``after`` hook each operation is one uninterrupted step, as a statement is in PostgreSQL. An upsert
is two of them: it reads the rows and writes over the revisions that it has read.
"""

import asyncio
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

from marketplace.basics.timestamps import hour_of
from marketplace.ports.audit import AuditEntry, AuditFilter
from marketplace.ports.database import (
    AliasKey,
    AliasRow,
    ChangedSkill,
    ChangePlace,
    Changes,
    ContentGroup,
    ContentNaming,
    Counted,
    Difference,
    DifferenceKind,
    LackingAlias,
    ListingRow,
    ListingRows,
    LogComparison,
    MeasuredRows,
    RecordKey,
    RowOfWaiting,
    SkillDatabase,
    Upserted,
    UpsertResult,
    WithoutVersions,
)
from marketplace.ports.dead_letter import DeadLetter
from marketplace.ports.errors import (
    DatabaseBusy,
    DatabaseConflict,
    DatabaseError,
    DatabaseRejected,
    OlderDatabase,
    OtherDatabase,
)
from marketplace.ports.known_database import Expectation, Standing
from marketplace.ports.scan_request import (
    ScanHour,
    ScanReason,
    ScanRequest,
    ScanWork,
    Waiting,
    WantedScan,
)
from marketplace.ports.skill_report import ReportPlace, SkillReport
from marketplace.postgres.db import MAX_ATTEMPTS
from marketplace.postgres.listing_sql import matches_nothing
from marketplace.skills.acts import ActKind
from marketplace.skills.change import Change
from marketplace.skills.fingerprint import NO_SKILLS, Fingerprint, add_items
from marketplace.skills.listing_rules import MOST_COUNTED, ListingQuery, cursor_rank, matches, rank
from marketplace.skills.merging import is_same, merge
from marketplace.skills.rules import Rule, RuleLift, Target, owners_of
from marketplace.skills.scan import Refusal
from marketplace.skills.seed import Claim, Seed
from marketplace.skills.skill import KEPT, MOMENTS, PublishedSummary, Skill, SkillSummary, Status
from marketplace.skills.slugs import is_slug, key_digest, slugify
from marketplace.skills.submission import Submission
from marketplace.skills.updates import FoundInstalled, Installed, is_superseded
from marketplace.skills.version_history import SkillVersion, is_new_version, version_of
from marketplace.skills.withholding import WithheldKey, key_of

Hook = Callable[[str], Awaitable[None]]
"""Awaited with the operation's name (``connect``, ``get_skill_by_identity``, ``upsert_skill``, …).

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
    change: int = 0  # the number of its latest change

    @classmethod
    def of(cls, skill: Skill, revision_in_kv: str | None = None, change: int = 0) -> "Held":
        """What is held of a skill."""
        return cls(skill, skill.identity, skill.revision, skill.summary(), revision_in_kv, change)

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
    work: Hook = no_hook  # takes as long as PostgreSQL takes, which a session's limit bounds
    refuses: Callable[[Skill], bool] = lambda _: False  # as an unexpected constraint does
    rows: dict[str, Held] = field(default_factory=dict)  # by identity
    identities: dict[str, str] = field(default_factory=dict)  # by slug
    aliases: dict[str, str] = field(default_factory=dict)  # identities, by old slug
    versions: dict[str, dict[str, SkillVersion]] = field(default_factory=dict)
    """By identity and place."""
    dead_letters: dict[str, DeadLetter] = field(default_factory=dict)
    audit: dict[str, AuditEntry] = field(default_factory=dict)
    reports: dict[str, SkillReport] = field(default_factory=dict)
    leases: dict[str, _Lease] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=dict)
    scans: dict[str, ScanRequest] = field(default_factory=dict)  # by identity
    due: dict[str, str] = field(default_factory=dict)  # when an identity was last due to be read
    scan_hours: dict[str, ScanHour] = field(default_factory=dict)  # by the hour's beginning
    installs: dict[tuple[str, str], int] = field(default_factory=dict)  # by identity and day
    measured: set[str] = field(default_factory=set)  # identities whose record may lack it
    miscounted: int = 0  # groups of skills whose kept total is wrong, until it is mended
    instance: str = "the double"
    changes: int = 0
    missing_until: int | None = None
    generation: str = "the first"

    def demand(self, expectation: Expectation) -> None:
        """Raise DatabaseError where the database is not as expected."""
        if expectation.instance not in (None, self.instance):
            raise OtherDatabase(f"{self.instance}, not {expectation.instance}")
        is_older = self.changes < expectation.least or self.missing_until is not None
        if is_older and not expectation.repairing:
            raise OlderDatabase(f"at change {self.changes}")
        expectation.see(Standing(self.instance, self.changes))

    def note_deleted(self, gone: int) -> None:
        """Of a statement by hand, which has deleted so many rows."""
        if gone >= 10 and len(self.rows) < gone:
            self.missing_until = max(self.missing_until or 0, self.changes)

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

    def write(
        self, changed: Skill, name: str | None, replaced: str | None, place: int = 1
    ) -> Upserted | None:
        """Replace the identity's row, if it has the revision ``replaced``, or insert one under the
        slug ``name``; None where neither can be. A row keeps its slug and what is measured."""
        present = self.rows.get(changed.identity)
        if present is not None:
            if present.revision != replaced:
                return None
            values = {field: getattr(present.skill, field) for field in KEPT}
            earlier = changed.published_at < present.skill.published_at
            values |= {} if earlier else {"published_at": present.skill.published_at}
            self.add_version(present.skill, changed)
            in_kv = None if earlier else present.revision_in_kv
            state = msgspec.structs.replace(changed, **values)
            self.put(Held.of(state, in_kv, self.number(place)))
            return Upserted.UPDATED
        if name is None:
            return None
        self.add_version(None, changed)
        state = msgspec.structs.replace(changed, name=name)
        self.put(Held.of(state, change=self.number(place)))
        return Upserted.INSERTED

    def number(self, place: int = 1) -> int:
        """Of the change that the next statement makes in this place."""
        return (self.changes + 1) * 2**20 + place

    def leave(self, alias: str, identity: str) -> None:
        """Note a slug that a skill has left; a change of that skill."""
        if alias in self.aliases:
            return
        self.aliases[alias] = identity
        if identity in self.rows:
            self.rows[identity] = replace(self.rows[identity], change=self.number())
            self.changes += 1

    def add_version(self, before: Skill | None, after: Skill) -> None:
        """Add the version that a change makes, if any, and before it the first, if that lacks."""
        if not is_new_version(before, after):
            return
        if before is not None:
            self.add_first_version(version_of(None, before))
        version = version_of(before, after)
        self.versions.setdefault(version.identity, {}).setdefault(version.place, version)

    def add_first_version(self, version: SkillVersion) -> None:
        """Add a version of a skill that has none."""
        self.versions.setdefault(version.identity, {version.place: version})

    def write_all(self, merged: "Mapping[str, Merged]") -> Sequence[Skill]:
        """Write each of these as `write` does, all or nothing; those that were not written."""
        for each in merged.values():
            self.check(each.skill)
        written = {
            identity
            for place, (identity, each) in enumerate(sorted(merged.items()), start=1)
            if self.write(
                each.skill, self.first_free([each.skill.name], identity), each.replaced, place
            )
        }
        self.changes += bool(written)
        return [each.skill for identity, each in merged.items() if identity not in written]

    def aliases_of(self, identity: str) -> list[str]:
        """The slugs that a skill has left."""
        return [alias for alias, other in self.aliases.items() if other == identity]

    def matching(self, query: ListingQuery) -> list[SkillSummary]:
        """The listed summaries, in no particular order."""
        return [row.summary for row in self.rows.values() if matches(row.summary, query)]

    def of_waiting(
        self, waiting: Sequence[PublishedSummary], query: ListingQuery
    ) -> list[RowOfWaiting]:
        """The rows of skills in the outbox, and those that have their slugs."""
        if matches_nothing(query):
            return []
        states = {state.summary.identity: state for state in waiting}
        slugs = {state.summary.name for state in waiting}
        return [
            RowOfWaiting(row.skill.summary(), _is_outdone(row.skill, states.get(row.identity)))
            for row in self.rows.values()
            if row.identity in states or row.skill.name in slugs
        ]

    def claims(self, seed: Seed, query: ListingQuery | None = None) -> list[Claim]:
        """What the seed gives way to; nothing for a query that matches nothing."""
        if query is not None and matches_nothing(query):
            return []
        claims = [
            Claim(row.name, row.identity)
            for row in self.rows.values()
            if row.identity in seed.by_identity or row.name in seed.claimable
        ]
        old = self.aliases.items()
        left = [pair for pair in old if pair[0] in seed.claimable and pair[1] in self.rows]
        return claims + [Claim(*pair) for pair in left]


_P = ParamSpec("_P")
_T = TypeVar("_T")
_Operation = Callable[
    Concatenate["DoubleSession", _P],
    Coroutine[Any, Any, _T],
]


def _operation(
    name: str,
) -> Callable[[Callable[Concatenate["DoubleSession", _P], _T]], _Operation[_P, _T]]:
    """A method that is one step between the hooks, which hear of it by this name."""

    def decorate(step: Callable[Concatenate["DoubleSession", _P], _T]) -> _Operation[_P, _T]:
        @functools.wraps(step)
        async def operation(self: "DoubleSession", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
            if self.closed:
                raise DatabaseError("the session is closed")
            await self.tables.before(name)
            await self.work(name)
            self.tables.demand(self.expectation)
            result = step(self, *args, **kwargs)
            await self.tables.after(name)
            return result

        return operation

    return decorate


@dataclass(frozen=True, slots=True)
class Merged:
    """A state made from a row, and the revision of that row; None where there was no row."""

    skill: Skill
    replaced: str | None


async def upsert_in_steps(
    session: Any, change: Change, *, candidates: Sequence[str], row: Skill | None = None
) -> UpsertResult | Refusal:
    """`SkillDatabase.upsert_skill` by a session's statements, between which others may write."""
    for attempt in range(MAX_ATTEMPTS):
        if attempt or row is None:
            row = await session.get_skill_by_identity(change.identity)
        changed = change.onto(row)
        if isinstance(changed, Refusal):
            return changed
        replaced = None if row is None else row.revision
        if row is not None and is_same(changed, row):
            return UpsertResult(row, Upserted.UNCHANGED)
        result: UpsertResult | None = await session.replace_row(
            changed, replaced=replaced, candidates=candidates
        )
        if result is not None:
            return result
    raise DatabaseConflict(f"other sessions changed {change.identity} {MAX_ATTEMPTS} times")


async def upsert_all_in_steps(session: Any, skills: Sequence[Skill]) -> Sequence[Skill]:
    """`SkillDatabase.upsert_skills` by a session's statements, between which others may write."""
    unplaced: list[Skill] = []
    waiting = skills
    for _ in range(MAX_ATTEMPTS):
        left = await merge_in_steps(session, waiting, session.replace_rows)
        if not left:
            return unplaced
        rows = await session.get_skills([skill.identity for skill in left])
        unplaced += [skill for skill in left if skill.identity not in rows]
        waiting = [skill for skill in left if skill.identity in rows]
    return [*unplaced, *waiting]


async def merge_in_steps(
    session: Any,
    skills: Sequence[Skill],
    write: Callable[[Mapping[str, Merged]], Awaitable[Sequence[Skill]]],
) -> Sequence[Skill]:
    """Merge these with the rows and ``write`` what that changes; those that were not written."""
    rows = await session.get_skills(sorted({skill.identity for skill in skills})) if skills else {}
    merged: dict[str, Merged] = {}
    for skill in skills:
        identity = skill.identity
        row = rows.get(identity)
        present = merged[identity].skill if identity in merged else row
        state = skill if present is None else merge(present, skill)
        merged[identity] = Merged(state, None if row is None else row.revision)
    changed = {
        identity: each
        for identity, each in merged.items()
        if identity not in rows or not is_same(each.skill, rows[identity])
    }
    return await write(changed) if changed else []


class DoubleSession:
    """One session with the double. ``ports.database.SkillDatabase`` says what its methods do."""

    def __init__(self, tables: DatabaseDouble) -> None:
        self.tables = tables
        self.closed = False
        self.limit: float | None = None
        self.expectation = Expectation()

    async def work(self, operation: str) -> None:
        """Let PostgreSQL work on an operation, no longer than the session's limit."""
        if self.tables.work is no_hook:
            return
        try:
            async with asyncio.timeout(self.limit):
                await self.tables.work(operation)
        except TimeoutError as error:
            raise DatabaseBusy("cancelled for its length", reason="too-long") from error

    def limit_statements(self, seconds: float | None) -> None:
        self.limit = seconds

    def hold_to(self, expectation: Expectation) -> None:
        self.expectation = expectation

    @_operation("note_missing")
    def note_missing(self, known: Standing | None) -> bool:
        tables = self.tables
        if known is not None:
            is_other = known.instance != tables.instance
            if is_other or tables.changes < known.changes:
                least = 0 if is_other else known.changes
                tables.missing_until = max(tables.missing_until or 0, least)
        return tables.missing_until is not None

    @_operation("note_complete")
    def note_complete(self) -> Standing:
        tables = self.tables
        if tables.missing_until is not None:
            tables.changes = max(tables.changes, tables.missing_until)
            tables.generation = f"after {tables.generation}"
        tables.missing_until = None
        return Standing(tables.instance, tables.changes)

    @_operation("list_skills")
    def list_skills(
        self,
        query: ListingQuery,
        *,
        seed: Seed,
        offset: int,
        limit: int,
        waiting: Sequence[PublishedSummary] = (),
    ) -> ListingRows:
        of_waiting = self.tables.of_waiting(waiting, query)
        outdone = {each.row.identity for each in of_waiting if each.is_outdone}
        found = [(rank(summary, query), summary) for summary in self.tables.matching(query)]
        found.sort(key=lambda entry: entry[0])
        after = cursor_rank(query)
        listed = [
            entry
            for entry in found
            if (after is None or after < entry[0]) and entry[1].identity not in outdone
        ]
        rows = [
            ListingRow(position.key, position.name, msgspec.json.encode(summary))
            for position, summary in listed[offset : offset + limit]
        ]
        total, claims = _counted(query, len(found)), self.tables.claims(seed, query)
        return ListingRows(rows, total, claims, of_waiting)

    @_operation("get_skill")
    def get_skill(self, name: str) -> Skill | None:
        identity = self.tables.identities.get(name) or self.tables.aliases.get(name)
        return None if identity is None else self._skill_of(identity)

    @_operation("get_skill_by_identity")
    def get_skill_by_identity(self, identity: str) -> Skill | None:
        return self._skill_of(identity)

    @_operation("seed_claims")
    def seed_claims(self, seed: Seed) -> Sequence[Claim]:
        return self.tables.claims(seed)

    @_operation("get_skills")
    def get_skills(self, identities: Sequence[str]) -> Mapping[str, Skill]:
        found = {identity: self._skill_of(identity) for identity in identities}
        return {identity: skill for identity, skill in found.items() if skill is not None}

    @_operation("count_skills")
    def count_skills(
        self, query: ListingQuery, *, seed: Seed, waiting: Sequence[PublishedSummary] = ()
    ) -> Counted[int]:
        found, claims = len(self.tables.matching(query)), self.tables.claims(seed, query)
        of_waiting = self.tables.of_waiting(waiting, query)
        return Counted(_counted(query, found), claims, of_waiting)

    @_operation("count_categories")
    def count_categories(
        self, *, seed: Seed, waiting: Sequence[PublishedSummary] = ()
    ) -> Counted[Mapping[str, int]]:
        found = self.tables.matching(ListingQuery())
        counts = Counter(summary.category for summary in found)
        of_waiting = self.tables.of_waiting(waiting, ListingQuery())
        return Counted(dict(sorted(counts.items())), self.tables.claims(seed), of_waiting)

    @_operation("mend_counts")
    def mend_counts(self) -> int:
        miscounted, self.tables.miscounted = self.tables.miscounted, 0
        return miscounted

    async def upsert_skill(
        self, change: Change, *, candidates: Sequence[str], row: Skill | None = None
    ) -> UpsertResult | Refusal:
        return await upsert_in_steps(self, change, candidates=candidates, row=row)

    @_operation("upsert_skill")
    def replace_row(
        self, changed: Skill, *, replaced: str | None, candidates: Sequence[str]
    ) -> UpsertResult | None:
        """The second step of `upsert_skill`: None where the row has another revision by now."""
        tables, identity = self.tables, changed.identity
        tables.check(changed)
        name = tables.first_free(candidates, identity)
        if name is None and identity not in tables.rows:
            raise DatabaseConflict(f"no slug is free for {identity}")
        outcome = tables.write(changed, name, replaced)
        if outcome is None:
            return None
        tables.changes += 1
        return UpsertResult(tables.rows[identity].skill, outcome)

    async def upsert_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        return await upsert_all_in_steps(self, skills)

    async def check_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        return await merge_in_steps(self, skills, self.check_rows)

    @_operation("upsert_skills")
    def replace_rows(self, merged: Mapping[str, Merged]) -> Sequence[Skill]:
        """The second step of `upsert_skills`, which returns those that it did not write."""
        return self.tables.write_all(merged)

    @_operation("check_skills")
    def check_rows(self, merged: Mapping[str, Merged]) -> Sequence[Skill]:
        """The second step of `check_skills`."""
        tables = self.tables
        copy = replace(
            tables, rows=dict(tables.rows), identities=dict(tables.identities), versions={}
        )
        return copy.write_all(merged)

    @_operation("list_versions")
    def list_versions(
        self, identity: str, *, before: str | None, limit: int
    ) -> Sequence[SkillVersion]:
        versions = sorted(self.tables.versions.get(identity, {}).items(), reverse=True)
        return [each for place, each in versions if before is None or place < before][:limit]

    @_operation("find_installed")
    def find_installed(
        self, installed: Sequence[Installed], identities: Sequence[str]
    ) -> Sequence[FoundInstalled | None]:
        return [
            self._installed(each, identity)
            for each, identity in zip(installed, identities, strict=True)
        ]

    @_operation("without_versions")
    def without_versions(self, *, after: str, limit: int) -> WithoutVersions:
        looked_at = sorted(identity for identity in self.tables.rows if identity > after)[:limit]
        skills = [
            self.tables.rows[identity].skill
            for identity in looked_at
            if not self.tables.versions.get(identity)
        ]
        return WithoutVersions(skills, looked_at[-1] if len(looked_at) == limit else None)

    @_operation("add_first_versions")
    def add_first_versions(self, versions: Sequence[SkillVersion]) -> None:
        for version in versions:
            self.tables.add_first_version(version)

    @_operation("add_alias")
    def add_alias(self, alias: str, identity: str) -> None:
        if slugify(alias) != alias or not alias:
            raise DatabaseRejected(f"not a slug: {alias!r}")
        self.tables.leave(alias, identity)

    @_operation("add_aliases")
    def add_aliases(self, aliases: Mapping[str, str]) -> None:
        if not all(is_slug(alias) for alias in aliases):
            raise DatabaseRejected("an alias is no slug")
        for alias, identity in aliases.items():
            self.tables.leave(alias, identity)

    @_operation("find_claims")
    def find_claims(self, slugs: Sequence[str]) -> Mapping[str, str]:
        claims = self.tables.aliases | self.tables.identities
        return {slug: claims[slug] for slug in slugs if slug in claims}

    @_operation("list_aliases")
    def list_aliases(self, *, after: str, limit: int) -> Sequence[AliasRow]:
        tables = self.tables
        aliases = sorted(alias for alias in tables.aliases if alias > after)[:limit]
        return [
            AliasRow(
                alias,
                tables.aliases[alias],
                None if row is None else row.name,
                alias in tables.identities,
            )
            for alias in aliases
            for row in [tables.rows.get(tables.aliases[alias])]
        ]

    @_operation("mark_in_kv")
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

    @_operation("skills_not_in_kv")
    def skills_not_in_kv(self, *, after: ChangePlace | None = None, limit: int) -> Sequence[Skill]:
        skills = [
            row.skill
            for row in self.tables.rows.values()
            if row.revision != row.revision_in_kv
            if after is None or (row.skill.updated_at, row.skill.name) > after
        ]
        skills.sort(key=lambda skill: (skill.updated_at, skill.name))
        return skills[:limit]

    @_operation("add_installs")
    def add_installs(self, counts: Mapping[str, int], *, day: str) -> None:
        for identity, count in counts.items():
            kept = self.tables.installs.get((identity, day), 0)
            self.tables.installs[identity, day] = kept + count

    @_operation("measure_installs")
    def measure_installs(self, *, after: str, limit: int, week: str, month: str) -> MeasuredRows:
        looked_at = sorted(identity for identity in self.tables.rows if identity > after)[:limit]
        changed = [self._measure(identity, week, month) for identity in looked_at]
        return MeasuredRows(sum(changed), looked_at[-1] if len(looked_at) == limit else None)

    def _measure(self, identity: str, week: str, month: str) -> bool:
        installs, row = self.tables.installs, self.tables.rows[identity]
        days = {day: count for (each, day), count in installs.items() if each == identity}
        for day in [day for day in days if day and day < month]:
            installs[identity, ""] = installs.get((identity, ""), 0) + installs.pop((identity, day))
        values = {
            "installs": max(row.skill.installs, min(sum(days.values()), 2**31 - 1)),
            "trending_score_7d": float(sum(n for day, n in days.items() if day >= week)),
            "trending_score_30d": float(sum(n for day, n in days.items() if day >= month)),
        }
        skill = msgspec.structs.replace(row.skill, **values)
        if skill == row.skill:
            return False
        self.tables.put(Held.of(skill, row.revision_in_kv))
        self.tables.measured.add(identity)
        return True

    @_operation("list_measured")
    def list_measured(self, *, after: str, limit: int) -> Sequence[Skill]:
        found = sorted(identity for identity in self.tables.measured if identity > after)
        return [self.tables.rows[identity].skill for identity in found[:limit]]

    @_operation("note_measured")
    def note_measured(self, skills: Sequence[Skill]) -> None:
        for skill in skills:
            row = self.tables.rows.get(skill.identity)
            if row and _measured(row.skill) == _measured(skill):
                self.tables.measured.discard(skill.identity)

    @_operation("compare_log")
    def compare_log(
        self,
        newest: Mapping[str, str],
        *,
        first: Mapping[str, str],
        after: str,
        until: str | None,
        before: str,
        limit: int,
    ) -> LogComparison:
        rows = self.tables.rows
        unlogged = [
            row.skill
            for digest, row in sorted((key_digest(i), row) for i, row in rows.items())
            if row.identity not in newest and row.skill.decided_at < before
            if digest > after and (until is None or digest <= until)
        ]
        behind = {
            identity
            for identity, moment in newest.items()
            if identity not in rows
            or rows[identity].skill.decided_at < moment
            or rows[identity].skill.published_at > first.get(identity, "~")
        }
        return LogComparison(frozenset(behind), unlogged[:limit])

    @_operation("compare_range")
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

    @_operation("compare_aliases")
    def compare_aliases(
        self, aliases: Sequence[AliasKey], *, after: str, until: str | None, limit: int
    ) -> Sequence[LackingAlias]:
        tables, asked = self.tables, {key.alias for key in aliases}
        found = [
            LackingAlias(key.alias, in_kv=True)
            for key in aliases
            if key.alias not in tables.aliases
            and (key.slug in tables.identities or tables.aliases.get(key.slug) in tables.rows)
        ]
        found += [
            LackingAlias(alias, in_kv=False)
            for alias, identity in tables.aliases.items()
            if alias > after and (until is None or alias <= until)
            if alias not in asked and identity in tables.rows
        ]
        found.sort(key=lambda lacking: lacking.alias)
        return [lacking for lacking in found if lacking.alias not in tables.identities][:limit]

    @_operation("list_acted")
    def list_acted(self, *, after: str, limit: int) -> Sequence[Skill]:
        acted = [row.skill for row in self.tables.rows.values() if row.skill.acts]
        acted.sort(key=lambda skill: skill.name)
        return [skill for skill in acted if skill.name > after][:limit]

    @_operation("add_rule")
    def add_rule(self, rule: Rule) -> bool:
        is_new = rule.id not in self.tables.rules
        stored = msgspec.structs.replace(rule, applied_at=None)
        self.tables.rules.setdefault(rule.id, stored)
        return is_new

    @_operation("lift_rule")
    def lift_rule(self, lift: RuleLift) -> bool:
        rule = self.tables.rules.get(lift.rule)
        if rule is None or rule.lifted_at is not None:
            return False
        self.tables.rules[rule.id] = rule.lifted(lift)
        return True

    @_operation("list_rules")
    def list_rules(self, *, before: str | None, limit: int) -> Sequence[Rule]:
        ids = sorted(self.tables.rules, reverse=True)
        return [self.tables.rules[i] for i in ids if before is None or i < before][:limit]

    @_operation("find_rules")
    def find_rules(self, targets: Sequence[Target], ids: Sequence[str]) -> Sequence[Rule]:
        return [
            rule
            for id_, rule in sorted(self.tables.rules.items())
            if id_ in ids or (rule.lifted_at is None and rule.target in targets)
        ]

    @_operation("next_open_rule")
    def next_open_rule(self, *, after: str) -> Rule | None:
        rules = self.tables.rules
        return next(
            (rules[i] for i in sorted(rules) if i > after and rules[i].applied_at is None), None
        )

    @_operation("count_open_rules")
    def count_open_rules(self) -> int:
        return sum(rule.applied_at is None for rule in self.tables.rules.values())

    @_operation("list_unruled")
    def list_unruled(self, rule: Rule, *, after: str, limit: int) -> Sequence[str]:
        found = (
            identity
            for identity, row in self.tables.rows.items()
            if identity > after and _is_unruled(row.skill, identity, rule)
        )
        return sorted(found)[:limit]

    @_operation("mark_applied")
    def mark_applied(self, rule: Rule, *, at: str) -> None:
        stored = self.tables.rules.get(rule.id)
        if stored is not None and stored.lifted_at == rule.lifted_at:
            self.tables.rules[rule.id] = msgspec.structs.replace(stored, applied_at=at)

    @_operation("find_content")
    def find_content(self, digest: str) -> Sequence[ContentNaming]:
        best: dict[str | None, Skill] = {}
        for named, identity, license_, _ in self._naming():
            row = self.tables.rows.get(identity)
            if named == digest and row is not None:
                earlier = best.get(license_, row.skill)
                best[license_] = min(earlier, row.skill, key=_handed_out_first)
        found = [ContentNaming(skill, license_) for license_, skill in best.items()]
        return sorted(found, key=lambda each: (each.skill.name, each.license or "~"))

    def _naming(self) -> Iterator[tuple[str, str, str | None, str | None]]:
        """Each named digest, the identity, the licence and the slug of a skill that is listed and
        names it now."""
        states: list[tuple[str, Skill | SkillVersion, str | None]] = []
        for identity, row in self.tables.rows.items():
            name = row.skill.name if row.skill.status is Status.LISTED else None
            states.append((identity, row.skill, name))
        for identity, versions in self.tables.versions.items():
            states += [(identity, version, None) for version in versions.values()]
        for identity, state, name in states:
            for digest in (state.content_digest, state.skill_md_digest):
                if digest is not None:
                    yield digest, identity, state.license, name

    @_operation("compare_content")
    def compare_content(
        self, stored: Sequence[str], purged: Sequence[str], *, begin: str, end: str
    ) -> Sequence[ContentGroup]:
        licenses: dict[str, set[str]] = {}
        names: dict[str, set[str]] = {}
        for digest, _, license_, name in self._naming():
            if begin <= digest < end:
                licenses.setdefault(digest, set()).add(license_ or "")
                names.setdefault(digest, set()).update([name] if name else [])
        groups: dict[tuple[bool, tuple[str, ...] | None], list[str]] = {}
        for digest in sorted({*stored, *licenses} - {*purged}):
            if digest in stored or names[digest]:
                under = tuple(sorted(licenses[digest])) if digest in licenses else None
                groups.setdefault((digest in stored, under), []).append(digest)
        return [
            ContentGroup(
                is_stored,
                under,
                len(digests),
                digests[0],
                min((name for each in digests for name in names.get(each, ())), default=None),
            )
            for (is_stored, under), digests in groups.items()
        ]

    @_operation("count_without_content")
    def count_without_content(self) -> int:
        rows = [row.skill for row in self.tables.rows.values()]
        return sum(s.status is Status.LISTED and s.content_digest is None for s in rows)

    @_operation("withheld_keys")
    def withheld_keys(self) -> Sequence[WithheldKey]:
        return [key_of(skill) for skill in self._withheld()]

    @_operation("list_withheld")
    def list_withheld(self, *, after: str, limit: int) -> Sequence[Skill]:
        return [skill for skill in self._withheld() if skill.name > after][:limit]

    @_operation("count_range")
    def count_range(self, *, after: str, until: str | None) -> int:
        names = self.tables.identities
        return sum(name > after and (until is None or name <= until) for name in names)

    @_operation("fingerprint")
    def fingerprint(self) -> Fingerprint:
        rows = self.tables.rows.values()
        total = sum(_digest(f"{row.skill.name} {row.revision}") for row in rows)
        return Fingerprint(count=len(rows), digest=f"{total % 2**64:016x}")

    @_operation("list_changes")
    def list_changes(self, *, since: int, limit: int, seed: Seed) -> Changes:
        tables = self.tables
        changed = sorted(tables.rows.values(), key=lambda row: (row.change, row.name))
        left = [row for row in changed if row.change > since]
        last = left[limit - 1].change if len(left) >= limit else None
        page = [row for row in left if last is None or row.change <= last]
        digest = add_items(NO_SKILLS.digest, (row.skill for row in changed))
        return Changes(
            rows=[
                ChangedSkill(
                    row.change,
                    row.skill,
                    row.revision,
                    tuple(sorted(tables.aliases_of(row.identity))),
                )
                for row in page
            ],
            head=(tables.changes + 1) * 2**20 - 1,
            generation=tables.generation,
            claims=[(tables.rows[claim.identity].change, claim) for claim in tables.claims(seed)],
            fingerprint=Fingerprint(len(changed), digest) if len(page) == len(left) else None,
        )

    @_operation("store_dead_letter")
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

    @_operation("list_dead_letters")
    def list_dead_letters(
        self, *, reason: str | None, after: str | None, limit: int
    ) -> Sequence[DeadLetter]:
        letters = [
            letter
            for letter in self._open_letters()
            if reason in (None, letter.reason) and (after is None or letter.id > after)
        ]
        return letters[:limit]

    @_operation("note_failed_again")
    def note_failed_again(self, id_: str, *, at: str) -> None:
        for letter in self._open_letters():
            if letter.id == id_ and letter.failed_at < at:
                failed = msgspec.structs.replace(letter, failed_at=at)
                self.tables.dead_letters[id_] = failed

    @_operation("list_redrivable")
    def list_redrivable(self, *, reason: str | None, limit: int) -> Sequence[DeadLetter]:
        letters = [
            letter
            for letter in self._open_letters()
            if isinstance(letter.body, Mapping) and reason in (None, letter.reason)
        ]
        return sorted(letters, key=lambda letter: letter.failed_at)[:limit]

    @_operation("mark_redriven")
    def mark_redriven(self, ids: Sequence[str], *, at: str) -> None:
        for letter in self._open_letters():
            if letter.id in ids and letter.failed_at < at:
                self.tables.dead_letters[letter.id] = msgspec.structs.replace(
                    letter, redrives=letter.redrives + 1, redriven_at=at
                )

    @_operation("get_dead_letters")
    def get_dead_letters(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        letters = self.tables.dead_letters
        return [letters[id_] for id_ in sorted(set(ids)) if id_ in letters]

    @_operation("count_dead_letters")
    def count_dead_letters(self) -> Mapping[str, int]:
        return dict(sorted(Counter(letter.reason for letter in self._open_letters()).items()))

    @_operation("add_audit_entry")
    def add_audit_entry(self, entry: AuditEntry) -> None:
        stored = msgspec.json.decode(_without_nul(msgspec.json.encode(entry)), type=AuditEntry)
        self.tables.audit[entry.id] = msgspec.structs.replace(
            stored,
            before=msgspec.to_builtins(entry.before),
            after=msgspec.to_builtins(entry.after),
        )

    @_operation("list_audit_entries")
    def list_audit_entries(
        self, wanted: AuditFilter, *, before: str | None, limit: int
    ) -> Sequence[AuditEntry]:
        found = [
            entry
            for id_, entry in sorted(self.tables.audit.items(), reverse=True)
            if wanted.principal in (None, entry.principal)
            and wanted.action in (None, entry.action)
            and wanted.target in (None, entry.target)
            and (wanted.since is None or id_ >= wanted.since)
            and (before is None or id_ < before)
        ]
        return found[:limit]

    @_operation("add_report")
    def add_report(self, report: SkillReport) -> None:
        self.tables.reports[report.id] = report

    @_operation("list_reports")
    def list_reports(self, *, after: ReportPlace | None, limit: int) -> Sequence[SkillReport]:
        reports = sorted(self.tables.reports.values(), key=lambda report: report.place)
        return [report for report in reports if after is None or report.place > after][:limit]

    @_operation("get_report")
    def get_report(self, id_: str) -> SkillReport | None:
        return self.tables.reports.get(id_)

    @_operation("resolve_report")
    def resolve_report(self, id_: str, *, at: str, by: str, resolution: str) -> bool:
        report = self.tables.reports.get(id_)
        if report is None or report.resolved_at is not None:
            return False
        self.tables.reports[id_] = msgspec.structs.replace(
            report, resolved_at=at, resolved_by=by, resolution=resolution
        )
        return True

    @_operation("ask_for_scans")
    def ask_for_scans(
        self, wanted: Sequence[WantedScan], *, expired: str, asked_since: str
    ) -> Mapping[str, ScanRequest]:
        scans = self.tables.scans
        for each in wanted:
            identity = each.submission.identity
            new = ScanRequest(
                identity=identity,
                submission_id=each.submission.id,
                reason=ScanReason.RESCAN if identity in self.tables.rows else ScanReason.NEW,
                requested_at=each.at,
                submission=each.submission,
                free_at=each.at,
            )
            if _takes_the_place_of(new, scans.get(identity), expired, asked_since):
                scans[identity] = new
        identities = [each.submission.identity for each in wanted]
        return {identity: scans[identity] for identity in identities}

    @_operation("hand_out_scans")
    def hand_out_scans(
        self, *, limit: int, now: str, free_at: Sequence[str], expired: str
    ) -> Sequence[ScanRequest]:
        waiting = [scan for scan in self._open_scans() if scan.requested_at > expired]
        fresh = [scan for scan in waiting if scan.attempts == 0]
        fresh.sort(key=lambda scan: (scan.reason is not ScanReason.NEW, scan.requested_at))
        unanswered = [scan for scan in waiting if scan.attempts and scan.free_at <= now]
        unanswered.sort(key=lambda scan: scan.free_at)
        handed = [
            msgspec.structs.replace(
                scan,
                attempts=scan.attempts + 1,
                free_at=free_at[min(scan.attempts, len(free_at) - 1)],
            )
            for scan in [*fresh, *unanswered][:limit]
        ]
        handed.sort(key=_urgency)
        self._hand_out(handed, now)
        return handed

    @_operation("hand_out_due_scans")
    def hand_out_due_scans(
        self, submission_ids: Sequence[str], *, now: str, free_at: str, read_before: str
    ) -> Sequence[ScanRequest]:
        rows = self.tables.rows.values()
        unread = [
            row
            for row in rows
            if self._is_unread(row, read_before) and not self._is_asked_for(row, read_before)
        ]
        unread.sort(key=lambda row: (self._read_at(row), row.identity))
        taken = list(zip(submission_ids, unread, strict=False))
        self.tables.due |= {row.identity: now for _, row in taken}
        handed = [
            ScanRequest(
                identity=row.identity,
                submission_id=id_,
                reason=ScanReason.DUE,
                requested_at=now,
                submission=_submission_of(row.skill, id_, now),
                attempts=1,
                free_at=free_at,
            )
            for id_, row in taken
        ]
        self._hand_out(handed, now)
        return handed

    @_operation("answer_scans")
    def answer_scans(
        self, answered: Sequence[str], *, again: Sequence[str], again_at: str, now: str
    ) -> None:
        for scan in self._open_scans():
            changed: dict[str, Any] = {}
            if scan.submission_id in answered:
                changed = {"answered_at": now}
            elif scan.submission_id in again:
                at, attempts = max(scan.free_at, again_at), max(scan.attempts, 1)
                changed = {"free_at": at, "attempts": attempts}
            self.tables.scans[scan.identity] = msgspec.structs.replace(scan, **changed)
        self._count(now, results=len(answered) + len(again))

    @_operation("forget_scans")
    def forget_scans(self, *, asked_before: str, hours_before: str, limit: int) -> int:
        scans, hours = self.tables.scans, self.tables.scan_hours
        old = [scan for scan in scans.values() if scan.requested_at <= asked_before]
        old.sort(key=lambda scan: scan.requested_at)
        for scan in old[:limit]:
            del scans[scan.identity]
        for hour in [hour for hour in hours if hour < hours_before]:
            del hours[hour]
        return len(old[:limit])

    @_operation("scan_work")
    def scan_work(self, *, expired: str, read_before: str, hours_since: str) -> ScanWork:
        waiting: dict[ScanReason, list[str]] = {}
        for scan in self._open_scans():
            if scan.requested_at > expired:
                waiting.setdefault(scan.reason, []).append(scan.requested_at)
        scans = self.tables.scans
        unread = [
            max(self._read_at(row), scan.requested_at if scan else "")
            for row in self.tables.rows.values()
            for scan in [scans.get(row.identity)]
            if self._is_unread(row, read_before)
            and not self._is_asked_for(row, read_before)
            and (scan is None or scan.answered_at is not None)
        ]
        return ScanWork(
            asked={reason: Waiting(len(at), min(at)) for reason, at in waiting.items()},
            unread=Waiting(len(unread), min(unread, default=None)),
            hours=[h for _, h in sorted(self.tables.scan_hours.items()) if h.hour >= hours_since],
        )

    @_operation("acquire_lease")
    def acquire_lease(self, name: str, holder: str, *, now: str, expires_at: str) -> bool:
        held = self.tables.leases.get(name)
        if held is not None and held.holder != holder and held.expires_at > now:
            return False
        self.tables.leases[name] = _Lease(holder, expires_at)
        return True

    @_operation("release_lease")
    def release_lease(self, name: str, holder: str) -> None:
        held = self.tables.leases.get(name)
        if held is not None and held.holder == holder:
            del self.tables.leases[name]

    @_operation("save_state")
    def save_state(self, name: str, value: bytes) -> None:
        self.tables.states[name] = value

    @_operation("replace_state")
    def replace_state(self, name: str, value: bytes, *, before: bytes | None) -> bool:
        if self.tables.states.get(name) != before:
            return False
        self.tables.states[name] = value
        return True

    @_operation("load_state")
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

    def _installed(self, installed: Installed, identity: str) -> FoundInstalled | None:
        tables, slug = self.tables, installed.slug
        row = tables.rows.get(tables.identities.get(slug) or tables.aliases.get(slug) or identity)
        if row is None:
            return None
        versions = tables.versions.get(row.identity, {}).values()
        return FoundInstalled(row.summary, is_superseded(installed, row.skill, versions))

    def _open_scans(self) -> list[ScanRequest]:
        return [scan for scan in self.tables.scans.values() if scan.answered_at is None]

    def _read_at(self, row: Held) -> str:
        return max(row.skill.decided_at, self.tables.due.get(row.identity, ""))

    def _is_unread(self, row: Held, read_before: str) -> bool:
        return row.skill.status is Status.LISTED and self._read_at(row) <= read_before

    def _is_asked_for(self, row: Held, read_before: str) -> bool:
        scan = self.tables.scans.get(row.identity)
        if scan is None or scan.requested_at > read_before:
            return scan is not None
        return scan.answered_at is None and scan.reason is not ScanReason.DUE

    def _hand_out(self, handed: Sequence[ScanRequest], now: str) -> None:
        self.tables.scans |= {scan.identity: scan for scan in handed}
        if handed:
            self._count(now, handed_out=len(handed))

    def _count(self, now: str, *, handed_out: int = 0, results: int = 0) -> None:
        hour = hour_of(now)
        counted = self.tables.scan_hours.get(hour, ScanHour(hour=hour))
        self.tables.scan_hours[hour] = ScanHour(
            hour=hour,
            handed_out=counted.handed_out + handed_out,
            results=counted.results + results,
        )

    def _withheld(self) -> list[Skill]:
        skills = [row.skill for row in self.tables.rows.values()]
        withheld = [skill for skill in skills if skill.status is not Status.LISTED]
        return sorted(withheld, key=lambda skill: skill.name)

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
            if record.published_at in ("", mine.skill.published_at):
                return None
            return Difference(DifferenceKind.NEWER_IN_KV, record.name, mine.skill)
        older = mine.revision < record.revision
        kind = DifferenceKind.NEWER_IN_KV if older else DifferenceKind.NEWER_IN_DATABASE
        return Difference(kind, record.name, mine.skill)


def _is_outdone(row: Skill, waiting: PublishedSummary | None) -> bool:
    if waiting is None or waiting.revision <= row.revision:
        return False
    if waiting.summary.status is not Status.LISTED:
        return True
    state = waiting.summary
    same = state.provisional or row.provisional or row.skill_path == state.skill_path
    newer = state.updated_at >= row.updated_at
    checked = (state.certified_at or "") >= (row.certified_at or "")
    return not row.acts and same and newer and checked


def _counted(query: ListingQuery, found: int) -> int:
    return found if query.is_counted_whole else min(found, MOST_COUNTED + 1)


def _is_unruled(skill: Skill, identity: str, rule: Rule) -> bool:
    kinds = [act.kind for act in skill.acts if act.rule == rule.id]
    if rule.lifted_at is not None:
        return bool(kinds) and ActKind.RESTORE not in kinds
    matched = {
        "identity": lambda: identity == rule.value,
        "owner": lambda: rule.value in identity and rule.value in owners_of(identity),
        "contentDigest": lambda: skill.content_digest == rule.value,
    }
    return not kinds and matched[rule.matches]()


def _without_nul(document: bytes) -> bytes:
    return document.replace(b"\\u0000", "\N{REPLACEMENT CHARACTER}".encode())


def _digest(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


def _measured(skill: Skill) -> tuple[int, float, float]:
    return skill.installs, skill.trending_score_7d, skill.trending_score_30d


def _handed_out_first(skill: Skill) -> tuple[bool, bool, str]:
    return skill.status is not Status.LISTED, skill.scan_failed_at is not None, skill.name


def _breaks_a_constraint(skill: Skill) -> bool:
    values = msgspec.structs.astuple(skill)
    moments = [getattr(skill, field) for field in MOMENTS]
    return (
        not 0 <= skill.cert_score <= 100
        or skill.installs < 0
        or not all(math.isfinite(value) for value in values if isinstance(value, float))
        or not all(_TIMESTAMP.fullmatch(moment) for moment in moments if moment is not None)
        or any("\0" in text for text in _texts(values))
    )


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, msgspec.Struct):
        yield from _texts(msgspec.structs.astuple(value))
    elif isinstance(value, tuple):
        for item in value:
            yield from _texts(item)


def _takes_the_place_of(
    new: ScanRequest, old: ScanRequest | None, expired: str, asked_since: str
) -> bool:
    if old is None:
        return True
    if old.requested_at > new.requested_at or old.submission_id == new.submission_id:
        return False
    waited_for = old.answered_at is None and old.reason is not ScanReason.DUE
    if waited_for and old.requested_at > expired:
        return False
    are_rescans = old.reason is new.reason is ScanReason.RESCAN
    return not (are_rescans and old.requested_at > asked_since)


def _urgency(scan: ScanRequest) -> tuple[bool, bool, str, str]:
    is_new = scan.reason is ScanReason.NEW
    return (scan.attempts > 1, not is_new, scan.requested_at, scan.identity)


def _submission_of(skill: Skill, id_: str, now: str) -> Submission:
    return Submission(
        id=id_,
        repo_url=skill.repo_url,
        skill_name=skill.base_slug,
        base_slug=skill.base_slug,
        created_at=now,
        skill_path=skill.skill_path,
    )


def _last_event(letter: DeadLetter) -> tuple[str, bool]:
    """Of a failure and a redrive at one moment the failure counts as the later event."""
    return max(letter.failed_at, letter.redriven_at or ""), letter.is_open
