"""Publishing: whatever single source is away, what is acknowledged is stored, and once."""

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from marketplace.catalog.answer import Source
from marketplace.catalog.listings import get_skills
from marketplace.catalog.lookup import get_skill_by_name
from marketplace.kv.outbox import find_identity_in_outbox
from marketplace.kv.records import read_record
from marketplace.kv.submissions import create_submission, record_scan, submission_status
from marketplace.ports.database import DatabaseSession, SkillDatabase
from marketplace.ports.env import Env
from marketplace.ports.errors import DatabaseBusy, DatabaseError, DatabaseRefused, DatabaseTimeout
from marketplace.publishing.messages import PUBLISH_QUEUE, publish_message
from marketplace.publishing.publish import Published, publish_skill, publish_skills
from marketplace.repair.light_repair import run_light_repair
from marketplace.skills.acts import ActKind
from marketplace.skills.change import Acted, Change, State
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.scan import ScanReport
from marketplace.skills.skill import Skill, Status
from marketplace.skills.slugs import slug_candidates
from marketplace.skills.submission import Submission, SubmissionStatus
from marketplace.skills.tiers import Verdict
from marketplace.worker.consumers import DEAD_LETTER_QUEUE, consume
from tests.doubles.database import no_hook
from tests.doubles.marketplace import Delivered, Market, kv_away, postgres_away
from tests.doubles.network import Fault
from tests.examples import act

EARLIER, LATER = "2026-03-01T10:00:00.000Z", "2026-03-02T10:00:00.000Z"


@pytest.fixture
def market(market: Market) -> Iterator[Market]:
    """Neither publishing nor its repair sends a message here."""
    yield market
    assert (market.publish.bodies, market.maintenance.bodies) == ([], [])


def once_before(market: Market, operation: str, act: Callable[[], Awaitable[object]]) -> None:
    """Let something happen before the database's next operation of this name."""

    async def before(asked: str) -> None:
        if asked == operation:
            market.tables.before = no_hook
            await act()

    market.tables.before = before


async def listed(market: Market) -> set[str]:
    listing = await get_skills(market.env, ListingQuery(limit=100))
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


async def publish(market: Market, skill: Skill) -> Published:
    outcome = await publish_skill(market.env, skill)
    assert isinstance(outcome, Published)
    return outcome


async def keys(market: Market, prefix: str) -> list[str]:
    return [key.name for key in (await market.kv.list(prefix=prefix)).keys]


def row_names(market: Market) -> dict[str, str]:
    return {identity: row.skill.name for identity, row in market.tables.rows.items()}


async def test_a_skill_goes_into_both_sources_under_its_base_slug(market: Market) -> None:
    outcome = await publish(market, make_skill())

    assert (outcome.in_database, outcome.in_kv) == (True, True)
    assert row_names(market) == {make_skill().identity: "reader"}
    assert "skill:reader" in await keys(market, "skill:")


async def test_two_skills_of_one_base_slug_keep_apart(market: Market) -> None:
    await publish(market, make_skill("acme"))
    await publish(market, make_skill("zeta"))

    assert await listed(market) == {"reader", "zeta-reader"}
    assert {"skill:reader", "skill:zeta-reader"} <= set(await keys(market, "skill:"))


@pytest.mark.parametrize("error", [DatabaseTimeout, DatabaseBusy])
async def test_what_took_postgres_too_long_is_not_tried_twice_in_a_row(
    market: Market, error: type[DatabaseError]
) -> None:
    tried: list[str] = []

    async def slow(operation: str) -> None:
        if operation == "get_skills":
            tried.append(operation)
            raise error("too long")

    market.tables.before = slow
    assert not (await publish(market, make_skill("acme"))).in_database
    assert len(tried) == 1


async def test_two_skills_of_one_base_slug_keep_apart_without_postgres(market: Market) -> None:
    market.tables.before = postgres_away
    names = {(await publish(market, make_skill(owner))).skill.name for owner in ("acme", "zeta")}

    expected = {
        slug_candidates(make_skill(owner).repo_url, "reader")[-1] for owner in ("acme", "zeta")
    }
    assert names == expected
    assert await listed(market) == expected


async def test_a_slug_given_without_postgres_is_kept_after_the_repair(market: Market) -> None:
    market.tables.before = postgres_away
    name = (await publish(market, make_skill())).skill.name
    assert len(await keys(market, "outbox:")) == 1
    market.tables.before = no_hook

    report = await run_light_repair(market.env)

    assert (report.database_backfilled, report.errors) == (1, [])
    assert row_names(market) == {make_skill().identity: name}
    assert await keys(market, "outbox:") == []
    assert await listed(market) == {name}


