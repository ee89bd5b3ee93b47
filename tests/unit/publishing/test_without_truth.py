"""What verdicts and acts come to that arrive while PostgreSQL, or more, is away.

Nobody knows then which folder of a repository is listed. What was made without knowing must not
replace what PostgreSQL says when it is back.
"""

import asyncio
from typing import Any

import pytest

from marketplace.catalog.lookup import get_skill_by_name
from marketplace.kv.acceptance_log import log_act
from marketplace.kv.outbox import write_outbox
from marketplace.publishing.outbox import OUTBOX_BATCH
from marketplace.repair.light_repair import run_light_repair
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.skill import Skill, Status
from marketplace.skills.tiers import Verdict
from tests.doubles.marketplace import Market, fault, make_skills, without_postgres
from tests.doubles.network import Fault
from tests.unit.publishing.reports import (
    deliver,
    items,
    letters,
    listed,
    repaired,
    report,
    reported,
    row,
    submitted,
    texts_of,
)

_LISTED: dict[str, Any] = {"path": "skills/reader", "owner_id": "7"}


async def _told_without_truth(market: Market, *, log_is_late: bool, **told: Any) -> Skill:
    """A skill is listed; then its record is lost and PostgreSQL away, and a verdict comes."""
    before = await listed(market, **_LISTED)
    market.lose_records([before])
    entries = {key: market.kv.peek(key) for key in market.kv.keys("verdict:")}
    away = without_postgres(market)
    await asyncio.sleep(60)
    await submitted(market, "second")
    receipt = await reported(market, report("second", text="Another.", **told), env=away)
    assert receipt.rejected == []
    if log_is_late:  # its location does not see what the log has of the skill
        for key in entries:
            market.kv.damage(key, None)
    await deliver(market, env=away)
    for key, value in entries.items():
        market.kv.damage(key, value)
    return before


@pytest.mark.parametrize("log_is_late", [True, False])
@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"path": "skills/other", "owner_id": "7"}, "other-path"),
        ({"path": "skills/reader", "owner_id": "8"}, "changed-hands"),
    ],
)
async def test_what_was_accepted_without_knowing_replaces_no_row(
    market: Market, told: dict[str, str], reason: str, log_is_late: bool
) -> None:
    before = await _told_without_truth(market, log_is_late=log_is_late, **told)
    await run_light_repair(market.env)
    await deliver(market)
    await repaired(market)
    assert row(market).content() == before.content()
    assert texts_of(await items(without_postgres(market))) == [before.description]
    assert market.kv.keys("outbox:") == []
    assert reason in letters(market)


async def test_newer_facts_of_the_same_folder_are_taken(market: Market) -> None:
    await _told_without_truth(market, log_is_late=True, **_LISTED)
    assert texts_of(await items(without_postgres(market))) == ["Another."]
    await repaired(market)
    assert row(market).description == "Another."
    assert market.kv.keys("outbox:") == []


async def test_a_folder_that_moved_during_the_outage_is_listed_where_it_is_now(
    market: Market,
) -> None:
    before = await listed(market, **_LISTED)
    away = without_postgres(market)
    moved = {**_LISTED, "path": "skills/moved"}
    for id_, verdict, fields in (
        ("second", Verdict.WITHDRAWN, {}),
        ("third", Verdict.PASS, {"text": "Moved.", **moved}),
    ):
        await asyncio.sleep(60)
        await submitted(market, id_)
        await reported(market, report(id_, verdict, **fields), env=away)
    # The withdrawal cannot be counted while PostgreSQL is away, and waits in the queue.
    waiting = market.publish.bodies[:1]
    del market.publish.bodies[:1]
    await deliver(market, env=away)
    market.publish.bodies += waiting
    await repaired(market)
    await deliver(market)
    await repaired(market)
    after = row(market)
    assert (after.name, after.skill_path, after.status) == (
        before.name,
        "skills/moved",
        Status.LISTED,
    )
    assert letters(market) == []


async def test_a_verdict_finds_the_move_in_the_log_that_its_store_has_not_seen(
    market: Market,
) -> None:
    """The messages of a withdrawal and of the PASS after it come in the wrong order."""
    await listed(market, **_LISTED)
    moved = {**_LISTED, "path": "skills/moved"}
    messages = []
    for id_, verdict, fields in (
        ("second", Verdict.WITHDRAWN, {}),
        ("third", Verdict.PASS, {"text": "Moved.", **moved}),
    ):
        await asyncio.sleep(60)
        await submitted(market, id_)
        await reported(market, report(id_, verdict, **fields), env=without_postgres(market))
        messages.append(market.publish.bodies.pop())
    for message in reversed(messages):
        market.publish.bodies.append(message)
        await deliver(market)
    assert (row(market).skill_path, row(market).status) == ("skills/moved", Status.LISTED)
    assert letters(market) == []


