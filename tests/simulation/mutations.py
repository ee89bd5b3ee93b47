"""The marketplace with one protection taken out: what the simulation has to find.

Each mutation names by its path what it replaces for as long as its context lasts.
"""

import pkgutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Final, TypeVar, cast
from unittest.mock import patch

import msgspec

from marketplace.basics.timestamps import format_timestamp
from marketplace.catalog import source_chain
from marketplace.catalog.answer import Source
from marketplace.catalog.waiting import OutboxView, StandIns
from marketplace.kv import access as kv_access
from marketplace.kv.acceptance_log import log_verdict
from marketplace.kv.aliases import Claims, mark_moved
from marketplace.kv.keys import pending_key, scan_key
from marketplace.kv.outbox import clear_outbox, list_outbox
from marketplace.kv.records import write_record
from marketplace.kv.withheld import read_withheld, write_withheld
from marketplace.ports.database import Upserted, UpsertResult
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, KvError, StorageError, TimedOut
from marketplace.ports.known_database import Standing
from marketplace.ports.kv import KvListPage
from marketplace.publishing.outbox import OUTBOX_BATCH, DrainedOutbox
from marketplace.repair.aliases import RepairedAliases
from marketplace.repair.logged_acts import Replayed
from marketplace.repair.logged_verdicts import ReplayedVerdicts
from marketplace.repair.rebuild_job import REBUILD_JOB, RebuildJob
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.scan import Scan, ScanReport
from marketplace.skills.skill import PublishedSummary, Skill, Status
from marketplace.skills.withholding import WithheldKey
from tests.doubles.database import DatabaseDouble
from tests.doubles.loop import current_loop

Change = TypeVar("Change", bound=Callable[[Any], Any])
Mutation = Callable[[], AbstractContextManager[object]]
MUTATIONS: Final[dict[str, Mutation]] = {}
PROFILE_OF: Final[dict[str, str]] = {}
"""The profile of the schedules that show a mutation soonest, by its name."""


def mutated(name: str | None) -> AbstractContextManager[object]:
    """The marketplace without that protection, as long as the context lasts; None: unchanged."""
    return nullcontext() if name is None else MUTATIONS[name]()


def _mutation(
    path: str, *, everywhere: bool = False, profile: str = "any"
) -> Callable[[Change], Change]:
    """Register a function that gives, for what is at a dotted path, what stands in for it.

    Schedules of ``profile`` show that it is missing. It is replaced there, or ``everywhere`` where
    the marketplace has imported it under its name.
    A path that leads nowhere fails.
    """

    def register(change: Change) -> Change:
        @contextmanager
        def mutate() -> Iterator[None]:
            original = pkgutil.resolve_name(path)
            replacement = change(original)
            with ExitStack() as stack:
                for place in _imports(path, original) if everywhere else [path]:
                    stack.enter_context(patch(place, replacement))
                yield

        name = change.__name__.replace("_", "-")
        MUTATIONS[name], PROFILE_OF[name] = mutate, profile
        return change

    return register


def _imports(path: str, original: object) -> list[str]:
    """Where the marketplace and its doubles have this, under the name of its own."""
    name = path.rpartition(".")[2]
    modules = [
        module for module in sys.modules if module.startswith(("marketplace.", "tests.doubles."))
    ]
    return [
        f"{module}.{name}"
        for module in sorted(modules)
        if vars(sys.modules[module]).get(name) is original
    ]


async def _nothing(*_: object, **__: object) -> None:
    """Do nothing, and return as if it were done."""


# --- acknowledging ----------------------------------------------------------------------------


@_mutation("marketplace.worker.consumers.handle_publish_batch")
def acknowledges_first(handle: Any) -> Any:
    """Acknowledges a batch before anything of it is stored."""

    async def early(env: Env, messages: Sequence[Any]) -> Any:
        for message in messages:
            message.ack()
        return await handle(env, messages)

    return early


@_mutation("marketplace.publishing.consumer._finish", profile="outage")
def acknowledges_failures(_original: Any) -> Any:
    """Acknowledges a message whose skill no store took."""

    async def finish(_env: Env, message: Any, *_: object) -> bool:
        message.ack()
        return True

    return finish


