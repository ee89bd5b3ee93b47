"""The source of truth: the skill database, on PostgreSQL.

``PostgresSkillDatabase`` is ``ports.database.SkillDatabase`` over one pgwire connection. Statements
are in ``queries`` and ``listing_sql``; this module sends them and reads their answers. A write that
loses a race is run again, a bounded number of times; a connection that breaks is reported and
never retried here, since only the caller knows whether the write may happen twice (all of these
may).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Self

import msgspec

from marketplace.ports.database import (
    Counted,
    DatabaseConnector,
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
from marketplace.ports.errors import (
    DatabaseConflict,
    DatabaseError,
    DatabaseRefused,
    DatabaseRejected,
    DatabaseTimeout,
)
from marketplace.postgres import queries
from marketplace.postgres.listing_sql import (
    count_statement,
    matches_nothing,
    page_statement,
    read_sort_key,
)
from marketplace.skills.change import Change
from marketplace.skills.fingerprint import Fingerprint
from marketplace.skills.listing_rules import ListingQuery, document_terms, title_terms
from marketplace.skills.merging import merge
from marketplace.skills.scan import Refusal
from marketplace.skills.seed import Claim, Seed
from marketplace.skills.skill import Skill
from marketplace.skills.slugs import normalize_repository
from marketplace.skills.stored import without_nul
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
_NO_SLUG: Final = "no-slug"  # as UPSERT_SKILL says it
_NO_LIMIT: Final = 2**31
_DIGEST_MODULUS: Final = 2**64

_read_skill_json = msgspec.json.Decoder(Skill).decode
_read_dead_letter_json = msgspec.json.Decoder(DeadLetter).decode


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
    if error.sqlstate == _QUERY_CANCELED:
        return DatabaseTimeout(str(error))
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


class PostgresSkillDatabase:
    """One session. Its methods are those of ``ports.database.SkillDatabase``, which documents
    them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def list_skills(
        self, query: ListingQuery, *, seed: Seed, offset: int, limit: int
    ) -> ListingRows:
        if matches_nothing(query):
            return ListingRows([], 0, [])
        page, total, claims = await self._pipeline(
            page_statement(query, offset=offset, limit=limit),
            count_statement(query),
            _claims_statement(seed),
        )
        rows = [
            ListingRow(read_sort_key(query, key), name, item.encode())
            for key, name, item in _filled(page)
        ]
        return ListingRows(rows, _integer(total), _claims(claims))

    async def get_skill(self, name: str) -> Skill | None:
        return await self._one_skill(queries.GET_SKILL, name)

    async def get_skill_by_identity(self, identity: str) -> Skill | None:
        return await self._one_skill(queries.GET_SKILL_BY_IDENTITY, identity)

    async def count_skills(self, query: ListingQuery, *, seed: Seed) -> Counted[int]:
        if matches_nothing(query):
            return Counted(0, [])
        total, claims = await self._pipeline(count_statement(query), _claims_statement(seed))
        return Counted(_integer(total), _claims(claims))

    async def count_categories(self, *, seed: Seed) -> Counted[Mapping[str, int]]:
        result, claims = await self._pipeline(
            Statement(queries.COUNT_CATEGORIES), _claims_statement(seed)
        )
        counts = {category: int(count) for category, count in _filled(result)}
        return Counted(counts, _claims(claims))

    async def get_skills(self, identities: Sequence[str]) -> Mapping[str, Skill]:
        if not identities:
            return {}
        result = await self._query(queries.GET_SKILLS, identities)
        return {identity: _read_skill_json(skill) for identity, skill in _filled(result)}

    async def upsert_skill(
        self, change: Change, *, candidates: Sequence[str], row: Skill | None = None
    ) -> UpsertResult | Refusal:
        identity = change.identity
        for attempt in range(MAX_ATTEMPTS):
            if attempt or row is None:
                row = await self.get_skill_by_identity(identity)
            changed = change.onto(row)
            if isinstance(changed, Refusal):
                return changed
            if row is not None and changed.revision == row.revision:
                return UpsertResult(row, Upserted.UNCHANGED)
            replaced = [] if row is None else [row.revision]
            parameters = (_json([_row(changed)]), replaced, identity, candidates)
            result = await self._write(queries.UPSERT_SKILL, *parameters)
            for outcome, stored in _filled(result):
                if outcome == _NO_SLUG:
                    raise DatabaseConflict(f"no slug is free for {identity}")
                return UpsertResult(_read_skill_json(stored), Upserted(outcome))
        raise DatabaseConflict(f"other sessions changed {identity} {MAX_ATTEMPTS} times")

    async def upsert_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        merged, replaced = await self._merge(skills)
        if not merged:
            return []
        result = await self._write(queries.UPSERT_SKILLS, _rows_json(merged), replaced)
        return [merged[identity] for (identity,) in _filled(result)]

    async def check_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        merged, replaced = await self._merge(skills)
        if not merged:
            return []
        try:
            _, result, _ = await self._pipeline(
                Statement("begin"),
                Statement(queries.UPSERT_SKILLS, (_rows_json(merged), replaced)),
                Statement("rollback"),
            )
        except DatabaseError:
            if not self.closed:  # it is still in the transaction
                await self._query("rollback")
            raise
        return [merged[identity] for (identity,) in _filled(result)]

    async def _merge(self, skills: Sequence[Skill]) -> tuple[dict[str, Skill], list[str]]:
        """The states by identity, merged with their rows; and the revisions of the rows that this
        changes. A row that has all of it already is left out."""
        rows = await self.get_skills(sorted({skill.identity for skill in skills}))
        merged: dict[str, Skill] = dict(rows)
        for skill in skills:
            present = merged.get(skill.identity)
            merged[skill.identity] = skill if present is None else merge(present, skill)
        changed = {
            identity: skill
            for identity, skill in merged.items()
            if identity not in rows or skill.revision != rows[identity].revision
        }
        return changed, [rows[identity].revision for identity in changed if identity in rows]

    async def add_alias(self, alias: str, identity: str) -> None:
        await self._query(queries.ADD_ALIAS, alias, identity)

    async def mark_in_kv(self, versions: Sequence[RecordKey]) -> Sequence[str]:
        result = await self._write(queries.MARK_IN_KV, *_columns(versions))
        return [name for (name,) in _filled(result)]

    async def skills_not_in_kv(self, *, limit: int) -> Sequence[Skill]:
        result = await self._query(queries.SKILLS_NOT_IN_KV, limit)
        return [_read_skill_json(skill) for (skill,) in _filled(result)]

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
        )
        return [_difference(*row) for row in result.rows]

    async def fingerprint(self) -> Fingerprint:
        result = await self._query(queries.FINGERPRINT)
        ((count, total),) = _filled(result)
        return Fingerprint(count=int(count), digest=f"{int(total) % _DIGEST_MODULUS:016x}")

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

    async def list_redrivable(self, *, reason: str | None, limit: int) -> Sequence[DeadLetter]:
        result = await self._query(queries.LIST_REDRIVABLE, reason, limit)
        return [_read_dead_letter_json(letter) for (letter,) in _filled(result)]

    async def get_dead_letters(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        result = await self._query(queries.GET_DEAD_LETTERS, ids)
        return [_read_dead_letter_json(letter) for (letter,) in _filled(result)]

    async def count_dead_letters(self) -> Mapping[str, int]:
        result = await self._query(queries.COUNT_DEAD_LETTERS)
        return {reason: int(count) for reason, count in _filled(result)}

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
        try:
            return await self._connection.pipeline(statements)
        except (PostgresError, ConnectionFailed) as error:
            raise database_error(error) from error

    async def _write(self, sql: str, *parameters: Parameter) -> Result:
        """Run one statement; again, with a new snapshot, when it lost a race."""
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await self._query(sql, *parameters)
            except DatabaseConflict:
                continue
        return await self._query(sql, *parameters)


def _claims_statement(seed: Seed) -> Statement:
    return Statement(queries.SEED_CLAIMS, (list(seed.by_identity), list(seed.claimable)))


def _claims(result: Result) -> list[Claim]:
    return [Claim(*row) for row in _filled(result)]


def _rows_json(skills: Mapping[str, Skill]) -> str:
    return _json([_row(skill) for skill in skills.values()])


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