async def test_a_postgres_that_refuses_every_session_costs_no_skill_and_is_an_error_in_the_log(
    market: Market,
) -> None:
    async def refuses() -> SkillDatabase:
        raise DatabaseRefused("unknown database")

    env = replace(market.env, database=DatabaseSession(refuses))

    outcome = await publish_skill(env, make_skill())

    assert isinstance(outcome, Published)
    assert (outcome.in_database, outcome.in_kv) == (False, True)
    assert ("error", "refused") in {
        (line["level"], line.get("reason")) for line in market.log.lines
    }


async def test_without_kv_postgres_is_enough_and_the_repair_writes_the_record(
    market: Market,
) -> None:
    market.kv.faults = kv_away
    outcome = await publish(market, make_skill())
    assert (outcome.in_database, outcome.in_kv) == (True, False)
    market.kv.faults = None

    report = await run_light_repair(market.env)

    assert report.kv_backfilled == 1
    assert "skill:reader" in await keys(market, "skill:")
    assert (await run_light_repair(market.env)).kv_backfilled == 0


@pytest.mark.parametrize("database_away", [False, True])
async def test_a_late_older_version_changes_nothing(market: Market, database_away: bool) -> None:
    newer = make_skill(version="2.0.0", updated_at=LATER)
    await publish(market, newer)
    if database_away:
        market.tables.before = postgres_away

    await publish(market, make_skill(version="1.0.0"))

    record = await read_record(market.env, "reader")
    assert isinstance(record, Skill)
    assert record.current_version == "2.0.0"
    found = await get_skill_by_name(market.env, "reader")
    assert found is not None
    assert found.value.current_version == "2.0.0"


async def test_a_row_that_postgres_lost_is_not_overwritten_in_kv_by_another_skill(
    market: Market,
) -> None:
    await publish(market, make_skill("acme"))
    market.tables.rows.clear()
    market.tables.identities.clear()

    await publish(market, make_skill("zeta"))

    record = await read_record(market.env, "reader")
    assert isinstance(record, Skill)
    assert record.author == "acme"


async def test_a_lost_row_comes_back_as_kv_has_it_and_not_older(market: Market) -> None:
    await publish(market, make_skill(version="2.0.0", updated_at=LATER))
    market.tables.rows.clear()
    market.tables.identities.clear()

    await publish(market, make_skill(version="1.0.0"))

    (row,) = market.tables.rows.values()
    assert row.skill.current_version == "2.0.0"


async def test_without_a_look_at_kv_nothing_is_written_there(market: Market) -> None:
    await publish(market, make_skill("acme"))
    market.tables.rows.clear()
    market.tables.identities.clear()
    market.kv.faults = lambda operation: Fault.FAIL if operation.kind == "get_many" else None

    outcome = await publish(market, make_skill("zeta"))

    assert (outcome.in_database, outcome.in_kv) == (True, False)
    market.kv.faults = None
    assert (await run_light_repair(market.env)).kv_backfilled == 0
    record = await read_record(market.env, "reader")
    assert isinstance(record, Skill)
    assert record.author == "acme"


async def test_the_light_repair_writes_no_older_row_over_a_newer_record(market: Market) -> None:
    newer = make_skill(version="2.0.0")
    await publish_skill(market.env, newer)
    market.tables.rows.clear()
    market.tables.identities.clear()
    market.kv.faults = kv_away  # so that it cannot be seen that KV has a newer state
    await publish_skill(market.env, make_skill(version="1.0.0"))
    market.kv.faults = None

    report = await run_light_repair(market.env)

    assert (report.database_backfilled, report.kv_backfilled) == (1, 0)
    (row,) = market.tables.rows.values()
    assert row.revision == newer.revision
    record = await read_record(market.env, row.skill.name)
    assert isinstance(record, Skill)
    assert record.revision == newer.revision