@_mutation("marketplace.publishing.consumer.bury")
def forgets_poison(_original: Any) -> Any:
    """Acknowledges what it cannot publish, without a dead letter."""
    return _nothing


@_mutation("marketplace.worker.consumers.bury", profile="queue")
def forgets_what_the_queue_gave_up(_original: Any) -> Any:
    """Consumes the dead-letter queue and keeps nothing of it."""
    return _nothing


@_mutation("marketplace.publishing.consumer.scanned_at_of")
def takes_any_verdict_for_the_one_asked_for(_original: Any) -> Any:
    """Publishes the verdict that a stale read shows."""
    return lambda _body: ""


# --- slugs and revisions ----------------------------------------------------------------------


@_mutation("marketplace.skills.change.merge")
def last_writer_wins(_original: Any) -> Any:
    """The last state that comes is taken for the newest."""
    return lambda _stored, told: told


@_mutation("tests.doubles.database.DatabaseDouble.first_free")
def slugs_are_not_unique(_original: Any) -> Any:
    """The table gives every skill its first candidate."""

    def first(_tables: DatabaseDouble, candidates: Sequence[str], _identity: str) -> str:
        return candidates[0]

    return first


@_mutation("marketplace.publishing.publish.plan_slug", profile="repair")
def ignores_records_of_others(plan: Any) -> Any:
    """Offers the table slugs that another skill holds in KV."""

    def blind(env: Env, change: Any, claims: Claims) -> Any:
        own = {
            slug: record
            for slug, record in claims.records.items()
            if not isinstance(record, Skill) or record.identity == change.identity
        }
        return plan(env, change, replace(claims, records=own))

    return blind


@_mutation("marketplace.publishing.kv_copy._may_replace", profile="repair")
def writes_over_records_of_others(allowed: Any) -> Any:
    """Writes a row to KV without looking which skill's record is there."""

    def blind(record: Skill, row: Skill, owner: Skill | None) -> bool:
        return record.identity != row.identity or allowed(record, row, owner)

    return blind


@_mutation("marketplace.publishing.kv_copy.certain_slug")
def takes_the_base_slug_without_postgres(_original: Any) -> Any:
    """With PostgreSQL away, takes a slug that two skills may take at once."""

    def greedy(identity: str) -> str:
        return identity.rpartition("#")[2]

    return greedy


@_mutation("marketplace.publishing.publish.plan_slug")
def takes_a_lost_row_for_a_new_skill(plan: Any) -> Any:
    """Gives PostgreSQL, which has lost a row, less than KV knows."""

    def forgetful(env: Env, change: Any, claims: Claims) -> Any:
        return replace(plan(env, change, claims), change=change)

    return forgetful


@_mutation("marketplace.publishing.kv_copy._may_replace", profile="repair")
def writes_older_rows_over_newer_records(allowed: Any) -> Any:
    """Writes KV from a row that is older than what KV has."""

    def forgetful(record: Skill, row: Skill, owner: Skill | None) -> bool:
        return record.identity == row.identity or allowed(record, row, owner)

    return forgetful


@_mutation("tests.doubles.database.DatabaseDouble.write")
def writes_over_what_it_did_not_see(write: Any) -> Any:
    """The table takes a state that was made from an older row than it has."""

    def blind(tables: DatabaseDouble, changed: Skill, name: str | None, _replaced: object) -> Any:
        present = tables.rows.get(changed.identity)
        return write(tables, changed, name, None if present is None else present.revision)

    return blind


@_mutation("marketplace.skills.merging.union", profile="acts")
def forgets_the_acts_of_one_side(_original: Any) -> Any:
    """Of two sets of acts the one of the first state stands."""
    return lambda one, _other: tuple(one)


@_mutation("marketplace.skills.merging._content_rank")
def takes_the_first_facts(_original: Any) -> Any:
    """What was listed first stays."""
    return lambda _skill: 0


@_mutation("marketplace.skills.merging._decided_rank")
def takes_the_first_verdict(_original: Any) -> Any:
    """The first verdict stays."""
    return lambda _skill: 0


