"""The source of truth: the skill database, on PostgreSQL.

``PostgresSkillDatabase`` is ``ports.database.SkillDatabase`` over one pgwire connection. Statements
are in ``queries`` and ``listing_sql``; this module sends them and reads their answers. A write that
loses a race is run again, a bounded number of times; a connection that breaks is reported and
never retried here, since only the caller knows whether the write may happen twice (all of these
may).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

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
    DatabaseConnector,
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
    DatabaseRefused,
    DatabaseRejected,
    DatabaseTimeout,
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
from marketplace.postgres import queries
from marketplace.postgres.listing_sql import (
    columns_of_waiting,
    count_statement,
    matches_nothing,
    page_statement,
    read_sort_key,
)
from marketplace.skills.acts import ActKind
from marketplace.skills.change import Change
from marketplace.skills.fingerprint import Fingerprint
from marketplace.skills.listing_rules import ListingQuery, document_terms, title_terms
from marketplace.skills.merging import merge
from marketplace.skills.rules import Rule, RuleLift, Target
from marketplace.skills.scan import Refusal
from marketplace.skills.seed import Claim, Seed
from marketplace.skills.skill import PublishedSummary, Skill, SkillSummary, Status
from marketplace.skills.slugs import normalize_repository
from marketplace.skills.stored import without_nul
from marketplace.skills.updates import FoundInstalled, Installed
from marketplace.skills.version_history import SkillVersion, is_new_version, version_of
from marketplace.skills.withholding import WithheldKey
from pgwire import (
    Connection,
    ConnectionFailed,
    Parameter,
    PostgresError,
    QueryTimeout,
    Result,
    Statement,
)

MAX_ATTEMPTS: Final = 5  # of a write that keeps losing races

_SLUG_CONSTRAINT: Final = "skill_name_key"
_UNIQUE_VIOLATION: Final = "23505"
_QUERY_CANCELED: Final = "57014"  # what statement_timeout raises
_SERIALIZATION_CLASS: Final = "40"  # deadlocks and serialization failures
_UNAVAILABLE_CLASSES: Final = ("08", "53", "57", "58")
"""Connection, resources, operator intervention, and what is wrong outside of PostgreSQL itself:
Hyperdrive says 58000 when it has no connection to give."""
_REFUSED_CLASSES: Final = ("28", "3D")
"""Credentials and database. A pooler may log in only when the first statement comes."""
_PROTOCOL_VIOLATION: Final = "08P01"  # what a pooler says to a start-up that it does not accept
_UNTRUSTED: Final = {
    "instance_is_the_acknowledged_one": OtherDatabase,
    "instance_lacks_no_changes": OlderDatabase,
}
"""By the constraint that EXPECT_INSTANCE violates."""
_UNTRUSTED_BECAUSE: Final = {
    OtherDatabase: "it is another database than the acknowledged one",
    OlderDatabase: "it lacks changes that it had before",
}
_NO_SLUG: Final = "no-slug"  # as UPSERT_SKILL says it
_NO_LIMIT: Final = 2**31
_DIGEST_MODULUS: Final = 2**64
_Texts = tuple[str, ...]

_read_skill_json = msgspec.json.Decoder(Skill).decode
_read_summary_json = msgspec.json.Decoder(SkillSummary).decode
_read_version_json = msgspec.json.Decoder(SkillVersion).decode
_read_dead_letter_json = msgspec.json.Decoder(DeadLetter).decode
_read_audit_json = msgspec.json.Decoder(AuditEntry).decode
_read_report_json = msgspec.json.Decoder(SkillReport).decode
_read_rule_json = msgspec.json.Decoder(Rule).decode
_read_scan_json = msgspec.json.Decoder(ScanRequest).decode


def postgres_connector(connect: Callable[[], Awaitable[Connection]]) -> DatabaseConnector:
    """A connector that opens its sessions with ``connect``, over any transport."""

    async def open_session() -> SkillDatabase:
        try:
            connection = await connect()
        except (PostgresError, ConnectionFailed) as error:
            raise database_error(error, at_start_up=True) from error
        return PostgresSkillDatabase(connection)

    return open_session


def database_error(
    error: PostgresError | ConnectionFailed, *, at_start_up: bool = False
) -> DatabaseError:
    """The client's error as the port's, by what the caller can do about it."""
    if isinstance(error, QueryTimeout):
        return DatabaseTimeout(str(error))
    if isinstance(error, ConnectionFailed):
        return DatabaseError(str(error))
    if error.sqlstate == _QUERY_CANCELED and at_start_up:  # authentication took too long
        return DatabaseTimeout(str(error))
    if error.sqlstate == _QUERY_CANCELED:
        return DatabaseBusy(str(error), reason="too-long")
    if untrusted := _UNTRUSTED.get(error.constraint or ""):
        return untrusted(_UNTRUSTED_BECAUSE[untrusted])
    if _is_refusal(error, at_start_up=at_start_up):
        return DatabaseRefused(str(error))
    if error.sqlstate.startswith(_UNAVAILABLE_CLASSES):
        return DatabaseError(str(error))
    if _lost_a_race(error):
        return DatabaseConflict(str(error))
    return DatabaseRejected(str(error))


def _is_refusal(error: PostgresError, *, at_start_up: bool) -> bool:
    """Whether another session would be refused too; at start-up that is all that does not pass."""
    if error.sqlstate.startswith(_REFUSED_CLASSES):
        return True
    passes = error.sqlstate.startswith(_UNAVAILABLE_CLASSES)
    return at_start_up and (not passes or error.sqlstate == _PROTOCOL_VIOLATION)


def _lost_a_race(error: PostgresError) -> bool:
    """Whether the same statement may succeed now that another transaction is through."""
    took_our_slug = error.sqlstate == _UNIQUE_VIOLATION and error.constraint == _SLUG_CONSTRAINT
    return took_our_slug or error.sqlstate.startswith(_SERIALIZATION_CLASS)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row, and the revision in its column, which another version of this code may have made."""

    skill: Skill
    revision: str

    def has(self, changed: Skill) -> bool:
        """Whether a change of the row changes nothing."""
        same = (self.revision, self.skill.published_at)
        return same == (changed.revision, changed.published_at)


