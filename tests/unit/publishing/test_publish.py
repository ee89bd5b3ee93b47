"""Publishing: whatever single source is away, what is acknowledged is stored, and once."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from marketplace.catalog.answer import Source
from marketplace.catalog.listings import get_skills
from marketplace.catalog.lookup import get_skill_by_name
from marketplace.kv.records import read_record
from marketplace.kv.submissions import create_submission, record_scan, submission_status
from marketplace.ports.database import DatabaseSession, SkillDatabase
from marketplace.ports.env import Env
from marketplace.ports.errors import DatabaseError, DatabaseRefused
from marketplace.publishing.messages import PUBLISH_QUEUE, publish_message
from marketplace.publishing.publish import Published, publish_skill, publish_skills
from marketplace.repair.light_repair import run_light_repair
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.skill import Skill
from marketplace.skills.slugs import slug_candidates
from marketplace.skills.submission import Scan, Submission, Verdict
from marketplace.worker.consumers import DEAD_LETTER_QUEUE, consume
from tests.doubles.database import DatabaseDouble
from tests.doubles.kv import SimulatedKv
from tests.doubles.network import Fault

EARLIER, LATER = "2026-03-01T10:00:00.000Z", "2026-03-02T10:00:00.000Z"


class UnusedQueue:
    """A producer that must not be used."""

    async def send_batch(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        raise AssertionError(f"sent {bodies}")


@dataclass
class Message:
    """One delivery, and how it was settled."""

    body: Any
    attempts: int = 1
    settled: list[str] = field(default_factory=list)
    id: str = "message"

    def ack(self) -> None:
        self.settled.append("ack")

    def retry(self, *, delay_seconds: int) -> None:
        self.settled.append(f"retry in {delay_seconds}")


class World:
    """A marketplace in memory whose sources can be switched off."""

    def __init__(self) -> None:
        self.kv = SimulatedKv()
        self.database = DatabaseDouble(before=self._before)
        self.database_away = False
        self.meanwhile: dict[str, Callable[[], Awaitable[object]]] = {}  # once, before it
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.env = Env(
            submissions_kv=self.kv,
            database=DatabaseSession(self.database.connect),
            publish_queue=UnusedQueue(),
            maintenance_queue=UnusedQueue(),
            log=lambda event, **fields: self.log.append((event, fields)),
        )

    async def _before(self, operation: str) -> None:
        if self.database_away:
            raise DatabaseError("switched off")
        if operation in self.meanwhile:
            await self.meanwhile.pop(operation)()

    def kv_away(self, away: bool) -> None:
        self.kv.faults = (lambda _operation: Fault.FAIL) if away else None

    async def listed(self) -> set[str]:
        listing = await get_skills(self.env, ListingQuery(limit=100))
        return {skill["name"] for skill in decode_items(listing.value.items)}


def decode_items(items: Sequence[bytes]) -> list[dict[str, Any]]:
    return [json.loads(item) for item in items]


def make_skill(owner: str = "acme", *, version: str = "1.0.0", updated_at: str = EARLIER) -> Skill:
    return Skill(
        name="reader",
        base_slug="reader",
        display_name="Reader",
        description=f"Reads, by {owner}.",
        author=owner,
        repo_url=f"https://github.com/{owner}/tools",
        current_version=version,
        published_at=updated_at,
        updated_at=updated_at,
    )


async def publish(world: World, skill: Skill) -> Published:
    outcome = await publish_skill(world.env, skill)
    assert isinstance(outcome, Published)
    return outcome


async def keys(world: World, prefix: str) -> list[str]:
    return [key.name for key in (await world.kv.list(prefix=prefix)).keys]


def row_names(world: World) -> dict[str, str]:
    return {identity: row.skill.name for identity, row in world.database.rows.items()}


@pytest.fixture
def world() -> World:
    return World()


async def test_a_skill_goes_into_both_sources_under_its_base_slug(world: World) -> None:
    outcome = await publish(world, make_skill())

    assert (outcome.in_database, outcome.in_kv) == (True, True)
    assert row_names(world) == {make_skill().identity: "reader"}
    assert "skill:reader" in await keys(world, "skill:")


async def test_two_skills_of_one_base_slug_keep_apart(world: World) -> None:
    await publish(world, make_skill("acme"))
    await publish(world, make_skill("zeta"))

    assert await world.listed() == {"reader", "zeta-reader"}
    assert {"skill:reader", "skill:zeta-reader"} <= set(await keys(world, "skill:"))


async def test_two_skills_of_one_base_slug_keep_apart_without_postgres(world: World) -> None:
    world.database_away = True
    names = {(await publish(world, make_skill(owner))).skill.name for owner in ("acme", "zeta")}

    expected = {
        slug_candidates(make_skill(owner).repo_url, "reader")[-1] for owner in ("acme", "zeta")
    }
    assert names == expected
    assert await world.listed() == expected


async def test_a_slug_given_without_postgres_is_kept_after_the_repair(world: World) -> None:
    world.database_away = True
    name = (await publish(world, make_skill())).skill.name
    assert len(await keys(world, "outbox:")) == 1
    world.database_away = False

    report = await run_light_repair(world.env)

    assert (report.database_backfilled, report.errors) == (1, [])
    assert row_names(world) == {make_skill().identity: name}
    assert await keys(world, "outbox:") == []
    assert await world.listed() == {name}


async def test_a_postgres_that_refuses_every_session_costs_no_skill_and_is_an_error_in_the_log(
    world: World,
) -> None:
    async def refuses() -> SkillDatabase:
        raise DatabaseRefused("unknown database")

    env = replace(world.env, database=DatabaseSession(refuses))

    outcome = await publish_skill(env, make_skill())

    assert isinstance(outcome, Published)
    assert (outcome.in_database, outcome.in_kv) == (False, True)
    assert ("error", "refused") in {
        (fields.get("level"), fields.get("reason")) for _, fields in world.log
    }


async def test_without_kv_postgres_is_enough_and_the_repair_writes_the_record(world: World) -> None:
    world.kv_away(True)
    outcome = await publish(world, make_skill())
    assert (outcome.in_database, outcome.in_kv) == (True, False)
    world.kv_away(False)

    report = await run_light_repair(world.env)

    assert report.kv_backfilled == 1
    assert "skill:reader" in await keys(world, "skill:")
    assert (await run_light_repair(world.env)).kv_backfilled == 0


@pytest.mark.parametrize("database_away", [False, True])
async def test_a_late_older_version_changes_nothing(world: World, database_away: bool) -> None:
    newer = make_skill(version="2.0.0", updated_at=LATER)
    await publish(world, newer)
    world.database_away = database_away

    await publish(world, make_skill(version="1.0.0"))

    record = await read_record(world.env, "reader")
    assert isinstance(record, Skill)
    assert record.current_version == "2.0.0"
    found = await get_skill_by_name(world.env, "reader")
    assert found is not None
    assert found.value.current_version == "2.0.0"


async def test_a_row_that_postgres_lost_is_not_overwritten_in_kv_by_another_skill(
    world: World,
) -> None:
    await publish(world, make_skill("acme"))
    world.database.rows.clear()
    world.database.identities.clear()

    await publish(world, make_skill("zeta"))

    record = await read_record(world.env, "reader")
    assert isinstance(record, Skill)
    assert record.author == "acme"


async def test_a_lost_row_comes_back_as_kv_has_it_and_not_older(world: World) -> None:
    await publish(world, make_skill(version="2.0.0", updated_at=LATER))
    world.database.rows.clear()
    world.database.identities.clear()

    await publish(world, make_skill(version="1.0.0"))

    (row,) = world.database.rows.values()
    assert row.skill.current_version == "2.0.0"


async def test_without_a_look_at_kv_nothing_is_written_there(world: World) -> None:
    await publish(world, make_skill("acme"))
    world.database.rows.clear()
    world.database.identities.clear()
    world.kv.faults = lambda operation: Fault.FAIL if operation.kind == "get_many" else None

    outcome = await publish(world, make_skill("zeta"))

    assert (outcome.in_database, outcome.in_kv) == (True, False)
    world.kv.faults = None
    assert (await run_light_repair(world.env)).kv_backfilled == 0
    record = await read_record(world.env, "reader")
    assert isinstance(record, Skill)
    assert record.author == "acme"


async def test_the_light_repair_writes_no_older_row_over_a_newer_record(world: World) -> None:
    newer = make_skill(version="2.0.0")
    await publish_skill(world.env, newer)
    world.database.rows.clear()
    world.database.identities.clear()
    world.kv_away(True)  # so that it cannot be seen that KV has a newer state
    await publish_skill(world.env, make_skill(version="1.0.0"))
    world.kv_away(False)

    report = await run_light_repair(world.env)

    assert (report.database_backfilled, report.kv_backfilled) == (1, 0)
    (row,) = world.database.rows.values()
    assert row.revision == newer.revision
    record = await read_record(world.env, row.skill.name)
    assert isinstance(record, Skill)
    assert record.revision == newer.revision


async def test_a_publish_during_the_light_repair_leaves_its_newer_record(world: World) -> None:
    world.kv_away(True)
    await publish(world, make_skill())
    world.kv_away(False)
    newer = make_skill(version="2.0.0", updated_at=LATER)

    async def take_newer_row() -> None:
        with await world.database.connect() as database:
            await database.upsert_skill(newer, candidates=["reader"])

    world.meanwhile["mark_in_kv"] = take_newer_row
    await run_light_repair(world.env)

    record = await read_record(world.env, "reader")
    assert isinstance(record, Skill)
    assert record.current_version == "2.0.0"
    assert world.database.rows[newer.identity].revision_in_kv == newer.revision


async def test_a_row_that_postgres_loses_during_a_publish_does_not_bring_its_older_state_back(
    world: World,
) -> None:
    older, newer = make_skill(version="1.0.0"), make_skill(version="2.0.0", updated_at=LATER)
    await publish(world, older)
    before = dict(world.database.rows)

    async def fail_over() -> None:
        world.database.rows.update(before)

    world.meanwhile["mark_in_kv"] = fail_over
    await publish(world, newer)

    record = await read_record(world.env, "reader")
    assert isinstance(record, Skill)
    assert record.revision == newer.revision
    await run_light_repair(world.env)
    assert world.database.rows[newer.identity].revision == newer.revision


async def test_the_light_repair_reports_what_kv_did_not_take(world: World) -> None:
    world.kv_away(True)
    await publish(world, make_skill())
    world.kv.faults = lambda operation: Fault.FAIL if operation.kind == "put" else None

    report = await run_light_repair(world.env)

    assert (report.kv_backfilled, len(report.errors)) == (0, 1)


# The consumer


async def submit(
    world: World, submission_id: str, *, verdict: Verdict | None = Verdict.PASS
) -> Message:
    submission = Submission(
        id=submission_id,
        repo_url=f"https://github.com/{submission_id}/tools",
        skill_name="Reader",
        base_slug="reader",
        created_at=EARLIER,
    )
    await create_submission(world.env, submission)
    if verdict is not None:
        scan = Scan(submission_id=submission_id, verdict=verdict, score=90, scanned_at=LATER)
        await record_scan(world.env, submission, scan)
    return Message({"submissionId": submission_id}, id=submission_id)


async def deliver(world: World, *messages: Message, queue: str = PUBLISH_QUEUE) -> None:
    await consume(world.env, queue, messages)


def reasons(world: World) -> list[str]:
    return sorted(letter.reason for letter in world.database.dead_letters.values())


async def test_one_bad_message_does_not_affect_its_neighbours(world: World) -> None:
    good = [await submit(world, "one"), await submit(world, "two")]
    bad = [
        Message({"submissionId": "nobody"}, id="a"),
        Message("nonsense", id="b"),
        await submit(world, "unscanned", verdict=None),
        await submit(world, "failed", verdict=Verdict.FAIL),
    ]

    await deliver(world, good[0], *bad, good[1])

    assert all(message.settled == ["ack"] for message in [*good, *bad])
    assert len(world.database.rows) == 2
    assert reasons(world) == ["invalid-message", "not-passed", "not-scanned", "unknown-submission"]


async def test_a_bug_that_one_message_meets_does_not_affect_its_neighbours(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [await submit(world, "one"), await submit(world, "two")]
    bad = await submit(world, "three")

    async def explode(env: Env, skills: Sequence[Skill], *, untrusted: Sequence[Skill]) -> Any:
        if any("three" in skill.repo_url for skill in (*skills, *untrusted)):
            raise ZeroDivisionError
        return await publish_skills(env, skills, untrusted=untrusted)

    monkeypatch.setattr("marketplace.publishing.consumer.publish_skills", explode)
    await deliver(world, good[0], bad, good[1])

    assert [message.settled for message in good] == [["ack"], ["ack"]]
    assert bad.settled == ["retry in 5"]
    assert len(world.database.rows) == 2


async def test_a_message_waits_for_kv_to_show_its_verdict(world: World) -> None:
    await submit(world, "one")
    body = publish_message("one", "2999-01-01T00:00:00.000Z")
    early, late = Message(body), Message(body, attempts=6)

    await deliver(world, early)
    await deliver(world, late)

    assert (early.settled, late.settled) == (["retry in 5"], ["ack"])
    assert reasons(world) == ["not-scanned"]
    assert not world.database.rows


async def test_an_unknown_submission_is_no_dead_letter_while_kv_may_be_late(world: World) -> None:
    body = publish_message("nobody", EARLIER)
    early, late = Message(body), Message(body, attempts=6)

    await deliver(world, early)
    await deliver(world, late)

    assert (early.settled, late.settled) == (["retry in 5"], ["ack"])
    assert reasons(world) == ["unknown-submission"]


async def test_a_repeated_poison_message_stays_one_dead_letter(world: World) -> None:
    for _ in range(2):
        await deliver(world, Message({"submissionId": "nobody"}))

    assert reasons(world) == ["unknown-submission"]


async def test_with_both_sources_away_a_message_is_retried_later_and_later(world: World) -> None:
    message = await submit(world, "one")
    world.database_away = True
    world.kv_away(True)

    for attempt in (1, 2, 3):
        message.attempts = attempt
        await deliver(world, message)

    assert message.settled == ["retry in 5", "retry in 10", "retry in 20"]


async def test_a_submission_whose_message_was_processed_is_published(world: World) -> None:
    await deliver(world, await submit(world, "one"))

    status = await submission_status(world.env, "one")
    assert status is not None
    assert (status.state, status.slug) == ("PUBLISHED", "reader")


async def test_what_the_queue_gave_up_is_kept_with_its_reason(world: World) -> None:
    message = Message({"submissionId": "one"}, attempts=11)

    await deliver(world, message, queue=DEAD_LETTER_QUEUE)

    assert message.settled == ["ack"]
    assert reasons(world) == ["retries-exhausted"]


async def test_a_dead_letter_is_retried_while_postgres_is_away(world: World) -> None:
    message = Message({"submissionId": "one"})
    world.database_away = True

    await deliver(world, message, queue=DEAD_LETTER_QUEUE)

    assert message.settled == ["retry in 5"]


# Reading


async def test_listings_name_their_source_and_say_when_they_are_degraded(world: World) -> None:
    await publish(world, make_skill())

    async def ask() -> tuple[Source, bool]:
        answer = await get_skills(world.env, ListingQuery())
        return answer.source, answer.degraded

    assert await ask() == (Source.POSTGRES, False)
    world.database_away = True
    assert await ask() == (Source.KV_ENUMERATION, True)
    world.kv_away(True)
    assert await ask() == (Source.SEED, True)
    assert any("read falls back" in event for event, _ in world.log)


async def test_with_postgres_away_nothing_is_written_where_another_may_be_by_now(
    world: World,
) -> None:
    """The record under a common slug may be what a read from before a move has shown."""
    await publish(world, make_skill())
    before = await read_record(world.env, "reader")
    world.database_away = True
    newer = make_skill(version="2.0.0", updated_at=LATER)

    outcome = await publish(world, newer)

    assert (outcome.in_database, outcome.in_kv, outcome.skill.name) == (False, True, "reader")
    assert await read_record(world.env, "reader") == before
    found = await get_skill_by_name(world.env, "reader")
    assert found is not None
    assert found.value.revision == newer.revision
    listing = await get_skills(world.env, ListingQuery(search="reader"))
    (item,) = listing.value.items
    assert msgspec.json.decode(item)["currentVersion"] == "2.0.0"

    world.database_away = False
    await run_light_repair(world.env)
    assert await read_record(world.env, "reader") == outcome.skill
