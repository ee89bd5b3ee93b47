"""Two skills of one repository with one name, or with names that only the slug rule makes equal."""

import asyncio
import json

import pytest

from marketplace.ports.dead_letter import DeadLetterReason
from marketplace.ports.errors import KvError
from marketplace.publishing.submissions import submit
from marketplace.skills.scan import Facts
from marketplace.skills.submission import OtherName, Submission
from marketplace.skills.tiers import Verdict
from tests.doubles.marketplace import LATER, Market, kv_away, make_skill, without_postgres
from tests.unit.publishing.reports import (
    carried_out,
    deliver,
    letters,
    report,
    reported,
    row,
    submitted,
)
from tests.unit.web.asgi import Answer, ask_json
from tests.unit.web.clients import client_of

SUBMISSION = {"repoUrl": "https://github.com/acme/languages", "skillName": "C"}
BEFORE = "2025-12-01T08:00:00.000Z"
MY_SKILL, OTHER = "skills/mine", "skills/other"


def _submission(name: str, path: str = "", repository: str = "acme/tools") -> Submission:
    return Submission(
        id=f"{name} {path}",
        repo_url=f"https://github.com/{repository}",
        skill_name=name,
        base_slug="my-skill",
        skill_path=path,
        created_at=LATER,
    )


async def _my_skill(market: Market) -> None:
    """A listed skill of this name."""
    await submitted(market, skill_name="My Skill", base_slug="my-skill")
    await carried_out(market, report(skill=Facts(name="My Skill"), path=MY_SKILL))


@pytest.mark.parametrize("name", ["C++", "C#", "C!", "Cé", "日本C", "C/D", "C@1"])
def test_a_name_has_no_other_characters(name: str) -> None:
    _expect_told(ask_json("/api/v1/submissions", SUBMISSION | {"skillName": name}), "skillName")
    result = {"submissionId": "a", "verdict": "PASS", "score": 1, "skill": {"name": name}}
    answer = ask_json("/api/v1/webhooks/scan-results", {"results": [result]})
    _expect_told(answer, "results[0].skill.name")


def _expect_told(answer: Answer, field: str) -> None:
    assert (answer.status, answer.fields()) == (422, [field])
    (error,) = json.loads(answer.body)["errors"]
    assert error["message"].endswith("have only letters a-z, digits, spaces, '.', '_' and '-'")


@pytest.mark.parametrize("name", ["C", "c 2", "My_Skill.v1-x"])
def test_other_names_are_taken(name: str) -> None:
    assert ask_json("/api/v1/submissions", SUBMISSION | {"skillName": name}).status == 202


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("name", ["my-skill", "My.Skill", "my_skill"])
async def test_a_name_that_only_the_slug_makes_equal_is_refused(
    market: Market, name: str, away: bool
) -> None:
    await _my_skill(market)
    env = without_postgres(market) if away else market.env
    for path in ("", OTHER):
        with pytest.raises(OtherName, match="called 'My Skill'") as refused:
            await submit(env, _submission(name, path), rescan=True)
        assert (refused.value.name, refused.value.slug) == ("My Skill", "my-skill")


async def test_the_answer_tells_which_name_to_submit(market: Market) -> None:
    await _my_skill(market)
    body = {"repoUrl": "https://github.com/acme/tools", "skillName": "my-skill"}
    async with client_of(market) as client:
        answer = await client.post("/api/v1/submissions", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (409, 409)
    assert problem["listed"] == {"name": "My Skill", "slug": "my-skill"}
    assert "Submit 'My Skill'" in problem["detail"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("My Skill", ""),
        ("my skill", OTHER),
        ("my-skill", MY_SKILL),
        ("MY SKILL", ""),
    ],
)
async def test_the_listed_skill_may_be_submitted_again(
    market: Market, name: str, path: str
) -> None:
    await _my_skill(market)
    again = await submit(market.env, _submission(name, path), rescan=True)
    assert again.id == f"{name} {path}"


