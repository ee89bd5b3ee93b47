"""The smallest marketplace that keeps its promises, and its flawed variants.

It shows that the simulation can be satisfied, and that it has teeth: each ``Flaw`` takes one
protection out. It reads everything at once and knows nothing of scale; it is no model for ``src``.
"""

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Self, cast

import msgspec

from marketplace.env import Env
from marketplace.listing import ListingQuery
from marketplace.messages import scanned_at_of
from marketplace.models import InvalidRecord, Scan, Skill, Submission, read_skill
from marketplace.models import skill_from_submission as to_skill
from marketplace.slugs import assignable_candidates
from marketplace.storage import (
    DatabaseError,
    KvRateLimited,
    RecordKey,
    SkillDatabase,
    StorageError,
    Upserted,
    UpsertResult,
)
from tests.simulation.actors import Listing, Repair, stamp
from tests.simulation.kv import SimulatedKv
from tests.simulation.queue import QueueMessage

INDEX: Final = "skills:published-index"
DATABASE_SECONDS: Final = 5.0


class Flaw(StrEnum):
    """A protection that is missing."""

    EARLY_ACK = "early-ack"  # acknowledges before anything is stored
    LAST_WRITER_WINS = "last-writer-wins"  # an older revision replaces a newer one
    BASE_SLUG_WITHOUT_DATABASE = "base-slug-without-database"  # takes a slug KV cannot reserve
    NO_OUTBOX = "no-outbox"  # two versions race on one KV key
    NO_TIMEOUT = "no-timeout"  # waits for KV for ever
    SILENT_FALLBACK = "silent-fallback"  # does not say why
    ONE_PAGE = "one-page"  # enumerates the first page only
    NO_BACKFILL = "no-backfill"  # the repair writes KV from the table and nothing back
    TRUSTS_MESSAGE = "trusts-message"  # publishes an older version than KV has when a row is lost
    READS_WHAT_IS_THERE = "reads-what-is-there"  # takes an outdated verdict for the one asked for
    FORGETS_POISON = "forgets-poison"  # acknowledges what it cannot publish


class Tables:
    """The database: rows by identity, and what it knows of KV."""

    def __init__(self) -> None:
        self.rows: dict[str, Skill] = {}
        self.buried: dict[str, Any] = {}


