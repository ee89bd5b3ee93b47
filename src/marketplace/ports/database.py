"""The skill database as a protocol, and what it answers with.

``postgres.db`` speaks it to PostgreSQL. Nothing here knows SQL.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from marketplace.ports.audit import AuditEntry, AuditFilter
from marketplace.ports.dead_letter import DeadLetter
from marketplace.ports.known_database import Expectation, KnownDatabase, Standing
from marketplace.ports.scan_request import ScanRequest, ScanWork, WantedScan
from marketplace.ports.skill_report import ReportPlace, SkillReport
from marketplace.skills.change import Change
from marketplace.skills.fingerprint import Fingerprint
from marketplace.skills.listing_rules import ListingQuery, SortKey
from marketplace.skills.rules import Rule, RuleLift, Target
from marketplace.skills.scan import Refusal
from marketplace.skills.seed import Claim, Seed
from marketplace.skills.skill import PublishedSummary, Skill, SkillSummary
from marketplace.skills.updates import FoundInstalled, Installed
from marketplace.skills.version_history import SkillVersion
from marketplace.skills.withholding import WithheldKey

T = TypeVar("T")


class Upserted(StrEnum):
    INSERTED = "inserted"
    UPDATED = "updated"
    UNCHANGED = "unchanged"  # the stored revision is the same or a newer one


@dataclass(frozen=True, slots=True)
class UpsertResult:
    skill: Skill  # the row afterwards, even if another writer stored it
    outcome: Upserted


@dataclass(frozen=True, slots=True)
class ListingRow:
    key: SortKey
    name: str
    item: bytes  # the summary as JSON (camelCase, UTF-8)


@dataclass(frozen=True, slots=True)
class RowOfWaiting:
    """A row of a skill that waits in the outbox, or one that has the slug of such a skill.

    ``is_outdone``: the waiting state is to be listed in its place.
    """

    row: SkillSummary
    is_outdone: bool


@dataclass(frozen=True, slots=True)
class ListingRows:
    """A page of rows, how many rows the filters match in all, and what the seed gives way to;
    that may be left out for a query that nothing can match. Of a query that is not counted whole
    the total is at most one over MOST_COUNTED. The page lacks the outdone rows; the total does
    not."""

    rows: Sequence[ListingRow]
    total: int
    claims: Sequence[Claim]
    of_waiting: Sequence[RowOfWaiting] = ()


@dataclass(frozen=True, slots=True)
class Counted(Generic[T]):
    """What was counted in the rows, and what the seed gives way to."""

    value: T
    claims: Sequence[Claim]
    of_waiting: Sequence[RowOfWaiting] = ()


@dataclass(frozen=True, slots=True)
class ChangedSkill:
    """A row, the number of its latest change, its revision, and the slugs that it has left."""

    number: int
    skill: Skill
    revision: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows in the order of their latest changes, and how the table stands, all of one moment.

    ``head``: the number of the last change. ``generation``: another one where earlier numbers tell
    nothing any more. ``claims``: what the seed gives way to, each with the number of its skill's
    change. ``fingerprint``: of all rows, as `fingerprint.add_items` makes it; None where further
    rows follow.
    """

    rows: Sequence[ChangedSkill]
    head: int
    generation: str
    claims: Sequence[tuple[int, Claim]]
    fingerprint: Fingerprint | None


class RecordKey(msgspec.Struct, frozen=True, array_like=True):
    """What a KV key and its metadata tell about a skill without reading its value."""

    name: str
    identity: str
    revision: str
    published_at: str = ""  # empty: not compared


class DifferenceKind(StrEnum):
    """How a slug range differs between KV records and the table."""

    MISSING_IN_DATABASE = "missing-in-database"  # no row with this identity
    NEWER_IN_KV = "newer-in-kv"  # or of the same revision with another first publication
    NEWER_IN_DATABASE = "newer-in-database"
    MISSING_IN_KV = "missing-in-kv"  # a row in the range that no record names
    OTHER_SLUG = "other-slug"  # the identity's row has another slug
    TAKEN_SLUG = "taken-slug"  # no row with this identity, and its slug belongs to another's row


@dataclass(frozen=True, slots=True)
class Difference:
    kind: DifferenceKind
    name: str  # the KV record's slug, or the row's where KV has no record
    row: Skill | None = None  # of this identity


class AliasKey(msgspec.Struct, frozen=True, array_like=True):
    """An old slug in KV, and the slug that it leads to."""

    alias: str
    slug: str


class ChangePlace(NamedTuple):
    """Where a row stands among all rows by their last change."""

    updated_at: str
    name: str