async def test_a_publish_during_the_light_repair_leaves_its_newer_record(market: Market) -> None:
    market.kv.faults = kv_away
    await publish(market, make_skill())
    market.kv.faults = None
    newer = make_skill(version="2.0.0", updated_at=LATER)

    async def take_newer_row() -> None:
        with await market.tables.connect() as database:
            await database.upsert_skill(State(newer), candidates=["reader"])

    once_before(market, "mark_in_kv", take_newer_row)
    await run_light_repair(market.env)

    record = await read_record(market.env, "reader")
    assert isinstance(record, Skill)
    assert record.current_version == "2.0.0"
    assert market.tables.rows[newer.identity].revision_in_kv == newer.revision


async def test_a_row_that_postgres_loses_during_a_publish_does_not_bring_its_older_state_back(
    market: Market,
) -> None:
    older, newer = make_skill(version="1.0.0"), make_skill(version="2.0.0", updated_at=LATER)
    await publish(market, older)
    before = dict(market.tables.rows)

    async def fail_over() -> None:
        market.tables.rows.update(before)

    once_before(market, "mark_in_kv", fail_over)
    await publish(market, newer)

    record = await read_record(market.env, "reader")
    assert isinstance(record, Skill)
    assert record.revision == newer.revision
    await run_light_repair(market.env)
    assert market.tables.rows[newer.identity].revision == newer.revision


async def test_the_light_repair_reports_what_kv_did_not_take(market: Market) -> None:
    market.kv.faults = kv_away
    await publish(market, make_skill())
    market.kv.faults = lambda operation: Fault.FAIL if operation.kind == "put" else None

    report = await run_light_repair(market.env)

    assert (report.kv_backfilled, len(report.errors)) == (0, 1)


# The consumer


async def submit(
    market: Market, submission_id: str, *, verdict: Verdict | None = Verdict.PASS
) -> Delivered:
    submission = Submission(
        id=submission_id,
        repo_url=f"https://github.com/{submission_id}/tools",
        skill_name="Reader",
        base_slug="reader",
        created_at=EARLIER,
    )
    await create_submission(market.env, submission)
    if verdict is not None:
        report = ScanReport(submission_id=submission_id, verdict=verdict, score=90)
        await record_scan(market.env, report.on(submission, LATER))
    return Delivered({"submissionId": submission_id}, id=submission_id)


async def deliver(market: Market, *messages: Delivered, queue: str = PUBLISH_QUEUE) -> None:
    await consume(market.env, queue, messages)


def reasons(market: Market) -> list[str]:
    return sorted(letter.reason for letter in market.tables.dead_letters.values())


async def test_one_bad_message_does_not_affect_its_neighbours(market: Market) -> None:
    good = [await submit(market, "one"), await submit(market, "two")]
    bad = [
        Delivered({"submissionId": "nobody"}, id="a"),
        Delivered("nonsense", id="b"),
        await submit(market, "unscanned", verdict=None),
        await submit(market, "failed", verdict=Verdict.FAIL),
    ]
    bad[-1].attempts = 6  # a PASS would have been seen by now

    await deliver(market, good[0], *bad, good[1])

    assert all(message.settled == ["ack"] for message in [*good, *bad])
    assert len(market.tables.rows) == 2
    assert reasons(market) == ["invalid-message", "not-scanned", "not-scanned"]


