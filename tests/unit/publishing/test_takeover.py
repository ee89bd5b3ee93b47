"""Nobody but the repository changes what a skill says: every way that strangers may try."""

import asyncio
from typing import Any

import msgspec
import pytest

from marketplace.kv.outbox import list_outbox
from marketplace.kv.records import read_record
from marketplace.publishing.submissions import get_submission_status, submit
from marketplace.skills.acts import ActKind
from marketplace.skills.scan import Facts, ScanReport
from marketplace.skills.skill import Skill, Status
from marketplace.skills.submission import OtherName, Submission, SubmissionState, SubmissionStatus
from marketplace.skills.tiers import Verdict
from marketplace.web.api.requests import SubmissionRequest
from tests.doubles.database import no_hook
from tests.doubles.marketplace import Market, kv_away, postgres_away, without_postgres
from tests.unit.publishing.reports import (
    acted,
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

REPOSITORY = "https://github.com/acme/tools"
FOLDERS = {
    "skills/reader": Facts(name="Reader", description="As listed."),
    "attic/reader": Facts(name="Reader", description="As it was years ago."),
}
"""What the repository says."""

ATTEMPTS: dict[str, dict[str, Any]] = {
    "other texts": {"description": "Evil.", "displayName": "Evil"},
    "letter case of owner and repository": {"repoUrl": "https://github.com/ACME/Tools"},
    "letter case of the forge": {"repoUrl": "https://GitHub.com/acme/tools"},
    ".git": {"repoUrl": f"{REPOSITORY}.git"},
    "a slash at the end": {"repoUrl": f"{REPOSITORY}/"},
    "an absurd version": {"version": "9999999999.0.0"},
    "another folder of the repository": {"skillPath": "attic/reader"},
    "a folder that there is not": {"skillPath": "evil/reader"},
    "another branch": {"ref": "evil", "branch": "evil", "commit": "e" * 40},
    "letter case of the name": {"skillName": "READER"},
    "a name with the same slug": {"skillName": "Reader."},
    "another name": {"skillName": "Evil"},
    "what only operators say": {"trusted": True, "certTier": "CERTIFIED", "labels": ["verified"]},
    "another category and licence": {"category": "evil", "license": "Evil-1.0"},
    "extension points": {"extensible": True, "extensionPoints": ["evil"]},
    "another author": {"author": "evil", "owner": "evil", "name": "evil", "slug": "evil"},
}


def body(**fields: Any) -> dict[str, Any]:
    """What an attacker posts: a version that is newer than any, unless it says another one."""
    return {"repoUrl": REPOSITORY, "skillName": "Reader", "version": "9.0.0", **fields}


async def posted(market: Market, id_: str, fields: dict[str, Any]) -> bool:
    """Whether the public interface takes it as something to look at."""
    request = SubmissionRequest.model_validate(fields)
    try:
        receipt = await submit(market.env, request.to_submission(id_, market.env.now()))
    except OtherName:
        return False
    return receipt.id == id_


def scanned(submission: Submission) -> ScanReport:
    """What a scanner reads that trusts a submission no more than it has to."""
    path = submission.skill_path if submission.skill_path in FOLDERS else "skills/reader"
    return report(submission.id, path=path, skill=FOLDERS[path])


async def _attack(market: Market, fields: dict[str, Any]) -> None:
    """Submit, have it scanned, and let every message come twice."""
    await asyncio.sleep(1)
    if await posted(market, "attack", body(**fields)):
        value = market.kv.peek("sub:attack")
        assert value is not None
        await reported(market, scanned(msgspec.json.decode(value, type=Submission)))
        market.publish.bodies *= 2


def _says(skill: Skill) -> tuple[Any, ...]:
    """All but when the check was last made, and what is measured."""
    return (skill.name, skill.content()[1], skill.cert_tier, skill.status, skill.acts)


async def _expect_unchanged(market: Market, before: Skill) -> None:
    """In row, record, outbox, and the listings out of each store."""
    assert _says(row(market)) == _says(before)
    record = await read_record(market.env, before.name)
    assert isinstance(record, Skill)
    assert _says(record) == _says(before)
    for entry in (await list_outbox(market.env)).entries:
        assert _says(entry.skill) == _says(before)
    for env in (market.env, without_postgres(market)):
        (item,) = await items(env)
        shown = msgspec.convert(item, Skill)
        assert _says(shown)[0] == before.name
        assert (shown.description, shown.repo_url) == (before.description, before.repo_url)
        assert (shown.current_version, shown.labels) == (before.current_version, before.labels)
        assert (shown.display_name, shown.author) == (before.display_name, before.author)
        assert (shown.skill_path, shown.license) == (before.skill_path, before.license)


@pytest.mark.parametrize("away", [None, "postgres", "kv"])
@pytest.mark.parametrize("fields", ATTEMPTS.values(), ids=ATTEMPTS)
async def test_no_submission_changes_what_the_repository_says(
    market: Market, fields: dict[str, Any], away: str | None
) -> None:
    before = await listed(market, path="skills/reader")
    await _attack(market, fields)
    if away == "postgres":
        market.tables.before = postgres_away
    if away == "kv":
        market.kv.faults = kv_away
    await deliver(market)
    market.tables.before, market.kv.faults = no_hook, None
    await _expect_unchanged(market, before)
    await deliver(market)
    await repaired(market)
    await _expect_unchanged(market, before)


@pytest.mark.parametrize("fields", ATTEMPTS.values(), ids=ATTEMPTS)
async def test_an_attacker_who_submits_first_gets_listed_what_the_repository_says(
    market: Market, fields: dict[str, Any]
) -> None:
    assert await posted(market, "attack", body(**fields))
    value = market.kv.peek("sub:attack")
    assert value is not None
    attack = scanned(msgspec.json.decode(value, type=Submission))
    await reported(market, attack)
    await deliver(market)
    assert attack.skill is not None
    facts = {"description": attack.skill.description, "displayName": "Reader", "labels": []}
    (item,) = await items(market.env)
    assert {field: item[field] for field in facts} == facts
    assert (item["category"], item["license"]) == ("development", None)
    assert (item["currentVersion"], item["extensible"]) == ("1.0.0", False)
    assert (item["author"].lower(), item["name"]) == ("acme", "reader")


async def test_texts_of_a_submission_are_shown_with_it_alone(market: Market) -> None:
    """Also where no scan has told what the repository says."""
    await posted(market, "first", body(description="Evil.", displayName="Evil", labels=["x"]))
    await reported(market, report(path="skills/reader"))
    await deliver(market)
    (item,) = await items(market.env)
    assert (item["provisional"], item["description"], item["displayName"]) == (True, "", "Reader")
    assert (item["labels"], item["currentVersion"]) == ([], "1.0.0")


async def test_another_repository_gets_a_slug_of_its_own(market: Market) -> None:
    before = await listed(market)
    await submitted(market, "evil", repo_url="https://github.com/evil/tools")
    await reported(market, report("evil", text="Evil."))
    await deliver(market)
    await repaired(market)
    found = {item["name"]: item["description"] for item in await items(market.env)}
    assert found == {"reader": "As listed.", "evil-reader": "Evil."}
    assert _says(market.tables.rows[before.identity].skill) == _says(before)


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("away", [False, True])
async def test_a_result_for_another_folder_changes_nothing(
    market: Market, verdict: Verdict, away: bool
) -> None:
    """The webhook tells it; the consumer where the webhook could not look."""
    before = await listed(market, path="skills/reader")
    await asyncio.sleep(1)
    await submitted(market, "attack", skill_path="attic/reader")
    await asyncio.sleep(1)
    await reported(market, report("attack", Verdict.GONE, path="skills/reader"))
    await asyncio.sleep(86_400)
    attack = report("attack", verdict, "Evil.", path="attic/reader")
    env = without_postgres(market) if away else market.env
    receipt = await reported(market, attack, env=env)
    if not away:
        assert [refused.reason for refused in receipt.rejected] == ["other-path"]
    await deliver(market)
    assert letters(market) == (["other-path"] if away else [])
    await repaired(market)
    await _expect_unchanged(market, before)


@pytest.mark.parametrize("ids", [{"repository_id": "2"}, {"owner_id": "8"}])
@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("away", [False, True])
async def test_a_repository_that_changed_hands_changes_nothing(
    market: Market, ids: dict[str, str], verdict: Verdict, away: bool
) -> None:
    before = await listed(market, repository_id="1", owner_id="7")
    forge = {"repository_id": "1", "owner_id": "7", **ids}
    await asyncio.sleep(1)
    await submitted(market, "attack")
    if verdict is Verdict.GONE:
        await reported(market, report("attack", verdict, **forge))
        await asyncio.sleep(86_400)
    await reported(market, report("attack", verdict, "Evil.", **forge))
    if away:
        market.tables.before = postgres_away
    await deliver(market)
    market.tables.before = no_hook
    await deliver(market)
    await repaired(market)
    assert letters(market) == ["changed-hands"]
    await _expect_unchanged(market, before)


async def test_an_operator_lets_a_repository_change_hands(market: Market) -> None:
    before = await listed(market, repository_id="1")
    await asyncio.sleep(1)
    await submitted(market, "new-owner")
    await reported(market, report("new-owner", text="As the new owner says.", repository_id="2"))
    (message,) = await deliver(market)
    assert letters(market) == ["changed-hands"]
    await acted(market, before.identity, ActKind.ACCEPT_OWNER, repository_id="2")
    market.publish.bodies.append(message.body)
    await deliver(market)
    assert row(market).description == "As the new owner says."


async def test_between_scan_and_publication_another_submission_changes_nothing(
    market: Market,
) -> None:
    await submitted(market, "first")
    await reported(market, report("first", text="As listed.", path="skills/reader"))
    await submitted(market, "attack", description="Evil.", skill_path="evil", version="9.0.0")
    await deliver(market)
    assert row(market).description == "As listed."
    assert row(market).skill_path == "skills/reader"


@pytest.mark.parametrize("away", [False, True])
async def test_a_result_for_an_old_submission_is_older_than_what_is_listed(
    market: Market, away: bool
) -> None:
    """It was read before, whenever it comes."""
    await submitted(market, "old")
    read_at = market.env.now()
    await asyncio.sleep(3600)
    before = await listed(market)
    await asyncio.sleep(3600)
    await reported(market, report("old", text="As it was.", scanned_at=read_at))
    await deliver(market, env=without_postgres(market) if away else market.env)
    await repaired(market)
    await _expect_unchanged(market, before)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0, 1), (2, 0, 0, 1)])