@dataclass(frozen=True, slots=True)
class LackingAlias:
    """An old slug that one source has and the other lacks."""

    alias: str
    in_kv: bool  # and not in the table; False: the other way round


@dataclass(frozen=True, slots=True)
class AliasRow:
    """An old slug in the table. ``name``: the slug that its skill has now, None where there is no
    such skill; ``is_taken``: a skill has the old slug itself by now."""

    alias: str
    identity: str
    name: str | None
    is_taken: bool = False


@dataclass(frozen=True, slots=True)
class LogComparison:
    """What a part of the acceptance log and the rows lack of each other."""

    behind: frozenset[str]  # identities without a row, or whose row has an older verdict
    unlogged: Sequence[Skill]  # rows that the log says nothing of, by the identity's digest


@dataclass(frozen=True, slots=True)
class WithoutVersions:
    """Skills that have no version, of a part of the table; ``after``: the identity to go on
    after, None where the table ends."""

    skills: Sequence[Skill]
    after: str | None


@dataclass(frozen=True, slots=True)
class MeasuredRows:
    """How many rows of a part of the table changed; ``after`` as in WithoutVersions."""

    changed: int
    after: str | None


@dataclass(frozen=True, slots=True)
class ContentNaming:
    """A skill that names a digest, now or in an earlier version, and the licence of that state."""

    skill: Skill
    license: str | None


@dataclass(frozen=True, slots=True)
class ContentGroup:
    """Digests that are stored or not, and named under the same licences.

    ``licenses``: of all skills and versions that name each, an empty one where none is stated;
    None: nobody names them. ``digest``: the first of them. ``name``: the first listed skill that
    names one now.
    """

    is_stored: bool
    licenses: tuple[str, ...] | None
    number: int
    digest: str
    name: str | None


