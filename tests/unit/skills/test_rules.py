"""What rules match, and the acts that they make."""

from itertools import permutations

import msgspec
import pytest

from marketplace.skills.acts import MAX_ACTS, ActKind, Severity
from marketplace.skills.merging import merge
from marketplace.skills.rules import (
    Matches,
    Rule,
    RuleKind,
    RuleLift,
    owners_of,
    read_target,
    targets_of_skill,
    under_rules,
)
from marketplace.skills.skill import Status
from tests.examples import FEBRUARY, JANUARY, MARCH, act, skill, with_acts

RULE = Rule(
    id=f"{FEBRUARY}-a",
    kind=RuleKind.BLOCK,
    matches=Matches.OWNER,
    value="github.com/evil",
    reason="Steals.",
    at=FEBRUARY,
    by="ann",
    threat_type="exfiltration",
    severity=Severity.CRITICAL,
    evidence_urls=("https://example.org",),
)
LIFTED = RULE.lifted(RuleLift(rule=RULE.id, at=MARCH, by="bob", reason="A mistake."))
EVIL = skill("one", repository="Evil/tools", content_digest="d" * 64)


@pytest.mark.parametrize(
    ("matches", "value", "expected"),
    [
        (Matches.OWNER, "github.com/Evil", "github.com/evil"),
        (Matches.OWNER, " https://www.github.com/evil/ ", "github.com/evil"),
        (Matches.OWNER, "gitlab.com/group/Sub", "gitlab.com/group/sub"),
        (
            Matches.IDENTITY,
            "git@github.com:Evil/Tools.git#My Skill",
            "https://github.com/evil/tools#my-skill",
        ),
        (Matches.CONTENT_DIGEST, "sha256:" + "D" * 64, "d" * 64),
    ],
)
def test_a_target_has_one_form(matches: Matches, value: str, expected: str) -> None:
    assert read_target(matches, value) == (matches, expected)


@pytest.mark.parametrize(
    ("matches", "value"),
    [
        (Matches.OWNER, "evil"),
        (Matches.OWNER, ""),
        (Matches.OWNER, "github.com"),
        (Matches.OWNER, "github.com/evil/tools"),
        (Matches.OWNER, "gitlab.com/group/-/x"),
        (Matches.IDENTITY, "https://github.com/evil/tools"),
        (Matches.IDENTITY, "https://github.com/evil/tools#"),
        (Matches.IDENTITY, "github.com/evil#one"),
        (Matches.CONTENT_DIGEST, "d" * 63),
    ],
)
def test_what_is_no_target_is_refused(matches: Matches, value: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_target(matches, value)


def test_a_skill_is_matched_by_identity_owner_and_content() -> None:
    assert targets_of_skill(EVIL) == [
        ("identity", "https://github.com/evil/tools#one"),
        ("owner", "github.com/evil"),
        ("contentDigest", "d" * 64),
    ]
    assert owners_of("https://gitlab.com/a/b/c/repo#x") == [
        "gitlab.com/a", "gitlab.com/a/b", "gitlab.com/a/b/c",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "status"), [("BLOCK", Status.BLOCKED), ("WITHDRAW", Status.WITHDRAWN)]
)
def test_a_rule_withholds_what_matches_by_an_act_that_names_it(kind: str, status: Status) -> None:
    rule = msgspec.structs.replace(RULE, kind=RuleKind(kind))
    ruled = under_rules(EVIL, [rule])
    (made,) = ruled.acts
    assert (ruled.status, made.kind, made.rule) == (status, kind, rule.id)
    assert (made.reason, made.at, made.by) == (rule.reason, rule.at, rule.by)
    assert (made.threat_type, made.severity) == (rule.threat_type, rule.severity)
    assert made.evidence_urls == rule.evidence_urls
    assert ruled.revision > EVIL.revision
    assert under_rules(ruled, [rule]) is ruled
    other = skill("one", repository="evil2/tools")
    assert under_rules(other, [rule]) is other


def test_each_skill_has_an_act_of_its_own() -> None:
    (one,) = under_rules(EVIL, [RULE]).acts
    (two,) = under_rules(skill("two", repository="evil/tools"), [RULE]).acts
    assert one.id != two.id


def test_a_lifted_rule_lifts_its_own_act_alone() -> None:
    other = msgspec.structs.replace(RULE, id=f"{FEBRUARY}-b")
    by_hand = act(ActKind.WITHDRAW)
    ruled = under_rules(with_acts(EVIL, by_hand), [RULE, other])
    first = under_rules(ruled, [LIFTED, other])
    assert first.status is Status.BLOCKED
    second = under_rules(
        first, [other.lifted(RuleLift(rule=other.id, at=MARCH, by="b", reason=""))]
    )
    assert second.status is Status.WITHDRAWN
    assert under_rules(second, [LIFTED]) is second
    assert under_rules(EVIL, [LIFTED]) is EVIL


def test_any_order_of_writers_gives_one_state() -> None:
    states = [EVIL, under_rules(EVIL, [RULE]), under_rules(under_rules(EVIL, [RULE]), [LIFTED])]
    revisions = set()
    for one, two, three in permutations(states):
        revisions.add(merge(merge(one, two), three).revision)
    assert revisions == {states[2].revision}
    assert merge(states[0], states[2]).status is Status.LISTED


def test_what_an_operator_lifted_on_one_skill_stays_lifted() -> None:
    ruled = under_rules(EVIL, [RULE])
    restored = with_acts(EVIL, *ruled.acts, act(ActKind.RESTORE, MARCH, lifts=(ruled.acts[0].id,)))
    assert restored.status is Status.LISTED
    assert under_rules(restored, [RULE]) is restored


def test_the_number_of_acts_is_bounded() -> None:
    full = with_acts(
        EVIL, *(act(ActKind.WITHDRAW, JANUARY, id=f"{n:04d}") for n in range(MAX_ACTS))
    )
    assert under_rules(full, [RULE]) is full
    room = with_acts(EVIL, *full.acts[1:])
    assert len(under_rules(room, [RULE]).acts) == MAX_ACTS