async def test_messages_in_any_order_and_repeated_end_in_what_was_read_last(
    market: Market, order: tuple[int, ...]
) -> None:
    for number in range(3):
        await submitted(market, f"s{number}")
        await reported(market, report(f"s{number}", text=f"Read as {number}."))
        await asyncio.sleep(1)
    bodies = list(market.publish.bodies)
    for number in order:
        market.publish.bodies[:] = [bodies[number]]
        await deliver(market)
    assert row(market).description == "Read as 2."
    await repaired(market)
    assert texts_of(await items(market.env)) == ["Read as 2."]


async def test_messages_at_once_end_in_what_was_read_last(market: Market) -> None:
    for number in range(5):
        await submitted(market, f"s{number}")
        await reported(market, report(f"s{number}", text=f"Read as {number}."))
        await asyncio.sleep(1)
    bodies = list(market.publish.bodies)

    async def one(index: int) -> None:
        market.publish.bodies[:] = [bodies[index]]
        await deliver(market)

    await asyncio.gather(*map(one, range(5)))
    await repaired(market)
    assert row(market).description == "Read as 4."


async def test_what_was_listed_since_the_stores_were_read_is_kept(market: Market) -> None:
    """The statement in PostgreSQL decides, not what was read before."""
    await submitted(market, "old")
    await reported(market, report("old", text="As it was."))
    old = list(market.publish.bodies)
    market.publish.bodies.clear()
    await asyncio.sleep(1)

    async def meanwhile(operation: str) -> None:
        if operation == "upsert_skill" and not market.tables.rows:
            market.tables.before = no_hook
            await listed(market)

    market.tables.before = meanwhile
    market.publish.bodies += old
    await deliver(market)
    assert row(market).description == "As listed."


