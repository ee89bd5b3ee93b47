"""The model of truth, and the invariants of the design as checks on it.

Numbers in the messages are those of the design: 1 durable, 2 visible, 3 convergent, 4 no
clobbering, 5 no going back, 6 nothing silent, 7 bounded, 8 authority.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from marketplace.catalog.source_chain import TooLate
from marketplace.kv.keys import OUTBOX_PREFIX, SKILL_PREFIX
from marketplace.ports.env import READ_BUDGET_SECONDS
from marketplace.ports.errors import StorageError
from marketplace.publishing.messages import scanned_at_of
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.scan import Scan
from marketplace.skills.skill import Skill, Status
from marketplace.skills.tiers import Verdict
from tests.doubles.database import Held
from tests.doubles.queue import Delivery
from tests.simulation.actors import Listing, look, stamp
from tests.simulation.world import Outcome, World

LISTING_LIMIT: Final = 2.2
"""Seconds: what a read may take with every source hanging, and the time to say so."""


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass(slots=True)
class Sent:
    """One submission, as the marketplace was told of it, and what became of it."""

    id: str
    identity: str
    verdicts: dict[str, Verdict] = field(default_factory=dict)  # by moment; all of one kind
    kept: str = ""  # the moment owed that was seen in a store: from then on it must stay there
    acknowledged_at: float | None = None

    @property
    def verdict(self) -> Verdict | None:
        """The kind of its verdicts, if there is one."""
        return next(iter(self.verdicts.values()), None)


@dataclass(slots=True)
class Snapshot:
    """What the stores hold at one moment, looked at without faults."""

    rows: Mapping[str, Held]  # by identity
    records: Mapping[str, Held]  # by slug
    outbox: list[Held]

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
        """The ids of the acts on each identity in any durable store."""
        acts: dict[str, set[str]] = {}
        for held in self.all():
            acts.setdefault(held.identity, set()).update(act.id for act in held.skill.acts)
        return acts


@dataclass(slots=True, eq=False)
class Expected:
    """What a listing that starts now is held to, by source: identity → stamp."""

    at: float
    rows: dict[str, str]
    records: set[str]
    withheld: set[str]  # identities of rows that no listing may show
    excused: set[str] = field(default_factory=set)  # damaged since


class Truth:
    """What was promised to whom, told by the harness and never by the code under test."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent: dict[str, Sent] = {}
        self.acts: dict[str, list[Act]] = {}  # by identity: those that were accepted
        self.poison: set[str] = set()  # ids of messages that name no submission
        self.promises: dict[str, set[str]] = {}  # submission id → moments of accepted verdicts
        self.slugs: dict[str, set[str]] = {}  # every slug ever given → the skills that had it
        self._rows: dict[str, Held] = {}  # by identity, when last looked at
        self._revisions: dict[str, str] = {}  # the greatest of each row so far
        self._removed: set[str] = set()  # identities whose row the harness took away
        self._kept: dict[str, Held] = {}  # what KV has of those whose row was taken
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
        return Snapshot(rows, records, self._read_all(OUTBOX_PREFIX))

    def _read_all(self, prefix: str) -> list[Held]:
        kv = self.world.kv
        found = (self.read_record(key, kv.peek(key)) for key in kv.keys(prefix))
        return [held for held in found if held is not None]

    # What happens

    def send(self, sent: Sent, moment: str, verdict: Verdict) -> None:
        """A scanner has come to a verdict."""
        self.sent[sent.id] = sent
        sent.verdicts[moment] = verdict

    def acted(self, identity: str, act: Act) -> None:
        """The marketplace has accepted an operator's act."""
        self.acts.setdefault(identity, []).append(act)

    def promised(self, scan: Scan) -> None:
        """The marketplace has accepted a verdict."""
        self.promises.setdefault(scan.submission_id, set()).add(scan.scanned_at)

    def owed_in_the_end(self) -> list[Sent]:
        """What must be published: what was accepted, and what KV knows to have passed."""
        kv = self.world.kv
        return [
            sent
            for sent in self.sent.values()
            if sent.verdict is Verdict.PASS
            and (sent.id in self.promises or kv.peek(f"scan:{sent.id}"))
        ]

    def remove_row(self, identity: str) -> None:
        """The harness damages the table."""
        self._removed.add(identity)
        row = self.world.marketplace.rows(self.world.database)[identity]
        self._kept.setdefault(identity, row)
        self._excuse(identity)
        self._rows.pop(identity, None)
        self.world.marketplace.remove_row(self.world.database, identity)

    def remove_record(self, held: Held) -> None:
        """The harness damages KV."""
        self._kept.pop(held.identity, None)
        self._excuse(held.identity)
        self.world.kv.damage(self.world.marketplace.record_key(held.name), None)

    def _excuse(self, identity: str) -> None:
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
        self._owed[sent.id] = max(self._owed.get(sent.id, ""), owed)
        self.check_durable()

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
            if present is None and sent.verdict is not Verdict.PASS:
                continue  # there was nothing that it could change
            if present is not None and present >= owed:
                sent.kept = owed
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
            if missing := {act.id for act in acts} - stored.get(identity, set()):
                self._violated(f"5 no going back: no store has the acts {missing} on {identity}")
        for error in (*world.kv.violations, *world.violations):
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
        self._rows = dict(rows)
        slugs: dict[str, str] = {}
        for identity, row in rows.items():
            self.slugs.setdefault(row.name, set()).add(identity)
            if slugs.setdefault(row.name, identity) != identity:
                self._violated(
                    f"4 no clobbering: {identity} and {slugs[row.name]} share {row.name}"
                )
            self._check_authority(identity, row)
            before = self._revisions.get(identity, "")
            if row.revision < before and not self._may_return_older(identity, row):
                self._violated(
                    f"5 no going back: row of {identity} from {before} to {row.revision}"
                )
            if row.revision >= before:
                self._removed.discard(identity)
            self._revisions[identity] = max(row.revision, before)

    def _check_authority(self, identity: str, row: Held) -> None:
        """8: a row says what a scanner read, at the moment at which it was read."""
        skill = row.skill
        said = {
            f"{sent.id} at {moment}"
            for sent in self.sent.values()
            for moment, verdict in sent.verdicts.items()
            if sent.identity == identity and verdict is Verdict.PASS and moment == skill.facts_at
        }
        if skill.description not in said:
            self._violated(f"8 authority: {identity} says {skill.description!r}, not {said}")

    def _may_return_older(self, identity: str, row: Held) -> bool:
        """A row that was lost comes back as KV has it, if KV has it and could be asked."""
        if identity not in self._removed:
            return False
        kept = self._kept.get(identity)
        return kept is None or row.revision >= kept.revision or self.world.kv_has_failed

    def _check_write(self, key: str, before: bytes | None, after: bytes | None) -> None:
        """4 for KV, at every write: a record is only ever replaced by one of the same skill.

        Another skill, or a note, may have its place once it was given another slug.
        """
        if not key.startswith(SKILL_PREFIX):
            return
        old, new = self.read_record(key, before), self.read_record(key, after)
        if new is not None:
            self.slugs.setdefault(new.name, set()).add(new.identity)
        if old is None or (new is not None and new.identity == old.identity):
            return
        row = self.world.marketplace.rows(self.world.database).get(old.identity)
        has_moved = row.name != old.name if row is not None else self._is_elsewhere(old)
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
        )
        self._open.append(expected)
        return expected

    def _in_any_view(self) -> set[str]:
        """The skills that KV shows now to whomever asks, and showed a moment ago.

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
        if outcome.value is None:
            if outcome.error is not None and not isinstance(outcome.error, TooLate):
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
        if listing.source == "seed" and listing.late:
            self._violated(f"2 visible: {outcome.name} takes a source that is late for empty")
        if listing.source == "postgres" and listing.complete:
            rows = self.world.marketplace.rows(self.world.database)
            withheld = {i for i, row in rows.items() if row.skill.status is not Status.LISTED}
            if leaked := expected.withheld & withheld & shown.keys():
                self._violated(f"8 authority: {outcome.name} (postgres) shows {leaked}")
            for identity, least in expected.rows.items():
                if identity in withheld:
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
            missing -= self._in_outbox()
            if missing:
                self._violated(f"2 visible: {outcome.name} (KV) misses {sorted(missing)}")

    def _in_outbox(self) -> set[str]:
        """Skills of which something newer waits: it may be that they are withheld."""
        return {held.identity for held in self._read_all(OUTBOX_PREFIX)}

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
        if outcome.value is not None and outcome.value.identity not in self.slugs[slug]:
            self._violated(f"4 no clobbering: {slug} leads to {outcome.value.identity}")

    def check_calm(self) -> None:
        """3 without any fault: what was published is in both stores, alike, before any repair.

        But for a record that KV refused to write twice: who waited once leaves it to the repair.
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
        by_slug = {row.name: row.revision for row in snapshot.rows.values()}
        records = {slug: record.revision for slug, record in snapshot.records.items()}
        if by_slug != records:
            differing = sorted(by_slug.items() ^ records.items())
            self._violated(f"3 convergent: the table and KV differ in {differing}")
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
        promised: dict[str, dict[str, Verdict]] = {}
        said: dict[str, dict[str, Verdict]] = {}
        for sent in self.sent.values():
            said.setdefault(sent.identity, {}).update(sent.verdicts)
            for moment in self.promises.get(sent.id, ()):
                promised.setdefault(sent.identity, {})[moment] = sent.verdicts[moment]
        passed = {i for i, verdicts in promised.items() if Verdict.PASS in verdicts.values()}
        if missing := passed - rows.keys():
            self._violated(f"3 convergent: not in the table: {sorted(missing)}")
        for identity, row in rows.items():
            skill = row.skill
            if said.get(identity, {}).get(skill.decided_at) is not skill.verdict:
                self._violated(f"3 convergent: {identity} has a verdict that nobody gave: {skill}")
            owed = max(promised.get(identity, {}), default="")
            if skill.decided_at < owed:
                self._violated(
                    f"3 convergent: {identity} ended with the verdict of {skill.decided_at}, owed "
                    f"was that of {owed}"
                )
            facts = [m for m, v in promised.get(identity, {}).items() if v is Verdict.PASS]
            if skill.facts_at < max(facts, default=""):
                self._violated(f"3 convergent: {identity} ended with facts of {skill.facts_at}")
            acts = {act.id for act in self.acts.get(identity, ())}
            if missing := acts - {act.id for act in skill.acts}:
                self._violated(f"5 no going back: {identity} ended without the acts {missing}")
            if skill.status is not _status(skill):
                self._violated(f"8 authority: {identity} ended as {skill.status}")

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


def _status(skill: Skill) -> Status:
    """What the acts and the verdict of a skill make of it, told without the code under test."""
    lifted = {i for act in skill.acts if act.kind is ActKind.RESTORE for i in act.lifts}
    kinds = {act.kind for act in skill.acts if act.id not in lifted}
    if ActKind.BLOCK in kinds:
        return Status.BLOCKED
    withdrawn = ActKind.WITHDRAW in kinds or skill.verdict is Verdict.WITHDRAWN
    return Status.WITHDRAWN if withdrawn else Status.LISTED
