"""The model of truth, and the invariants of the design as checks on it.

Numbers in the messages are those of the design: 1 durable, 2 visible, 3 convergent, 4 no
clobbering, 5 no going back, 6 nothing silent, 7 bounded, 8 authority.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from marketplace.basics.timestamps import format_timestamp, seconds_between
from marketplace.catalog.source_chain import TooLate
from marketplace.catalog.waiting import GOOD_FOR
from marketplace.kv.acceptance_log import LoggedAct
from marketplace.kv.keys import (
    ACKNOWLEDGED_KEY,
    ACT_PREFIX,
    OUTBOX_PREFIX,
    SKILL_PREFIX,
    VERDICT_PREFIX,
    alias_key,
    scan_key,
)
from marketplace.kv.summaries import CompactAlias, fitting_metadata
from marketplace.operations import withdrawals
from marketplace.ports.database_reads import SILENT_SECONDS
from marketplace.ports.env import READ_BUDGET_SECONDS
from marketplace.ports.errors import DatabaseBusy, StorageError, TimedOut
from marketplace.ports.known_database import Acknowledged
from marketplace.publishing.messages import scanned_at_of
from marketplace.skills import scan as scan_rules
from marketplace.skills.acts import Act, ActKind, in_force
from marketplace.skills.merging import as_said
from marketplace.skills.scan import Facts, Scan
from marketplace.skills.seed import slugs_of_seed
from marketplace.skills.skill import Skill, SkillSummary, Status
from marketplace.skills.tiers import Verdict
from tests.doubles.database import Held
from tests.doubles.kv import KV_STALENESS
from tests.doubles.queue import Delivery
from tests.simulation.actors import Dump, Listing, Repair, Told, look, stamp
from tests.simulation.world import MAX_SKEW, Outcome, World

PROMISE: Final = 120.0
"""Seconds after which every whole answer has what was acknowledged."""
LISTING_LIMIT: Final = 2.2
"""Seconds: what a read may take with every source hanging, and the time to say so."""


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass(slots=True, eq=False)
class Reading:
    """What a scanner says that it found, once.

    ``told``: when, by its own clock; ``asked``: when the server was asked, by the server's;
    ``since``: the earliest moment at which the server can have received it.
    """

    id: str  # in the description and as the reason of the verdict
    identity: str
    verdict: Verdict
    facts: Facts
    path: str
    score: int
    told: str
    asked: str
    since: datetime
    wrong: str = ""  # which of path, repository_id and owner_id is not the skill's
    standing: Scan | None = None  # on its submission, by every read of KV when it was reported
    moments: set[str] = field(default_factory=set)  # that the log has of it
    accepted: bool = False

    def says(self, skill: Skill) -> bool:
        """Whether this is what is listed, but for what acts corrected."""
        said = as_said(skill)
        return (
            self.verdict is Verdict.PASS
            and skill.facts_at in self.moments
            and (skill.identity, skill.skill_path) == (self.identity, self.path)
            and said.category == self.facts.category
            and said.current_version == self.facts.version
            and said.labels == self.facts.labels
        )


@dataclass(slots=True)
class Sent:
    """One submission, as the marketplace was told of it, and what became of it."""

    id: str
    identity: str
    readings: list[Reading] = field(default_factory=list)
    kept: str = ""  # the moment owed that was seen in a store: from then on it must stay there
    acknowledged_at: float | None = None
    consumed: set[str] = field(default_factory=set)  # moments of verdicts that consumers took
    stored_at: float | None = None  # when it was seen in a store after that

    @property
    def passes(self) -> bool:
        """Whether all that scanners said of it is that it passes: then that is to be listed."""
        kinds = {(reading.verdict, reading.wrong) for reading in self.readings}
        return kinds == {(Verdict.PASS, "")}

    @property
    def moments(self) -> list[str]:
        """Of all its verdicts in the log, the earliest first."""
        return sorted({moment for reading in self.readings for moment in reading.moments})

    def owes_only_changes(self, moment: str) -> bool:
        """Whether nothing need be listed because of its verdict of this moment."""
        said = {r.verdict for r in self.readings if moment in r.moments}
        return not self.passes or said != {Verdict.PASS}


@dataclass(frozen=True, slots=True)
class Accepted:
    """An operator's act that the marketplace has accepted, and when."""

    act: Act
    at: float
    told: bool = False  # KV's list of withheld skills was written then, as PostgreSQL has it
    mishaps: int = 0  # that had happened to that list by then


@dataclass(slots=True)
class Snapshot:
    """What the stores hold at one moment, looked at without faults."""

    rows: Mapping[str, Held]  # by identity
    records: Mapping[str, Held]  # by slug
    outbox: list[Held]
    logged: list[LoggedAct]

    def all(self) -> Iterable[Held]:
        """What any durable store holds."""
        return (*self.rows.values(), *self.records.values(), *self.outbox)

    def decided(self) -> dict[str, str]:
        """The moment of the newest verdict on each identity in any durable store."""
        decided: dict[str, str] = {}
        for held in self.all():
            decided[held.identity] = max(decided.get(held.identity, ""), held.skill.decided_at)
        return decided

    def acts(self) -> dict[str, set[str]]:
        """The ids of the acts on each identity in any durable store, the log among them."""
        acts: dict[str, set[str]] = {}
        for held in self.all():
            acts.setdefault(held.identity, set()).update(act.id for act in held.skill.acts)
        for logged in self.logged:
            acts.setdefault(logged.identity, set()).add(logged.act.id)
        return acts


@dataclass(slots=True, eq=False)
class Expected:
    """What a listing that starts now is held to, by source: identity → stamp."""

    at: float
    rows: dict[str, str]
    records: set[str]
    withheld: set[str]  # identities of rows that no listing may show
    blocked: set[str]  # whatever answers
    lost: set[str]  # identities of listed rows that a restored table lacks, as all can know
    waiting: set[str]  # identities of listed states in the outbox, as all can know
    promised: set[str]  # identities that every whole answer has, and that nobody touched
    seeds: set[str]  # identities of the seed alone
    excused: set[str] = field(default_factory=set)  # damaged, withheld or restored since


