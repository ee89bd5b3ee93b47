"""States of one skill are merged in any order, and nothing that one of them knows is lost."""

import itertools
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from marketplace.skills.acts import Act, ActKind, Severity, in_force
from marketplace.skills.merging import as_listed, merge
from marketplace.skills.scan import Facts, Refusal, Scan, apply_scan
from marketplace.skills.skill import Skill, Status
from marketplace.skills.tiers import CertTier, Verdict
from tests.examples import skill as make_skill

_MOMENTS = [f"2026-11-24T08:00:0{second}.000Z" for second in range(6)]
_NAMES = ("one", "two")


def scan(
    moment: str, verdict: Verdict = Verdict.PASS, text: str | None = None, **more: Any
) -> Scan:
    return Scan(
        submission_id=f"{moment}-{verdict}-{text}",
        repo_url="https://github.com/acme/tools",
        skill_name="Tidy",
        base_slug="tidy",
        verdict=verdict,
        score=80,
        scanned_at=moment,
        cert_tier=CertTier.VERIFIED,
        skill=None if text is None else Facts(name="tidy", description=text),
        **more,
    )


def act(id: str, kind: ActKind, moment: str = _MOMENTS[3], **more: Any) -> Act:  # noqa: A002
    return Act(id=id, kind=kind, reason="because", at=moment, by="ops", **more)


def with_acts(skill: Skill, *acts: Act) -> Skill:
    return as_listed(msgspec.structs.replace(skill, acts=acts))


def listed() -> Skill:
    skill = apply_scan(None, scan(_MOMENTS[0], text="first"))
    assert isinstance(skill, Skill)
    return skill


def from_before_verdicts() -> Skill:
    """A state that tells no moment of its facts and of its verdict."""
    return make_skill("tidy", updated_at=_MOMENTS[1], certified_at=_MOMENTS[2])


_scans = st.builds(
    scan,
    st.sampled_from(_MOMENTS),
    st.sampled_from(Verdict),
    st.sampled_from([None, *_NAMES]),
)
_acts = st.lists(
    st.sampled_from(
        [
            act("a", ActKind.BLOCK, _MOMENTS[1], threat_type="malware", severity=Severity.HIGH),
            act("b", ActKind.CORRECT, _MOMENTS[2], category="writing", labels=("x",)),
            act("c", ActKind.CORRECT, _MOMENTS[4], cert_tier=CertTier.CERTIFIED),
            act("d", ActKind.RESTORE, _MOMENTS[5], lifts=("a", "c")),
            act("e", ActKind.WITHDRAW, _MOMENTS[0]),
        ]
    ),
    unique_by=lambda each: each.id,
)


@st.composite
def _states(draw: st.DrawFn) -> Skill:
    skill = draw(st.sampled_from([listed(), from_before_verdicts()]))
    for found in draw(st.lists(_scans, max_size=3)):
        changed = apply_scan(skill, found)
        assert isinstance(changed, Skill)
        skill = changed
    return merge(skill, with_acts(skill, *sorted(draw(_acts), key=lambda a: (a.at, a.id))))


@given(_states(), _states(), _states())
def test_the_order_of_merging_does_not_matter(one: Skill, two: Skill, three: Skill) -> None:
    merged = {
        merge(merge(a, b), c).revision for a, b, c in itertools.permutations([one, two, three])
    }
    merged.add(merge(one, merge(two, three)).revision)
    assert len(merged) == 1
    assert merge(one, one).revision == one.revision


@given(_states(), _states())
def test_what_is_merged_has_no_smaller_revision(one: Skill, other: Skill) -> None:
    merged = merge(one, other)
    known = {act.id for act in (*one.acts, *other.acts)}
    assert {act.id for act in merged.acts} == known
    assert merged.facts_at == max(one.facts_at, other.facts_at)
    assert merged.decided_at == max(one.decided_at, other.decided_at)
    assert merged.revision.rpartition("|")[0] >= max(
        one.revision.rpartition("|")[0], other.revision.rpartition("|")[0]
    )


def test_a_state_that_tells_no_moment_of_its_verdict_is_the_same_state_once_merged() -> None:
    for state in (from_before_verdicts(), make_skill("tidy")):
        assert merge(state, state).revision == state.revision


@given(_states())
def test_a_state_says_what_its_acts_and_its_verdict_make_of_it(skill: Skill) -> None:
    kinds = {each.kind for each in in_force(skill.acts)}
    withdrawn = ActKind.WITHDRAW in kinds or skill.verdict is Verdict.WITHDRAWN
    blocked = ActKind.BLOCK in kinds
    assert skill.status is (
        Status.BLOCKED if blocked else Status.WITHDRAWN if withdrawn else Status.LISTED
    )
    assert as_listed(merge(skill, skill)) == merge(skill, skill)