@pytest.mark.parametrize("lost", ["row", "record"])
async def test_what_one_store_lost_is_no_invitation(market: Market, lost: str) -> None:
    before = await listed(market, path="skills/reader")
    (market.lose_rows if lost == "row" else market.lose_records)([before])
    await submitted(market, "attack", skill_path="attic/reader")
    await reported(market, report("attack", text="Evil.", path="attic/reader"))
    await deliver(market)
    assert letters(market) == (["other-path"] if lost == "row" else [])
    await repaired(market)
    await _expect_unchanged(market, before)


async def test_a_withdrawn_or_blocked_skill_is_not_listed_again_by_a_submission(
    market: Market,
) -> None:
    before = await listed(market)
    await acted(market, before.identity, ActKind.BLOCK)
    await asyncio.sleep(1)
    await submitted(market, "again", version="9.0.0")
    await reported(market, report("again", text="As listed."))
    await deliver(market)
    await repaired(market)
    assert (row(market).status, await items(market.env)) == (Status.BLOCKED, [])
    assert await items(without_postgres(market)) == []


# --- submitting


async def test_who_submits_a_listed_skill_is_told_its_slug(market: Market) -> None:
    await listed(market)
    for fields in ({"version": "0.1.0"}, {"version": "1.0.0"}, {"skillPath": "evil"}):
        request = SubmissionRequest.model_validate(body() | {"version": "1.0.0"} | fields)
        receipt = await submit(market.env, request.to_submission("again", market.env.now()))
        assert (receipt.already_verified, receipt.slug) == (True, "reader")
        assert (receipt.id, receipt.state) == ("first", SubmissionState.PUBLISHED)
    assert market.kv.keys("sub:") == ["sub:first"]