class Truth:
    """What was promised, told by the harness and never by the code under test."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent: dict[str, Sent] = {}
        self.readings: dict[str, Reading] = {}
        self.acts: dict[str, list[Accepted]] = {}  # by identity
        self.tried: dict[str, Act] = {}  # by id: what operators asked for, accepted or not
        self.poison: set[str] = set()  # ids of messages that name no submission
        self.slugs: dict[str, set[str]] = {}  # every slug ever given → the skills that had it
        self._rows: dict[str, Held] = {}  # by identity, when last looked at
        self._newest: dict[str, Held] = {}  # each row at its newest so far
        self._removed: set[str] = set()  # identities whose row the harness took away
        self._kept: dict[str, Held] = {}  # what KV has of those whose row was taken
        self._lost: set[str] = set()  # of the removed: those that all can know to be missing
        self._damaged_at: dict[str, float] = {}  # by identity: when the harness last damaged it
        self._checks: list[tuple[float, float]] = []  # light repairs without errors: begin, end
        self._left: dict[tuple[str, str], float] = {}  # by (identity, verdict): when it withdrew
        self._approved: set[str] = set()  # identities that operators let leave
        self.acted_on: set[str] = set()  # identities on which an operator tried to act
        self.old_links: dict[str, str] = {}  # old slugs, with the identities that they lead to
        self._slugs_of_seed: dict[str, set[str]] = {}  # that skills of the seed may have
        self._seeds: set[str] = set()  # ids of the readings that the seed is taken for
        self._failed_over: set[str] = set()  # identities that the database lost with its end
        self._changed_at: dict[str, float] = {}  # by identity: when its row last changed
        self._let_go_until: dict[int, set[str]] = {}  # acknowledged number → what is lost of it
        self._unseen: set[str] = set()  # of rows that are gone, and nobody can know yet
        self._open: list[Expected] = []
        self._owed: dict[str, str] = {}  # submission id → revision, from acknowledgement on
        self._parsed: dict[tuple[str, bytes], Held | None] = {}
        world.kv.on_write = self._check_write
        world.after_statement = self.check_rows

    # Looking

    def read_record(self, key: str, value: bytes | None) -> Held | None:
        """The skill in a KV value, if it is one; remembered, as it is asked for all the time."""
        if value is None:
            return None
        if (key, value) not in self._parsed:
            self._parsed[key, value] = self.world.marketplace.read_record(key, value)
        return self._parsed[key, value]

    def snapshot(self) -> Snapshot:
        """Look at everything."""
        world = self.world
        records = {held.name: held for held in self._read_all(SKILL_PREFIX)}
        rows = dict(world.marketplace.rows(world.database))
        return Snapshot(rows, records, self._read_all(OUTBOX_PREFIX), self._logged_acts())

    def _logged_acts(self) -> list[LoggedAct]:
        kv = self.world.kv
        values = (kv.peek(key) for key in kv.keys(ACT_PREFIX))
        return [msgspec.json.decode(value, type=LoggedAct) for value in values if value]

    def _read_all(self, prefix: str) -> list[Held]:
        kv = self.world.kv
        found = (self.read_record(key, kv.peek(key)) for key in kv.keys(prefix))
        return [held for held in found if held is not None]

    # What happens

    def read(self, sent: Sent, reading: Reading) -> None:
        """A scanner has come to a verdict, and is about to report it."""
        self.sent[sent.id] = sent
        sent.readings.append(reading)
        self.readings[reading.id] = reading
        stored = {self._scan(value) for value in self.world.kv.visible(scan_key(sent.id))}
        reading.standing = stored.pop() if len(stored) == 1 else None

    @staticmethod
    def _scan(value: bytes | None) -> Scan | None:
        return None if value is None else msgspec.json.decode(value, type=Scan)

    def acted(self, identity: str, act: Act, outcome: Outcome[Any]) -> None:
        """The marketplace has accepted an operator's act."""
        events = {line.event for line in outcome.log}
        told = not events & {"withheld-merged", "withheld-not-written"}
        accepted = Accepted(act, self.world.loop.time(), told, self.world.mishaps)
        self.acts.setdefault(identity, []).append(accepted)

    def accepted(self) -> list[Sent]:
        """Submissions on which a verdict was accepted."""
        return [s for s in self.sent.values() if any(r.accepted for r in s.readings)]

    def owed_in_the_end(self) -> list[Sent]:
        """What must be published: what was accepted, and what KV knows to have passed."""
        kv = self.world.kv
        return [
            sent
            for sent in self.sent.values()
            if sent.passes
            and not self._may_have_moved(sent.identity)
            and (any(r.accepted for r in sent.readings) or kv.peek(scan_key(sent.id)))
        ]

    def remove_row(self, identity: str) -> None:
        """The harness damages the table."""
        self._removed.add(identity)
        row = self.world.marketplace.rows(self.world.database)[identity]
        self._kept.setdefault(identity, row)
        self._excuse(identity)
        self._unseen.add(identity)
        self._rows.pop(identity, None)
        self.world.marketplace.remove_row(self.world.database, identity)

    def remove_record(self, held: Held) -> None:
        """The harness damages KV."""
        self._kept.pop(held.identity, None)
        self._excuse(held.identity)
        self.world.kv.damage(self.world.marketplace.record_key(held.name), None)

    def restore(self, dump: Dump, identities: Iterable[str]) -> None:
        """The harness puts an older table in the place of the present one."""
        world = self.world
        marketplace, database = world.marketplace, world.database
        before = dict(marketplace.rows(database))
        is_known = world.knows_more_than(dump.changes)
        marketplace.restore(database, dump, [i for i in identities if i in before])
        rows = marketplace.rows(database)
        for identity, row in before.items():
            now = rows.get(identity)
            if now is None or now.revision != row.revision:
                self._removed.add(identity)
                self._kept.setdefault(identity, row)
                self._excuse(identity)
                self._rows.pop(identity, None)
                if now is not None:
                    self._newest[identity] = now
                elif is_known and row.skill.status is Status.LISTED:
                    self._lost.add(identity)
                if self._changed_at.get(identity, 0.0) > world.loop.time() - PROMISE:
                    self._unseen.add(identity)

    def fail_over(self, dump: Dump) -> set[str]:
        """The harness lets the database lose its last seconds; the identities of what is lost."""
        world = self.world
        before = dict(world.marketplace.rows(world.database))
        is_known = self._acknowledged_changes() > dump.changes
        world.marketplace.fail_over(world.database, dump)
        rows = world.marketplace.rows(world.database)
        lost = {i for i, row in before.items() if i not in rows or rows[i].revision != row.revision}
        self._let_go(lost)
        for identity in lost - rows.keys():  # a slug that no store has kept leads nowhere
            slug = before[identity].name
            if not world.kv.peek(world.marketplace.record_key(slug)):
                self.slugs[slug].discard(identity)
                if not self.slugs[slug]:
                    del self.slugs[slug]
        self._let_go_until[self._acknowledged_changes()] = lost
        if not is_known:
            self._unseen |= lost
        if world.kv_has_failed:
            self._forgive_acts()
        return lost

    def _forgive_acts(self) -> None:
        """An act is accepted when the database alone took it, and the operator is told so. The next
        check writes it to the log; what is lost before that, nobody can bring back."""
        stored = self.snapshot().acts()
        for identity, acts in self.acts.items():
            left = stored.get(identity, set())
            self.acts[identity] = [accepted for accepted in acts if accepted.act.id in left]

    def _acknowledged_changes(self) -> int:
        value = self.world.kv.peek(ACKNOWLEDGED_KEY)
        return 0 if value is None else msgspec.json.decode(value, type=Acknowledged).changes

    def _overlook(self, rows: Mapping[str, Held]) -> None:
        """A database that lost changes may get as many others from an isolate that does not know
        the acknowledged number yet. Then the number tells nothing, and a check finds the loss."""
        database = self.world.database
        for changes, lost in self._let_go_until.items():
            if database.missing_until is None and database.changes >= changes:
                self._unseen |= lost - rows.keys()

    def _let_go(self, identities: Iterable[str]) -> None:
        """The rows of these are gone or older, and only KV and the log have what they said."""
        rows = self.world.marketplace.rows(self.world.database)
        for identity in identities:
            self._failed_over.add(identity)
            self._removed.add(identity)
            self._kept.pop(identity, None)
            self._excuse(identity)
            self._rows.pop(identity, None)
            if identity in rows:
                self._newest[identity] = rows[identity]

    def bind_again(self) -> None:
        """The right database answers again; the other one has nothing."""
        world = self.world
        rows = world.marketplace.rows(world.bound)
        if world.bound is not world.database and rows and not world.kv_has_failed:
            self._violated(f"4 no clobbering: another database was written to: {sorted(rows)}")
        world.bound = world.database

    def adopt(self) -> None:
        """From now on the database that answers is the right one."""
        world = self.world
        self._let_go(list(world.marketplace.rows(world.database)))
        world.marketplace.keep_letters(world.database, world.bound)
        for alias in list(self.old_links):  # both stores have lost it
            if world.kv.peek(alias_key(alias)) is None:
                identity = self.old_links.pop(alias)
                self.slugs[alias].discard(identity)
                if not self.slugs[alias]:
                    del self.slugs[alias]
        world.database = world.bound

    def seeded(self, skill: Skill) -> None:
        """The Worker ships with this skill: what it says was found by a scanner long ago."""
        facts = Facts(
            name=skill.display_name,
            description=skill.description,
            category=skill.category,
            version=skill.current_version,
            labels=skill.labels,
        )
        reading = Reading(
            id=skill.description,
            identity=skill.identity,
            verdict=Verdict.PASS,
            facts=facts,
            path=skill.skill_path,
            score=skill.cert_score,
            told=skill.facts_at,
            asked=skill.facts_at,
            since=self.world.loop.clock(),
            moments={skill.facts_at},
        )
        self.readings[reading.id] = reading
        self._seeds.add(reading.id)
        for slug in slugs_of_seed(skill):
            self._slugs_of_seed.setdefault(slug, set()).add(skill.identity)

    def is_free(self, slug: str) -> bool:
        """Whether no skill ever had a slug, as far as any store or the seed tells."""
        kv, key = self.world.kv, self.world.marketplace.record_key(slug)
        in_kv = any(kv.visible(key)) or any(kv.visible(alias_key(slug)))
        return not in_kv and slug not in self.slugs and slug not in self.world.seed.claimable

    def add_old_link(self, alias: str, identity: str) -> None:
        """The harness gives a skill an old slug, in both stores."""
        world = self.world
        row = world.marketplace.rows(world.database)[identity]
        world.marketplace.aliases(world.database)[alias] = identity
        metadata = fitting_metadata(msgspec.json.encode(CompactAlias(alias, row.name)))
        value = msgspec.json.encode({"slug": row.name})
        world.kv.damage(alias_key(alias), value, metadata=metadata)
        self.old_links[alias] = identity
        self.slugs.setdefault(alias, set()).add(identity)

    def settled_links(self) -> list[str]:
        """Old slugs that the table has and that KV shows for longer than any read is behind."""
        world = self.world
        table = world.marketplace.aliases(world.database)
        rows = world.marketplace.rows(world.database)
        return sorted(
            alias
            for alias, identity in self.old_links.items()
            if table.get(alias) == identity
            and identity in rows
            and all(world.kv.visible(alias_key(alias), margin=KV_STALENESS))
        )

    def lose_link(self, alias: str, *, from_kv: bool) -> None:
        """The harness damages a store."""
        if from_kv:
            self.world.kv.damage(alias_key(alias), None)
        else:
            del self.world.marketplace.aliases(self.world.database)[alias]

    def check_link(self, slug: str, identity: str, outcome: Outcome[Skill | None]) -> None:
        """3 for a slug at the end: it leads to its skill, whichever store answers."""
        found = outcome.value
        if isinstance(outcome.error, TimedOut | DatabaseBusy):
            return
        if found is None or found.identity != identity:
            told = found.identity if found else outcome.error
            self._violated(f"3 convergent: the slug {slug} of {identity} leads to {told!r}")

    def seeds_in(self, listing: Listing) -> list[SkillSummary]:
        """The skills of the seed that nobody has published, as they are listed."""
        alone = self._in_seed_alone()
        return [skill for skill in listing.skills if skill.identity in alone]

    def approve(self) -> None:
        """An operator lets the withdrawals pass that wait now."""
        bodies = self.world.marketplace.held_back(self.world.database)
        ids = {_submission_id(body) for body in bodies}
        self._approved |= {self.sent[id_].identity for id_ in ids & self.sent.keys()}

    def checked(self, outcome: Outcome[Repair]) -> None:
        """A light repair has come to its end."""
        repair = outcome.value
        if (
            repair is not None
            and repair.finished
            and not repair.errors
            and not repair.acts_replayed
        ):
            self._checks.append((outcome.began, outcome.ended))

    def _blocked_for_sure(self) -> set[str]:
        """Skills with a block that nobody tried to lift, and that every source should know of.

        Either KV's list was written when it was accepted, and is current by now. Or after it was
        accepted, or a store damaged, KV became current, two checks found nothing wrong, and KV
        became current again.

        One check would do in production: here a list call shows a few entries of the log, and a
        check goes on where the one before stopped.
        """
        lifted = {id_ for act in self.tried.values() for id_ in act.lifts}
        return {
            identity
            for identity, acts in self.acts.items()
            for accepted in acts
            if accepted.act.kind is ActKind.BLOCK
            and accepted.act.id not in lifted
            and (
                self._is_told(identity, accepted)
                or self._is_known_since(max(accepted.at, self._damaged_at.get(identity, 0.0)))
            )
        }

    def _is_told(self, identity: str, accepted: Accepted) -> bool:
        return (
            accepted.told
            and accepted.mishaps == self.world.mishaps
            and not self._damaged_at
            and self.world.loop.time() > accepted.at + KV_STALENESS + READ_BUDGET_SECONDS
        )

    def _is_known_since(self, moment: float) -> bool:
        checks = iter(self._checks)
        for _ in range(2):
            found = next((end for begin, end in checks if begin > moment + KV_STALENESS + 1), None)
            if found is None:
                return False
            moment = found - KV_STALENESS - 1
        return found is not None and self.world.loop.time() > found + KV_STALENESS + 1

    def listed(self) -> set[str]:
        """The identities that the table lists now."""
        rows = self.world.marketplace.rows(self.world.database)
        return {i for i, row in rows.items() if row.skill.status is Status.LISTED}

    def check_source(self, expected: set[str], outcome: Outcome[Listing]) -> None:
        """8: what a source lists when everything is settled."""
        listing = outcome.value
        if listing is None:
            if not isinstance(outcome.error, TooLate):
                self._violated(f"2 visible: {outcome.name} raised {outcome.error!r}")
            return
        source, shown = listing.source, {skill.identity for skill in listing.skills}
        rows = self.world.marketplace.rows(self.world.database)
        allowed = expected | (self.world.seed.by_identity.keys() - rows.keys())
        expected = expected | self._in_seed_alone()
        if not listing.knows_withheld:
            allowed |= self.world.seed.by_identity.keys()
        if leaked := shown - allowed:
            self._violated(f"8 authority: {outcome.name} ({source}) shows {sorted(leaked)}")
        if listing.complete and listing.knows_withheld and (missing := expected - shown):
            self._violated(f"2 visible: {outcome.name} ({source}) misses {sorted(missing)}")

    def _check_bound(self, identity: str, before: Held | None, row: Held) -> None:
        """8: no more skills leave by verdicts in an hour than may."""
        skill, now = row.skill, self.world.loop.time()
        if before is None or before.skill.status is not Status.LISTED:
            return
        if skill.status is not Status.WITHDRAWN or skill.verdict is not Verdict.WITHDRAWN:
            return
        self._left.setdefault((identity, skill.decided_at), now)
        hour = withdrawals.HOUR_SECONDS - 4 * MAX_SKEW
        recent = {i for (i, _), at in self._left.items() if now - at < hour} - self._approved
        if len(recent) > withdrawals.WITHDRAWN_AN_HOUR:
            self._violated(f"8 authority: {sorted(recent)} left by verdicts within an hour")

    def _excuse(self, identity: str) -> None:
        self._damaged_at[identity] = self.world.loop.time()
        for expected in self._open:
            expected.excused.add(identity)

    def acknowledged(self, delivery: Delivery) -> None:
        """A consumer acknowledges a message: it owes the state that the message is about."""
        sent = self.sent.get(_submission_id(delivery.body))
        if sent is None:
            return
        if sent.acknowledged_at is None:
            sent.acknowledged_at = self.world.loop.time()
        owed = scanned_at_of(delivery.body)
        sent.consumed.add(owed)
        self._owed[sent.id] = max(self._owed.get(sent.id, ""), owed)
        self.check_durable()

    def promised(self) -> set[str]:
        """Skills that every whole answer has to show now.

        They were acknowledged and seen in a store long enough ago, all that was ever said of them
        is that they pass, and no operator has touched them.
        """
        now = self.world.loop.time()
        kept = {
            sent.identity
            for sent in self.sent.values()
            if sent.stored_at is not None and now - sent.stored_at > PROMISE
        }
        others = {
            reading.identity
            for reading in self.readings.values()
            if reading.verdict is not Verdict.PASS or reading.wrong
        }
        damaged = {i for i, at in self._damaged_at.items() if now - at <= PROMISE}
        return kept - others - self.acted_on - damaged - self._unseen

    def _in_seed_alone(self) -> set[str]:
        """Skills of the seed on which nothing was ever said besides."""
        read = {r.identity for r in self.readings.values() if r.id not in self._seeds}
        return self.world.seed.by_identity.keys() - read - self.acted_on

    # The invariants

    def check_durable(self) -> None:
        """1 and 6: what was acknowledged is in a durable store, or in a dead letter."""
        if not self._owed and not self.acts:
            return
        world = self.world
        snapshot = self.snapshot()
        decided = snapshot.decided()
        excused: set[str] | None = None
        for submission_id, owed in self._owed.items():
            sent = self.sent[submission_id]
            present = decided.get(sent.identity)
            if sent.identity in self._failed_over:  # the log has what both stores lack
                logged = {
                    moment
                    for reading in self.readings.values()
                    if reading.identity == sent.identity
                    for moment in reading.moments
                }
                present = max([present or "", *logged]) or None
            if present is None and sent.owes_only_changes(owed):
                continue  # there was nothing that it could change
            if present is not None and present >= owed:
                sent.kept = owed
                if sent.stored_at is None:
                    sent.stored_at = world.loop.time()
                continue
            if sent.kept < owed:
                if excused is None:
                    excused = self._accounted_for()
                if submission_id in excused:
                    continue
            self._violated(
                f"1 durable: {sent.identity} was acknowledged (submission {submission_id}, at "
                f"{sent.acknowledged_at:.3f} s) and no store has its verdict of {owed}, the newest "
                f"is {present}"
            )
        stored = snapshot.acts()
        for identity, acts in self.acts.items():
            if missing := {a.act.id for a in acts} - stored.get(identity, set()):
                self._violated(f"5 no going back: no store has the acts {missing} on {identity}")
        queues = (world.publish_queue, world.maintenance_queue, world.dead_letters)
        refused = [error for queue in queues for error in queue.refused]
        for error in (*world.kv.violations, *world.violations, *refused):
            self._violated(f"7 bounded: {error}")

    def _accounted_for(self) -> set[str]:
        world = self.world
        bodies: Iterable[Any] = (
            *world.marketplace.buried(world.database),
            *(s.body for s in world.publish_queue.waiting),
            *(s.body for s in world.dead_letters.waiting),
            *world.publish_queue.flying(),
            *world.dead_letters.flying(),
        )
        return {_submission_id(body) for body in bodies}

    def check_rows(self) -> None:
        """4, 5 and 8 for the table, after every statement."""
        rows = self.world.marketplace.rows(self.world.database)
        if rows == self._rows:
            return
        earlier, self._rows = self._rows, dict(rows)
        self._overlook(rows)
        slugs: dict[str, str] = {}
        for identity, row in rows.items():
            self.slugs.setdefault(row.name, set()).add(identity)
            if slugs.setdefault(row.name, identity) != identity:
                self._violated(
                    f"4 no clobbering: {identity} and {slugs[row.name]} share {row.name}"
                )
            before_it = earlier.get(identity)
            if before_it is row:
                continue
            if self.old_links.get(row.name, identity) != identity and not self.world.kv_has_failed:
                self._violated(
                    f"4 no clobbering: {identity} takes the old slug {row.name} of "
                    f"{self.old_links[row.name]}"
                )
            self._unseen.discard(identity)
            self._changed_at[identity] = self.world.loop.time()
            if before_it is not None and before_it.skill.status is not row.skill.status:
                for expected in self._open:  # it may be withheld and listed again meanwhile
                    expected.excused.add(identity)
            self._check_authority(identity, row)
            self._check_bound(identity, before_it, row)
            before = self._newest.get(identity)
            if before is None or not _goes_back(before, row):
                self._removed.discard(identity)
                self._lost.discard(identity)
                self._newest[identity] = row
            elif not self._may_return_older(identity, row):
                self._violated(f"5 no going back: row of {identity} from {before} to {row}")

    def _check_authority(self, identity: str, row: Held) -> None:
        """8: a row says what a right scanner read of that very skill, at the moment at which it
        was read, and what operators did, as they did it."""
        skill = row.skill
        believed = [r for r in self.readings.values() if r.identity == identity and self._may(r)]
        if not any(r.id == skill.description and r.says(skill) for r in believed):
            reading = self.readings.get(skill.description)
            self._violated(f"8 authority: {identity} says what nobody found: {skill}, {reading}")
        if not any(self._decided(reading, skill) for reading in believed):
            self._violated(f"8 authority: {identity} has a verdict that nobody gave: {skill}")
        if not any(self._certified(reading, skill) for reading in believed):
            self._violated(f"8 authority: {identity} has a score that nobody gave: {skill}")
        if changed := [act for act in skill.acts if self.tried.get(act.id) != act]:
            self._violated(f"8 authority: nobody did to {identity} what it has: {changed}")
        if skill.status is not _status(skill):
            self._violated(f"8 authority: {identity} is {skill.status}: {skill}")

    def _may(self, reading: Reading) -> bool:
        """Whether a verdict may be believed: it is right, or it finds a skill that was withdrawn
        in another folder, which is how skills move."""
        if not reading.wrong:
            return True
        since = min(self._moments(reading.identity, Verdict.WITHDRAWN), default="~")
        return reading.wrong == "path" and since < max(reading.moments, default="")

    def _may_have_moved(self, identity: str) -> bool:
        """Whether what is right was perhaps refused, as it was found where the skill had been."""
        readings = self.readings.values()
        return any(r.identity == identity and r.wrong and self._may(r) for r in readings)

    def _moments(self, identity: str, verdict: Verdict) -> list[str]:
        readings = self.readings.values()
        right = [r for r in readings if (r.identity, r.verdict) == (identity, verdict)]
        return [moment for reading in right for moment in reading.moments]

    def _decided(self, reading: Reading, skill: Skill) -> bool:
        told = (reading.verdict, reading.id)
        if told != (skill.verdict, skill.verdict_reason) or skill.decided_at not in reading.moments:
            return False
        if reading.verdict is not Verdict.GONE:
            return True
        first = min(self._moments(reading.identity, Verdict.GONE))
        return seconds_between(first, skill.decided_at) >= scan_rules.GONE_SECONDS

    @staticmethod
    def _certified(reading: Reading, skill: Skill) -> bool:
        told = (reading.verdict, reading.score)
        return told == (Verdict.PASS, skill.cert_score) and skill.certified_at in reading.moments

    def logged(self, scan: Scan) -> None:
        """5: the log gets a verdict of a moment between those of asking and of receipt, whatever
        the scanner's clock says; on one submission none after a FAIL, and a FAIL after all."""
        reading = self.readings[scan.reason or ""]
        if scan.scanned_at in reading.moments:
            return
        skew = timedelta(seconds=MAX_SKEW)
        latest = min(max(reading.told, reading.asked), _text(self.world.loop.clock() + skew))
        earliest = min(max(reading.told, reading.asked), _text(reading.since - skew))
        standing = reading.standing
        # A repository that is not found is noted in any case, as another may confirm it.
        if standing is not None and reading.verdict is not Verdict.GONE:
            if standing.verdict is Verdict.FAIL:
                self._violated(f"5 no going back: {reading.id} came after {standing} and stands")
            if reading.verdict is Verdict.FAIL:
                earliest = max(earliest, standing.scanned_at)
        if reading.verdict is Verdict.FAIL:
            latest = max(latest, *self.sent[scan.submission_id].moments, "")
        if not earliest <= scan.scanned_at <= latest:
            self._violated(
                f"5 no going back: {reading.id} of {reading.told} has the moment "
                f"{scan.scanned_at}, not one from {earliest} to {latest}"
            )
        reading.moments.add(scan.scanned_at)

    def _may_return_older(self, identity: str, row: Held) -> bool:
        """A row that was lost comes back as KV has it, if KV has it and could be asked."""
        if identity not in self._removed:
            return False
        kept = self._kept.get(identity)
        return kept is None or not _goes_back(kept, row) or self.world.kv_has_failed

    def _check_write(self, key: str, before: bytes | None, after: bytes | None) -> None:
        """4 for KV, at every write: a record is only ever replaced by one of the same skill.

        Another skill, or a note, may have its place once it was given another slug.
        """
        if key.startswith(VERDICT_PREFIX) and after is not None:
            self.logged(msgspec.json.decode(after, type=Scan))
        if not key.startswith(SKILL_PREFIX):
            return
        old, new = self.read_record(key, before), self.read_record(key, after)
        if new is not None:
            self.slugs.setdefault(new.name, set()).add(new.identity)
        if old is None or (new is not None and new.identity == old.identity):
            return
        row = self.world.marketplace.rows(self.world.database).get(old.identity)
        has_moved = row.name != old.name if row is not None else self._is_elsewhere(old)
        # A writer may not know yet that the database has lost its row, or that of the record. What
        # is overwritten then the log has, and for one of the two the table.
        has_moved |= not self._failed_over.isdisjoint({old.identity, new.identity if new else ""})
        if not has_moved:
            self._violated(
                f"4 no clobbering: {key} of {old.identity} was overwritten by "
                f"{new.identity if new else after!r}"
            )

    def _is_elsewhere(self, held: Held) -> bool:
        """Whether KV has it under another slug too, and not older: its row was lost meanwhile."""
        return any(
            record.identity == held.identity
            and record.name != held.name
            and record.revision >= held.revision
            for record in self._read_all(SKILL_PREFIX)
        )

    def expect(self) -> Expected:
        """2: what a listing that starts now has to show."""
        rows = self.world.marketplace.rows(self.world.database)
        listed = {i: row.skill for i, row in rows.items() if row.skill.status is Status.LISTED}
        expected = Expected(
            self.world.loop.time(),
            {identity: stamp(skill) for identity, skill in listed.items()},
            self._in_any_view(),
            rows.keys() - listed.keys(),
            self._blocked_for_sure(),
            set(self._lost),
            self._waiting_in_any_view(),
            self.promised(),
            self._in_seed_alone(),
        )
        self._open.append(expected)
        return expected

    def _in_any_view(self) -> set[str]:
        """The skills that KV shows now to every reader, and showed a moment ago.

        Those of slugs that are one skill's in every state that a read gets to see. A skill that
        moves to another slug is in none for a minute: KV's keys are not read at one moment.
        """
        kv = self.world.kv
        records: set[str] = set()
        for key in kv.keys(SKILL_PREFIX):
            values = kv.visible(key, margin=READ_BUDGET_SECONDS)  # a listing may be shared
            visible = [self.read_record(key, value) for value in values]
            identities = {held.identity if held else None for held in visible}
            listed = all(held and held.skill.status is Status.LISTED for held in visible)
            if listed and len(identities) == 1 and (identity := identities.pop()) is not None:
                records.add(identity)
        return records

    def check_listing(self, expected: Expected, outcome: Outcome[Listing]) -> None:
        """2, and 6 and 7 for a listing."""
        self._open.remove(expected)
        self._check_shed(outcome)
        if outcome.value is None:
            if outcome.error is not None and not isinstance(outcome.error, TooLate | DatabaseBusy):
                self._violated(f"2 visible: {outcome.name} raised {outcome.error!r}")
            return
        listing = outcome.value
        if outcome.seconds > LISTING_LIMIT:
            self._violated(f"7 bounded: {outcome.name} took {outcome.seconds:.3f} s")
        shown: dict[str, str] = {}
        slugs: set[str] = set()
        for skill in listing.skills:
            if skill.name in slugs:
                self._violated(f"4 no clobbering: {outcome.name} lists {skill.name} twice")
            slugs.add(skill.name)
            shown[skill.identity] = max(shown.get(skill.identity, ""), stamp(skill))
        if listing.knows_withheld and (
            leaked := expected.blocked & self._blocked_for_sure() & shown.keys()
        ):
            self._violated(
                f"8 authority: {outcome.name} ({listing.source}) shows {leaked}, blocked"
            )
        if listing.source == "seed" and listing.late:
            self._violated(f"2 visible: {outcome.name} takes a source that is late for empty")
        self._check_seed(outcome.name, listing.source, listing.read)
        if not listing.degraded:
            if lacking := self._still_promised(expected, listing.source) - shown.keys():
                self._violated(f"2 visible: {outcome.name} is whole and misses {sorted(lacking)}")
            if lacking := (expected.seeds & self._in_seed_alone()) - shown.keys():
                self._violated(f"2 visible: {outcome.name} misses {sorted(lacking)} of the seed")
            self._check_names(outcome.name, expected, listing)
        if listing.source == "postgres" and listing.complete:
            lacking = (expected.lost & self._lost) - shown.keys()
            if lacking and self.world.loop.time() > self.world.unknown_until:
                self._violated(f"2 visible: {outcome.name} believes a table without {lacking}")
            rows = self.world.marketplace.rows(self.world.database)
            withheld = {i for i, row in rows.items() if row.skill.status is not Status.LISTED}
            excused = withheld | self._withheld_by_acts()  # an act may wait in the outbox
            missing = (expected.waiting & self._in_outbox()) - shown.keys()
            missing -= excused | expected.withheld | expected.excused
            if missing and listing.knows_outbox:
                self._violated(f"2 visible: {outcome.name} misses {missing}, which wait")
            # A newer PASS may wait, and lists a skill that its row has withdrawn by a verdict.
            lifted = self._in_outbox() - self._withheld_by_acts() | expected.excused
            if leaked := (expected.withheld & withheld & shown.keys()) - lifted:
                self._violated(f"8 authority: {outcome.name} (postgres) shows {leaked}")
            for identity, least in expected.rows.items():
                if identity in excused:
                    continue
                if shown.get(identity, "") < least and identity not in expected.excused:
                    self._violated(
                        f"2 visible: {outcome.name} (postgres) shows {identity} as "
                        f"{shown.get(identity)}, committed was {least}"
                    )
        elif not any("reason" in line.fields for line in outcome.log):
            self._violated(f"6 nothing silent: {outcome.name} fell back without saying why")
        if listing.source == "kv-enumeration" and listing.complete:
            missing = (expected.records & self._in_any_view()) - shown.keys() - expected.excused
            missing -= self._in_outbox() | self._withheld_by_acts() | expected.withheld
            missing -= self._withheld_rows()
            # KV's list may have a withdrawal that the row has lost.
            missing -= {i for i in self._failed_over if self._moments(i, Verdict.WITHDRAWN)}
            if missing:
                self._violated(f"2 visible: {outcome.name} (KV) misses {sorted(missing)}")

    def _still_promised(self, expected: Expected, source: str) -> set[str]:
        """What an answer owes that is whole. Where KV has failed, nobody knows what a database
        lacks that was replaced."""
        promised = expected.promised & self.promised()
        doubtful = self.world.kv_has_failed or self.world.loop.time() <= self.world.unknown_until
        if doubtful and source == "postgres":
            rows = self.world.marketplace.rows(self.world.database)
            is_right = self.world.bound is self.world.database
            promised &= rows.keys() if is_right else set()
        return promised

    def _check_shed(self, outcome: Outcome[Any]) -> None:
        """2: nobody is sent away because of a database that answers nobody."""
        away = self.world.away_since
        if away is None or not isinstance(outcome.error, DatabaseBusy):
            return
        if outcome.began > away + SILENT_SECONDS + READ_BUDGET_SECONDS:
            self._violated(f"2 visible: {outcome.name} was shed, and PostgreSQL is away")

    def _check_seed(self, name: str, source: str, read: Iterable[str]) -> None:
        """2: the seed answers alone only where nothing else could be read."""
        if source != "seed":
            return
        listed = [
            key
            for key in read
            if key.startswith(SKILL_PREFIX)
            and all(
                (held := self.read_record(key, value)) and held.skill.status is Status.LISTED
                for value in self.world.kv.visible(key, margin=READ_BUDGET_SECONDS)
            )
        ]
        if listed:
            self._violated(f"2 visible: {name} has the seed alone, and read {sorted(listed)}")

    def _check_names(self, name: str, expected: Expected, listing: Listing) -> None:
        """4: a published skill keeps its slug, whatever the seed has."""
        rows = self.world.marketplace.rows(self.world.database)
        for skill in listing.skills:
            row = rows.get(skill.identity)
            if row is None or skill.identity in expected.excused | self._in_outbox():
                continue
            if skill.identity in expected.rows and row.name != skill.name:
                self._violated(f"4 no clobbering: {name} lists {row.name} as {skill.name}")

    def check_told(self, expected: Expected, outcome: Outcome[Told]) -> None:
        """2, and 7, for searches, counts and categories."""
        self._open.remove(expected)
        self._check_shed(outcome)
        told = outcome.value
        if told is None:
            if outcome.error is not None and not isinstance(outcome.error, TooLate | DatabaseBusy):
                self._violated(f"2 visible: {outcome.name} raised {outcome.error!r}")
            return
        if outcome.seconds > LISTING_LIMIT:
            self._violated(f"7 bounded: {outcome.name} took {outcome.seconds:.3f} s")
        self._check_seed(outcome.name, told.source, told.read)
        least = self._still_promised(expected, told.source) | (
            expected.seeds & self._in_seed_alone()
        )
        if not told.degraded and told.count < len(least):
            self._violated(
                f"2 visible: {outcome.name} is whole and counts {told.count} of {sorted(least)}"
            )
        most = {reading.identity for reading in self.readings.values()}
        if told.count > len(most):
            self._violated(f"2 visible: {outcome.name} counts {told.count} of {len(most)}")

    def _waiting_in_any_view(self) -> set[str]:
        """Skills that every reader knows to wait and to be listed: KV has shown it for a while."""
        kv, listed, hidden = self.world.kv, set[str](), set[str]()
        for key in kv.keys(OUTBOX_PREFIX):
            values = kv.visible(key, margin=READ_BUDGET_SECONDS + GOOD_FOR)
            held = [self.read_record(key, value) for value in values]
            shown = {each.identity for each in held if each is not None}
            if all(each and each.skill.status is Status.LISTED for each in held):
                listed |= shown
            elif any(each and each.skill.status is not Status.LISTED for each in held):
                hidden |= shown
        return listed - hidden

    def _withheld_rows(self) -> set[str]:
        rows = self.world.marketplace.rows(self.world.database)
        return {i for i, row in rows.items() if row.skill.status is not Status.LISTED}

    def _in_outbox(self) -> set[str]:
        """Skills of which something newer waits: it may be that they are withheld."""
        return {held.identity for held in self._read_all(OUTBOX_PREFIX)}

    def _withheld_by_acts(self) -> set[str]:
        """Skills that acts in force withhold, though no other store may have them yet."""
        acts: dict[str, list[Act]] = {}
        for logged in self._logged_acts():
            acts.setdefault(logged.identity, []).append(logged.act)
        withholding = {ActKind.BLOCK, ActKind.WITHDRAW}
        return {
            identity
            for identity, told in acts.items()
            if any(act.kind in withholding for act in in_force(tuple(told)))
        }

    def is_there(self, slug: str) -> bool:
        """Whether every read of KV now shows a record of this slug, and the table a row."""
        world = self.world
        key = world.marketplace.record_key(slug)
        records = [self.read_record(key, value) for value in world.kv.visible(key)]
        rows = world.marketplace.rows(world.database).values()
        return all(records) and any(row.name == slug for row in rows)

    def check_found(self, slug: str, outcome: Outcome[Skill | None], *, is_there: bool) -> None:
        """2 for one skill: a slug leads to a skill that had it, and to nothing only if it did."""
        if isinstance(outcome.error, StorageError):
            return
        if outcome.error is not None:
            self._violated(f"2 visible: {outcome.name} raised {outcome.error!r}")
        if not outcome.returned:
            return
        if outcome.value is None and is_there:
            self._violated(f"2 visible: {outcome.name} does not find {slug}")
        may_lead_to = self.slugs[slug] | self._slugs_of_seed.get(slug, set())
        if outcome.value is not None and outcome.value.identity not in may_lead_to:
            self._violated(f"4 no clobbering: {slug} leads to {outcome.value.identity}")

    def check_calm(self) -> None:
        """3 without any fault: what was published is in both stores, alike, before any repair.

        But for a record that KV refused twice: a writer waits once, then leaves it to the repair.
        """
        snapshot = self.snapshot()
        for row in snapshot.rows.values():
            record = snapshot.records.get(row.name)
            key = self.world.marketplace.record_key(row.name)
            if self.world.kv.refusals[key] > 1:
                continue
            if record is None or record.revision != row.revision:
                self._violated(
                    f"3 convergent: without a fault, {row.name} is {row.revision} in the table and "
                    f"{record and record.revision} in KV"
                )

    def _check_slugs(self, rows: Mapping[str, Held]) -> None:
        """4: no other skill gets the slug of one whose row was lost, unless KV could not be asked.

        The skill itself may end under another slug of its own that KV still had, with an alias.
        """
        owners = {row.name: identity for identity, row in rows.items()}
        for identity, kept in self._kept.items():
            if owners.get(kept.name, identity) != identity and not self.world.kv_has_failed:
                self._violated(f"4 no clobbering: {identity} lost its slug {kept.name} to another")

    def check_settled(self) -> None:
        """All of them, after the faults ended, everything was delivered and one repair was made."""
        self.check_durable()
        world = self.world
        snapshot = self.snapshot()
        if lost := [*world.publish_queue.lost, *world.dead_letters.lost]:
            self._violated(f"6 nothing silent: messages fell out of the last queue: {lost}")
        buried = world.marketplace.buried(world.database)
        if forgotten := self.poison - {_submission_id(body) for body in buried}:
            self._violated(f"6 nothing silent: no dead letter for {sorted(forgotten)}")
        self._check_final(snapshot.rows)
        self._check_slugs(snapshot.rows)
        self._check_first_dates(snapshot.rows)
        table = world.marketplace.aliases(world.database)
        names = {row.name for row in snapshot.rows.values()}
        links = dict(self.old_links.items() - table.items())
        if lacking := links.keys() - names:
            self._violated(f"3 convergent: the table lacks the old slugs {sorted(lacking)}")
        by_slug = {row.name: row.revision for row in snapshot.rows.values()}
        records = {slug: record.revision for slug, record in snapshot.records.items()}
        if by_slug != records:
            differing = sorted(by_slug.items() ^ records.items())
            self._violated(f"3 convergent: the table and KV differ in {differing}")
        first = {row.name: row.skill.published_at for row in snapshot.rows.values()}
        firsts = {slug: record.skill.published_at for slug, record in snapshot.records.items()}
        if differing := sorted(first.items() ^ firsts.items()):
            self._violated(f"3 convergent: the table and KV differ in publishedAt: {differing}")
        if snapshot.outbox:
            self._violated(f"3 convergent: left in the outbox: {snapshot.outbox}")
        index = world.marketplace.index(world.kv)
        stamps = {row.name: look(row.skill) for row in snapshot.rows.values()}
        if index != stamps:
            differing = sorted((index or {}).items() ^ stamps.items())
            self._violated(f"3 convergent: the index and the table differ in {differing}")

    def _check_final(self, rows: Mapping[str, Held]) -> None:
        """3 and 5: each skill that passed is in the table, as the newest verdicts and all acts
        have it."""
        refused = self._held_back()
        for sent in self.accepted():
            if sent.passes and sent.identity not in rows:
                self._violated(f"3 convergent: not in the table: {sent.identity}")
        for identity, row in rows.items():
            skill = row.skill
            counting = [r for r in self.readings.values() if r.identity == identity and r.accepted]
            if self._may_have_moved(identity):
                continue
            right = [r for r in counting if not r.wrong and r.id not in refused]
            # A repository that was not found once may be there: such a verdict is only noted.
            decided = [r for r in right if r.verdict is not Verdict.GONE]
            owed = max((max(r.moments, default="") for r in decided), default="")
            if skill.decided_at < owed:
                self._violated(
                    f"3 convergent: {identity} ended with the verdict of {skill.decided_at}, owed "
                    f"was that of {owed}"
                )
            passed = {r.id for s in self.sent.values() if s.passes for r in s.readings}
            facts = [max(r.moments, default="") for r in right if r.id in passed]
            if skill.facts_at < max(facts, default=""):
                self._violated(f"3 convergent: {identity} ended with facts of {skill.facts_at}")
            acts = {accepted.act.id for accepted in self.acts.get(identity, ())}
            if missing := acts - {act.id for act in skill.acts}:
                self._violated(f"5 no going back: {identity} ended without the acts {missing}")

    def _check_first_dates(self, rows: Mapping[str, Held]) -> None:
        """3: a skill that only ever passed was published first by the earliest of its verdicts."""
        others = {r.identity for r in self.readings.values() if r.verdict is not Verdict.PASS}
        others |= {r.identity for r in self.readings.values() if r.wrong or r.id in self._seeds}
        moments: dict[str, list[str]] = {}
        for sent in self.owed_in_the_end():
            if sent.consumed:  # of several verdicts on one submission the newest may stand alone
                moments.setdefault(sent.identity, []).append(sent.moments[-1])
        for identity in moments.keys() & rows.keys() - others:
            told, first = rows[identity].skill.published_at, min(moments[identity], default="~")
            if told > first:
                self._violated(f"3 convergent: {identity} was published at {told}, not at {first}")

    def _held_back(self) -> set[str]:
        """The withdrawals that wait as dead letters, since too many left."""
        letters = self.world.marketplace.held_back(self.world.database)
        ids = {_submission_id(body) for body in letters}
        readings = (r for id_ in ids & self.sent.keys() for r in self.sent[id_].readings)
        return {r.id for r in readings if r.verdict is Verdict.WITHDRAWN}

    def content(self) -> tuple[object, ...]:
        """What a second repair must not change."""
        snapshot = self.snapshot()
        kv = {key: self.world.kv.peek(key) for key in self.world.kv.keys(SKILL_PREFIX)}
        return dict(snapshot.rows), kv, self.world.marketplace.index(self.world.kv)

    def _violated(self, message: str) -> None:
        self.world.note(f"VIOLATION {message}")
        raise_or_keep(self.world, message)