class PostgresSkillDatabase:
    """One session. Its methods are those of ``ports.database.SkillDatabase``, which documents
    them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._expectation = Expectation()

    def hold_to(self, expectation: Expectation) -> None:
        self._expectation = expectation

    async def note_missing(self, known: Standing | None) -> bool:
        parameters = (None, 0) if known is None else (known.instance, known.changes)
        _, missing = await self._pipeline(
            Statement(queries.NOTE_MISSING, parameters), Statement(queries.IS_MISSING)
        )
        return missing.scalar() == "t"

    async def note_complete(self) -> Standing:
        _, instance = await self._pipeline(
            Statement(queries.NOTE_COMPLETE), Statement(queries.GET_INSTANCE)
        )
        return _standing(instance)

    async def list_skills(
        self,
        query: ListingQuery,
        *,
        seed: Seed,
        offset: int,
        limit: int,
        waiting: Sequence[PublishedSummary] = (),
    ) -> ListingRows:
        if matches_nothing(query):
            return ListingRows([], 0, [])
        in_front = [Statement(queries.ROOM_FOR_WORDS)] if query.search else []
        results = await self._pipeline(
            *in_front,
            page_statement(query, offset=offset, limit=limit, waiting=waiting),
            count_statement(query),
            _claims_statement(seed),
            *_rows_of_waiting(waiting),
        )
        page, total, claims, *of_waiting = results[len(in_front) :]
        rows = [
            ListingRow(read_sort_key(query, relevance, key), name, item.encode())
            for relevance, key, name, item in _filled(page)
        ]
        return ListingRows(rows, _integer(total), _claims(claims), _of_waiting(of_waiting))

    async def get_skill(self, name: str) -> Skill | None:
        return await self._one_skill(queries.GET_SKILL, name)

    async def get_skill_by_identity(self, identity: str) -> Skill | None:
        return await self._one_skill(queries.GET_SKILL_BY_IDENTITY, identity)

    async def count_skills(
        self, query: ListingQuery, *, seed: Seed, waiting: Sequence[PublishedSummary] = ()
    ) -> Counted[int]:
        if matches_nothing(query):
            return Counted(0, [])
        total, claims, *of_waiting = await self._pipeline(
            count_statement(query), _claims_statement(seed), *_rows_of_waiting(waiting)
        )
        return Counted(_integer(total), _claims(claims), _of_waiting(of_waiting))

    async def count_categories(
        self, *, seed: Seed, waiting: Sequence[PublishedSummary] = ()
    ) -> Counted[Mapping[str, int]]:
        result, claims, *of_waiting = await self._pipeline(
            Statement(queries.COUNT_CATEGORIES),
            _claims_statement(seed),
            *_rows_of_waiting(waiting),
        )
        counts = {category: int(count) for category, count in _filled(result)}
        return Counted(counts, _claims(claims), _of_waiting(of_waiting))

    async def mend_counts(self) -> int:
        wrong = _integer(await self._query(queries.MISCOUNTED))
        if wrong:
            await self._in_transaction(
                Statement(queries.HOLD_SKILL_COUNTS),
                Statement(queries.FORGET_SKILL_COUNTS),
                Statement(queries.COUNT_SKILLS_ANEW),
            )
        return wrong

    async def seed_claims(self, seed: Seed) -> Sequence[Claim]:
        (claims,) = await self._pipeline(_claims_statement(seed))
        return _claims(claims)

    async def get_skills(self, identities: Sequence[str]) -> Mapping[str, Skill]:
        rows = await self._rows(identities)
        return {identity: row.skill for identity, row in rows.items()}

    async def _rows(self, identities: Sequence[str]) -> Mapping[str, "_Row"]:
        if not identities:
            return {}
        result = await self._query(queries.GET_SKILLS, identities)
        return {
            identity: _Row(_read_skill_json(skill), revision)
            for identity, revision, skill in _filled(result)
        }

    async def upsert_skill(
        self, change: Change, *, candidates: Sequence[str], row: Skill | None = None
    ) -> UpsertResult | Refusal:
        lost: DatabaseConflict | None = None
        present = None if row is None else _Row(row, row.revision)
        for attempt in range(MAX_ATTEMPTS):
            if attempt or present is None:
                present = (await self._rows([change.identity])).get(change.identity)
            changed = change.onto(None if present is None else present.skill)
            if isinstance(changed, Refusal):
                return changed
            if present is not None and present.has(changed):
                return UpsertResult(present.skill, Upserted.UNCHANGED)
            try:
                stored = await self._store(changed, candidates, present)
            except DatabaseConflict as error:
                lost = error
            else:
                if stored is not None:
                    return stored
        raise lost or DatabaseConflict(f"others changed {change.identity} {MAX_ATTEMPTS} times")

    async def _store(
        self, skill: Skill, candidates: Sequence[str], row: "_Row | None"
    ) -> UpsertResult | None:
        """Write a state over the row that it was made from; None: another session has changed
        that row. Raises DatabaseConflict where no slug is free, or another took it meanwhile."""
        replaced = [] if row is None else [row.revision]
        versions = _versions_json([(None if row is None else row.skill, skill)])
        parameters = (_json([_row(skill)]), replaced, skill.identity, candidates, versions)
        for outcome, stored in _filled(await self._query(queries.UPSERT_SKILL, *parameters)):
            if outcome == _NO_SLUG:
                raise DatabaseConflict(f"no slug is free for {skill.identity}")
            return UpsertResult(_read_skill_json(stored), Upserted(outcome))
        return None

    async def upsert_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        unplaced: list[Skill] = []
        waiting = skills
        for _ in range(MAX_ATTEMPTS):
            merged, rows = await self._merge(waiting)
            if not merged:
                return unplaced
            parameters = _bulk_parameters(merged, rows)
            result = await self._write(queries.UPSERT_SKILLS, *parameters)
            left = [merged[identity] for (identity,) in _filled(result)]
            rows = await self._rows([skill.identity for skill in left])
            unplaced += [skill for skill in left if skill.identity not in rows]
            waiting = [skill for skill in left if skill.identity in rows]  # changed meanwhile
        return [*unplaced, *waiting]

    async def check_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        merged, rows = await self._merge(skills)
        if not merged:
            return []
        upsert = Statement(queries.UPSERT_SKILLS, _bulk_parameters(merged, rows))
        (result,) = await self._in_transaction(upsert, end="rollback")
        return [merged[identity] for (identity,) in _filled(result)]

    async def _merge(
        self, skills: Sequence[Skill]
    ) -> tuple[dict[str, Skill], Mapping[str, "_Row"]]:
        """The states by identity, merged with their rows; and the rows. A state that its row has
        already is left out."""
        rows = await self._rows(sorted({skill.identity for skill in skills}))
        merged: dict[str, Skill] = {identity: row.skill for identity, row in rows.items()}
        for skill in skills:
            present = merged.get(skill.identity)
            merged[skill.identity] = skill if present is None else merge(present, skill)
        changed = {
            identity: skill
            for identity, skill in merged.items()
            if identity not in rows or not rows[identity].has(skill)
        }
        return changed, rows

    async def list_versions(
        self, identity: str, *, before: str | None, limit: int
    ) -> Sequence[SkillVersion]:
        result = await self._query(queries.LIST_VERSIONS, identity, before, limit)
        return [_read_version_json(version) for (version,) in _filled(result)]

    async def find_installed(
        self, installed: Sequence[Installed], identities: Sequence[str]
    ) -> Sequence[FoundInstalled | None]:
        result = await self._query(
            queries.FIND_INSTALLED,
            [each.slug for each in installed],
            identities,
            [each.version for each in installed],
            [each.digits for each in installed],
        )
        return [
            None if skill is None else FoundInstalled(_read_summary_json(skill), superseded == "t")
            for skill, superseded in result.rows
        ]

    async def without_versions(self, *, after: str, limit: int) -> WithoutVersions:
        looked, found = await self._pipeline(
            Statement(queries.LOOK_FOR_VERSIONS, (after, limit)),
            Statement(queries.WITHOUT_VERSIONS, (after, limit)),
        )
        ((last, count),) = looked.rows
        skills = [_read_skill_json(skill) for (skill,) in _filled(found)]
        return WithoutVersions(skills, last if int(count or 0) == limit else None)

    async def add_first_versions(self, versions: Sequence[SkillVersion]) -> None:
        rows = [_version_row(version, first=True) for version in versions]
        await self._query(queries.ADD_FIRST_VERSIONS, _json(rows))

    async def add_alias(self, alias: str, identity: str) -> None:
        await self.add_aliases({alias: identity})

    async def add_aliases(self, aliases: Mapping[str, str]) -> None:
        added = (list(aliases), list(aliases.values()))
        await self._pipeline(Statement(queries.HOLD_NUMBERS), Statement(queries.ADD_ALIASES, added))

    async def find_claims(self, slugs: Sequence[str]) -> Mapping[str, str]:
        if not slugs:
            return {}
        result = await self._query(queries.FIND_CLAIMS, slugs)
        return {row[0]: row[1] for row in _filled(result)}

    async def list_aliases(self, *, after: str, limit: int) -> Sequence[AliasRow]:
        result = await self._query(queries.LIST_ALIASES, after, limit)
        return [
            AliasRow(alias or "", identity or "", name, taken == "t")
            for alias, identity, name, taken in result.rows
        ]

    async def mark_in_kv(self, versions: Sequence[RecordKey]) -> Sequence[str]:
        result = await self._write(queries.MARK_IN_KV, *_columns(versions))
        return [name for (name,) in _filled(result)]

    async def skills_not_in_kv(
        self, *, after: ChangePlace | None = None, limit: int
    ) -> Sequence[Skill]:
        place = (None, None) if after is None else after
        result = await self._query(queries.SKILLS_NOT_IN_KV, *place, limit)
        return [_read_skill_json(skill) for (skill,) in _filled(result)]

    async def add_installs(self, counts: Mapping[str, int], *, day: str) -> None:
        await self._write(queries.ADD_INSTALLS, list(counts), list(counts.values()), day)

    async def measure_installs(
        self, *, after: str, limit: int, week: str, month: str
    ) -> MeasuredRows:
        result = await self._write(queries.MEASURE_INSTALLS, after, limit, week, month)
        ((last, count, changed),) = result.rows
        return MeasuredRows(int(changed or 0), last if int(count or 0) == limit else None)

    async def list_measured(self, *, after: str, limit: int) -> Sequence[Skill]:
        result = await self._query(queries.MEASURED, after, limit)
        return [_read_skill_json(skill) for (skill,) in _filled(result)]

    async def note_measured(self, skills: Sequence[Skill]) -> None:
        told = [
            {
                "identity": skill.identity,
                "installs": skill.installs,
                "week": skill.trending_score_7d,
                "month": skill.trending_score_30d,
            }
            for skill in skills
        ]
        await self._write(queries.NOTE_MEASURED, _json(told))

    async def compare_log(
        self,
        newest: Mapping[str, str],
        *,
        first: Mapping[str, str],
        after: str,
        until: str | None,
        before: str,
        limit: int,
    ) -> LogComparison:
        identities = list(newest)
        logged = (identities, list(newest.values()), [first.get(i) for i in identities])
        behind, unlogged = await self._pipeline(
            Statement(queries.ROWS_BEHIND_THE_LOG, logged),
            Statement(queries.ROWS_NOT_IN_THE_LOG, (identities, after, until, limit, before)),
        )
        return LogComparison(
            behind=frozenset(identity for (identity,) in _filled(behind)),
            unlogged=[_read_skill_json(skill) for (skill,) in _filled(unlogged)],
        )

    async def compare_range(
        self,
        records: Sequence[RecordKey],
        *,
        after: str,
        until: str | None,
        limit: int | None = None,
    ) -> Sequence[Difference]:
        result = await self._query(
            queries.COMPARE_RANGE,
            *_columns(records),
            after,
            until,
            _NO_LIMIT if limit is None else limit,
            [record.published_at for record in records],
        )
        return [_difference(*row) for row in result.rows]

    async def compare_aliases(
        self, aliases: Sequence[AliasKey], *, after: str, until: str | None, limit: int
    ) -> Sequence[LackingAlias]:
        slugs = ([key.alias for key in aliases], [key.slug for key in aliases])
        result = await self._query(queries.COMPARE_ALIASES, *slugs, after, until, limit)
        return [LackingAlias(alias, in_kv == "t") for alias, in_kv in _filled(result)]

    async def list_acted(self, *, after: str, limit: int) -> Sequence[Skill]:
        result = await self._query(queries.LIST_ACTED, after, limit)
        return [_read_skill_json(skill) for (skill,) in _filled(result)]

    async def add_rule(self, rule: Rule) -> bool:
        result = await self._query(
            queries.ADD_RULE,
            rule.id,
            rule.kind,
            rule.matches,
            rule.value,
            without_nul(rule.reason),
            rule.at,
            without_nul(rule.by),
            rule.threat_type,
            rule.severity,
            list(rule.evidence_urls),
            rule.lifted_at,
            rule.lifted_by,
            rule.lift_reason,
        )
        return result.affected == 1

    async def lift_rule(self, lift: RuleLift) -> bool:
        parameters = (lift.rule, lift.at, without_nul(lift.by), without_nul(lift.reason))
        return (await self._query(queries.LIFT_RULE, *parameters)).affected == 1

    async def list_rules(self, *, before: str | None, limit: int) -> Sequence[Rule]:
        return self._rules(await self._query(queries.LIST_RULES, before, limit))

    async def find_rules(self, targets: Sequence[Target], ids: Sequence[str]) -> Sequence[Rule]:
        if not targets and not ids:
            return []
        matches, values = [t.matches for t in targets], [t.value for t in targets]
        return self._rules(await self._query(queries.FIND_RULES, matches, values, ids))

    async def next_open_rule(self, *, after: str) -> Rule | None:
        rules = self._rules(await self._query(queries.NEXT_OPEN_RULE, after))
        return next(iter(rules), None)

    async def count_open_rules(self) -> int:
        ((count,),) = _filled(await self._query(queries.COUNT_OPEN_RULES))
        return int(count)

    async def list_unruled(self, rule: Rule, *, after: str, limit: int) -> Sequence[str]:
        applied = _json([{"rule": rule.id}])
        if rule.lifted_at is None:
            sql = queries.LIST_UNRULED[rule.matches]
            result = await self._query(sql, rule.value, after, applied, limit)
        else:
            lifted = _json([{"rule": rule.id, "kind": ActKind.RESTORE}])
            result = await self._query(queries.LIST_UNLIFTED, applied, after, lifted, limit)
        return [identity for (identity,) in _filled(result)]

    async def mark_applied(self, rule: Rule, *, at: str) -> None:
        await self._query(queries.MARK_APPLIED, rule.id, at, rule.lifted_at)

    @staticmethod
    def _rules(result: Result) -> list[Rule]:
        return [_read_rule_json(rule) for (rule,) in _filled(result)]

    async def find_content(self, digest: str) -> Sequence[ContentNaming]:
        result = await self._query(queries.FIND_CONTENT, digest)
        return [
            ContentNaming(_read_skill_json(skill or ""), license_)
            for skill, license_ in result.rows
        ]

    async def compare_content(
        self, stored: Sequence[str], purged: Sequence[str], *, begin: str, end: str
    ) -> Sequence[ContentGroup]:
        result = await self._query(queries.COMPARE_CONTENT, stored, begin, end, purged)
        return [
            ContentGroup(
                is_stored == "t",
                None if licenses is None else tuple(msgspec.json.decode(licenses)),
                int(number or 0),
                digest or "",
                name,
            )
            for is_stored, licenses, number, digest, name in result.rows
        ]

    async def count_without_content(self) -> int:
        ((count,),) = _filled(await self._query(queries.COUNT_WITHOUT_CONTENT))
        return int(count)

    async def withheld_keys(self) -> Sequence[WithheldKey]:
        result = await self._query(queries.WITHHELD_KEYS)
        return [
            WithheldKey(name, identity, Status(status))
            for name, identity, status in _filled(result)
        ]

    async def list_withheld(self, *, after: str, limit: int) -> Sequence[Skill]:
        result = await self._query(queries.LIST_WITHHELD, after, limit)
        return [_read_skill_json(skill) for (skill,) in _filled(result)]

    async def count_range(self, *, after: str, until: str | None) -> int:
        ((count,),) = _filled(await self._query(queries.COUNT_RANGE, after, until))
        return int(count)

    async def fingerprint(self) -> Fingerprint:
        result = await self._query(queries.FINGERPRINT)
        ((count, total),) = _filled(result)
        return _fingerprint(count, total)

    async def list_changes(self, *, since: int, limit: int, seed: Seed) -> Changes:
        result = await self._query(
            queries.LIST_CHANGES, since, limit, list(seed.by_identity), list(seed.claimable)
        )
        return _changes(_filled(result))

    async def store_dead_letter(self, letter: DeadLetter) -> None:
        await self._query(
            queries.STORE_DEAD_LETTER,
            letter.id,
            letter.queue,
            _json(letter.body),
            without_nul(letter.reason),
            without_nul(letter.detail),
            letter.attempts,
            letter.failed_at,
            letter.redrives,
            letter.redriven_at,
        )

    async def list_dead_letters(
        self, *, reason: str | None, after: str | None, limit: int
    ) -> Sequence[DeadLetter]:
        result = await self._query(queries.LIST_DEAD_LETTERS, reason, after, limit)
        return [_read_dead_letter_json(letter) for (letter,) in _filled(result)]

    async def mark_redriven(self, ids: Sequence[str], *, at: str) -> None:
        await self._query(queries.MARK_REDRIVEN, ids, at)

    async def note_failed_again(self, id_: str, *, at: str) -> None:
        await self._query(queries.NOTE_FAILED_AGAIN, id_, at)

    async def list_redrivable(self, *, reason: str | None, limit: int) -> Sequence[DeadLetter]:
        result = await self._query(queries.LIST_REDRIVABLE, reason, limit)
        return [_read_dead_letter_json(letter) for (letter,) in _filled(result)]

    async def get_dead_letters(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        result = await self._query(queries.GET_DEAD_LETTERS, ids)
        return [_read_dead_letter_json(letter) for (letter,) in _filled(result)]

    async def count_dead_letters(self) -> Mapping[str, int]:
        result = await self._query(queries.COUNT_DEAD_LETTERS)
        return {reason: int(count) for reason, count in _filled(result)}

    async def add_audit_entry(self, entry: AuditEntry) -> None:
        await self._query(
            queries.ADD_AUDIT_ENTRY,
            entry.id,
            entry.at,
            without_nul(entry.principal),
            entry.role,
            without_nul(entry.action),
            without_nul(entry.target),
            None if entry.before is None else _json(entry.before),
            None if entry.after is None else _json(entry.after),
            None if entry.reason is None else without_nul(entry.reason),
        )

    async def list_audit_entries(
        self, wanted: AuditFilter, *, before: str | None, limit: int
    ) -> Sequence[AuditEntry]:
        result = await self._query(
            queries.LIST_AUDIT_ENTRIES,
            wanted.principal,
            wanted.action,
            wanted.target,
            wanted.since,
            before,
            limit,
        )
        return [_read_audit_json(entry) for (entry,) in _filled(result)]

    async def add_report(self, report: SkillReport) -> None:
        await self._query(
            queries.ADD_REPORT,
            report.id,
            report.at,
            report.slug,
            report.identity,
            report.reason,
            report.text,
        )

    async def list_reports(self, *, after: ReportPlace | None, limit: int) -> Sequence[SkillReport]:
        place = (None, None) if after is None else after
        result = await self._query(queries.LIST_REPORTS, *place, limit)
        return [_read_report_json(report) for (report,) in _filled(result)]

    async def get_report(self, id_: str) -> SkillReport | None:
        stored = (await self._query(queries.GET_REPORT, id_)).scalar()
        return None if stored is None else _read_report_json(stored)

    async def resolve_report(self, id_: str, *, at: str, by: str, resolution: str) -> bool:
        result = await self._query(queries.RESOLVE_REPORT, id_, at, by, resolution)
        return result.affected == 1

    async def ask_for_scans(
        self, wanted: Sequence[WantedScan], *, expired: str, asked_since: str
    ) -> Mapping[str, ScanRequest]:
        identities = [each.submission.identity for each in wanted]
        asked = (
            identities,
            [each.submission.id for each in wanted],
            [each.at for each in wanted],
            [_json(each.submission) for each in wanted],
            expired,
            asked_since,
        )
        # Each statement has a snapshot of its own: the second one sees what the first waited for.
        _, result = await self._pipeline(
            Statement(queries.ASK_FOR_SCANS, asked), Statement(queries.GET_SCANS, (identities,))
        )
        return {request.identity: request for request in _scans(result)}

    async def hand_out_scans(
        self, *, limit: int, now: str, free_at: Sequence[str], expired: str
    ) -> Sequence[ScanRequest]:
        return _scans(
            await self._write(queries.HAND_OUT_SCANS, limit, now, free_at, expired, hour_of(now))
        )

    async def hand_out_due_scans(
        self, submission_ids: Sequence[str], *, now: str, free_at: str, read_before: str
    ) -> Sequence[ScanRequest]:
        return _scans(
            await self._write(
                queries.HAND_OUT_DUE_SCANS, submission_ids, now, free_at, read_before, hour_of(now)
            )
        )

    async def answer_scans(
        self, answered: Sequence[str], *, again: Sequence[str], again_at: str, now: str
    ) -> None:
        await self._write(queries.ANSWER_SCANS, answered, again, again_at, now, hour_of(now))

    async def forget_scans(self, *, asked_before: str, hours_before: str, limit: int) -> int:
        forgotten, _ = await self._pipeline(
            Statement(queries.FORGET_SCANS, (asked_before, limit)),
            Statement(queries.FORGET_SCAN_HOURS, (hours_before,)),
        )
        return forgotten.affected

    async def scan_work(self, *, expired: str, read_before: str, hours_since: str) -> ScanWork:
        asked, unread, hours = await self._pipeline(
            Statement(queries.COUNT_OPEN_SCANS, (expired,)),
            Statement(queries.COUNT_UNREAD, (read_before,)),
            Statement(queries.LIST_SCAN_HOURS, (hours_since,)),
        )
        ((count, since),) = unread.rows
        return ScanWork(
            asked={ScanReason(r): Waiting(int(n), at) for r, n, at in _filled(asked)},
            unread=Waiting(int(count or 0), since),
            hours=[
                ScanHour(hour=hour, handed_out=int(handed_out), results=int(results))
                for hour, handed_out, results in _filled(hours)
            ],
        )

    async def acquire_lease(self, name: str, holder: str, *, now: str, expires_at: str) -> bool:
        result = await self._query(queries.ACQUIRE_LEASE, name, holder, now, expires_at)
        return result.affected == 1

    async def release_lease(self, name: str, holder: str) -> None:
        await self._query(queries.RELEASE_LEASE, name, holder)

    async def save_state(self, name: str, value: bytes) -> None:
        await self._query(queries.SAVE_STATE, name, value.decode())

    async def replace_state(self, name: str, value: bytes, *, before: bytes | None) -> bool:
        if before is None:
            result = await self._query(queries.INSERT_STATE, name, value.decode())
        else:
            parameters = (name, value.decode(), before.decode())
            result = await self._query(queries.REPLACE_STATE, *parameters)
        return result.affected == 1

    async def load_state(self, name: str) -> bytes | None:
        value = (await self._query(queries.LOAD_STATE, name)).scalar()
        return None if value is None else value.encode()

    def limit_statements(self, seconds: float | None) -> None:
        self._connection.limit_statements(None if seconds is None else round(seconds * 1000))

    @property
    def closed(self) -> bool:
        return self._connection.closed

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    async def _one_skill(self, sql: str, parameter: str) -> Skill | None:
        if "\0" in parameter:  # no text in PostgreSQL has it, and none is sent with it
            return None
        stored = (await self._query(sql, parameter)).scalar()
        return None if stored is None else _read_skill_json(stored)

    async def _query(self, sql: str, *parameters: Parameter) -> Result:
        (result,) = await self._pipeline(Statement(sql, parameters))
        return result

    async def _pipeline(self, *statements: Statement) -> list[Result]:
        """Run statements in one round trip, unless the database is not the expected one."""
        expectation = self._expectation
        demand = (expectation.instance, expectation.least, expectation.repairing)
        instance, *results = await self._send(
            Statement(queries.EXPECT_INSTANCE, demand), *statements
        )
        expectation.see(_standing(instance))
        return results

    async def _send(self, *statements: Statement) -> list[Result]:
        try:
            return await self._connection.pipeline(statements)
        except (PostgresError, ConnectionFailed) as error:
            raise database_error(error) from error

    async def _in_transaction(self, *statements: Statement, end: str = "commit") -> list[Result]:
        try:
            _, *results, _ = await self._pipeline(Statement("begin"), *statements, Statement(end))
        except DatabaseError:
            if not self.closed:  # it is still in the transaction
                await self._send(Statement("rollback"))
            raise
        return results

    async def _write(self, sql: str, *parameters: Parameter) -> Result:
        """Run one statement; again, with a new snapshot, when it lost a race."""
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await self._query(sql, *parameters)
            except DatabaseConflict:
                continue
        return await self._query(sql, *parameters)


def _standing(result: Result) -> Standing:
    ((instance, changes, *_),) = _filled(result)
    return Standing(instance, int(changes))


def _changes(lines: Sequence[tuple[str, ...]]) -> Changes:
    """Of LIST_CHANGES."""
    told: dict[str, list[tuple[str, ...]]] = {"change": [], "claim": [], "fingerprint": []}
    for kind, *line in lines:
        told.setdefault(kind, []).append(tuple(line))
    ((head, generation, *_),) = told["head"]
    rows = [
        ChangedSkill(
            int(number),
            _read_skill_json(skill),
            revision,
            msgspec.json.decode(aliases, type=_Texts),
        )
        for number, skill, revision, aliases in told["change"]
    ]
    claims = [
        (int(number), Claim(*msgspec.json.decode(claim, type=_Texts)))
        for number, claim, *_ in told["claim"]
    ]
    fingerprint = [_fingerprint(count, total) for count, total, *_ in told["fingerprint"]]
    rows.sort(key=lambda row: (row.number, row.skill.name))
    return Changes(rows, int(head), generation, claims, next(iter(fingerprint), None))


def _fingerprint(count: str, total: str) -> Fingerprint:
    return Fingerprint(count=int(count), digest=f"{int(total) % _DIGEST_MODULUS:016x}")


def _claims_statement(seed: Seed) -> Statement:
    return Statement(queries.SEED_CLAIMS, (list(seed.by_identity), list(seed.claimable)))


def _rows_of_waiting(waiting: Sequence[PublishedSummary]) -> list[Statement]:
    if not waiting:
        return []
    slugs = [state.summary.name for state in waiting]
    return [Statement(queries.ROWS_OF_WAITING, (*columns_of_waiting(waiting), slugs))]


def _of_waiting(results: Sequence[Result]) -> list[RowOfWaiting]:
    return [
        RowOfWaiting(_read_summary_json(row), is_outdone == "t")
        for result in results
        for row, is_outdone in _filled(result)
    ]


def _claims(result: Result) -> list[Claim]:
    return [Claim(*row) for row in _filled(result)]


def _bulk_parameters(
    merged: Mapping[str, Skill], rows: Mapping[str, _Row]
) -> tuple[Parameter, ...]:
    """Of UPSERT_SKILLS."""
    replaced = [rows[identity].revision for identity in merged if identity in rows]
    before = {identity: row.skill for identity, row in rows.items()}
    steps = [(before.get(identity), skill) for identity, skill in merged.items()]
    return (_json([_row(skill) for skill in merged.values()]), replaced, _versions_json(steps))


def _versions_json(steps: Sequence[tuple[Skill | None, Skill]]) -> str:
    """The versions that skills become by changes, each given as the state before and after.

    The state before is a version too, if the table has none of the skill: it may be from before
    there were versions.
    """
    rows: list[dict[str, Any]] = []
    for before, after in steps:
        if is_new_version(before, after):
            if before is not None:
                rows.append(_version_row(version_of(None, before), first=True))
            rows.append(_version_row(version_of(before, after)))
    return _json(rows)


def _version_row(version: SkillVersion, *, first: bool = False) -> dict[str, Any]:
    return msgspec.structs.asdict(version) | {"first": first}


def _row(skill: Skill) -> dict[str, Any]:
    """A skill as the columns of ``queries.SKILL_COLUMNS``."""
    summary = skill.summary()
    words = msgspec.structs.replace(summary, name="")  # the table adds those of the slug it has
    return {
        **msgspec.structs.asdict(skill),
        "identity": skill.identity,
        "repository": normalize_repository(skill.repo_url),
        "summary": summary.description,
        "author_lower": skill.author.lower(),
        "revision": skill.revision,
        "title_terms": title_terms(words),
        "search_terms": document_terms(words),
    }


def _scans(result: Result) -> list[ScanRequest]:
    return [_read_scan_json(request) for (request,) in _filled(result)]


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _columns(records: Sequence[RecordKey]) -> tuple[list[str], list[str], list[str]]:
    return (
        [record.name for record in records],
        [record.identity for record in records],
        [record.revision for record in records],
    )


def _filled(result: Result) -> list[tuple[str, ...]]:
    """The rows of a statement that returns no NULL."""
    rows = []
    for row in result.rows:
        values = tuple(value for value in row if value is not None)
        if len(values) != len(row):
            raise DatabaseRejected(f"NULL in one of the columns {result.columns}")
        rows.append(values)
    return rows


def _integer(result: Result) -> int:
    ((value,),) = _filled(result)
    return int(value)


def _difference(kind: str | None, name: str | None, row: str | None) -> Difference:
    if kind is None or name is None:
        raise DatabaseRejected("a difference without kind or name")
    return Difference(DifferenceKind(kind), name, None if row is None else _read_skill_json(row))