class SkillDatabase(AbstractContextManager["SkillDatabase"], Protocol):
    """The connection to the source of truth, one an invocation. Methods raise DatabaseError.

    The order of trust between two states of a skill is ``Skill.revision``; identity is unique and
    so is the slug. Every method is one statement or one transaction. A row and the version that it
    begins are written together.

    Each transaction begins by demanding what `hold_to` says, and does nothing where that is not so.
    The number of the last change grows with each that changes the state of a skill, and with no
    other.
    """

    def hold_to(self, expectation: Expectation) -> None:
        """Demand this from now on, and tell it what the database says of itself. Otherwise every
        method raises OtherDatabase or OlderDatabase."""

    async def note_missing(self, known: Standing | None) -> bool:
        """Note that changes are missing, if this is another instance than the known one or its last
        change an earlier one; whether any are missing. Until `note_complete` only sessions that
        repair get an answer."""

    async def note_complete(self) -> Standing:
        """Note that no changes are missing. The number of the last one is not below the one that
        was known when they were missed."""

    async def list_skills(
        self,
        query: ListingQuery,
        *,
        seed: Seed,
        offset: int,
        limit: int,
        waiting: Sequence[PublishedSummary] = (),
    ) -> ListingRows:
        """The listed rows ``offset`` to ``offset + limit`` in the query's order.

        With ``query.cursor`` the rows after it (``offset`` is 0 then). ``total`` ignores the page.
        ``waiting`` are states in the outbox, one a skill. Such a state outdoes the row of its
        skill if it is the newer one, and the row has no act and no other path; or if it is newer
        and not listed, so that it hides the row.
        """

    async def get_skill(self, name: str) -> Skill | None:
        """The skill of this slug or, if none has it, of the skill that left it as an alias."""

    async def get_skill_by_identity(self, identity: str) -> Skill | None: ...

    async def count_skills(
        self, query: ListingQuery, *, seed: Seed, waiting: Sequence[PublishedSummary] = ()
    ) -> Counted[int]:
        """How many listed rows match; of a query that is not counted whole, at most one over
        MOST_COUNTED."""

    async def count_categories(
        self, *, seed: Seed, waiting: Sequence[PublishedSummary] = ()
    ) -> Counted[Mapping[str, int]]:
        """Listed rows per category."""

    async def mend_counts(self) -> int:
        """Compare the totals that are kept with the rows, and count anew if they differ; in how
        many groups of skills they did. Writers wait meanwhile."""

    async def seed_claims(self, seed: Seed) -> Sequence[Claim]:
        """What the seed gives way to."""

    async def get_skills(self, identities: Sequence[str]) -> Mapping[str, Skill]:
        """The skills of these identities; absent where there is no row."""

    async def upsert_skill(
        self, change: Change, *, candidates: Sequence[str], row: Skill | None = None
    ) -> UpsertResult | Refusal:
        """Change the identity's row, or insert one under the first free candidate slug.

        The change is made onto the row that it replaces: atomic, as if nobody else wrote. Of two
        first publications the earlier one stays. ``row``
        is the row as the caller has read it, which saves reading it again. The slug is chosen and
        taken by the statement itself, a row keeps the slug and the trending scores that it has.
        A slug is free when neither a row nor an alias of another identity has it. Raises
        DatabaseConflict when no candidate is free, or when other sessions were faster too often.
        """

    async def upsert_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        """Merge up to 1,000 states into their rows, or insert them under their own names, in bulk.

        A row keeps the slug it has. Of several new identities with one name a single one counts.
        Returns those it could not place since their slug belongs to another identity, or since
        another session wrote the row meanwhile. All or nothing: when one is rejected
        (DatabaseRejected), none is written.
        """

    async def check_skills(self, skills: Sequence[Skill]) -> Sequence[Skill]:
        """Answer and raise as ``upsert_skills`` would, and change nothing."""

    async def list_versions(
        self, identity: str, *, before: str | None, limit: int
    ) -> Sequence[SkillVersion]:
        """The versions of a skill, the newest first, older than the place ``before``."""

    async def find_installed(
        self, installed: Sequence[Installed], identities: Sequence[str]
    ) -> Sequence[FoundInstalled | None]:
        """The skills of these installations, one for each, in order.

        A skill is found by its slug, by a slug that it had, or by the identity at the same place
        of ``identities`` (empty: none).
        """

    async def without_versions(self, *, after: str, limit: int) -> WithoutVersions:
        """Of the ``limit`` rows after an identity, those of which no version is known."""

    async def add_first_versions(self, versions: Sequence[SkillVersion]) -> None:
        """Add versions of skills that have none; others keep what they have. Idempotent."""

    async def add_alias(self, alias: str, identity: str) -> None:
        """Let an old slug lead to the skill of this identity. Idempotent.

        An alias that leads to another identity stays: it is that skill's link.
        """

    async def add_aliases(self, aliases: Mapping[str, str]) -> None:
        """As ``add_alias``, for many: identities by old slug."""

    async def find_claims(self, slugs: Sequence[str]) -> Mapping[str, str]:
        """The identities that have these slugs or, if none has one, have left it; absent where
        nobody has."""

    async def list_aliases(self, *, after: str, limit: int) -> Sequence[AliasRow]:
        """The aliases in order, after the alias ``after``."""

    async def mark_in_kv(self, versions: Sequence[RecordKey]) -> Sequence[str]:
        """Note that KV holds these revisions. The slugs of those whose row has another revision
        or another slug by now."""

    async def skills_not_in_kv(
        self, *, after: ChangePlace | None = None, limit: int
    ) -> Sequence[Skill]:
        """Rows whose newest revision is not known to be in KV, oldest first, after a place."""

    async def add_installs(self, counts: Mapping[str, int], *, day: str) -> None:
        """Count installs of a day, by identity. Atomic."""

    async def measure_installs(
        self, *, after: str, limit: int, week: str, month: str
    ) -> MeasuredRows:
        """Set installs and trends of the ``limit`` rows after an identity, as the counts tell them.

        The trends are the installs since the days ``week`` and ``month``. Counts of days before
        ``month`` are kept together from then on. A total never falls. Atomic.
        """

    async def list_measured(self, *, after: str, limit: int) -> Sequence[Skill]:
        """Rows whose installs and trends have changed since KV was known to have them, in order,
        after an identity."""

    async def note_measured(self, skills: Sequence[Skill]) -> None:
        """Note that KV has the installs and trends of these, where they are the rows' still."""

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
        """Compare a part of the acceptance log with the rows.

        ``newest``: the moments of the newest verdicts in it by identity, all those with digests
        beyond ``after`` up to ``until`` (None: the end). A row is behind that lacks the newest one,
        or was published later than ``first`` says, where that is known. At most ``limit`` rows are
        ``unlogged``, all of them decided before the moment ``before``.
        """

    async def compare_range(
        self,
        records: Sequence[RecordKey],
        *,
        after: str,
        until: str | None,
        limit: int | None = None,
    ) -> Sequence[Difference]:
        """Compare KV records with the rows whose slug is in (after, until]; None: no upper end.

        Records may be up to 1,000; only differences come back, in slug order. A slug has two when
        its record and its row are of different identities: TAKEN_SLUG, MISSING_IN_DATABASE or
        OTHER_SLUG for the record, then MISSING_IN_KV for the row, unless KV names it elsewhere.

        ``limit`` bounds the answer, which is as large as the range when KV is empty; the two of
        one slug always come together, so there may be one more. With as many as ``limit`` there
        may be further ones: go on with ``after`` the last one's name and the records after it.
        """

    async def compare_aliases(
        self, aliases: Sequence[AliasKey], *, after: str, until: str | None, limit: int
    ) -> Sequence[LackingAlias]:
        """Compare KV's old slugs with those of the table that are in (after, until]; in order.

        Those are left out that no skill of the table would be found by: the skill is not there, or
        another one has the slug.
        """

    async def list_acted(self, *, after: str, limit: int) -> Sequence[Skill]:
        """The skills that operators did something to, in slug order, after the slug ``after``."""

    async def add_rule(self, rule: Rule) -> bool:
        """Keep a rule; whether it is new. One of the same id stays as it is."""

    async def lift_rule(self, lift: RuleLift) -> bool:
        """Note that a rule is lifted, and is yet to be applied as such; whether it was in force
        until now. Atomic."""

    async def list_rules(self, *, before: str | None, limit: int) -> Sequence[Rule]:
        """The newest first, older than the rule of the id ``before``."""

    async def find_rules(self, targets: Sequence[Target], ids: Sequence[str]) -> Sequence[Rule]:
        """The rules in force on these targets, and those of these ids, lifted or not; by id."""

    async def next_open_rule(self, *, after: str) -> Rule | None:
        """The first rule after the id ``after`` that is yet to be applied."""

    async def count_open_rules(self) -> int:
        """Rules that are yet to be applied, or to be applied as lifted."""

    async def list_unruled(self, rule: Rule, *, after: str, limit: int) -> Sequence[str]:
        """The identities of skills, in order, after the identity ``after``, that a rule is yet to
        be applied to: they match it and have no act that names it or, if it is lifted, they have
        one that it has not lifted."""

    async def mark_applied(self, rule: Rule, *, at: str) -> None:
        """Note that a rule is applied, unless it has been lifted since it was read."""

    async def find_content(self, digest: str) -> Sequence[ContentNaming]:
        """Skills that name a digest, of an archive or a SKILL.md: of each licence one, listed and
        not failed where there is such a one."""

    async def compare_content(
        self, stored: Sequence[str], purged: Sequence[str], *, begin: str, end: str
    ) -> Sequence[ContentGroup]:
        """Compare stored digests, all from ``begin`` on and before ``end``, with those that are
        named; the ``purged`` ones are left out. Named and not stored counts only what a listed
        skill names now."""

    async def count_without_content(self) -> int:
        """Listed skills that name no archive."""

    async def withheld_keys(self) -> Sequence[WithheldKey]:
        """Every skill that is not listed, in slug order."""

    async def list_withheld(self, *, after: str, limit: int) -> Sequence[Skill]:
        """The skills that are not listed, whole, in slug order, after the slug ``after``."""

    async def fingerprint(self) -> Fingerprint: ...

    async def list_changes(self, *, since: int, limit: int, seed: Seed) -> Changes:
        """The skills whose latest change has a greater number than ``since``, listed or not.

        Up to ``limit``, and those that have the number of the last one. A change that is committed
        later has a greater number, so nothing is ever added below ``head``.
        """

    async def count_range(self, *, after: str, until: str | None) -> int:
        """Rows whose slug is in (after, until]; None: no upper end."""

    async def store_dead_letter(self, letter: DeadLetter) -> None:
        """Insert; a state of the same id is replaced unless its last failure or redrive is later.
        Of both at one moment the failure counts: the message went round within it."""

    async def list_dead_letters(
        self, *, reason: str | None, after: str | None, limit: int
    ) -> Sequence[DeadLetter]:
        """Letters not redriven, ordered by id, after the id ``after``."""

    async def note_failed_again(self, id_: str, *, at: str) -> None:
        """Note that the queue did not take an open letter at a moment: the others come first."""

    async def list_redrivable(self, *, reason: str | None, limit: int) -> Sequence[DeadLetter]:
        """Letters not redriven whose body is a message, the one that failed first in front."""

    async def mark_redriven(self, ids: Sequence[str], *, at: str) -> None:
        """Close the open letters of these ids that failed before the moment ``at``."""

    async def get_dead_letters(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        """The letters of these ids, redriven or not; unknown ids are left out."""

    async def count_dead_letters(self) -> Mapping[str, int]:
        """Letters not redriven, per reason."""

    async def add_audit_entry(self, entry: AuditEntry) -> None: ...

    async def list_audit_entries(
        self, wanted: AuditFilter, *, before: str | None, limit: int
    ) -> Sequence[AuditEntry]:
        """The newest first, older than the entry of the id ``before``."""

    async def add_report(self, report: SkillReport) -> None: ...

    async def list_reports(self, *, after: ReportPlace | None, limit: int) -> Sequence[SkillReport]:
        """In the order of their places, after the place ``after``."""

    async def get_report(self, id_: str) -> SkillReport | None: ...

    async def resolve_report(self, id_: str, *, at: str, by: str, resolution: str) -> bool:
        """Close a report; whether it was open until now. Atomic."""

    async def ask_for_scans(
        self, wanted: Sequence[WantedScan], *, expired: str, asked_since: str
    ) -> Mapping[str, ScanRequest]:
        """Put requests on the list of scanners, each identity once; what stands there afterwards,
        by identity. Idempotent.

        A request is ``rescan`` where there is a row of the identity, else ``new``. It takes the
        place of an earlier one that is answered, or of those that nobody waits for: ``due`` ones
        and those from ``expired`` or before. A ``rescan`` since ``asked_since`` keeps its place
        against another ``rescan``, answered or not.
        """

    async def hand_out_scans(
        self, *, limit: int, now: str, free_at: Sequence[str], expired: str
    ) -> Sequence[ScanRequest]:
        """Take open requests that are younger than ``expired``, so that nobody else gets them.

        Those that were never handed out come first, ``new`` ones in front, each kind by age; then
        those that were, are free again and not answered. The n-th hand-out of a request makes it
        free again at the n-th moment of ``free_at``, later ones at the last. Atomic.
        """

    async def hand_out_due_scans(
        self, submission_ids: Sequence[str], *, now: str, free_at: str, read_before: str
    ) -> Sequence[ScanRequest]:
        """Ask for scans of the listed skills that were neither read nor asked for since
        ``read_before``, the longest unread first, and take these requests at once. Atomic.

        There are at most as many as ``submission_ids``, which their submissions get. Each skill is
        due again as long after this as after a reading, whatever becomes of the request.
        """

    async def answer_scans(
        self, answered: Sequence[str], *, again: Sequence[str], again_at: str, now: str
    ) -> None:
        """Close the requests of these submissions; those of ``again`` are free at ``again_at``.

        All are counted as results. Nothing else happens where there is no open request. Idempotent
        but for the count.
        """

    async def forget_scans(self, *, asked_before: str, hours_before: str, limit: int) -> int:
        """Delete requests of a moment or before, up to ``limit`` of them, and counts of hours
        before another one; how many requests."""

    async def scan_work(self, *, expired: str, read_before: str, hours_since: str) -> ScanWork:
        """How the list of scanners stands; ``read_before`` as in ``hand_out_due_scans``."""

    async def acquire_lease(self, name: str, holder: str, *, now: str, expires_at: str) -> bool:
        """Take a lease that is free, expired or already the holder's. Atomic."""

    async def release_lease(self, name: str, holder: str) -> None:
        """Nothing happens when another holds it."""

    async def save_state(self, name: str, value: bytes) -> None:
        """Keep a small JSON document (a report, the progress of a job) under a name."""

    async def replace_state(self, name: str, value: bytes, *, before: bytes | None) -> bool:
        """Keep a document if ``before`` is the one that stands; whether that was so. Atomic."""

    async def load_state(self, name: str) -> bytes | None:
        """The document kept under a name."""

    def limit_statements(self, seconds: float | None) -> None:
        """Let PostgreSQL itself end what follows, a call at a time, after so long: it then raises
        DatabaseBusy, and the session stays. None: after the session's usual time."""

    @property
    def closed(self) -> bool:
        """Whether the session has ended, by `close` or because it broke."""

    def close(self) -> None:
        """End the session. Never blocks; also ends a transaction left open, by rolling it back."""


DatabaseConnector = Callable[[], Awaitable[SkillDatabase]]
"""Opens one session with the skill database. Raises DatabaseError."""


class DatabaseSession:
    """The one session of an invocation, for one task at a time.

    ``known`` is the isolate's; without one, what this invocation finds out.
    """

    def __init__(self, connect: DatabaseConnector, known: KnownDatabase | None = None) -> None:
        self.known = KnownDatabase() if known is None else known
        self._connect = connect
        self._database: SkillDatabase | None = None

    async def get(self) -> SkillDatabase:
        """The session, opened on first use; another one where it broke. Raises DatabaseError."""
        if self._database is None or self._database.closed:
            self._database = await self._connect()
        return self._database

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
