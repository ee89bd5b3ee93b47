"""Rules, and the skills that they are yet to be applied to, by both databases alike."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from marketplace.ports.database import DatabaseConnector, SkillDatabase
from marketplace.skills.acts import Severity
from marketplace.skills.rules import Matches, Rule, RuleKind, RuleLift, Target, under_rules
from marketplace.skills.skill import Skill
from tests.examples import FEBRUARY, JANUARY, MARCH, publish, skill

EVIL = Target(Matches.OWNER, "github.com/evil")
DIGEST = "d" * 64


def rule(mark: str = "a", at: str = JANUARY, target: Target = EVIL, **fields: Any) -> Rule:
    values: dict[str, Any] = {
        "kind": RuleKind.BLOCK,
        "matches": target.matches,
        "value": target.value,
        "reason": "It steals\nkeys 🦊.",
        "by": "ann",
    }
    return Rule(id=f"{at}-{mark}", at=at, **(values | fields))


def lift(lifted: Rule, at: str = MARCH) -> RuleLift:
    return RuleLift(rule=lifted.id, at=at, by="bob", reason="A mistake.")


async def _stored(db: SkillDatabase, skills: Sequence[Skill]) -> None:
    for each in skills:
        await publish(db, each)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"kind": RuleKind.WITHDRAW},
        {
            "threat_type": "exfiltration",
            "severity": Severity.HIGH,
            "evidence_urls": ("https://example.org/a,{}", "https://example.org/b"),
        },
    ],
)
async def test_a_rule_comes_back_as_it_was_and_is_kept_once(
    connect: DatabaseConnector, fields: dict[str, Any]
) -> None:
    with await connect() as db:
        assert await db.add_rule(rule(**fields))
        assert not await db.add_rule(rule(reason="Another."))
        assert await db.list_rules(before=None, limit=9) == [rule(**fields)]
        assert await db.find_rules([], [rule().id]) == [rule(**fields)]


async def test_rules_are_listed_by_page_the_newest_first(connect: DatabaseConnector) -> None:
    rules = [rule("a"), rule("b"), rule("a", FEBRUARY)]
    with await connect() as db:
        for each in rules:
            await db.add_rule(each)
        assert await db.list_rules(before=None, limit=9) == rules[::-1]
        assert await db.list_rules(before=rules[2].id, limit=1) == [rules[1]]
        assert await db.list_rules(before=rules[0].id, limit=9) == []


async def test_rules_are_found_by_target_while_in_force_and_by_id_always(
    connect: DatabaseConnector,
) -> None:
    by_owner, by_digest = rule("a"), rule("b", target=Target(Matches.CONTENT_DIGEST, DIGEST))
    other = rule("c", target=Target(Matches.OWNER, "github.com/other"))
    targets = [EVIL, by_digest.target, Target(Matches.IDENTITY, "github.com/other")]
    with await connect() as db:
        for each in (by_owner, by_digest, other):
            await db.add_rule(each)
        assert await db.find_rules(targets, []) == [by_owner, by_digest]
        assert await db.find_rules(targets, [other.id, by_owner.id]) == [by_owner, by_digest, other]
        assert await db.find_rules([], []) == []

        assert await db.lift_rule(lift(by_owner))
        lifted = by_owner.lifted(lift(by_owner))
        assert await db.find_rules(targets, []) == [by_digest]
        assert await db.find_rules(targets, [by_owner.id]) == [lifted, by_digest]


async def test_a_rule_is_lifted_once(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await db.add_rule(rule())
        assert await db.lift_rule(lift(rule()))
        assert not await db.lift_rule(lift(rule(), FEBRUARY))
        assert not await db.lift_rule(RuleLift(rule="none", at=MARCH, by="bob", reason="So."))
        assert await db.find_rules([], [rule().id]) == [rule().lifted(lift(rule()))]


async def test_a_rule_is_open_until_it_is_applied_and_again_when_it_is_lifted(
    connect: DatabaseConnector,
) -> None:
    first, second = rule("a"), rule("b")
    with await connect() as db:
        await db.add_rule(second)
        await db.add_rule(first)
        assert await db.next_open_rule(after="") == first
        assert await db.next_open_rule(after=first.id) == second
        assert await db.count_open_rules() == 2
        assert await db.next_open_rule(after=second.id) is None

        await db.mark_applied(first, at=MARCH)
        assert await db.next_open_rule(after="") == second
        (marked,) = await db.find_rules([], [first.id])
        assert marked == msgspec.structs.replace(first, applied_at=MARCH)
        assert await db.count_open_rules() == 1

        await db.lift_rule(lift(first))
        lifted = first.lifted(lift(first))
        assert await db.next_open_rule(after="") == lifted
        await db.mark_applied(first, at=MARCH)  # as it was before it was lifted
        assert await db.next_open_rule(after="") == lifted
        await db.mark_applied(lifted, at=MARCH)
        assert await db.next_open_rule(after="") == second


SKILLS = [
    skill("one", repository="evil/a", content_digest=DIGEST),
    skill("two", repository="Evil/b"),
    skill("three", repository="evil0/c", content_digest=DIGEST),
    skill("four", repository="evi/l"),
    skill("five", repository="evil-twin/d"),
    skill("six", repository="evil/a"),
]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (EVIL, ["one", "six", "two"]),
        (Target(Matches.OWNER, "gitlab.com/evil"), []),
        (Target(Matches.CONTENT_DIGEST, DIGEST), ["one", "three"]),
        (Target(Matches.CONTENT_DIGEST, "e" * 64), []),
        (Target(Matches.IDENTITY, "https://github.com/evil/b#two"), ["two"]),
        (Target(Matches.IDENTITY, "https://github.com/evil/b#none"), []),
    ],
)
async def test_the_skills_of_a_rule_are_those_that_match_and_lack_its_act(
    connect: DatabaseConnector, target: Target, expected: list[str]
) -> None:
    made = rule(target=target)
    with await connect() as db:
        await _stored(db, SKILLS)

        async def unruled(asked: Rule, after: str = "", limit: int = 9) -> list[str]:
            found = await db.list_unruled(asked, after=after, limit=limit)
            return [identity.rpartition("#")[2] for identity in found]

        assert await unruled(made) == expected
        for number, name in enumerate(expected):
            *_, found = await db.list_unruled(made, after="", limit=number + 1)
            assert found.endswith(f"#{name}")
            assert await unruled(made, found) == expected[number + 1 :]

        assert await unruled(made.lifted(lift(made))) == []
        for each in SKILLS:
            await publish(db, under_rules(each, [made]))
        assert await unruled(made) == []
        assert await unruled(rule("other", target=target)) == expected
        lifted = made.lifted(lift(made))
        assert await unruled(lifted) == expected
        for each in SKILLS:
            await publish(db, under_rules(under_rules(each, [made]), [lifted]))
        assert await unruled(lifted) == []
        assert await unruled(made) == []


async def test_subgroups_are_their_groups(connect: DatabaseConnector) -> None:
    inner = msgspec.structs.replace(skill("one"), repo_url="https://gitlab.com/evil/sub/repo")
    made = rule(target=Target(Matches.OWNER, "gitlab.com/evil"))
    with await connect() as db:
        await publish(db, inner)
        assert await db.list_unruled(made, after="", limit=9) == [inner.identity]
        sub = rule(target=Target(Matches.OWNER, "gitlab.com/evil/sub"))
        assert await db.list_unruled(sub, after="", limit=9) == [inner.identity]