async def test_a_newer_version_is_looked_at(market: Market) -> None:
    await listed(market)
    assert await posted(market, "again", body(version="1.0.1"))


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.WITHDRAWN])
async def test_a_skill_that_did_not_pass_its_newest_scan_is_looked_at_again(
    market: Market, verdict: Verdict
) -> None:
    await listed(market)
    await asyncio.sleep(1)
    await reported(market, report(verdict=verdict))
    await deliver(market)
    assert await posted(market, "again", body(version="1.0.0"))


async def test_an_earlier_submission_answers_for_a_later_one(market: Market) -> None:
    await posted(market, "first", body())
    request = SubmissionRequest.model_validate(body(description="Evil."))
    receipt = await submit(market.env, request.to_submission("second", market.env.now()))
    assert (receipt.id, receipt.duplicate) == ("first", True)


async def test_what_waits_in_the_outbox_is_listed(market: Market) -> None:
    env = without_postgres(market)
    await submitted(market)
    await reported(market, report(text="As listed."))
    await deliver(market, env=env)
    request = SubmissionRequest.model_validate(body(version="1.0.0"))
    receipt = await submit(env, request.to_submission("again", market.env.now()))
    assert receipt.already_verified
    assert (receipt.slug or "").startswith("acme-tools-reader-")
    status = await get_submission_status(env, "first")
    assert isinstance(status, SubmissionStatus)
    assert status.state is SubmissionState.PUBLISHED
