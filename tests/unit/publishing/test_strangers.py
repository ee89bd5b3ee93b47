"""A stranger's submission makes a new skill and changes none that is listed."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from marketplace.catalog.answer import Source
from marketplace.catalog.listings import get_skills
from marketplace.catalog.lookup import get_skill_by_name
from marketplace.kv.outbox import list_outbox
from marketplace.kv.records import read_record
from marketplace.kv.submissions import create_submission, record_scan
from marketplace.ports.database import DatabaseSession
from marketplace.ports.env import Env
from marketplace.publishing.messages import PUBLISH_QUEUE, publish_message
from marketplace.publishing.publish import publish_skills
from marketplace.publishing.submissions import get_submission_status, submit
from marketplace.repair.light_repair import run_light_repair
from marketplace.repair.rebuild import start_rebuild
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.seed import load_seed
from marketplace.skills.skill import Skill
from marketplace.skills.submission import (
    Scan,
    Submission,
    SubmissionState,
    SubmissionStatus,
    Verdict,
)
from marketplace.worker.consumers import consume
from tests.doubles.marketplace import Delivered, Market, fault, postgres_away
from tests.doubles.network import Fault

MOMENTS = [f"2025-12-{day:02d}T10:00:00.000Z" for day in range(1, 29)]
DIGEST_SLUG = "acme-tools-reader-"  # how the slug without PostgreSQL begins


def _submission(id_: str, *, trusted: bool = False, **fields: Any) -> Submission:
    values: dict[str, Any] = {
        "repo_url": "https://github.com/acme/tools",
        "skill_name": "Reader",
        "base_slug": "reader",
        "created_at": MOMENTS[0],
        "description": f"As {id_} says.",
        **fields,
    }
    return Submission(id=id_, trusted=trusted, **values)


def _scan(id_: str, day: int, **fields: Any) -> Scan:
    values: dict[str, Any] = {"verdict": Verdict.PASS, "score": 90, **fields}
    return Scan(submission_id=id_, scanned_at=MOMENTS[day], **values)


async def _pass(market: Market, submission: Submission, day: int, **fields: Any) -> Delivered:
    """Keep a submission and its verdict, as if both had come before the skill was listed."""
    scan = _scan(submission.id, day, **fields)
    await create_submission(market.env, submission)
    await record_scan(market.env, submission, scan)
    return Delivered(publish_message(submission.id, scan.scanned_at), id=submission.id)


async def _deliver(market: Market, *messages: Delivered, env: Env | None = None) -> None:
    await consume(env or market.env, PUBLISH_QUEUE, messages)


async def _publish(market: Market, submission: Submission, day: int, **fields: Any) -> None:
    message = await _pass(market, submission, day, **fields)
    await _deliver(market, message)
    assert message.acknowledged


def _without_postgres(market: Market) -> Env:

    return replace(market.env, database=DatabaseSession(postgres_away))


def _row(market: Market) -> Skill:
    (row,) = market.tables.rows.values()
    return row.skill


async def _descriptions(env: Env) -> tuple[Source, list[str]]:
    answer = await get_skills(env, ListingQuery())
    items = [msgspec.json.decode(item) for item in answer.value.items]
    return answer.source, [item["description"] for item in items]


async def _repair(market: Market) -> None:
    """The light repair and a rebuild: afterwards all stores have every skill."""
    assert (await run_light_repair(market.env)).errors == []
    job = await start_rebuild(market.env, wait_seconds=20)
    assert (job.complete, job.error_details) == (True, [])


# --- submitting


async def test_a_stranger_is_told_that_a_listed_skill_is_verified_in_any_version(
    market: Market,
) -> None:
    await _publish(market, _submission("first"), 1)
    for version in ("0.1.0", "1.0.0", "9.0.0", "9999999999.0.0"):
        receipt = await submit(market.env, _submission("second", version=version))
        assert (receipt.already_verified, receipt.slug) == (True, "reader"), version
        assert (receipt.id, receipt.state) == ("first", SubmissionState.PUBLISHED)
    for url in ("https://github.com/ACME/Tools", "https://github.com/acme/tools.git"):
        receipt = await submit(market.env, _submission("second", repo_url=url, version="9.0.0"))
        assert receipt.already_verified, url
    assert market.kv.keys("sub:") == ["sub:first"]


async def test_a_trusted_caller_may_bring_a_newer_version(market: Market) -> None:
    await _publish(market, _submission("first"), 1)
    same = await submit(market.env, _submission("second", trusted=True))
    assert same.already_verified
    newer = await submit(market.env, _submission("third", trusted=True, version="2.0.0"))
    assert (newer.id, newer.state) == ("third", SubmissionState.RECEIVED)


async def test_a_seed_skill_is_listed_to_a_stranger(market: Market) -> None:
    seed = load_seed()
    skill = seed.skills[0]
    env = replace(market.env, seed=seed)
    same: dict[str, Any] = {
        "repo_url": skill.repo_url,
        "base_slug": skill.base_slug,
        "version": "9.0.0",
    }
    receipt = await submit(env, _submission("one", **same))
    assert (receipt.already_verified, receipt.slug) == (True, skill.name)
    trusted = await submit(env, _submission("two", trusted=True, **same))
    assert trusted.state is SubmissionState.RECEIVED


async def test_what_waits_in_the_outbox_is_listed_to_a_stranger(market: Market) -> None:
    env = _without_postgres(market)
    await _deliver(market, await _pass(market, _submission("first"), 1), env=env)
    receipt = await submit(env, _submission("second", version="9.0.0"))
    assert receipt.already_verified
    assert (receipt.slug or "").startswith(DIGEST_SLUG)


async def test_an_earlier_submission_answers_but_a_strangers_stands_for_no_update(
    market: Market,
) -> None:
    await submit(market.env, _submission("stranger"))
    for trusted in (False, True):
        receipt = await submit(market.env, _submission("again", trusted=trusted))
        assert (receipt.id, receipt.duplicate) == ("stranger", True)

    await market.fill([_listed()])
    update = await submit(market.env, _submission("update", trusted=True, version="2.0.0"))
    assert (update.id, update.duplicate) == ("update", False)
    another = await submit(market.env, _submission("another", trusted=True, version="3.0.0"))
    assert (another.id, another.duplicate) == ("update", True)


def _listed(**fields: Any) -> Skill:
    values: dict[str, Any] = {
        "name": "reader",
        "base_slug": "reader",
        "display_name": "Reader",
        "description": "As listed.",
        "author": "acme",
        "repo_url": "https://github.com/acme/tools",
        "published_at": MOMENTS[0],
        "updated_at": MOMENTS[0],
        **fields,
    }
    return Skill(**values)


# --- publishing


async def test_a_strangers_new_skill_is_published_and_may_be_delivered_again(
    market: Market,
) -> None:
    message = await _pass(market, _submission("first"), 1)
    await _deliver(market, message)
    row = _row(market)
    assert row.description == "As first says."
    for _ in range(2):
        await _deliver(market, message)
    await _repair(market)
    assert _row(market) == row
    status = await get_submission_status(market.env, "first")
    assert isinstance(status, SubmissionStatus)
    assert status.state is SubmissionState.PUBLISHED


@pytest.mark.parametrize("known_to", ["both", "table", "kv", "outbox"])
async def test_a_message_of_a_stranger_changes_nothing_that_a_store_has(
    market: Market, known_to: str
) -> None:
    """The stored state stands, whatever version the stranger gives it."""
    listed = _listed()
    if known_to == "outbox":
        await publish_skills(_without_postgres(market), [listed])
    else:
        await market.fill([listed], table=known_to != "kv", kv=known_to != "table")
    message = await _pass(market, _submission("stranger", version="9.0.0"), 20)

    await _deliver(market, message)
    await _repair(market)

    assert message.acknowledged
    assert (_row(market).description, _row(market).current_version) == ("As listed.", "1.0.0")
    record = await read_record(market.env, _row(market).name)
    assert isinstance(record, Skill)
    assert record.description == "As listed."
    assert (await _descriptions(market.env))[1] == ["As listed."]
    assert "stranger-changed-nothing" in market.log.events()
    status = await get_submission_status(market.env, "stranger")
    assert isinstance(status, SubmissionStatus)
    assert (status.state, status.slug) == (SubmissionState.PUBLISHED, _row(market).name)
    assert market.kv.keys("pending:") == []


@pytest.mark.parametrize("listed_in", ["record", "outbox"])
async def test_a_stranger_changes_nothing_while_postgres_is_away(
    market: Market, listed_in: str
) -> None:
    env = _without_postgres(market)
    if listed_in == "record":
        await market.fill([_listed()])
    else:
        await _deliver(market, await _pass(market, _submission("first"), 1), env=env)
    before = await _descriptions(env)
    message = await _pass(market, _submission("stranger", version="9.0.0"), 20)

    await _deliver(market, message, env=env)

    assert message.acknowledged
    assert await _descriptions(env) == before
    await _repair(market)
    assert (await _descriptions(market.env))[1] == before[1]


async def test_without_postgres_a_strangers_new_skill_is_listed_from_the_outbox(
    market: Market,
) -> None:
    env = _without_postgres(market)
    message = await _pass(market, _submission("first"), 1)

    await _deliver(market, message, env=env)

    assert message.acknowledged
    assert await _descriptions(env) == (Source.KV_ENUMERATION, ["As first says."])
    assert market.kv.keys("skill:") == []
    (entry,) = await list_outbox(market.env)
    found = await get_skill_by_name(env, entry.skill.name)
    assert found is not None
    assert found.value.description == "As first says."
    await _repair(market)
    assert market.kv.keys("outbox:") == []
    assert _row(market).description == "As first says."
    assert _row(market).name == entry.skill.name, "links to it are out there"


async def test_what_a_stranger_left_in_the_outbox_gives_way_to_what_turns_out_to_be_listed(
    market: Market,
) -> None:
    """KV showed no record when the message came, being a minute behind."""
    env = _without_postgres(market)
    await _deliver(
        market, await _pass(market, _submission("stranger", version="9.0.0"), 20), env=env
    )
    (entry,) = await list_outbox(market.env)
    await market.fill([_listed(name=entry.skill.name)])

    assert (await _descriptions(env))[1] == ["As listed."]
    found = await get_skill_by_name(env, entry.skill.name)
    assert found is not None
    assert found.value.description == "As listed."
    await _repair(market)
    assert _row(market).description == "As listed."
    assert market.kv.keys("outbox:") == []


@pytest.mark.parametrize(("listed", "backfilled"), [(True, 0), (False, 1)])
async def test_a_rebuild_counts_what_a_stranger_brings_and_not_what_gives_way(
    market: Market, listed: bool, backfilled: int
) -> None:
    message = await _pass(market, _submission("stranger", version="9.0.0"), 20)
    await _deliver(market, message, env=_without_postgres(market))
    if listed:
        await market.fill([_listed()])
    job = await start_rebuild(market.env, wait_seconds=20)
    assert job.complete
    assert job.report(market.env.now())["prismaBackfilled"] == backfilled
    assert market.kv.keys("outbox:") == []


async def test_a_trusted_state_in_the_outbox_goes_before_a_strangers(market: Market) -> None:
    env = _without_postgres(market)
    stranger = _submission("stranger", version="9.0.0")
    await _deliver(market, await _pass(market, stranger, 1), env=env)
    await publish_skills(env, [_listed()])
    assert len(market.kv.keys("outbox:")) == 2
    await _repair(market)
    assert _row(market).description == "As listed."


@pytest.mark.market(rate_limited=True)
async def test_in_one_batch_the_trusted_state_counts_and_both_messages_are_done(
    market: Market,
) -> None:
    messages = [
        await _pass(market, _submission("stranger", version="9.0.0"), 20),
        await _pass(market, _submission("operator", trusted=True), 10),
    ]
    await _deliver(market, *messages)
    assert [message.acknowledged for message in messages] == [True, True]
    assert _row(market).description == "As operator says."
    assert market.kv.refusals["skill:reader"] == 0


async def test_a_trusted_update_replaces_what_a_stranger_said_and_stays(market: Market) -> None:
    first = await _pass(market, _submission("stranger"), 1)
    await _deliver(market, first)
    update = _submission("operator", trusted=True, version="2.0.0")
    await _publish(market, update, 2)
    assert _row(market).description == "As operator says."

    again = await _pass(market, _submission("stranger", version="9.0.0"), 20)
    await _deliver(market, first, again)
    assert (_row(market).description, _row(market).current_version) == (
        "As operator says.",
        "2.0.0",
    )


async def test_a_later_verdict_on_the_listed_submission_is_taken(market: Market) -> None:
    """The verdict is the scanner's word, also beside another stranger's message."""
    await _publish(market, _submission("first"), 1, score=50)
    rival = await _pass(market, _submission("rival", version="9.0.0"), 20)
    later = await _pass(market, _submission("first"), 10, score=95)
    await _deliver(market, rival, later)
    assert (_row(market).cert_score, _row(market).certified_at) == (95, MOMENTS[10])
    assert _row(market).description == "As first says."

    env = _without_postgres(market)
    latest = await _pass(market, _submission("first"), 15, score=97)
    await _deliver(market, latest, env=env)
    await _repair(market)
    assert _row(market).cert_score == 97


@pytest.mark.parametrize(
    "changes",
    [
        {"description": "Other."},
        {"display_name": "Other"},
        {"skill_path": "other"},
        {"repo_url": "https://github.com/Acme/Tools"},
        {"license": "MIT"},
        {"category": "other"},
        {"labels": ("other",)},
        {"extensible": True},
        {"extension_points": ("other",)},
        {"version": "1.0.1"},
    ],
)
async def test_whatever_a_stranger_says_differently_is_not_taken(
    market: Market, changes: dict[str, Any]
) -> None:
    await _publish(market, _submission("first", description="Same."), 1)
    row = _row(market)
    await _publish(market, _submission("other", **{"description": "Same."} | changes), 20)
    assert _row(market) == row


async def test_where_kv_cannot_say_what_it_has_a_stranger_waits(market: Market) -> None:
    """PostgreSQL has lost the row, and the record cannot be read."""
    listed = _listed()
    await market.fill([listed])
    market.lose_rows([listed])
    message = await _pass(market, _submission("stranger", version="9.0.0"), 20)
    market.kv.faults = fault(Fault.FAIL, "get_many", key="skill:")

    await _deliver(market, message)

    assert message.retried
    assert market.tables.rows == {}
    market.kv.faults = None
    await _deliver(market, message)
    assert _row(market).description == "As listed."


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
async def test_of_two_strangers_the_first_is_listed(market: Market, order: tuple[str, str]) -> None:
    messages: dict[str, Delivered] = {}
    for day, id_ in enumerate(("one", "two"), 1):
        submission = _submission(id_, version=f"{day}.0.0")
        messages[id_] = await _pass(market, submission, day)
    for id_ in order:
        await _deliver(market, messages[id_])
    assert _row(market).description == f"As {order[0]} says."


async def test_a_stranger_changes_nothing_that_was_listed_since_the_stores_were_read(
    market: Market,
) -> None:
    """The statement in PostgreSQL decides, not what was read before."""

    async def meanwhile(operation: str) -> None:
        if operation == "upsert_skill" and not market.tables.rows:
            market.tables.before = _no_hook
            await publish_skills(market.env, [_listed()])

    market.tables.before = meanwhile
    message = await _pass(market, _submission("stranger", version="9.0.0"), 20)
    await _deliver(market, message)
    assert _row(market).description == "As listed."


async def _no_hook(_operation: str) -> None:
    return None


async def test_the_index_has_nothing_of_a_stranger_that_postgres_has_not(market: Market) -> None:
    env = _without_postgres(market)
    await _deliver(market, await _pass(market, _submission("first"), 1), env=env)
    assert market.kv.keys("skills:published-index") == []


def test_a_submission_from_before_counts_as_a_strangers() -> None:
    record = {
        "id": "old",
        "repoUrl": "https://github.com/acme/tools",
        "skillName": "Reader",
        "baseSlug": "reader",
        "createdAt": MOMENTS[0],
    }
    assert msgspec.convert(record, Submission).trusted is False


async def test_two_at_once_end_in_one_of_both(market: Market) -> None:
    messages = [
        await _pass(market, _submission(f"s{day}", version=f"{day}.0.0"), day)
        for day in range(1, 6)
    ]
    await asyncio.gather(*(_deliver(market, message) for message in messages))
    await _repair(market)
    first = _row(market)
    for message in messages:
        await _deliver(market, message)
    assert _row(market) == first