def raise_or_keep(world: World, message: str) -> None:
    """Checks also run inside of calls that the code under test awaits: keep, as it may catch."""
    violation = Violation(message)
    world.found.append(violation)
    raise violation


def _submission_id(body: Any) -> str:
    return str(body.get("submissionId")) if isinstance(body, Mapping) else ""


def _goes_back(before: Held, after: Held) -> bool:
    """Whether a state lacks what an earlier one had. Of two of one moment either may stand: two
    verdicts have one where the clock of their scanner is behind."""
    old, new = _progress(before.skill), _progress(after.skill)
    lost = {act.id for act in before.skill.acts} - {act.id for act in after.skill.acts}
    return bool(lost) or any(late < early for early, late in zip(old, new, strict=True))


def _progress(skill: Skill) -> tuple[str, str, str]:
    decided = f"{skill.decided_at} {skill.verdict is Verdict.FAIL:d}"
    return decided, skill.certified_at or "", skill.facts_at


def _text(moment: datetime) -> str:
    return format_timestamp(moment)


def _status(skill: Skill) -> Status:
    """What the acts and the verdict of a skill make of it, told without the code under test."""
    lifted = {i for act in skill.acts if act.kind is ActKind.RESTORE for i in act.lifts}
    kinds = {act.kind for act in skill.acts if act.id not in lifted}
    if ActKind.BLOCK in kinds:
        return Status.BLOCKED
    withdrawn = ActKind.WITHDRAW in kinds or skill.verdict is Verdict.WITHDRAWN
    return Status.WITHDRAWN if withdrawn else Status.LISTED