@_mutation("marketplace.skills.listing_rules.matches", everywhere=True, profile="acts")
def lists_what_is_withheld(matches: Any) -> Any:
    """Shows skills that are withdrawn or blocked."""

    def listed(skill: Any, query: Any) -> bool:
        return bool(matches(msgspec.structs.replace(skill, status=Status.LISTED), query))

    return listed


@_mutation("marketplace.publishing.consumer.read_verdicts", profile="verdicts")
def lists_without_reading_the_log(_original: Any) -> Any:
    """A late PASS lists a skill as if no newer verdict had come."""

    async def nothing(_env: Env, _identity: str) -> list[Any]:
        return []

    return nothing


@_mutation("marketplace.publishing.kv_copy.find_identity_in_outbox", profile="outage")
def forgets_what_waits(_original: Any) -> Any:
    """Without PostgreSQL, makes each change from the record alone."""
    return _nothing


@_mutation("marketplace.kv.submissions.log_verdict", profile="verdicts")
def keeps_verdicts_before_their_marks(log: Any) -> Any:
    """A call that ends between the two leaves a verdict that nothing looks at again."""

    async def keep(env: Env, scan: Scan) -> None:
        value = msgspec.json.encode(scan)
        await kv_access.put_value(env, scan_key(scan.submission_id), value)
        await log(env, scan)

    return keep


@_mutation("marketplace.repair.reconciliation.leave_note", profile="repair")
def leaves_notes_unasked(_original: Any) -> Any:
    """Puts a note about a moved skill under its old slug, also where another skill has that now."""

    async def note(env: Env, record: Skill, row: Skill) -> None:
        await (await get_db(env)).add_alias(record.name, record.identity)
        await mark_moved(env, record.name, row.name)

    return note


@_mutation("marketplace.repair.reconciliation.leave_note", profile="repair")
def leaves_no_aliases(_original: Any) -> Any:
    """Moves skills and leaves no alias."""
    return _nothing


# --- two stores -------------------------------------------------------------------------------


@_mutation("marketplace.publishing.kv_copy.write_outbox", profile="outage")
def keeps_no_outbox(_original: Any) -> Any:
    """With PostgreSQL away, two revisions of one skill share one key."""
    return _nothing


@_mutation("marketplace.publishing.outbox.drain_outbox", everywhere=True, profile="outage")
def clears_the_outbox_unseen(_original: Any) -> Any:
    """Clears outbox records whether or not both stores took them."""

    async def clear(env: Env, cursor: str | None = None, **_: Any) -> DrainedOutbox:
        page = await list_outbox(env, cursor=cursor, limit=OUTBOX_BATCH)
        await clear_outbox(env, [entry.key for entry in page.entries])
        return DrainedOutbox(0, page.cursor)

    return clear


@_mutation("marketplace.publishing.kv_copy._note", profile="race")
def never_looks_again(_original: Any) -> Any:
    """Writes KV from a row and does not ask whether the row has changed since."""
    return _nothing


@_mutation("marketplace.publishing.kv_copy._write_row", profile="race")
def gives_up_on_a_quick_second_write(_original: Any) -> Any:
    """Does not wait until KV takes another write to a key."""
    return write_record


@_mutation("marketplace.repair.reconciliation.Reconciler._into_database", profile="sources")
def repairs_kv_only(_original: Any) -> Any:
    """The rebuild writes KV from the table, and nothing back."""
    return _nothing


@_mutation("marketplace.repair.reconciliation.Reconciler._write")
def repairs_the_table_only(_original: Any) -> Any:
    """The rebuild writes the table from KV, and nothing back."""

    async def write(_self: object, _skills: Sequence[Skill]) -> int:
        return 0

    return write


@_mutation("marketplace.kv.index.writing.IndexWriter.finish", profile="queue")
def leaves_the_index_as_it_is(_original: Any) -> Any:
    """The rebuild writes pages, and no manifest."""
    return _nothing