class _Session:
    """The few statements that the reference needs. Each is atomic."""

    def __init__(self, tables: Tables, flaws: frozenset[Flaw]) -> None:
        self._rows = tables.rows
        self._tables = tables
        self._flaws = flaws

    async def upsert_skill(self, skill: Skill, *, candidates: Sequence[str]) -> UpsertResult:
        row = self._rows.get(skill.identity)
        if row is None:
            taken = {other.name for other in self._rows.values()}
            slug = next((slug for slug in candidates if slug not in taken), None)
            if slug is None:
                raise DatabaseError("every candidate is taken", reason="no-slug")
            row = msgspec.structs.replace(skill, name=slug)
            outcome = Upserted.INSERTED
        elif skill.revision > row.revision or Flaw.LAST_WRITER_WINS in self._flaws:
            row = msgspec.structs.replace(skill, name=row.name, published_at=row.published_at)
            outcome = Upserted.UPDATED
        else:
            return UpsertResult(row, Upserted.UNCHANGED)
        self._rows[skill.identity] = row
        return UpsertResult(row, outcome)

    async def get_skill_by_identity(self, identity: str) -> Skill | None:
        return self._rows.get(identity)

    async def mark_in_kv(self, versions: Sequence[RecordKey]) -> Sequence[str]:
        rows = ((v, self._rows.get(v.identity)) for v in versions)
        return [v.name for v, row in rows if row is not None and row.revision != v.revision]

    async def all_rows(self) -> list[Skill]:
        return list(self._rows.values())

    async def bury(self, letter_id: str, body: Any) -> None:
        self._tables.buried[letter_id] = body

    async def exhume(self) -> dict[str, Any]:
        return dict(self._tables.buried)

    async def forget(self, letter_id: str) -> None:
        self._tables.buried.pop(letter_id, None)

    def close(self) -> None:
        """Nothing to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ReferenceMarketplace:
    """See the module."""

    def __init__(self, *flaws: Flaw) -> None:
        self.flaws = frozenset(flaws)

    # Consumers

    async def publish(self, env: Env, batch: Sequence[QueueMessage]) -> None:
        """See Marketplace."""
        for message in batch:
            try:
                if Flaw.EARLY_ACK in self.flaws:
                    message.ack()
                await self._publish_one(
                    env, str(message.body.get("submissionId")), scanned_at_of(message.body)
                )
                message.ack()
            except (StorageError, TimeoutError) as error:
                env.log("publish-failed", level="warning", reason=repr(error))
                message.retry(delay_seconds=10 * 2**message.attempts)

    async def _publish_one(self, env: Env, submission_id: str, scanned_at: str) -> None:
        values = await self._values(env, [f"sub:{submission_id}", f"scan:{submission_id}"])
        sub, scan = values.values()
        if sub is None or scan is None:
            if Flaw.FORGETS_POISON in self.flaws:
                return
            raise StorageError(f"submission {submission_id} is not there", reason="unknown")
        verdict = msgspec.json.decode(scan, type=Scan)
        if verdict.scanned_at < scanned_at and Flaw.READS_WHAT_IS_THERE not in self.flaws:
            raise StorageError(f"an old verdict on {submission_id}", reason="outdated")
        skill = to_skill(msgspec.json.decode(sub, type=Submission), verdict)
        candidates = assignable_candidates(skill.repo_url, skill.base_slug)
        found = await self._values(env, [f"skill:{slug}" for slug in candidates])
        records = {key: self.read_record(key, value) for key, value in found.items() if value}
        mine = [r for r in records.values() if r and r.identity == skill.identity]
        foreign = {r.name for r in records.values() if r and r.identity != skill.identity}
        if mine and Flaw.TRUSTS_MESSAGE not in self.flaws:
            # A table that lost this row would take an older version for the first one.
            skill = max(skill, *mine, key=lambda state: state.revision)
        try:
            await self._publish_to_database(
                env, skill, [slug for slug in candidates if slug not in foreign]
            )
        except DatabaseError as error:
            env.log("published-to-kv-only", level="warning", reason=repr(error))
            slug = mine[0].name if mine else candidates[-1]
            if Flaw.BASE_SLUG_WITHOUT_DATABASE in self.flaws and not mine:
                slug = next(slug for slug in candidates if slug not in foreign)
            if Flaw.NO_OUTBOX not in self.flaws:
                await self._put(env, f"outbox:{skill.identity}:{skill.revision}", skill)
            if not mine or skill.revision > mine[0].revision:
                await self._put(env, f"skill:{slug}", msgspec.structs.replace(skill, name=slug))

    async def _publish_to_database(self, env: Env, skill: Skill, candidates: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                with await env.connect_database() as database:
                    row = (await database.upsert_skill(skill, candidates=candidates)).skill
                    for _ in range(3):
                        try:
                            await self._put(env, f"skill:{row.name}", row)
                        except StorageError as error:
                            env.log("kv-record-not-written", level="warning", reason=repr(error))
                            return
                        known = RecordKey(row.name, row.identity, row.revision)
                        if not await database.mark_in_kv([known]):
                            return
                        row = await database.get_skill_by_identity(row.identity) or row
        except TimeoutError as error:
            raise DatabaseError("too slow", reason="timeout") from error

    async def bury(self, env: Env, batch: Sequence[QueueMessage]) -> None:
        """See Marketplace."""
        for message in batch:
            try:
                async with asyncio.timeout(5):
                    with await self._open(env) as database:
                        await database.bury(message.id, message.body)
                message.ack()
            except (StorageError, TimeoutError) as error:
                env.log("dead-letter-not-stored", level="error", reason=repr(error))
                message.retry(delay_seconds=60)

    async def maintain(self, env: Env, batch: Sequence[QueueMessage]) -> None:
        """See Marketplace. Nothing is ever sent there."""

    async def redrive(self, env: Env) -> None:
        """See Marketplace."""
        try:
            async with asyncio.timeout(60):
                with await self._open(env) as database:
                    for letter_id, body in (await database.exhume()).items():
                        await env.publish_queue.send(body)
                        await database.forget(letter_id)
        except (StorageError, TimeoutError) as error:
            env.log("redrive-failed", level="error", reason=repr(error))

    # Readers

    async def read(self, env: Env, query: ListingQuery) -> Listing:
        """See Marketplace."""
        try:
            async with asyncio.timeout(env.settings.database_read_timeout):
                with await self._open(env) as database:
                    return Listing("postgres", True, await database.all_rows())
        except (StorageError, TimeoutError) as error:
            if Flaw.SILENT_FALLBACK not in self.flaws:
                env.log("fell-back", level="warning", reason=repr(error))
        try:
            async with asyncio.timeout(1):
                skills = {r.name: r for r in (await self._enumerate(env, "skill:")).values()}
                return Listing("kv-enumeration", True, list(skills.values()))
        except (StorageError, TimeoutError) as error:
            env.log("fell-back", level="warning", reason=repr(error))
        return Listing("seed", False, [])

    # Repairs

    async def light_repair(self, env: Env) -> Repair:
        """See Marketplace."""
        try:
            async with asyncio.timeout(300):
                with await self._open(env) as database:
                    await self._drain_outbox(env, database)
                    return Repair(finished=True, errors=[])
        except (StorageError, TimeoutError) as error:
            env.log("repair-failed", level="error", reason=repr(error))
            return Repair(finished=False, errors=[repr(error)])

    async def full_repair(self, env: Env) -> Repair:
        """See Marketplace."""
        try:
            async with asyncio.timeout(300):
                with await self._open(env) as database:
                    await self._drain_outbox(env, database)
                    await self._reconcile(env, database)
                    return Repair(finished=True, errors=[])
        except (StorageError, TimeoutError) as error:
            env.log("repair-failed", level="error", reason=repr(error))
            return Repair(finished=False, errors=[repr(error)])

    async def _drain_outbox(self, env: Env, database: Any) -> None:
        entries = await self._enumerate(env, "outbox:")
        for key, skill in entries.items():
            await self._backfill(env, database, skill)
            async with asyncio.timeout(env.settings.kv_timeout):
                await env.submissions_kv.delete(key)

    async def _backfill(self, env: Env, database: Any, skill: Skill) -> None:
        """Bring a skill of KV into the table, and KV up to the row that stands afterwards."""
        candidates = assignable_candidates(skill.repo_url, skill.base_slug)
        values = await self._values(env, [f"skill:{slug}" for slug in candidates])
        records = [self.read_record(key, value) for key, value in values.items() if value]
        mine = [r for r in records if r and r.identity == skill.identity]
        foreign = {r.name for r in records if r and r.identity != skill.identity}
        free = [*(r.name for r in mine), *(slug for slug in candidates if slug not in foreign)]
        # As in publishing: an old entry of the outbox may meet a table that lost the newer row.
        skill = max(skill, *mine, key=lambda state: state.revision) if mine else skill
        row = (await database.upsert_skill(skill, candidates=free)).skill
        await self._put_patiently(env, f"skill:{row.name}", row)

    async def _reconcile(self, env: Env, database: Any) -> None:
        records = await self._enumerate(env, "skill:")
        rows = {row.identity: row for row in await database.all_rows()}
        for record in records.values():
            row = rows.get(record.identity)
            if (row is None or row.revision < record.revision) and (
                Flaw.NO_BACKFILL not in self.flaws
            ):
                await self._backfill(env, database, record)
        rows = {row.identity: row for row in await database.all_rows()}
        for row in rows.values():
            known = records.get(f"skill:{row.name}")
            if known is None or known.revision < row.revision:
                await self._put_patiently(env, f"skill:{row.name}", row)
        for key, record in records.items():
            row = rows.get(record.identity)
            if row is not None and row.name != record.name:
                await self._put_patiently(env, key, {"movedTo": row.name})
        await self._put_patiently(
            env, INDEX, {row.name: stamp(row) for row in await database.all_rows()}
        )

    # KV

    async def _values(self, env: Env, keys: Sequence[str]) -> Mapping[str, bytes | None]:
        if Flaw.NO_TIMEOUT in self.flaws:
            return await env.submissions_kv.get_many(keys)
        async with asyncio.timeout(env.settings.kv_timeout):
            return await env.submissions_kv.get_many(keys)

    async def _put(self, env: Env, key: str, value: object) -> None:
        async with asyncio.timeout(env.settings.kv_timeout):
            await env.submissions_kv.put(key, msgspec.json.encode(value))

    async def _put_patiently(self, env: Env, key: str, value: object) -> None:
        """Put; after a refusal for being too quick, once more."""
        try:
            await self._put(env, key, value)
        except KvRateLimited:
            await asyncio.sleep(1.1)
            await self._put(env, key, value)

    async def _enumerate(self, env: Env, prefix: str) -> dict[str, Skill]:
        """Every readable skill record under a prefix, by key."""
        skills: dict[str, Skill] = {}
        cursor = None
        while True:
            async with asyncio.timeout(env.settings.kv_timeout):
                page = await env.submissions_kv.list(prefix=prefix, cursor=cursor)
            if page.keys:
                values = await self._values(env, [key.name for key in page.keys])
                for key, value in values.items():
                    if value is not None and (skill := self.read_record(key, value)):
                        skills[key] = skill
            cursor = page.cursor
            if cursor is None or Flaw.ONE_PAGE in self.flaws:
                return skills

    async def _open(self, env: Env) -> Any:
        return await env.connect_database()

    # For the simulation

    def new_database(self) -> Any:
        """See Marketplace."""
        return Tables()

    async def connect(self, database: Any) -> SkillDatabase:
        """See Marketplace."""
        return cast("SkillDatabase", _Session(database, self.flaws))

    def rows(self, database: Any) -> Mapping[str, Skill]:
        """See Marketplace."""
        return cast("Mapping[str, Skill]", database.rows)

    def remove_row(self, database: Any, identity: str) -> None:
        """See Marketplace."""
        del database.rows[identity]

    def record_key(self, slug: str) -> str:
        """See Marketplace."""
        return f"skill:{slug}"

    def read_record(self, key: str, value: bytes) -> Skill | None:
        """See Marketplace."""
        try:
            return read_skill(msgspec.json.decode(value))
        except (InvalidRecord, msgspec.DecodeError):
            return None

    def outbox(self, kv: SimulatedKv) -> Sequence[Skill]:
        """See Marketplace."""
        skills = [self.read_record(key, kv.peek(key) or b"") for key in kv.keys("outbox:")]
        return [skill for skill in skills if skill]

    def buried(self, database: Any, kv: SimulatedKv) -> Sequence[Any]:
        """See Marketplace."""
        return list(database.buried.values())

    def index(self, kv: SimulatedKv) -> Mapping[str, str] | None:
        """See Marketplace."""
        return cast("Mapping[str, str] | None", kv.peek_json(INDEX))

    def damage_index(self, kv: SimulatedKv, how: int) -> None:
        """See Marketplace."""
        kv.damage(INDEX, (None, b"", b"[]", b'{"a":')[how % 4])
