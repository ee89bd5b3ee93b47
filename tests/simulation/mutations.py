"""The marketplace with one protection taken out: what the simulation has to find.

Each mutation replaces a function or a method for as long as its context lasts.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import msgspec

from marketplace.basics.timestamps import format_timestamp
from marketplace.catalog import source_chain
from marketplace.catalog.answer import Source
from marketplace.kv import access as kv_access
from marketplace.kv import outbox as kv_outbox
from marketplace.kv import submissions as kv_submissions
from marketplace.kv.aliases import mark_moved
from marketplace.kv.index import IndexWriter
from marketplace.kv.keys import pending_key, scan_key
from marketplace.kv.outbox import OutboxEntry, clear_outbox
from marketplace.kv.records import write_record
from marketplace.operations import redrive
from marketplace.ports.database import Upserted
from marketplace.ports.env import Env
from marketplace.ports.errors import DatabaseError, StorageError
from marketplace.ports.kv import KvListPage
from marketplace.publishing import consumer as publish_consumer
from marketplace.publishing import kv_copy, publish, slug_plan, submissions
from marketplace.repair import light_repair, rebuild, rebuild_step, reconciliation
from marketplace.skills.skill import Skill
from marketplace.skills.slugs import assignable_candidates
from marketplace.skills.submission import Scan, Submission
from marketplace.worker import consumers
from tests.doubles import database as database_double
from tests.doubles.database import DatabaseDouble, DoubleSession, Held
from tests.doubles.loop import current_loop

Mutation = Callable[[], AbstractContextManager[object]]
MUTATIONS: Final[dict[str, Mutation]] = {}


def mutated(name: str | None) -> AbstractContextManager[object]:
    """The marketplace without that protection, as long as the context lasts; None: unchanged."""
    return nullcontext() if name is None else MUTATIONS[name]()


def _mutation(make: Mutation) -> Mutation:
    MUTATIONS[make.__name__.replace("_", "-")] = make
    return make


def _replaced(owner: Any, name: str, replacement: Any) -> AbstractContextManager[object]:
    return patch.object(owner, name, replacement)


@contextmanager
def _everywhere(name: str, replacement: Any, *owners: Any) -> Iterator[None]:
    """Replace what several modules have imported."""
    with ExitStack() as stack:
        for owner in owners:
            stack.enter_context(_replaced(owner, name, replacement))
        yield


async def _nothing(*_: object, **__: object) -> None:
    """Do nothing, with an air of success."""


# --- acknowledging ----------------------------------------------------------------------------


@_mutation
def acknowledges_first() -> AbstractContextManager[object]:
    """Acknowledges a batch before anything of it is stored."""
    handle = publish_consumer.handle_publish_batch

    async def early(env: Env, messages: Sequence[Any]) -> Any:
        for message in messages:
            message.ack()
        return await handle(env, messages)

    return _replaced(consumers, "handle_publish_batch", early)


@_mutation
def acknowledges_failures() -> AbstractContextManager[object]:
    """Acknowledges a message whose skill no store took."""

    def settle(message: Any, _outcome: object, _report: object) -> None:
        message.ack()

    return _replaced(publish_consumer, "_settle_published", settle)


@_mutation
def forgets_poison() -> AbstractContextManager[object]:
    """Acknowledges what it cannot publish, without a dead letter."""
    return _replaced(publish_consumer, "bury", _nothing)


@_mutation
def forgets_what_the_queue_gave_up() -> AbstractContextManager[object]:
    """Consumes the dead-letter queue and keeps nothing of it."""
    return _replaced(consumers, "bury", _nothing)


@_mutation
def takes_any_verdict_for_the_one_asked_for() -> AbstractContextManager[object]:
    """Publishes the verdict that a stale read shows."""
    return _replaced(publish_consumer, "scanned_at_of", lambda _body: "")


# --- slugs and revisions ----------------------------------------------------------------------


@_mutation
def last_writer_wins() -> AbstractContextManager[object]:
    """The table takes whatever comes last for the newest."""

    def update(tables: DatabaseDouble, present: Held, skill: Skill) -> Upserted:
        tables.put(Held.of(skill.renamed(present.skill.name), present.revision_in_kv))
        return Upserted.UPDATED

    return _replaced(DatabaseDouble, "update", update)


@_mutation
def slugs_are_not_unique() -> AbstractContextManager[object]:
    """The table gives the first candidate to everybody."""

    def first(_tables: DatabaseDouble, candidates: Sequence[str], _identity: str) -> str:
        return candidates[0]

    return _replaced(DatabaseDouble, "first_free", first)


@_mutation
def ignores_records_of_others() -> AbstractContextManager[object]:
    """Offers the table slugs that another skill holds in KV."""
    plan = slug_plan.plan_slug

    def blind(env: Env, states: Sequence[Skill], records: Mapping[str, Any], **options: Any) -> Any:
        own = {
            slug: record
            for slug, record in records.items()
            if not isinstance(record, Skill) or record.identity == states[0].identity
        }
        return plan(env, states, own, **options)

    return _replaced(publish, "plan_slug", blind)


@_mutation
def writes_over_records_of_others() -> AbstractContextManager[object]:
    """Writes a row to KV without looking whose record is there."""

    allowed = kv_copy._may_replace

    def blind(record: Skill, row: Skill, owner: Skill | None) -> bool:
        return record.identity != row.identity or allowed(record, row, owner)

    return _replaced(kv_copy, "_may_replace", blind)


@_mutation
def takes_the_base_slug_without_postgres() -> AbstractContextManager[object]:
    """With PostgreSQL away, takes a slug that two skills may take at once."""

    def greedy(skill: Skill) -> str:
        return assignable_candidates(skill.repo_url, skill.base_slug)[0]

    return _replaced(kv_copy, "certain_slug", greedy)


@_mutation
def takes_a_lost_row_for_a_new_skill() -> AbstractContextManager[object]:
    """Gives PostgreSQL, which has lost a row, an older state than KV has."""
    plan = slug_plan.plan_slug

    def forgetful(
        env: Env, states: Sequence[Skill], records: Mapping[str, Any], **options: Any
    ) -> Any:
        newest = max(states, key=lambda state: state.revision)
        return replace(plan(env, states, records, **options), skill=newest)

    return _replaced(publish, "plan_slug", forgetful)


@_mutation
def writes_older_rows_over_newer_records() -> AbstractContextManager[object]:
    """Writes KV from a row that is older than what KV has."""
    allowed = kv_copy._may_replace

    def forgetful(record: Skill, row: Skill, owner: Skill | None) -> bool:
        return record.identity == row.identity or allowed(record, row, owner)

    return _replaced(kv_copy, "_may_replace", forgetful)


@_mutation
def lets_strangers_change_what_is_listed() -> AbstractContextManager[object]:
    """The table takes a stranger's newer state like anybody's."""
    return _replaced(database_double, "says_the_same", lambda _state, _other: True)


@_mutation
def forgets_who_filled_the_outbox() -> AbstractContextManager[object]:
    """Takes what waits in the outbox as if nobody there were a stranger."""
    return _everywhere("is_trusted_outbox_key", lambda _key: True, kv_outbox)


@_mutation
def keeps_verdicts_before_their_marks() -> AbstractContextManager[object]:
    """A call that ends between the two leaves a verdict that nobody looks at again."""

    async def keep(env: Env, submission: Submission, scan: Scan, _standing: object) -> None:
        value = msgspec.json.encode(scan)
        await kv_access.put_value(env, scan_key(submission.id), value)
        await kv_access.put_value(env, pending_key(scan.scanned_at, submission.id), value)

    return _replaced(kv_submissions, "_keep_pass", keep)


@_mutation
def leaves_notes_unasked() -> AbstractContextManager[object]:
    """Puts a note about a moved skill under its old slug, whoever has that now."""

    async def note(self: reconciliation.Reconciler, skill: Skill, new_name: str) -> None:
        await self.database.add_alias(skill.name, skill.identity)
        await mark_moved(self.env, skill.name, new_name)

    return _replaced(reconciliation.Reconciler, "_leave_note", note)


@_mutation
def leaves_no_aliases() -> AbstractContextManager[object]:
    """Moves skills without a trace."""
    return _replaced(reconciliation.Reconciler, "_leave_note", _nothing)


# --- two stores -------------------------------------------------------------------------------


@_mutation
def keeps_no_outbox() -> AbstractContextManager[object]:
    """With PostgreSQL away, two revisions of one skill share one key."""
    return _replaced(kv_copy, "write_outbox", _nothing)


@_mutation
def clears_the_outbox_unseen() -> AbstractContextManager[object]:
    """Takes entries out of the outbox whether or not they found a place."""

    async def clear(env: Env, entries: Sequence[OutboxEntry]) -> list[str]:
        keys = [entry.key for entry in entries]
        await clear_outbox(env, keys)
        return keys

    return _everywhere("place_outbox", clear, light_repair, rebuild_step)


@_mutation
def never_looks_again() -> AbstractContextManager[object]:
    """Writes KV from a row and does not ask whether the row has moved on."""
    return _replaced(kv_copy, "_note", _nothing)


@_mutation
def gives_up_on_a_quick_second_write() -> AbstractContextManager[object]:
    """Does not wait until KV takes another write to a key."""
    return _replaced(kv_copy, "_write_row", write_record)


@_mutation
def repairs_kv_only() -> AbstractContextManager[object]:
    """The rebuild writes KV from the table, and nothing back."""
    return _replaced(reconciliation.Reconciler, "_into_database", _nothing)


@_mutation
def repairs_the_table_only() -> AbstractContextManager[object]:
    """The rebuild writes the table from KV, and nothing back."""

    async def write(_self: object, _skills: Sequence[Skill]) -> list[Skill]:
        return []

    return _replaced(reconciliation.Reconciler, "_write", write)


@_mutation
def leaves_the_index_as_it_is() -> AbstractContextManager[object]:
    """The rebuild writes pages, and no manifest."""
    return _replaced(IndexWriter, "finish", _nothing)


@_mutation
def takes_an_error_for_success() -> AbstractContextManager[object]:
    """Believes that PostgreSQL stored what it was given."""

    async def rows(_env: Env, plans: Sequence[Any]) -> Mapping[str, Skill]:
        return {plan.skill.identity: plan.skill for plan in plans}

    return _replaced(publish, "_store_in_database", rows)


@_mutation
def enumerates_one_page() -> AbstractContextManager[object]:
    """Takes the first page of a list for all of it."""
    list_all = kv_access.list_all_keys

    async def first_page(env: Env, prefix: str, **options: Any) -> AsyncIterator[KvListPage]:
        async for page in list_all(env, prefix, **options):
            yield KvListPage(page.keys, None)
            return

    return _replaced(kv_access, "list_all_keys", first_page)


# --- dead letters and lost messages -----------------------------------------------------------


@_mutation
def never_asks_again() -> AbstractContextManager[object]:
    """Leaves what passed, and whose message was lost, to itself."""

    async def nothing(_env: Env) -> int:
        return 0

    return _replaced(light_repair, "ask_again", nothing)


@_mutation
def notes_a_redrive_when_it_was_sent() -> AbstractContextManager[object]:
    """Takes a failure that came while a letter was sent again for one before it."""
    mark = DoubleSession.mark_redriven

    async def late(session: Any, ids: Sequence[str], **_at: str) -> None:
        await mark(session, ids, at=format_timestamp(current_loop().clock()))

    return _replaced(DoubleSession, "mark_redriven", late)


# --- bounds and words -------------------------------------------------------------------------


@_mutation
def waits_for_kv_for_ever() -> AbstractContextManager[object]:
    """Has no time limit for KV."""

    async def patient(_env: Env, _operation: str, call: Awaitable[Any]) -> Any:
        return await call

    return _replaced(kv_access, "in_time", patient)


@_mutation
def waits_for_queues_for_ever() -> AbstractContextManager[object]:
    """Has no time limit for queues."""

    async def patient(_env: Env, queue: Any, bodies: Sequence[Any]) -> None:
        await queue.send_batch(bodies)

    return _everywhere("send_messages", patient, redrive, submissions, rebuild)


@_mutation
def falls_back_in_silence() -> AbstractContextManager[object]:
    """Does not say why another source answered."""

    def note(self: source_chain.Reading, source: Source, error: StorageError) -> None:
        self.reasons.append(f"{source}: {error.reason}")
        self.is_late = self.is_late or error.reason == "timeout"

    return _replaced(source_chain.Reading, "note", note)


@_mutation
def takes_late_for_empty() -> AbstractContextManager[object]:
    """Answers from the seed alone where time ran out."""
    note = source_chain.Reading.note

    def forgetful(self: source_chain.Reading, source: Source, error: StorageError) -> None:
        note(self, source, error)
        self.is_late = False

    return _replaced(source_chain.Reading, "note", forgetful)


@_mutation
def takes_an_error_for_nothing() -> AbstractContextManager[object]:
    """Answers from an empty table where PostgreSQL fails."""
    read = source_chain.Reading.from_database

    async def from_database(self: source_chain.Reading, question: Any) -> Any:
        try:
            return await read(self, question)
        except DatabaseError:
            return await question(await DatabaseDouble().connect())

    return _replaced(source_chain.Reading, "from_database", from_database)