async def test_a_late_pass_lists_no_skill_that_was_blocked_before_both_stores_lost_it(
    market: Market,
) -> None:
    before = await listed(market, **_LISTED)
    act = Act(id="block", kind=ActKind.BLOCK, reason="evil", at=market.env.now(), by="ops")
    await log_act(market.env, before.identity, act)
    market.lose_records([before])
    market.lose_rows([before])
    await submitted(market, "second")
    await reported(market, report("second", text="Again.", **_LISTED))
    await deliver(market)
    assert row(market).status is Status.BLOCKED
    assert await items(market.env) == []


async def test_a_skill_that_both_stores_lost_is_made_of_all_that_the_log_has(
    market: Market,
) -> None:
    """A PASS without facts comes last; the log has the facts and a later FAIL."""
    await listed(market, **_LISTED)
    await asyncio.sleep(60)
    for id_, verdict in (("second", Verdict.FAIL), ("third", Verdict.PASS)):
        await submitted(market, id_)
        await reported(market, report(id_, verdict))
        await asyncio.sleep(60)
    messages = list(market.publish.bodies)
    before = row(market)
    market.lose_records([before])
    market.lose_rows([before])
    market.publish.bodies[:] = messages[-1:]
    await deliver(market)
    after = row(market)
    assert (after.description, after.skill_path) == (before.description, "skills/reader")
    assert after.verdict is Verdict.PASS


async def test_the_slug_that_was_shown_without_postgres_stays(market: Market) -> None:
    await submitted(market)
    await reported(market, report(text="New."))
    await deliver(market, env=without_postgres(market))
    assert market.kv.keys("skill:") == []  # a record would be taken for what PostgreSQL decided
    (shown,) = await items(without_postgres(market))
    found = await get_skill_by_name(without_postgres(market), shown["name"])
    assert found is not None
    assert found.value.description == "New."
    await repaired(market)
    assert row(market).name == shown["name"]


async def test_a_slug_that_was_shown_leads_to_the_row_that_was_made_without_it(
    market: Market,
) -> None:
    """A message came again before the outbox was drained, in a location that did not see it."""
    await submitted(market)
    await reported(market, report(text="New."))
    messages = list(market.publish.bodies)
    await deliver(market, env=without_postgres(market))
    (shown,) = await items(without_postgres(market))
    waiting = {key: market.kv.peek(key) for key in market.kv.keys("outbox:")}
    for key in waiting:
        market.kv.damage(key, None)
    market.publish.bodies[:] = messages
    await deliver(market)
    for key, value in waiting.items():
        market.kv.damage(key, value)
    assert row(market).name == "reader" != shown["name"]
    await repaired(market)
    assert market.kv.keys("outbox:") == []
    for env in (market.env, without_postgres(market)):
        found = await get_skill_by_name(env, shown["name"])
        assert found is not None
        assert found.value.name == "reader"


async def test_entries_that_cannot_be_placed_hide_none_that_follow(market: Market) -> None:
    """KV refuses the records of the first ones; each check goes on where the last one stopped."""
    skills = make_skills(3 * OUTBOX_BATCH)
    keys = {await write_outbox(market.env, skill): skill for skill in skills}
    first = [keys[key] for key in sorted(keys)][: 2 * OUTBOX_BATCH]
    stuck = {f"skill:{skill.name}" for skill in first}
    market.kv.faults = lambda operation: (
        Fault.FAIL if operation.kind == "put" and operation.key in stuck else None
    )
    for _ in range(2):
        await run_light_repair(market.env)
    assert len(market.kv.keys("outbox:")) == 2 * OUTBOX_BATCH
    market.kv.faults = None
    for _ in range(2):
        await run_light_repair(market.env)
    assert market.kv.keys("outbox:") == []


async def test_a_log_that_cannot_be_read_leaves_what_waits(market: Market) -> None:
    before = await _told_without_truth(market, log_is_late=True, path="skills/other", owner_id="7")
    market.kv.faults = fault(Fault.FAIL, "list", key="verdict:")
    report_ = await run_light_repair(market.env)
    assert report_.errors
    assert len(market.kv.keys("outbox:")) == 1
    assert row(market).content() == before.content()
