"""The marketplace itself, unmodified, as the simulation calls it and looks into its stores.

The one place that knows how it is called. Looking (``rows``, ``records``, …) is done on the stores
themselves, without faults.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from marketplace.basics.json_text import InvalidData
from marketplace.catalog.listings import get_skill_categories, get_skill_count, get_skills
from marketplace.catalog.lookup import get_skill_by_name
from marketplace.catalog.published_skills import KEPT_FROM_BEFORE
from marketplace.kv.index import manifest as index_manifest
from marketplace.kv.index import reading as index_reading
from marketplace.kv.index.blocks import iterate, merge
from marketplace.kv.keys import INDEX_KEY, OUTBOX_PREFIX, SKILL_PREFIX, skill_key
from marketplace.kv.records import decode_skill_record
from marketplace.operations.redrive import redrive_all
from marketplace.ports.database import SkillDatabase
from marketplace.ports.dead_letter import DeadLetterReason
from marketplace.ports.env import Env
from marketplace.ports.errors import StorageError
from marketplace.ports.queue import QueueMessage
from marketplace.publishing import submissions
from marketplace.publishing.acts import NotInForce, TooManyActs, act_on
from marketplace.publishing.messages import PUBLISH_QUEUE
from marketplace.repair.cron import run_scheduled
from marketplace.repair.rebuild import start_rebuild
from marketplace.skills.acts import Act
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.scan import ScanReport
from marketplace.skills.skill import Skill, SkillSummary
from marketplace.skills.slugs import is_slug
from marketplace.skills.stored import read_skill
from marketplace.skills.submission import Submission, SubmissionState, SubmissionStatus
from marketplace.worker.consumers import DEAD_LETTER_QUEUE, MAINTENANCE_QUEUE, consume
from tests.doubles.database import DatabaseDouble, Held
from tests.doubles.kv import KvHandle, SimulatedKv

if TYPE_CHECKING:
    from marketplace.catalog.answer import Answer
    from marketplace.repair.light_repair import LightRepairReport

LIGHT_CRON: Final = "*/5 * * * *"
REBUILD_SECONDS: Final = 20.0
_WITH_ROWS: Final = ("withheld", "logged-acts")  # states that a dump of the table has, too

Damage = Callable[[bytes | None, SimulatedKv], bytes | None]


@dataclass(frozen=True, slots=True)
class Listing:
    """An answer to a reader: the whole listing, all pages.

    ``complete`` False: it says itself that the source could not be read to the end, or that it is
    an earlier answer. ``late``: it says that time ran out for a source.
    """

    source: str
    complete: bool
    late: bool
    knows_withheld: bool  # it is new, and KV's list of withheld skills could be read for it
    skills: Sequence[SkillSummary]
    knows_outbox: bool = True  # it does not say that skills which wait may be missing
    degraded: bool = False  # it gives a reason why it may lack something
    read: Collection[str] = ()  # keys that KV told this invocation


@dataclass(frozen=True, slots=True)
class Told:
    """The answer to a question: how many skills there are at least, and at most if that is told."""

    source: str
    degraded: bool
    count: int
    read: Collection[str]


class Question(StrEnum):
    """What else than the listing visitors ask."""

    SEARCH = "search"
    COUNT = "count"
    CATEGORIES = "categories"
    FOUND = "found"  # how many a search finds


@dataclass(frozen=True, slots=True)
class Repair:
    """What a run of the repair reports. ``finished`` False: call again, it goes on."""

    finished: bool
    errors: Sequence[str]
    acts_replayed: int = 0


@dataclass(frozen=True, slots=True)
class Dump:
    """The table at one moment, and what is kept beside it of what KV has."""

    rows: Mapping[str, Held]
    states: Mapping[str, bytes | None]
    changes: int
    missing_until: int | None
    aliases: Mapping[str, str]
    at: float


def stamp(skill: SkillSummary) -> str:
    """What a summary tells of how new a state is; it grows with the revision."""
    return f"{skill.updated_at}|{skill.certified_at}"


def look(skill: SkillSummary) -> str:
    """All that a summary tells of what happened to a skill."""
    return f"{stamp(skill)}|{skill.status}|{skill.scan_failed_at}|{skill.source_gone_at}"


def _read_by(env: Env) -> Collection[str]:
    """The keys that lists have told an invocation."""
    kv = env.submissions_kv
    return set(kv.listed) if isinstance(kv, KvHandle) else set()


def _says_torn(reason: str) -> bool:
    """Whether a reason for degradation says that records were left out or that it is old."""
    if "malformed" in reason:
        return False
    return "enumeration: " in reason or reason == KEPT_FROM_BEFORE


class Marketplace:
    """What is simulated."""

    # What runs

    async def submit(self, env: Env, submission: Submission) -> str | None:
        """An author asks; the id to follow, which is an earlier one for a duplicate."""
        return (await submissions.submit(env, submission)).id

    async def report(self, env: Env, reports: Sequence[ScanReport]) -> Collection[str]:
        """A scanner reports; the submissions on which its verdicts were accepted."""
        return (await submissions.record_scan_results(env, reports)).accepted

    async def act(self, env: Env, slug: str, act: Act) -> str | None:
        """An operator acts on a skill; the identity of the one on which that was accepted."""
        found = await get_skill_by_name(env, slug)
        if found is None:
            return None
        try:
            return (await act_on(env, found, act)).skill.identity
        except (NotInForce, TooManyActs):
            return None

    async def publish(self, env: Env, batch: Sequence[QueueMessage]) -> None:
        """The consumer of the publish queue."""
        await consume(env, PUBLISH_QUEUE, batch)

    async def bury(self, env: Env, batch: Sequence[QueueMessage]) -> None:
        """The consumer of the dead-letter queue."""
        await consume(env, DEAD_LETTER_QUEUE, batch)

    async def maintain(self, env: Env, batch: Sequence[QueueMessage]) -> None:
        """The consumer of the maintenance queue."""
        await consume(env, MAINTENANCE_QUEUE, batch)

    async def read(self, env: Env, query: ListingQuery) -> Listing:
        """Every page of a listing."""
        answer = await get_skills(env, query)
        skills = [msgspec.json.decode(item, type=SkillSummary) for item in answer.value.items]
        torn = any(_says_torn(reason) for reason in answer.reasons)
        late = any(reason.endswith(("deadline", "timeout")) for reason in answer.reasons)
        knows = not any(r == KEPT_FROM_BEFORE or r.startswith("withheld: ") for r in answer.reasons)
        outbox = not any(reason.startswith("outbox: ") for reason in answer.reasons)
        return Listing(
            str(answer.source),
            not torn,
            late,
            knows,
            skills,
            outbox,
            answer.degraded,
            _read_by(env),
        )

    async def ask(self, env: Env, question: Question, category: str, word: str) -> Told:
        """How many skills a category or a search has."""
        answer: Answer[Any]
        match question:
            case Question.SEARCH:
                answer = await get_skills(env, ListingQuery(search=word, limit=100))
                count = len(answer.value.items)
            case Question.COUNT:
                answer = await get_skill_count(env, ListingQuery(category=category))
                count = answer.value.count
            case Question.FOUND:
                answer = await get_skill_count(env, ListingQuery(search=word))
                count = answer.value.count
            case Question.CATEGORIES:
                answer = await get_skill_categories(env)
                count = answer.value.get(category, 0)
        return Told(str(answer.source), answer.degraded, count, _read_by(env))

    async def find(self, env: Env, slug: str) -> Skill | None:
        """The skill of a slug or of an alias. Raises StorageError when that cannot be told."""
        answer = await get_skill_by_name(env, slug)
        return None if answer is None else answer.value

    async def unpublished(self, env: Env, submission_ids: Sequence[str]) -> list[str]:
        """Those of these submissions whose state is not PUBLISHED."""
        found = []
        for id_ in submission_ids:
            status = await submissions.get_submission_status(env, id_)
            if (
                not isinstance(status, SubmissionStatus)
                or status.state is not SubmissionState.PUBLISHED
            ):
                found.append(id_)
        return found

    async def light_repair(self, env: Env) -> Repair:
        """What cron does every few minutes."""
        reports: list[LightRepairReport] = []

        def log(event: str, *, level: str = "info", **fields: Any) -> None:
            if event == "scheduled-run-finished":
                reports.append(fields["report"]["repair"])
            env.log(event, level=level, **fields)

        try:
            await run_scheduled(replace(env, log=log), LIGHT_CRON)
        except StorageError as error:  # the platform counts it as failed, and the next run comes
            return Repair(finished=False, errors=[str(error)])
        if not reports:  # another check is under way
            return Repair(finished=False, errors=[])
        return Repair(True, reports[0].errors, reports[0].acts_replayed)

    async def full_repair(self, env: Env, *, adopt: bool = False) -> Repair:
        """Reconcile everything, both ways, and rewrite the index. ``adopt``: and take over the
        database that answers."""
        try:
            job = await start_rebuild(env, wait_seconds=REBUILD_SECONDS, adopt=adopt)
        except StorageError as error:
            return Repair(finished=False, errors=[str(error)])
        return Repair(
            finished=job.complete and job.failure is None,
            errors=[f"{detail.key}: {detail.reason}" for detail in job.error_details],
        )

    async def redrive(self, env: Env, *, approve: bool = False) -> None:
        """Send every dead letter again; or let pass what the bound on withdrawals held back."""
        reason = DeadLetterReason.TOO_MANY_WITHDRAWN if approve else None
        try:
            await redrive_all(env, reason=reason)
        except StorageError as error:  # the operator is told, and asks again
            env.log("redrive failed", level="error", reason=error.reason)

    # What is looked at

    def new_database(self, instance: str = "the double") -> Any:
        """An empty in-memory database."""
        return DatabaseDouble(instance=instance)

    def keep_letters(self, database: Any, other: Any) -> None:
        """Bring the dead letters into another database, as operators do who have their export."""
        other.dead_letters = database.dead_letters

    def aliases(self, database: Any) -> dict[str, str]:
        """The identities of old slugs in the table, to look at and to damage."""
        return cast("dict[str, str]", database.aliases)

    async def connect(self, database: Any) -> SkillDatabase:
        """A session with it, without faults. Must not really wait."""
        return cast("SkillDatabase", await database.connect())

    def rows(self, database: Any) -> Mapping[str, Held]:
        """The table, by identity."""
        return cast("Mapping[str, Held]", database.rows)

    def remove_row(self, database: Any, identity: str) -> None:
        """Damage the table."""
        row = database.rows.pop(identity)
        del database.identities[row.skill.name]

    def fail_over(self, database: Any, dump: "Dump") -> None:
        """The whole database becomes what it was."""
        for identity in list(database.rows):
            self.remove_row(database, identity)
        for row in dump.rows.values():
            database.put(row)
        database.aliases = dict(dump.aliases)
        database.changes, database.missing_until = dump.changes, dump.missing_until

    def dump(self, database: Any, at: float) -> "Dump":
        """The table as it is."""
        states = {name: database.states.get(name) for name in _WITH_ROWS}
        rows, aliases = dict(database.rows), dict(database.aliases)
        return Dump(rows, states, database.changes, database.missing_until, aliases, at)

    def restore(self, database: Any, dump: "Dump", identities: Collection[str]) -> None:
        """Give the rows of these skills the state that a dump has of them."""
        for identity in identities:
            present, old = database.rows.get(identity), dump.rows.get(identity)
            if old is None:
                self.remove_row(database, identity)
            elif present is None or present.name == old.name:
                database.put(old)
        database.changes, database.missing_until = dump.changes, dump.missing_until
        for name, value in dump.states.items():
            if value is None:
                database.states.pop(name, None)
            else:
                database.states[name] = value

    def record_key(self, slug: str) -> str:
        """The KV key of a published skill."""
        return skill_key(slug)

    def read_record(self, key: str, value: bytes) -> Held | None:
        """The skill in a KV record or in the outbox; None for aliases, notes and anything else."""
        if key.startswith(OUTBOX_PREFIX):
            return Held.of(read_skill(msgspec.json.decode(value)))
        slug = key.removeprefix(SKILL_PREFIX)
        record = decode_skill_record(slug, value) if is_slug(slug) else None
        return Held.of(record) if isinstance(record, Skill) else None

    def buried(self, database: Any) -> Sequence[Any]:
        """Bodies of the dead letters that were not redriven."""
        return [letter.body for letter in database.dead_letters.values() if letter.is_open]

    def held_back(self, database: Any) -> Sequence[Any]:
        """Bodies of the dead letters of withdrawals beyond the hourly bound."""
        letters = database.dead_letters.values()
        reason = DeadLetterReason.TOO_MANY_WITHDRAWN
        return [letter.body for letter in letters if letter.is_open and letter.reason == reason]

    def index(self, kv: SimulatedKv) -> Mapping[str, str] | None:
        """What the published index holds: slug → look. None when it is unreadable."""
        manifest = index_manifest.read_manifest(kv.peek(INDEX_KEY))
        if isinstance(manifest, str):
            return None
        reading = index_reading.IndexReading()
        index_reading.read_recent(reading, manifest)
        try:
            for page in manifest.pages:
                block = index_manifest.decode_page(page, kv.peek(page.key))
                reading.pages.add_block(block)
        except InvalidData:
            return None
        return {
            entry.summary.name: look(entry.summary) for entry in iterate(merge(reading.layers()))
        }

    def damage_index(self, kv: SimulatedKv, how: int) -> None:
        """Damage the published index in one of several ways."""
        damage = _DAMAGES[how % len(_DAMAGES)]
        kv.damage(INDEX_KEY, damage(kv.peek(INDEX_KEY), kv))


def _lose(_value: bytes | None, _kv: SimulatedKv) -> bytes | None:
    return None


def _empty(_value: bytes | None, _kv: SimulatedKv) -> bytes | None:
    return b""


def _empty_list(_value: bytes | None, _kv: SimulatedKv) -> bytes | None:
    return b"[]"


def _garbage(_value: bytes | None, _kv: SimulatedKv) -> bytes | None:
    return b'{"a":'


def _cut_short(value: bytes | None, _kv: SimulatedKv) -> bytes | None:
    return value[: 2 * len(value) // 3] if value else b"{"


def _other_version(_value: bytes | None, _kv: SimulatedKv) -> bytes | None:
    return b'{"format":"published-index","version":7,"skills":{}}'


def _lose_pages(value: bytes | None, kv: SimulatedKv) -> bytes | None:
    for key in kv.keys(f"{INDEX_KEY}:"):
        kv.damage(key, None)
    return value


def _original_shape(_value: bytes | None, kv: SimulatedKv) -> bytes | None:
    """A plain list with the few skills that the last of several writers knew."""
    records = [kv.peek(key) for key in kv.keys(SKILL_PREFIX)]
    skills = [msgspec.json.decode(value) for value in records if value is not None]
    return msgspec.json.encode([skill for skill in skills if "repoUrl" in skill][:3])


_DAMAGES: Final[Sequence[Damage]] = (
    _lose,
    _empty,
    _empty_list,
    _garbage,
    _cut_short,
    _other_version,
    _lose_pages,
    _original_shape,
)