@_mutation("marketplace.publishing.publish._store_in_database")
def takes_an_error_for_success(_original: Any) -> Any:
    """Believes that PostgreSQL stored what it was given."""

    async def rows(_env: Env, plans: Sequence[Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        made = {plan.identity: plan.change.onto(None) for plan in plans}
        skills = {i: skill for i, skill in made.items() if isinstance(skill, Skill)}
        return {i: UpsertResult(skill, Upserted.INSERTED) for i, skill in skills.items()}, {}

    return rows


@_mutation("marketplace.kv.access.list_all_keys")
def enumerates_one_page(list_all: Any) -> Any:
    """Takes the first page of a list for all of it."""

    async def first_page(env: Env, prefix: str, **options: Any) -> AsyncIterator[KvListPage]:
        async for page in list_all(env, prefix, **options):
            yield KvListPage(page.keys, None)
            return

    return first_page


# --- which database it is ------------------------------------------------------------------


@_mutation("tests.doubles.database.DatabaseDouble.demand", profile="dump")
def believes_any_state_of_the_database(_original: Any) -> Any:
    """The database answers though it lacks changes that were acknowledged."""

    def believed(tables: DatabaseDouble, expectation: Any) -> None:
        expectation.see(Standing(tables.instance, tables.changes))

    return believed


# --- dead letters and lost messages -----------------------------------------------------------


@_mutation("marketplace.repair.light_repair.ask_again", profile="verdicts")
def never_asks_again(_original: Any) -> Any:
    """Never asks again for what passed and lost its message."""

    async def nothing(_env: Env) -> int:
        return 0

    return nothing


@_mutation("tests.doubles.database.DoubleSession.mark_redriven", profile="queue")
def notes_a_redrive_when_it_was_sent(mark: Any) -> Any:
    """Takes a failure that came while a letter was sent again for one before it."""

    async def late(session: Any, ids: Sequence[str], **_at: str) -> None:
        await mark(session, ids, at=format_timestamp(current_loop().clock()))

    return late


# --- bounds and words -------------------------------------------------------------------------


@_mutation("marketplace.kv.access.in_time")
def waits_for_kv_for_ever(_original: Any) -> Any:
    """Has no time limit for KV."""

    async def patient(_env: Env, _operation: str, call: Awaitable[Any]) -> Any:
        return await call

    return patient


@_mutation("marketplace.ports.env.send_messages", everywhere=True)
def waits_for_queues_for_ever(_original: Any) -> Any:
    """Has no time limit for queues."""

    async def patient(_env: Env, queue: Any, bodies: Sequence[Any]) -> None:
        await queue.send_batch(bodies)

    return patient


@_mutation("marketplace.catalog.source_chain.Reading.note", profile="outage")
def falls_back_in_silence(_original: Any) -> Any:
    """Does not say why another source answered."""

    def note(self: source_chain.Reading, source: Source, error: StorageError) -> None:
        self.reasons.append(f"{source}: {error.reason}")
        self.is_late = self.is_late or isinstance(error, TimedOut)

    return note


@_mutation("marketplace.catalog.source_chain.Reading.note")
def takes_late_for_empty(note: Any) -> Any:
    """Answers from the seed alone where time ran out."""

    def forgetful(self: source_chain.Reading, source: Source, error: StorageError) -> None:
        note(self, source, error)
        self.is_late = False

    return forgetful


@_mutation("marketplace.catalog.source_chain.Reading.from_database")
def takes_an_error_for_nothing(read: Any) -> Any:
    """Answers from an empty table where PostgreSQL fails."""

    async def from_database(self: source_chain.Reading, question: Any) -> Any:
        try:
            return await read(self, question)
        except DatabaseError:
            return await question(await DatabaseDouble().connect())

    return from_database


# --- scanners and operators -------------------------------------------------------------------


@_mutation("marketplace.skills.scan.ScanReport.on", profile="verdicts")
def believes_the_clocks_of_scanners(keep: Any) -> Any:
    """A verdict has the moment that its scanner says."""

    def believed(self: ScanReport, submission: Any, now: str) -> Scan:
        scan = keep(self, submission, now)
        return cast("Scan", msgspec.structs.replace(scan, scanned_at=self.scanned_at or now))

    return believed


@_mutation("marketplace.kv.submissions.record_scan", profile="verdicts")
def lets_a_failure_be_outvoted(_original: Any) -> Any:
    """Of the verdicts on one submission the last one that comes stands."""

    async def record(env: Env, scan: Scan) -> Scan:
        await log_verdict(env, scan)
        value = msgspec.json.encode(scan)
        await kv_access.put_value(env, pending_key(scan.scanned_at, scan.submission_id), value)
        await kv_access.put_value(env, scan_key(scan.submission_id), value)
        return scan

    return record


@_mutation("marketplace.publishing.submissions._is_confirmed", profile="verdicts")
def takes_one_miss_for_gone(_original: Any) -> Any:
    """Marks a skill whose repository one scan did not find."""

    async def confirmed(_env: Env, _gone: Scan) -> bool:
        return True

    return confirmed


@_mutation("marketplace.publishing.consumer.may_withdraw", profile="mad")
def lets_any_number_leave(_original: Any) -> Any:
    """Does not count what leaves by verdicts."""

    async def may(_env: Env, _identity: str) -> bool:
        return True

    return may


@_mutation("marketplace.skills.scan._is_elsewhere", profile="mad")
def takes_any_folder(_original: Any) -> Any:
    """Lists what was found in another folder than the listed one."""
    return lambda _stored, _scan: False


@_mutation("marketplace.skills.scan.has_changed_hands", everywhere=True, profile="mad")
def takes_any_owner(_original: Any) -> Any:
    """Lists what was found in a repository that is another's by now."""
    return lambda _stored, _other: False


@_mutation("marketplace.skills.acts.lifted_by", everywhere=True, profile="acts")
def lifts_more_than_is_named(_original: Any) -> Any:
    """A restore lifts all acts before it."""

    def lifted_by(acts: Sequence[Act]) -> dict[str, str]:
        restores = [(n, act) for n, act in enumerate(acts) if act.kind is ActKind.RESTORE]
        return {each.id: act.id for n, act in restores for each in acts[:n]}

    return lifted_by


@_mutation("marketplace.repair.logged_acts.replay_acts", everywhere=True, profile="acts")
def replays_no_acts(_original: Any) -> Any:
    """What the log alone has of acts stays there."""

    async def replay(_env: Env, _cursor: str | None = None) -> Replayed:
        return Replayed(0, None)

    return replay


@_mutation("marketplace.catalog.source_chain.look_at_outbox", profile="outage")
def lists_rows_alone(_original: Any) -> Any:
    """Lists what PostgreSQL has, and not what waits for it."""

    async def see_nothing(_env: Env) -> OutboxView:
        return OutboxView(())

    return see_nothing


@_mutation("marketplace.catalog.listings.stand_ins", profile="any")
def lists_what_waits_beside_its_row(_original: Any) -> Any:
    """Lists every state in the outbox, also beside a row that knows more."""

    def all_of(waiting: Sequence[PublishedSummary], _rows: object) -> StandIns:
        return StandIns([state.summary for state in waiting], (), ())

    return all_of


@_mutation("marketplace.publishing.withheld._write_changes", profile="acts")
def trusts_a_stale_list(_original: Any) -> Any:
    """Writes the list of withheld skills where a read of it, which may be late, shows another."""

    async def write(env: Env, waiting: Sequence[WithheldKey]) -> None:
        keys = await (await get_db(env)).withheld_keys()
        wanted = {key.identity: key for key in (*keys, *waiting)}
        if await read_withheld(env) != wanted:
            await write_withheld(env, wanted.values())

    return write


@_mutation("marketplace.catalog.published_skills.PublishedSkills._withholds", profile="acts")
def lists_what_kv_alone_lists(_original: Any) -> Any:
    """Without PostgreSQL, shows what records say, whatever the list of withheld skills says."""
    return lambda _self, _summary: False


@_mutation("marketplace.catalog.published_skills.PublishedSkills._withholds", profile="repair")
def hides_whatever_has_the_slug(_original: Any) -> Any:
    """Hides a skill that has the slug of a withheld one."""
    return lambda self, summary: summary.name in self.withheld


# --- what a failover, another database and a seed may do ------------------------------------------


@_mutation("marketplace.repair.rebuild_step.replay_verdicts", profile="failover")
def rebuilds_without_the_log(_original: Any) -> Any:
    """The rebuild does not look for what both stores lost."""

    async def nothing(*_: object, **__: object) -> ReplayedVerdicts:
        return ReplayedVerdicts(0, None)

    return nothing


@_mutation("tests.doubles.database.DatabaseDouble.demand", profile="sources")
def believes_any_database(demand: Any) -> Any:
    """Another database is taken for the right one."""

    def believed(tables: DatabaseDouble, expectation: Any) -> None:
        if expectation.instance not in (None, tables.instance):
            expectation.see(Standing(tables.instance, tables.changes))
        else:
            demand(tables, expectation)

    return believed


@_mutation("marketplace.kv.acknowledged.acknowledge", everywhere=True, profile="dump")
def tells_kv_of_no_change(_original: Any) -> Any:
    """Only the isolate that made a change knows of it."""
    return _nothing


@_mutation("marketplace.kv.acknowledged._read", profile="dump")
def reads_no_acknowledged_number(_original: Any) -> Any:
    """What other isolates changed this one does not know."""
    return _nothing


@_mutation("marketplace.ports.database_reads.DatabaseReads.answers", profile="outage")
def takes_an_outage_for_load(_original: Any) -> Any:
    """Sends visitors away while PostgreSQL answers nobody."""
    return lambda *_, **__: True


@_mutation("marketplace.ports.database_reads.DatabaseReads.answers", profile="outage")
def takes_load_for_an_outage(_original: Any) -> Any:
    """Asks KV, which costs more, whenever PostgreSQL has too much to do."""
    return lambda *_, **__: False


@_mutation("marketplace.repair.rebuild_step.aliases_into_database", profile="sources")
def repairs_aliases_in_kv_only(_original: Any) -> Any:
    """What the table lacks of old slugs stays in KV."""

    async def nothing(*_: object) -> RepairedAliases:
        return RepairedAliases(0, None)

    return nothing


@_mutation("marketplace.repair.rebuild_step.aliases_into_kv", profile="sources")
def repairs_aliases_in_the_table_only(_original: Any) -> Any:
    """What KV lacks of old slugs stays in the table."""

    async def nothing(*_: object) -> RepairedAliases:
        return RepairedAliases(0, None)

    return nothing


@_mutation("marketplace.publishing.publish.plan_slug", profile="sources")
def gives_old_slugs_away(plan: Any) -> Any:
    """Offers the table slugs that KV alone knows to lead to another skill."""

    def blind(env: Env, change: Any, claims: Claims) -> Any:
        return plan(env, change, replace(claims, targets={}, old={}))

    return blind


@_mutation("marketplace.skills.seed.Seed.beside", profile="sources")
def lists_the_seed_as_it_is_in_its_file(_original: Any) -> Any:
    """A well-known skill keeps its slug, also where a published skill has that."""
    return lambda self, _claims: self.skills


@_mutation("marketplace.catalog.source_chain._from_kv", profile="failover")
def forgets_what_was_read_in_part(read: Any) -> Any:
    """Answers from the seed alone where KV told a part."""

    async def whole(*arguments: Any) -> Any:
        found = await read(*arguments)
        if not found.is_whole:
            raise KvError("not all of it")
        return found

    return whole


@_mutation("marketplace.skills.merging.merge", everywhere=True, profile="outage")
def takes_the_first_date_that_comes(merge: Any) -> Any:
    """The first publication is when the state that came first says."""

    def merged(one: Skill, other: Skill) -> Skill:
        made: Skill = merge(one, other)
        return msgspec.structs.replace(made, published_at=one.published_at)

    return merged


@_mutation("marketplace.repair.rebuild.message_of", profile="repair")
def sends_the_whole_rebuild(_original: Any) -> Any:
    """The message that asks for the next step has the state of the rebuild in it."""

    def whole(job: RebuildJob) -> Mapping[str, Any]:
        return {REBUILD_JOB: job.id, "state": msgspec.to_builtins(job)}

    return whole


@_mutation("marketplace.publishing.outbox.list_outbox", profile="outage")
def begins_the_outbox_anew(list_page: Any) -> Any:
    """What cannot be placed hides all that comes after it."""

    async def first(env: Env, *, cursor: str | None, limit: int) -> Any:
        return await list_page(env, cursor=None, limit=limit)

    return first


@_mutation("marketplace.health.differences.join", everywhere=True, profile="repair")
def finds_no_difference(_original: Any) -> Any:
    """Health does not keep which skills the sources differ in."""
    return lambda known, _found: list(known)