async def test_a_skill_may_be_submitted_by_its_display_name_or_its_repository_alone(
    market: Market,
) -> None:
    await submitted(market, skill_name="my-skill", base_slug="my-skill")
    facts = Facts(name="my-skill", display_name="My Skill")
    await carried_out(market, report(skill=facts, path=MY_SKILL))
    assert (await submit(market.env, _submission("My Skill"))).already_verified
    assert (await submit(market.env, _submission("my-skill"))).already_verified
    with pytest.raises(OtherName):
        await submit(market.env, _submission("my_skill"))
    mine = "https://github.com/acme/my_skill"
    await submitted(market, "b", repo_url=mine, skill_name="my_skill", base_slug="my-skill")
    await carried_out(market, report("b", skill=facts, path=MY_SKILL))
    again = _submission("my_skill", repository="acme/my_skill")
    assert (await submit(market.env, again)).already_verified


async def test_the_listed_folder_may_change_its_name(market: Market) -> None:
    """In any way that leaves the slug; from then on that is the skill's name."""
    await _my_skill(market)
    await asyncio.sleep(1)
    await submitted(market, "second", skill_name="My Skill", base_slug="my-skill")
    facts = Facts(name="my-skill", description="New.")
    await carried_out(market, report("second", skill=facts, path=MY_SKILL))
    assert (row(market).display_name, row(market).description) == ("my-skill", "New.")
    with pytest.raises(OtherName, match="called 'my-skill'"):
        await submit(market.env, _submission("My Skill"))
    assert (await submit(market.env, _submission("my-skill"))).already_verified


@pytest.mark.parametrize("names", [("My Skill", "my-skill"), ("my-skill", "My Skill"), ("X", "X")])
@pytest.mark.parametrize("together", [False, True])
async def test_two_folders_that_were_submitted_at_once_are_not_merged(
    market: Market, names: tuple[str, str], together: bool
) -> None:
    """Where neither was listed yet, the folder decides: the later one is refused."""
    paths = (MY_SKILL, OTHER)
    reports = []
    for name, path in zip(names, paths, strict=True):
        base = name.lower().replace(" ", "-")
        await submitted(market, path, skill_name=name, base_slug=base, skill_path=path)
        reports.append(report(path, skill=Facts(name=name, description=path), path=path))
    for each in reports:
        await asyncio.sleep(1)
        await reported(market, each)
        if not together:
            await deliver(market)
    await deliver(market)
    assert (row(market).description, row(market).skill_path) == (MY_SKILL, MY_SKILL)
    if not together:
        return
    assert letters(market) == [DeadLetterReason.OTHER_PATH]
    (letter,) = market.tables.dead_letters.values()
    assert letter.detail.endswith(f"called {names[1]!r}, in {OTHER!r}")


async def test_a_skill_whose_name_has_other_characters_stays_and_is_read_again(
    market: Market,
) -> None:
    """As it was listed before names had a rule, by no scan that told its name."""
    repository = "https://github.com/acme/languages"
    old = make_skill("c", display_name="C++", repo_url=repository, updated_at=BEFORE)
    await market.fill([old])
    again = Submission(
        id="again", repo_url=repository, skill_name="c", base_slug="c", created_at=BEFORE
    )
    assert (await submit(market.env, again, rescan=True)).id == "again"
    await reported(market, report("again", skill=Facts(name="c", display_name="C++", version="2")))
    assert all(message.acknowledged for message in await deliver(market))
    assert (row(market).display_name, row(market).current_version) == ("C++", "2")


async def test_a_withdrawn_skill_gives_its_name_back(market: Market) -> None:
    await _my_skill(market)
    await asyncio.sleep(1)
    await submitted(market, "gone", skill_name="My Skill", base_slug="my-skill")
    await carried_out(market, report("gone", Verdict.WITHDRAWN))
    assert (await submit(market.env, _submission("my-skill", OTHER))).id == f"my-skill {OTHER}"


async def test_a_verdict_that_was_refused_names_nothing(market: Market) -> None:
    await submitted(market, "other", skill_name="my-skill", base_slug="my-skill")
    await submitted(market, skill_name="My Skill", base_slug="my-skill")
    await reported(market, report(skill=Facts(name="My Skill"), path=MY_SKILL))
    await asyncio.sleep(1)
    await reported(market, report("other", skill=Facts(name="my-skill"), path=OTHER))
    await deliver(market)
    assert letters(market) == [DeadLetterReason.OTHER_PATH]
    with pytest.raises(OtherName, match="called 'My Skill'"):
        await submit(market.env, _submission("my-skill"))


async def test_a_log_that_cannot_be_read_is_no_leave(market: Market) -> None:
    await _my_skill(market)
    market.kv.faults = kv_away
    with pytest.raises(KvError):
        await submit(market.env, _submission("my-skill"))