def test_a_failed_rescan_marks_the_skill_takes_its_tier_and_leaves_it_listed() -> None:
    failed = apply_scan(listed(), scan(_MOMENTS[2], Verdict.FAIL, reason="reads secrets"))
    assert isinstance(failed, Skill)
    assert (failed.status, failed.scan_failed_at) == (Status.LISTED, _MOMENTS[2])
    assert (failed.cert_tier, failed.description) == (CertTier.SCANNED, "first")
    passed = apply_scan(failed, scan(_MOMENTS[3]))
    assert isinstance(passed, Skill)
    assert (passed.scan_failed_at, passed.cert_tier) == (None, CertTier.VERIFIED)


def test_a_correction_shows_until_it_is_lifted_and_then_what_the_repository_says_shows() -> None:
    corrected = with_acts(listed(), act("a", ActKind.CORRECT, category="writing"))
    rescanned = apply_scan(corrected, scan(_MOMENTS[4], text="second"))
    assert isinstance(rescanned, Skill)
    assert (rescanned.category, rescanned.description) == ("writing", "second")
    restored = merge(rescanned, with_acts(rescanned, act("b", ActKind.RESTORE, lifts=("a",))))
    assert restored.category == "development"
    assert restored.said is None


def test_a_restore_lifts_only_the_acts_that_it_names() -> None:
    blocked = with_acts(listed(), act("a", ActKind.BLOCK), act("b", ActKind.BLOCK))
    once = merge(blocked, with_acts(blocked, act("c", ActKind.RESTORE, lifts=("a",))))
    assert once.status is Status.BLOCKED
    twice = merge(once, with_acts(once, act("d", ActKind.RESTORE, lifts=("b",))))
    assert twice.status is Status.LISTED


def test_a_result_for_another_folder_changes_nothing_until_the_listed_one_is_gone() -> None:
    stored = apply_scan(None, scan(_MOMENTS[0], text="first", path="skills/tidy"))
    assert isinstance(stored, Skill)
    for verdict in Verdict:
        other = scan(_MOMENTS[2], verdict, "second", path="attic/tidy")
        assert apply_scan(stored, other) is Refusal.OTHER_PATH
    gone = apply_scan(stored, scan(_MOMENTS[1], Verdict.WITHDRAWN, path="skills/tidy"))
    assert isinstance(gone, Skill)
    moved = apply_scan(gone, scan(_MOMENTS[2], text="second", path="attic/tidy"))
    assert isinstance(moved, Skill)
    assert (moved.skill_path, moved.status) == ("attic/tidy", Status.LISTED)


def test_a_repository_that_changed_hands_changes_nothing_until_an_operator_accepts_it() -> None:
    stored = apply_scan(None, scan(_MOMENTS[0], text="first", repository_id="1", owner_id="7"))
    assert isinstance(stored, Skill)
    taken = scan(_MOMENTS[2], text="second", repository_id="2", owner_id="7")
    assert apply_scan(stored, taken) is Refusal.CHANGED_HANDS
    accepted = with_acts(stored, act("a", ActKind.ACCEPT_OWNER, repository_id="2"))
    changed = apply_scan(accepted, taken)
    assert isinstance(changed, Skill)
    assert changed.description == "second"


def test_a_pass_without_facts_changes_nothing_but_the_check() -> None:
    stored = listed()
    passed = apply_scan(stored, scan(_MOMENTS[2]))
    assert isinstance(passed, Skill)
    assert passed.content() == stored.content()
    assert passed.certified_at == _MOMENTS[2]


def test_a_first_pass_without_facts_lists_the_pointer_and_says_so() -> None:
    skill = apply_scan(None, scan(_MOMENTS[0]))
    assert isinstance(skill, Skill)
    assert (skill.provisional, skill.description, skill.display_name) == (True, "", "Tidy")
    told = apply_scan(skill, scan(_MOMENTS[1], text="first"))
    assert isinstance(told, Skill)
    assert (told.provisional, told.description) == (False, "first")


def test_any_other_first_verdict_lists_nothing() -> None:
    for verdict in (Verdict.FAIL, Verdict.GONE, Verdict.WITHDRAWN):
        assert apply_scan(None, scan(_MOMENTS[0], verdict)) is Refusal.NOT_LISTED


def test_an_absurd_version_orders_nothing() -> None:
    absurd = make_skill(current_version="9999999999.0.0", updated_at=_MOMENTS[0])
    later = make_skill(current_version="1.0.1", updated_at=_MOMENTS[1])
    assert merge(absurd, later).current_version == "1.0.1"
    assert merge(later, absurd).current_version == "1.0.1"