async def test_a_bug_that_one_message_meets_does_not_affect_its_neighbours(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [await submit(market, "one"), await submit(market, "two")]
    bad = await submit(market, "three")

    async def explode(env: Env, changes: Sequence[Change]) -> Any:
        if any("three" in change.identity for change in changes):
            raise ZeroDivisionError
        return await publish_skills(env, changes)

    monkeypatch.setattr("marketplace.publishing.consumer.publish_skills", explode)
    await deliver(market, good[0], bad, good[1])

    assert [message.settled for message in good] == [["ack"], ["ack"]]
    assert bad.settled == ["retry in 5"]
    assert len(market.tables.rows) == 2
    (line,) = [line for line in market.log.lines if line["event"] == "publish-batch"]
    counted = [line[name] for name in ("messages", "published", "buried", "retried")]
    assert counted == [3, 2, 0, 1]


async def test_a_message_waits_for_kv_to_show_its_verdict(market: Market) -> None:
    await submit(market, "one")
    body = publish_message("one", "2999-01-01T00:00:00.000Z")
    early, late = Delivered(body), Delivered(body, attempts=6)

    await deliver(market, early)
    await deliver(market, late)

    assert (early.settled, late.settled) == (["retry in 5"], ["ack"])
    assert reasons(market) == ["not-scanned"]
    assert not market.tables.rows


async def test_a_fail_waits_for_an_older_pass_that_may_still_list_the_skill(
    market: Market,
) -> None:
    early = await submit(market, "one", verdict=Verdict.FAIL)
    late = Delivered(early.body, attempts=6)

    await deliver(market, early)
    await deliver(market, late)

    assert (early.settled, late.settled) == (["retry in 5"], ["ack"])
    assert (reasons(market), market.tables.rows) == ([], {})


async def test_an_unknown_submission_is_no_dead_letter_while_kv_may_be_late(market: Market) -> None:
    body = publish_message("nobody", EARLIER)
    early, late = Delivered(body), Delivered(body, attempts=6)

    await deliver(market, early)
    await deliver(market, late)

    assert (early.settled, late.settled) == (["retry in 5"], ["ack"])
    assert reasons(market) == ["not-scanned"]


async def test_a_repeated_poison_message_stays_one_dead_letter(market: Market) -> None:
    for _ in range(2):
        await deliver(market, Delivered({"submissionId": "nobody"}))

    assert reasons(market) == ["not-scanned"]


async def test_with_both_sources_away_a_message_is_retried_later_and_later(market: Market) -> None:
    message = await submit(market, "one")
    market.tables.before = postgres_away
    market.kv.faults = kv_away

    for attempt in (1, 2, 3):
        message.attempts = attempt
        await deliver(market, message)

    assert message.settled == ["retry in 5", "retry in 10", "retry in 20"]


async def test_a_submission_whose_message_was_processed_is_published(market: Market) -> None:
    await deliver(market, await submit(market, "one"))

    status = await submission_status(market.env, "one")
    assert isinstance(status, SubmissionStatus)
    assert (status.state, status.slug) == ("PUBLISHED", "reader")


async def test_what_the_queue_gave_up_is_kept_with_its_reason(market: Market) -> None:
    message = Delivered({"submissionId": "one"}, attempts=11)

    await deliver(market, message, queue=DEAD_LETTER_QUEUE)

    assert message.settled == ["ack"]
    assert reasons(market) == ["retries-exhausted"]


async def test_a_dead_letter_is_retried_while_postgres_is_away(market: Market) -> None:
    message = Delivered({"submissionId": "one"})
    market.tables.before = postgres_away

    await deliver(market, message, queue=DEAD_LETTER_QUEUE)

    assert message.settled == ["retry in 5"]


# Reading


async def test_listings_name_their_source_and_say_when_they_are_degraded(market: Market) -> None:
    await publish(market, make_skill())

    async def ask() -> tuple[Source, bool]:
        answer = await get_skills(market.env, ListingQuery())
        return answer.source, answer.degraded

    assert await ask() == (Source.POSTGRES, False)
    market.tables.before = postgres_away
    assert await ask() == (Source.KV_ENUMERATION, True)
    market.kv.faults = kv_away
    assert await ask() == (Source.SEED, True)
    assert any("read-falls-back" in event for event in market.log.events())


async def test_with_postgres_away_nothing_is_written_where_another_may_be_by_now(
    market: Market,
) -> None:
    """The record under a common slug may be what a read from before a move has shown."""
    await publish(market, make_skill())
    before = await read_record(market.env, "reader")
    market.tables.before = postgres_away
    newer = make_skill(version="2.0.0", updated_at=LATER)

    outcome = await publish(market, newer)

    assert (outcome.in_database, outcome.in_kv, outcome.skill.name) == (False, True, "reader")
    assert await read_record(market.env, "reader") == before
    found = await get_skill_by_name(market.env, "reader")
    assert found is not None
    assert found.value.revision == newer.revision
    listing = await get_skills(market.env, ListingQuery(search="reader"))
    (item,) = listing.value.items
    assert msgspec.json.decode(item)["currentVersion"] == "2.0.0"

    market.tables.before = no_hook
    await run_light_repair(market.env)
    assert await read_record(market.env, "reader") == outcome.skill


async def test_what_waits_without_postgres_is_changed_further_and_not_forgotten(
    market: Market,
) -> None:
    await publish(market, make_skill())
    market.tables.before = postgres_away
    newer = make_skill(version="2.0.0", updated_at=LATER)
    await publish(market, newer)

    await publish_skills(market.env, [Acted(newer.identity, (act(ActKind.WITHDRAW),))])

    waiting = await find_identity_in_outbox(market.env, newer.identity)
    assert waiting is not None
    assert (waiting.skill.current_version, waiting.skill.status) == ("2.0.0", Status.WITHDRAWN)
