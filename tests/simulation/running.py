"""Running a schedule. Steps start one after the other and run on beside each other.

When a schedule violates an invariant, ``shrink`` finds the fewest first steps that still do, and
leaves out what is not needed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, TypeVar

import msgspec

from marketplace.basics.timestamps import format_timestamp
from marketplace.kv.keys import pending_key, scan_key, verdict_key
from marketplace.ports.env import Env
from marketplace.publishing.messages import publish_message
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.scan import Facts, ScanReport
from marketplace.skills.skill import Skill
from marketplace.skills.submission import Submission
from marketplace.skills.tiers import Verdict
from tests.doubles.loop import EPOCH_OF_SIMULATION, CutOff, Deadlock, new_loop
from tests.doubles.network import Fault
from tests.doubles.queue import Delivery, SimulatedQueue
from tests.simulation.actors import Marketplace
from tests.simulation.invariants import Sent, Truth, Violation
from tests.simulation.schedule import FLAKY, SETTLING, Schedule, Step, StepKind
from tests.simulation.world import Outcome, World

T = TypeVar("T")

CATEGORY: Final = "simulated"
STUCK: Final = 1000.0  # seconds: longer than a lost message goes unnoticed
SCANNER_TRIES: Final = 3  # at most: some never ask again
MAX_DRAINS: Final = 400
SUBMITTED: Final = "what a submission says"
VERDICTS: Final = (*([Verdict.PASS] * 5), Verdict.FAIL, Verdict.WITHDRAWN, Verdict.GONE)
ACTS: Final = (ActKind.BLOCK, ActKind.WITHDRAW, ActKind.CORRECT, ActKind.RESTORE)


@dataclass(frozen=True, slots=True)
class Failure:
    """What a schedule brought to light."""

    schedule: Schedule
    message: str
    trace: tuple[str, ...]

    def report(self) -> str:
        """For people: how to see it again, the steps, and what happened."""
        steps = "\n".join(f"  {number:3} {_told(step)}" for number, step in _numbered(self))
        trace = "\n".join(self.trace)
        return (
            f"seed {self.schedule.seed}: {self.message}\n\n"
            f"replay: python -m tests.simulation --seed {self.schedule.seed}\n\n"
            f"steps:\n{steps}\n\ntrace:\n{trace}\n"
        )


def _numbered(failure: Failure) -> list[tuple[int, Step]]:
    return list(enumerate(failure.schedule.steps, 1))


def _told(step: Step) -> str:
    cut = f", {step.cut_off} at its step {step.cut_at}" if step.cut_at is not None else ""
    return f"after {step.pause:g} s: {step.kind} ({step.choice}){cut}"


class Run:
    """One schedule being run in a world of its own."""

    def __init__(self, marketplace: Marketplace, schedule: Schedule) -> None:
        self.marketplace = marketplace
        self.schedule = schedule
        self.world = World(marketplace, schedule.seed)
        self.truth = Truth(self.world)
        self._submissions = 0
        self._acts = 0
        self._last_scan = EPOCH_OF_SIMULATION
        self._actions: dict[StepKind, Callable[[Step], Awaitable[None]]] = {
            StepKind.APPLY: self._apply,
            StepKind.SUBMIT: self._submit,
            StepKind.RESCAN: self._rescan,
            StepKind.REPEAT: self._repeat,
            StepKind.POISON: self._poison,
            StepKind.ACT: self._act_on_a_skill,
            StepKind.CONSUME: self._consume,
            StepKind.BURY: self._bury,
            StepKind.MAINTAIN: self._maintain,
            StepKind.READ: self._read,
            StepKind.FIND: self._find,
            StepKind.LIGHT_REPAIR: self._light_repair,
            StepKind.FULL_REPAIR: self._full_repair,
            StepKind.REDRIVE: self._redrive,
            StepKind.FLAKY: self._flaky,
            StepKind.KV_OUTAGE: self._kv_outage,
            StepKind.DATABASE_OUTAGE: self._database_outage,
            StepKind.RECOVER: self._recover,
            StepKind.DAMAGE_INDEX: self._damage_index,
            StepKind.LOSE_RECORD: self._lose_record,
            StepKind.LOSE_ROW: self._lose_row,
        }

    async def play(self) -> None:
        """All steps, then the end of all faults and one repair. Raises Violation."""
        tasks: list[asyncio.Task[None]] = []
        for number, step in enumerate(self.schedule.steps, 1):
            await asyncio.sleep(step.pause)
            self.world.note(f"step {number}: {step.kind}")
            tasks.append(asyncio.ensure_future(self._act(step)))
            self._raise_found()
        for task in tasks:
            await task
        self._raise_found()
        await self._settle()

    async def _act(self, step: Step) -> None:
        await self._actions[step.kind](step)
        self.truth.check_durable()

    def _raise_found(self) -> None:
        if self.world.found:
            raise self.world.found[0]

    # Submitters, scanners and operators

    async def _apply(self, step: Step) -> None:
        submission = self._submission(step)
        outcome = await self._invoke(
            "submit", lambda e: self.marketplace.submit(e, submission), step
        )
        if outcome.value != submission.id:
            return  # refused, a duplicate, listed already; or the author was not told
        await asyncio.sleep(step.choice % 100)
        report = self._report(submission, Sent(submission.id, submission.identity), step)
        scan = report.on(submission, format_timestamp(self._last_scan))
        for attempt in range(1 + step.choice // 1024 % SCANNER_TRIES):
            told = await self._invoke(
                "report", lambda e: self.marketplace.report(e, report), None if attempt else step
            )
            if told.value:
                self.truth.promised(scan)
                return
            await asyncio.sleep(30)

    async def _submit(self, step: Step) -> None:
        submission = self._submission(step)
        self.world.kv.damage(f"sub:{submission.id}", msgspec.json.encode(submission))
        self._scan(submission, Sent(submission.id, submission.identity), step)

    def _submission(self, step: Step) -> Submission:
        repository = self._one_of(self.schedule.repositories, step)
        base_slugs = self.schedule.base_slugs
        base_slug = base_slugs[step.choice // 8 % len(base_slugs)]
        self._submissions += 1
        return Submission(
            id=f"s{self._submissions}",
            repo_url=f"https://github.com/{repository}",
            skill_name=base_slug,
            base_slug=base_slug,
            created_at=format_timestamp(self.world.loop.clock()),
            category="submitted",
            description=SUBMITTED,
            version="9999999999.0.0",
        )

    def _report(self, submission: Submission, sent: Sent, step: Step) -> ScanReport:
        """A verdict that a scanner has come to."""
        moment = self._next_moment()
        # A submission has verdicts of one kind: of several kinds FAIL wins, whatever was listed.
        verdict = sent.verdict or self._one_of(VERDICTS, replace(step, choice=step.choice // 256))
        facts = Facts(
            name=submission.skill_name,
            description=f"{sent.id} at {moment}",
            category=CATEGORY,
            version=f"{1 + step.choice // 64 % 3}.0.0",
        )
        self.truth.send(sent, moment, verdict)
        self.world.note(f"        {sent.id} is {sent.identity} {verdict} {moment}")
        return ScanReport(
            submission_id=submission.id,
            verdict=verdict,
            score=80,
            scanned_at=moment,
            skill=facts,
        )

    def _scan(self, submission: Submission, sent: Sent, step: Step) -> None:
        """A verdict that the webhook has kept and enqueued."""
        report = self._report(submission, sent, step)
        scan = report.on(submission, format_timestamp(self._last_scan))
        kept = msgspec.json.encode(scan)
        log = verdict_key(scan.identity, scan.scanned_at, scan.submission_id)
        for key in (log, pending_key(scan.scanned_at, scan.submission_id), scan_key(sent.id)):
            self.world.kv.damage(key, kept)
        self.truth.promised(scan)
        self._send(sent.id, scan.scanned_at)

    def _next_moment(self) -> str:
        """Now, but never the same millisecond twice: a moment names a state."""
        self._last_scan = max(self.world.loop.clock(), self._last_scan + timedelta(milliseconds=1))
        return format_timestamp(self._last_scan)

    def _send(self, submission_id: str, scanned_at: str) -> None:
        self.world.publish_queue.add(publish_message(submission_id, scanned_at))

    async def _rescan(self, step: Step) -> None:
        if promised := self.truth.promises:
            sent = self.truth.sent[self._one_of(list(promised), step)]
            stored = self.world.kv.peek(f"sub:{sent.id}")
            assert stored is not None
            self._scan(msgspec.json.decode(stored, type=Submission), sent, step)

    async def _repeat(self, step: Step) -> None:
        if promised := self.truth.promises:
            sent = self.truth.sent[self._one_of(list(promised), step)]
            self._send(sent.id, self._one_of(list(sent.verdicts), step))

    async def _act_on_a_skill(self, step: Step) -> None:
        """An operator sees a row, and blocks, withdraws, corrects, or lifts what it shows."""
        rows = self.marketplace.rows(self.world.database)
        if not rows:
            return
        row = rows[self._one_of(sorted(rows), step)]
        self._acts += 1
        kind = self._one_of(ACTS, replace(step, choice=step.choice // 16))
        act = Act(
            id=f"a{self._acts}",
            kind=kind,
            reason="simulated",
            at=self._next_moment(),
            by="operator",
            labels=(f"label-{self._acts}",) if kind is ActKind.CORRECT else None,
            lifts=tuple(a.id for a in row.skill.acts) if kind is ActKind.RESTORE else (),
        )
        self.world.note(f"        {act.id} is {kind} of {row.identity}")
        told = await self._invoke("act", lambda e: self.marketplace.act(e, row.identity, act), step)
        if told.value:
            self.truth.acted(row.identity, act)

    async def _poison(self, step: Step) -> None:
        submission_id = f"unknown-{step.choice}"
        self.truth.poison.add(submission_id)
        self.world.publish_queue.add({"submissionId": submission_id})

    @staticmethod
    def _one_of(options: Sequence[T], step: Step) -> T:
        return options[step.choice % len(options)]

    # Invocations

    async def _consume(self, step: Step) -> None:
        await self._deliver(
            self.world.publish_queue, self.marketplace.publish, "publish", 1 + step.choice % 5, step
        )

    async def _bury(self, step: Step) -> None:
        await self._deliver(self.world.dead_letters, self.marketplace.bury, "bury", 10, step)

    async def _maintain(self, step: Step) -> None:
        await self._deliver(
            self.world.maintenance_queue, self.marketplace.maintain, "maintain", 1, step
        )

    async def _deliver(
        self,
        queue: SimulatedQueue,
        handler: Callable[[Env, Sequence[Delivery]], Coroutine[Any, Any, None]],
        name: str,
        limit: int,
        step: Step | None = None,
    ) -> int:
        batch = queue.take(limit, self.truth.acknowledged)
        if batch:
            outcome = await self._invoke(name, lambda env: handler(env, batch), step)
            queue.settle(batch, returned=outcome.returned)
            self._no_error(outcome)
        return len(batch)

    async def _invoke(
        self, name: str, handler: Callable[[Env], Coroutine[Any, Any, T]], step: Step | None
    ) -> Outcome[T]:
        cut_at = step.cut_at if step else None
        cut_off = step.cut_off if step else CutOff.DROPPED
        return await self.world.invoke(name, handler, cut_at=cut_at, cut_off=cut_off)

    def _no_error(self, outcome: Outcome[Any]) -> None:
        """A handler of the platform answers for its errors itself."""
        if outcome.error is not None:
            self.world.note(f"VIOLATION {outcome.name} raised")
            raise Violation(f"6 nothing silent: {outcome.name} raised {outcome.error!r}")

    async def _read(self, step: Step) -> None:
        query = ListingQuery(category=CATEGORY, limit=100)
        expected = self.truth.expect()
        outcome = await self._invoke("read", lambda e: self.marketplace.read(e, query), step)
        self.truth.check_listing(expected, outcome)

    async def _find(self, step: Step) -> None:
        slugs = sorted(self.truth.slugs)
        if not slugs:
            return
        slug = self._one_of(slugs, step)
        is_there = self.truth.is_there(slug)
        outcome = await self._invoke("find", lambda e: self.marketplace.find(e, slug), step)
        self.truth.check_found(slug, outcome, is_there=is_there)

    async def _light_repair(self, step: Step) -> None:
        self._no_error(await self._invoke("light-repair", self.marketplace.light_repair, step))

    async def _full_repair(self, step: Step) -> None:
        self._no_error(await self._invoke("full-repair", self.marketplace.full_repair, step))

    async def _redrive(self, step: Step) -> None:
        """The queue may deliver what is redriven before the redrive has come to its end."""
        delivery = asyncio.ensure_future(self._deliver_soon(step))
        await self._invoke("redrive", self.marketplace.redrive, step)
        await delivery

    async def _deliver_soon(self, step: Step) -> None:
        for _ in range(step.choice // 16 % 3):
            await asyncio.sleep(step.choice % 16 / 10)
            await self._consume(replace(step, cut_at=None))

    # Faults

    async def _flaky(self, step: Step) -> None:
        weather = self.world.weather
        weather.kv_faults, weather.database_faults, weather.queue_faults = FLAKY[
            step.choice % len(FLAKY)
        ]

    async def _kv_outage(self, step: Step) -> None:
        self.world.weather.kv_outage = (Fault.FAIL, Fault.HANG, Fault.LATE)[step.choice % 3]

    async def _database_outage(self, step: Step) -> None:
        self.world.weather.database_outage = (Fault.FAIL, Fault.HANG)[step.choice % 2]

    async def _recover(self, step: Step) -> None:
        self.world.weather.clear()

    async def _damage_index(self, step: Step) -> None:
        self.marketplace.damage_index(self.world.kv, step.choice)

    async def _lose_record(self, step: Step) -> None:
        if settled := self._settled():
            snapshot = self.truth.snapshot()
            identity = self._one_of(settled, step)
            self.truth.remove_record(snapshot.rows[identity])
            self.world.note(f"        record of {identity} is gone")

    async def _lose_row(self, step: Step) -> None:
        if settled := self._settled():
            identity = self._one_of(settled, step)
            self.truth.remove_row(identity)
            self.world.note(f"        row of {identity} is gone")

    def _settled(self) -> list[str]:
        """Skills that both stores hold in one state, KV for longer than any read is behind.

        Only of these a copy may be lost: to lose a copy before there is a second one is to lose
        the skill, and nobody can promise anything against that.
        """
        settled = []
        for identity, row in self.truth.snapshot().rows.items():
            key = self.marketplace.record_key(row.name)
            seen = [
                self.truth.read_record(key, value)
                for value in self.world.kv.visible(key, margin=SETTLING)
            ]
            if all(held is not None and held.revision == row.revision for held in seen):
                settled.append(identity)
        return settled

    # The end

    async def _settle(self) -> None:
        """Faults end, everything is delivered and redriven, one repair is made, then the checks."""
        world, marketplace = self.world, self.marketplace
        world.note("the faults end")
        world.weather.clear()
        world.publish_queue.duplicates = 0.0
        await asyncio.sleep(SETTLING)
        await self._drain()
        if self.schedule.calm:
            self.truth.check_calm()
        await world.invoke("redrive", marketplace.redrive)
        await self._drain()
        await asyncio.sleep(STUCK)
        self._no_error(await world.invoke("light-repair", marketplace.light_repair))
        await self._drain()
        await self._repair()
        await asyncio.sleep(SETTLING)
        self.truth.check_settled()
        await self._check_answers()
        before = self.truth.content()
        await self._repair()
        await asyncio.sleep(SETTLING)
        if self.truth.content() != before:
            raise Violation("3 convergent: a second repair changed something")
        self._raise_found()

    async def _check_answers(self) -> None:
        """What authors and visitors are told at the end."""
        for slug in sorted(self.truth.slugs):
            self.truth.check_found(slug, await self._look_up(slug), is_there=True)
        owed = [sent.id for sent in self.truth.owed_in_the_end()]
        told = await self.world.invoke("status", lambda e: self.marketplace.unpublished(e, owed))
        if not told.returned:
            raise Violation(f"6 nothing silent: the states cannot be told: {told.error!r}")
        if told.value:
            raise Violation(f"6 nothing silent: published, but not by their state: {told.value}")

    async def _look_up(self, slug: str) -> Outcome[Skill | None]:
        return await self.world.invoke("find", lambda e: self.marketplace.find(e, slug))

    async def _drain(self) -> None:
        queues = (
            (self.world.publish_queue, self.marketplace.publish, "publish"),
            (self.world.dead_letters, self.marketplace.bury, "bury"),
            (self.world.maintenance_queue, self.marketplace.maintain, "maintain"),
        )
        for _ in range(MAX_DRAINS):
            due = [queue.next_due() for queue, _, _ in queues]
            moments = [moment for moment in due if moment is not None]
            if not moments:
                await asyncio.sleep(SETTLING)
                return
            await asyncio.sleep(max(0.0, min(moments) - self.world.loop.time()))
            for queue, handler, name in queues:
                await self._deliver(queue, handler, name, 10)
        raise Violation("6 nothing silent: messages go round for ever")

    async def _repair(self) -> None:
        for _ in range(20):
            outcome = await self.world.invoke("full-repair", self.marketplace.full_repair)
            self._no_error(outcome)
            if outcome.value is not None and outcome.value.finished:
                if outcome.value.errors:
                    raise Violation(f"3 convergent: a repair on a good day: {outcome.value.errors}")
                return
            await self._drain()
        raise Violation("3 convergent: the repair does not come to an end")


def run(marketplace: Marketplace, schedule: Schedule) -> Failure | None:
    """Run a schedule; None when every invariant held."""
    loop = new_loop(f"{schedule.seed}/loop")
    worlds: list[World] = []

    async def main() -> None:
        this = Run(marketplace, schedule)
        worlds.append(this.world)
        await this.play()

    try:
        loop.run_until_complete(main())
        loop.raise_unhandled()
    except (Violation, Deadlock) as violation:
        return Failure(schedule, str(violation), tuple(worlds[0].trace))
    except Exception as error:
        error.add_note(f"in the simulation itself, with the schedule of seed {schedule.seed}")
        raise
    finally:
        loop.close()
    return None


def trace_of(marketplace: Marketplace, schedule: Schedule) -> list[str]:
    """What happened in a run; for the tests of determinism."""
    traces: list[list[str]] = []
    loop = new_loop(f"{schedule.seed}/loop")

    async def main() -> None:
        this = Run(marketplace, schedule)
        traces.append(this.world.trace)
        await this.play()

    try:
        loop.run_until_complete(main())
    except (Violation, Deadlock) as violation:
        traces[0].append(str(violation))
    finally:
        loop.close()
    return traces[0]


def shrink(marketplace: Marketplace, failure: Failure) -> Failure:
    """The same kind of failure with as few steps as can be found quickly.

    First the smallest failing prefix, then without each step that is not needed.
    """
    kind = failure.message.split(":")[0]

    def fails(steps: Sequence[Step]) -> Failure | None:
        found = run(marketplace, replace(failure.schedule, steps=tuple(steps)))
        return found if found is not None and found.message.split(":")[0] == kind else None

    best = failure
    for length in range(len(failure.schedule.steps)):
        found = fails(failure.schedule.steps[:length])
        if found is not None:
            best = found
            break
    length = -1
    while length != len(best.schedule.steps):
        length = len(best.schedule.steps)
        for position in reversed(range(length)):
            steps = best.schedule.steps
            best = fails((*steps[:position], *steps[position + 1 :])) or best
    return best
