"""Running a schedule. Steps start one after the other and run on beside each other.

When a schedule violates an invariant, ``shrink`` finds the fewest first steps that still do, and
leaves out what is not needed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from unittest.mock import patch

import msgspec

from marketplace.basics.timestamps import format_timestamp
from marketplace.kv.acceptance_log import key_of_verdict
from marketplace.kv.keys import (
    INDEX_KEY,
    SKILL_PREFIX,
    pending_key,
    scan_key,
    submission_key,
)
from marketplace.operations import withdrawals
from marketplace.ports.env import Env
from marketplace.publishing.messages import publish_message
from marketplace.skills import scan as scan_rules
from marketplace.skills.acts import Act, ActKind, in_force
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.scan import Facts, Scan, ScanReport
from marketplace.skills.seed import seed_of
from marketplace.skills.skill import Skill
from marketplace.skills.slugs import assignable_candidates, repository_owner
from marketplace.skills.submission import Submission
from marketplace.skills.tiers import Verdict
from tests.doubles.loop import EPOCH_OF_SIMULATION, CutOff, Deadlock, new_loop
from tests.doubles.network import Fault
from tests.doubles.queue import Delivery, SimulatedQueue
from tests.simulation.actors import Dump, Marketplace, Question
from tests.simulation.invariants import Reading, Sent, Truth, Violation
from tests.simulation.schedule import (
    BASE_SLUGS,
    FLAKY,
    PROFILES,
    SETTLING,
    Schedule,
    Step,
    StepKind,
)
from tests.simulation.world import Outcome, World

T = TypeVar("T")

CATEGORY: Final = "simulated"
STUCK: Final = 1000.0  # seconds: longer than a lost message goes unnoticed
SCANNER_TRIES: Final = 3  # at most: some never ask again
MAX_DRAINS: Final = 400
SUBMITTED: Final = "what a submission says"
GONE_SECONDS: Final = 100.0
WITHDRAWN_AN_HOUR: Final = 2  # of the dozen skills that there are
VERDICTS: Final = (*([Verdict.PASS] * 5), Verdict.FAIL, Verdict.WITHDRAWN, Verdict.GONE)
NONSENSE: Final = (
    Verdict.WITHDRAWN,
    Verdict.WITHDRAWN,
    Verdict.FAIL,
    Verdict.GONE,
    "path",
    "repository_id",
    "owner_id",
)
"""A verdict on a skill that passed, or what is wrong in a PASS."""
SOURCES: Final = (
    (None, None),
    (Fault.FAIL, None),
    (Fault.FAIL, INDEX_KEY),
    (Fault.FAIL, SKILL_PREFIX),
)
"""Whether PostgreSQL is away, and what of KV cannot be read."""
SEED_REPOSITORIES: Final = ("eve/well-known", "fay/well-known")
SEEDED_AT: Final = "2020-01-01T00:00:00.000Z"
LAST_SECONDS: Final = 10.0
"""What a failover loses at most."""
WORD: Final = "pdf"  # in the name of every skill
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
            f"{self.schedule.profile}, seed {self.schedule.seed}: {self.message}\n\n"
            f"replay: python -m tests.simulation --profile {self.schedule.profile} "
            f"--seed {self.schedule.seed}\n\n"
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
        self.world = World(
            marketplace,
            schedule.seed,
            skewed=schedule.skewed,
            retries=schedule.retries,
            conditions=PROFILES[schedule.profile].conditions,
        )
        self.truth = Truth(self.world)
        self._submissions = 0
        self._readings = 0
        self._acts = 0
        self._dumps: list[Dump] = []  # before each step
        self._last_scan = EPOCH_OF_SIMULATION
        self._actions: dict[StepKind, Callable[[Step], Awaitable[None]]] = {
            StepKind.APPLY: self._apply,
            StepKind.SUBMIT: self._submit,
            StepKind.STALL: self._stall,
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
            StepKind.RESTORE_DUMP: self._restore_dump,
            StepKind.GO_MAD: self._go_mad,
            StepKind.FAIL_OVER: self._fail_over,
            StepKind.REBIND: self._rebind,
            StepKind.READ_ONLY: self._read_only,
            StepKind.ADD_SEED: self._add_seed,
            StepKind.OLD_LINK: self._old_link,
            StepKind.LOSE_ALIAS: self._lose_alias,
            StepKind.ASK: self._ask,
        }

    async def play(self) -> None:
        """All steps, then the end of all faults and one repair. Raises Violation.

        No schedule lasts the day for which a repository must be gone.
        """
        with (
            patch.object(scan_rules, "GONE_SECONDS", GONE_SECONDS),
            patch.object(withdrawals, "WITHDRAWN_AN_HOUR", WITHDRAWN_AN_HOUR),
        ):
            await self._play()

    async def _play(self) -> None:
        for number in range(self.world.conditions.seeds):
            self._seed(number * 9 + self.schedule.seed)
        tasks: list[asyncio.Task[None]] = []
        for number, step in enumerate(self.schedule.steps, 1):
            await asyncio.sleep(step.pause)
            self._dumps.append(self.marketplace.dump(self.world.database, self.world.loop.time()))
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
        await self._tell(submission, Sent(submission.id, submission.identity), step)

    async def _tell(self, submission: Submission, sent: Sent, step: Step) -> None:
        """A scanner comes to a verdict and reports it, more than once if need be."""
        report = self._report(submission, sent, step)
        for attempt in range(1 + step.choice // 1024 % SCANNER_TRIES):
            cut = None if attempt else step
            told = await self._invoke("report", lambda e: self.marketplace.report(e, [report]), cut)
            if told.value:
                self.truth.readings[report.reason or ""].accepted = True
                return
            await asyncio.sleep(30)

    async def _submit(self, step: Step) -> None:
        submission, sent = self._submitted(step)
        if self._verdict(step) is Verdict.GONE:  # the webhook alone knows whether that counts
            await self._tell(submission, sent, step)
        else:
            self._send(sent.id, self._scan(submission, sent, step).scanned_at)

    async def _stall(self, step: Step) -> None:
        submission, sent = self._submitted(step)
        if self._verdict(step) is not Verdict.GONE:
            self._scan(submission, sent, step)

    def _submitted(self, step: Step) -> tuple[Submission, Sent]:
        submission = self._submission(step)
        self.world.kv.damage(submission_key(submission.id), msgspec.json.encode(submission))
        return submission, Sent(submission.id, submission.identity)

    def _verdict(self, step: Step) -> Verdict:
        return self._one_of(VERDICTS, replace(step, choice=step.choice // 256))

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
        """A verdict that a scanner has come to; its clock may be hours off."""
        self._readings += 1
        now = self._next_moment()
        clock = self._one_of(self.schedule.scanners, replace(step, choice=step.choice // 2048))
        base_slug = submission.base_slug
        reading = Reading(
            id=f"r{self._readings}",
            identity=sent.identity,
            verdict=self._verdict(step),
            facts=Facts(
                name=submission.skill_name,
                description=f"r{self._readings}",
                category=CATEGORY,
                version=f"{1 + step.choice // 64 % 3}.0.0",
            ),
            path=f"skills/{base_slug}",
            score=self._readings % 100,
            told=format_timestamp(now + timedelta(seconds=clock)),
            asked=submission.created_at,
            since=now,
        )
        return self._told(sent, reading, submission)

    def _told(self, sent: Sent, reading: Reading, submission: Submission) -> ScanReport:
        self.truth.read(sent, reading)
        self.world.note(
            f"        {reading.id} on {sent.id}: {sent.identity} {reading.verdict} {reading.told}"
        )
        repository = submission.repo_url.removeprefix("https://github.com/")
        return ScanReport(
            submission_id=sent.id,
            verdict=reading.verdict,
            score=reading.score,
            scanned_at=reading.told,
            reason=reading.id,
            skill=reading.facts,
            path=reading.path,
            repository_id=f"id of {repository}",
            owner_id=f"id of {repository_owner(submission.repo_url)}",
        )

    def _scan(self, submission: Submission, sent: Sent, step: Step) -> Scan:
        """A verdict that the webhook has kept, and was to enqueue."""
        report = self._report(submission, sent, step)
        scan = report.on(submission, format_timestamp(self._last_scan))
        kept = msgspec.json.encode(scan)
        self.truth.logged(scan)
        log = key_of_verdict(scan)
        for key in (log, pending_key(scan.scanned_at, scan.submission_id), scan_key(sent.id)):
            self.world.kv.damage(key, kept)
        self.truth.readings[scan.reason or ""].accepted = True
        return scan

    def _next_moment(self) -> datetime:
        """Now, but never the same millisecond twice."""
        self._last_scan = max(self.world.loop.clock(), self._last_scan + timedelta(milliseconds=1))
        return self._last_scan

    def _send(self, submission_id: str, scanned_at: str) -> None:
        self.world.publish_queue.add(publish_message(submission_id, scanned_at))

    async def _rescan(self, step: Step) -> None:
        """Another verdict on a submission, of any kind."""
        if accepted := self.truth.accepted():
            sent = self._one_of(accepted, step)
            stored = self.world.kv.peek(submission_key(sent.id))
            assert stored is not None
            await self._tell(msgspec.json.decode(stored, type=Submission), sent, step)

    async def _repeat(self, step: Step) -> None:
        if repeatable := [sent for sent in self.truth.accepted() if sent.moments]:
            sent = self._one_of(repeatable, step)
            self._send(sent.id, self._one_of(sent.moments, step))

    async def _go_mad(self, step: Step) -> None:
        """A scanner reports one kind of nonsense, of one skill or of all that are listed."""
        if not (settled := self._settled()):
            return
        rows = self.marketplace.rows(self.world.database)
        nonsense = self._one_of(NONSENSE, replace(step, choice=step.choice // 64))
        several = step.choice // 16 % 2
        identities = settled if several else [self._one_of(settled, step)]
        reports = [self._nonsense(rows[identity].skill, nonsense, step) for identity in identities]
        told = await self._invoke("report", lambda e: self.marketplace.report(e, reports), step)
        for report in reports:
            accepted = told.value or ()
            self.truth.readings[report.reason or ""].accepted = report.submission_id in accepted

    def _nonsense(self, skill: Skill, nonsense: str, step: Step) -> ScanReport:
        self._submissions += 1
        submission = Submission(
            id=f"s{self._submissions}",
            repo_url=skill.repo_url,
            skill_name=skill.base_slug,
            base_slug=skill.base_slug,
            created_at=format_timestamp(self.world.loop.clock()),
        )
        self.world.kv.damage(submission_key(submission.id), msgspec.json.encode(submission))
        sent = Sent(submission.id, submission.identity)
        report = self._report(submission, sent, replace(step, choice=0))
        reading = self.truth.readings[report.reason or ""]
        if nonsense in VERDICTS:
            reading.verdict = Verdict(nonsense)
            return msgspec.structs.replace(report, verdict=reading.verdict)
        reading.wrong = nonsense
        facts = msgspec.structs.replace(reading.facts, version="9999999999.0.0")
        reading.facts, reading.score = facts, 100
        reading.path = "another" if nonsense == "path" else reading.path
        return msgspec.structs.replace(report, skill=facts, score=100, **{nonsense: "another"})

    async def _act_on_a_skill(self, step: Step) -> None:
        """An operator sees a row, and blocks, withdraws, corrects, or lifts what it shows."""
        rows = self.marketplace.rows(self.world.database)
        if not rows:
            return
        row = rows[self._one_of(sorted(rows), step)]
        self._acts += 1
        kind = self._one_of(ACTS, replace(step, choice=step.choice // 16))
        seen = [act.id for act in in_force(row.skill.acts)]
        lifts = seen[: 1 + step.choice // 128 % 2] if kind is ActKind.RESTORE else []
        act = Act(
            id=f"a{self._acts}",
            kind=kind,
            reason="simulated",
            at=format_timestamp(self._next_moment()),
            by="operator",
            labels=(f"label-{self._acts}",) if kind is ActKind.CORRECT else None,
            lifts=tuple(lifts),
        )
        self.truth.tried[act.id] = act
        self.truth.acted_on.add(row.identity)
        self.world.note(f"        {act.id} is {kind} of {row.identity} {' '.join(lifts)}")
        told = await self._invoke("act", lambda e: self.marketplace.act(e, row.name, act), step)
        if told.value is not None:
            self.truth.acted(told.value, act, told)

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

    async def _ask(self, step: Step) -> None:
        question = self._one_of(tuple(Question), step)
        expected = self.truth.expect()
        outcome = await self._invoke(
            "ask", lambda e: self.marketplace.ask(e, question, CATEGORY, WORD), step
        )
        self.truth.check_told(expected, outcome)

    async def _light_repair(self, step: Step) -> None:
        outcome = await self._invoke("light-repair", self.marketplace.light_repair, step)
        self._no_error(outcome)
        self.truth.checked(outcome)

    async def _full_repair(self, step: Step) -> None:
        outcome = await self._invoke("full-repair", self.marketplace.full_repair, step)
        self._no_error(outcome)

    async def _redrive(self, step: Step) -> None:
        """The queue may deliver what is redriven before the redrive has come to its end."""
        delivery = asyncio.ensure_future(self._deliver_soon(step))
        approve = step.choice // 64 % 4 == 0
        if approve:
            self.truth.approve()
        redrive = self.marketplace.redrive
        await self._invoke("redrive", lambda env: redrive(env, approve=approve), step)
        if approve:
            self.truth.approve()
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
        if self.world.bound is not self.world.database:
            return
        self.world.weather.kv_outage = (Fault.FAIL, Fault.HANG, Fault.LATE)[step.choice % 3]

    async def _database_outage(self, step: Step) -> None:
        self.world.weather.database_outage = (Fault.FAIL, Fault.HANG)[step.choice % 2]
        if self.world.away_since is None:
            self.world.away_since = self.world.loop.time()

    async def _recover(self, step: Step) -> None:
        self.world.weather.clear()
        self.world.away_since = None
        self.truth.bind_again()

    async def _read_only(self, step: Step) -> None:
        self.world.weather.read_only = True

    async def _rebind(self, step: Step) -> None:
        """An empty database answers, after every location could learn which the right one is.

        Not while KV fails: an isolate that could never ask it takes any database.
        """
        world = self.world
        is_sound = world.weather.kv_outage is None and not world.kv_has_failed
        if world.bound is world.database and is_sound and world.knows_more_than(-1):
            world.bound = self.marketplace.new_database("another")
            world.note("        another database answers")

    async def _fail_over(self, step: Step) -> None:
        """A replica takes over that was some seconds behind."""
        now = self.world.loop.time()
        recent = [dump for dump in self._dumps if now - dump.at <= LAST_SECONDS]
        if recent and self.world.bound is self.world.database:
            dump = self._one_of(recent, step)
            lost = self.truth.fail_over(dump)
            self.world.note(f"        it is as {now - dump.at:.1f} s ago and lacks {sorted(lost)}")

    async def _add_seed(self, step: Step) -> None:
        self._seed(step.choice)

    def _seed(self, choice: int) -> None:
        """One more well-known skill: one that is published, too, or one that nobody published."""
        repositories = (*self.schedule.repositories, *SEED_REPOSITORIES)
        repository = repositories[choice % len(repositories)]
        base_slug = self.schedule.base_slugs[choice // 8 % len(self.schedule.base_slugs)]
        repo_url, seed = f"https://github.com/{repository}", self.world.seed
        if f"{repo_url}#{base_slug}" in seed.by_identity:
            return
        candidates = assignable_candidates(repo_url, base_slug)
        reading = f"seed {repository} {base_slug}"
        skill = Skill(
            name=next(slug for slug in candidates if slug not in seed.by_name),
            base_slug=base_slug,
            display_name=base_slug,
            description=reading,
            author=repository_owner(repo_url),
            repo_url=repo_url,
            skill_path=f"skills/{base_slug}",
            category=CATEGORY,
            certified_at=SEEDED_AT,
            published_at=SEEDED_AT,
            updated_at=SEEDED_AT,
            verdict_reason=reading,
        )
        self.world.seed = seed_of([*seed.skills, skill])
        self.truth.seeded(skill)
        self.world.note(f"        {skill.identity} is in the seed as {skill.name}")

    async def _old_link(self, step: Step) -> None:
        """A skill gets an old slug, in both stores, as if it had been renamed long ago."""
        if settled := self._settled():
            identity = self._one_of(settled, step)
            free = [slug for slug in BASE_SLUGS if self.truth.is_free(slug)]
            alias = self._one_of([*free, f"old-{step.choice % 8}"], replace(step, choice=0))
            if self.truth.is_free(alias):
                self.truth.add_old_link(alias, identity)
                self.world.note(f"        {alias} is an old slug of {identity}")

    async def _lose_alias(self, step: Step) -> None:
        """One of the stores loses an old slug that both have."""
        if links := self.truth.settled_links():
            alias = self._one_of(links, step)
            place = self._one_of(("table", "KV"), replace(step, choice=step.choice // 8))
            self.truth.lose_link(alias, from_kv=place == "KV")
            self.world.note(f"        the old slug {alias} is gone from the {place}")

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

    async def _restore_dump(self, step: Step) -> None:
        """The table becomes what it was, for the skills that KV has, too."""
        if settled := self._settled():
            dump = self._one_of(self._dumps, step)
            self.truth.restore(dump, settled)
            self.world.note(f"        the table of step {1 + self._dumps.index(dump)} is back")

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
        world.away_since = None
        world.conditions = replace(world.conditions, slow_reads=0.0)
        world.publish_queue.duplicates = 0.0
        await self._end_with_one_database()
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
        await self._check_every_source()
        before = self.truth.content()
        await self._repair()
        await asyncio.sleep(SETTLING)
        if self.truth.content() != before:
            raise Violation("3 convergent: a second repair changed something")
        self._raise_found()

    async def _end_with_one_database(self) -> None:
        """Where another database answers, the right one is bound again, or it is adopted."""
        world, marketplace = self.world, self.marketplace
        if world.bound is world.database or self.schedule.seed % 2 == 0:
            self.truth.bind_again()
            return
        world.note("another database is adopted")
        await asyncio.sleep(SETTLING)
        self.truth.adopt()
        for _ in range(MAX_DRAINS):
            outcome = await world.invoke(
                "adopt", lambda env: marketplace.full_repair(env, adopt=True)
            )
            self._no_error(outcome)
            if outcome.value is not None and outcome.value.finished:
                return
            await self._drain()
        raise Violation("3 convergent: an adoption does not come to an end")

    async def _check_answers(self) -> None:
        """What authors and visitors are told at the end."""
        for alias, identity in sorted(self.truth.old_links.items()):
            for database in (None, Fault.FAIL):
                self.world.weather.database_outage = database
                self.truth.check_link(alias, identity, await self._look_up(alias))
        self.world.weather.clear()
        if self.world.seed.skills:
            await self._check_seed()
        for slug in sorted(self.truth.slugs):
            self.truth.check_found(slug, await self._look_up(slug), is_there=True)
        owed = [sent.id for sent in self.truth.owed_in_the_end()]
        told = await self.world.invoke("status", lambda e: self.marketplace.unpublished(e, owed))
        if not told.returned:
            raise Violation(f"6 nothing silent: the states cannot be told: {told.error!r}")
        if told.value:
            raise Violation(f"6 nothing silent: published, but not by their state: {told.value}")

    async def _check_seed(self) -> None:
        """What is in the seed alone is found under the slug that listings show."""
        query = ListingQuery(limit=100)
        for database in (None, Fault.FAIL):
            self.world.weather.database_outage = database
            read = await self.world.invoke("list", lambda e: self.marketplace.read(e, query))
            for skill in [] if read.value is None else self.truth.seeds_in(read.value):
                self.truth.check_link(skill.name, skill.identity, await self._look_up(skill.name))
        self.world.weather.clear()

    async def _check_every_source(self) -> None:
        """Whichever source answers, it lists what the table lists, and nothing that is withheld."""
        world, query = self.world, ListingQuery(limit=100)
        expected = self.truth.listed()
        for database, unreadable in SOURCES:
            world.forget_answers()
            world.weather.database_outage, world.weather.unreadable = database, unreadable
            outcome = await world.invoke("read", lambda e: self.marketplace.read(e, query))
            self.truth.check_source(expected, outcome)
        world.weather.clear()

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
