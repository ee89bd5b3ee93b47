"""A skill as mirrors are told it, and what can be made of that again."""

import hashlib
import json
import random
from typing import Any

import msgspec
import pytest

from marketplace.basics.json_text import InvalidData
from marketplace.skills import mirrored
from marketplace.skills.acts import ActKind, Severity
from marketplace.skills.change import Scanned
from marketplace.skills.mirrored import read_item
from marketplace.skills.scan import Facts, Scan
from marketplace.skills.skill import Skill, Status
from marketplace.skills.stored import storable
from marketplace.skills.tiers import Verdict
from marketplace.skills.withholding import withholding_of
from tests.examples import FEBRUARY, JANUARY, MARCH, act, random_skills, skill, with_acts

SECRET = "what-operators-say-among-themselves"
BLOCK = act(
    ActKind.BLOCK,
    threat_type="malware",
    severity=Severity.HIGH,
    evidence_urls=("https://threat.example/a",),
    reason="It steals.",
)


def item_of(told: Skill, **options: Any) -> dict[str, Any]:
    return mirrored.item_of(told, told.revision, **options)


def over_the_wire(item: dict[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(item))
    return decoded


def test_a_listed_skill_comes_back_with_its_revision_and_all_that_everybody_is_told() -> None:
    listed = [storable(each) for each in random_skills(random.Random(1), 300)]
    listed = [each for each in listed if each.status is Status.LISTED]
    assert any(each.acts for each in listed)
    assert any(each.said for each in listed)
    for each in listed:
        again, aliases = read_item(over_the_wire(item_of(each, aliases=("old",))))
        assert aliases == ("old",)
        assert again.revision == each.revision
        counted = {"trending_score_7d": 0.0, "trending_score_30d": 0.0, "installs": 0, "acts": ()}
        assert msgspec.structs.replace(again, **counted) == msgspec.structs.replace(each, **counted)


def test_an_item_is_what_the_skills_page_tells_and_where_it_comes_from() -> None:
    told = skill(
        content_digest="d1" * 32, skill_md_digest="d2" * 32, commit="c0ffee", license="MIT",
        repository_id="7", owner_id="8", read_at=FEBRUARY, verdict_at=MARCH, certified_at=MARCH,
    )  # fmt: skip
    item = over_the_wire({"number": 7} | item_of(told))
    assert (item["name"], item["status"], item["moment"]) == ("pdf-tools", "LISTED", MARCH)
    for field in ("contentDigest", "skillMdDigest", "commit", "license", "repositoryId", "ownerId",
                  "readAt", "verdictAt", "description", "repoUrl", "skillPath"):  # fmt: skip
        assert field in item
    assert item["revision"] == told.revision
    assert "trendingScore7d" not in item


def test_the_digest_is_what_a_stranger_computes() -> None:
    for each in random_skills(random.Random(2), 60):
        item = over_the_wire({"number": 7} | item_of(each))
        told = {name: value for name, value in item.items() if name not in ("number", "digest")}
        text = json.dumps(told, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        assert hashlib.sha256(text.encode()).hexdigest() == item["digest"]


@pytest.mark.parametrize("kind", [ActKind.CORRECT, ActKind.BLOCK, ActKind.WITHDRAW])
def test_nobody_is_told_who_acted_on_a_listed_skill_and_why(kind: ActKind) -> None:
    lifted = act(
        kind, reason=SECRET, by=SECRET, threat_type=SECRET, evidence_urls=(SECRET,),
        category="data" if kind is ActKind.CORRECT else None,
    )  # fmt: skip
    lift = act(ActKind.RESTORE, MARCH, lifts=(lifted.id,), reason=SECRET, by=SECRET)
    acts = (lifted,) if kind is ActKind.CORRECT else (lifted, lift)
    item = item_of(with_acts(skill(), *acts))
    assert item["status"] == "LISTED"
    assert SECRET not in json.dumps(item)
    assert read_item(item)[0].revision == item["revision"]


def test_of_a_withheld_skill_its_page_s_words_are_told_and_nothing_of_itself() -> None:
    told = skill(description=SECRET, display_name=SECRET, content_digest="d1" * 32, ref=SECRET)
    item = over_the_wire(item_of(with_acts(told, BLOCK, act(ActKind.CORRECT, reason=SECRET))))
    assert SECRET not in json.dumps(item)
    assert item | {
        "status": "BLOCKED", "reason": "It steals.", "moment": FEBRUARY, "threatType": "malware",
        "severity": "HIGH", "evidenceUrls": ["https://threat.example/a"],
        "contentDigest": "d1" * 32, "name": "pdf-tools", "withheldBy": "operator",
    } == item  # fmt: skip
    assert "ops" not in item.values()
    withdrawn = item_of(with_acts(told, act(ActKind.WITHDRAW, reason="It is old.")))
    assert (withdrawn["reason"], withdrawn["contentDigest"]) == ("It is old.", None)


@pytest.mark.parametrize("acted", [BLOCK, act(ActKind.WITHDRAW), None], ids=str)
def test_what_was_withheld_is_withheld_again_with_the_same_words(acted: Any) -> None:
    withheld = (
        with_acts(skill(verdict=Verdict.WITHDRAWN, verdict_at=MARCH, verdict_reason="Its owner."))
        if acted is None
        else with_acts(skill(), acted)
    )
    again, _ = read_item(over_the_wire(item_of(withheld)))
    assert again.status is withheld.status
    assert withholding_of(again) == withholding_of(withheld)
    assert (again.name, again.identity) == (withheld.name, withheld.identity)
    assert read_item(over_the_wire(item_of(withheld)))[0].revision == again.revision


def _passed(stored: Skill) -> Skill:
    scan = Scan(
        submission_id="s", repo_url=stored.repo_url, skill_name="pdf-tools",
        base_slug="pdf-tools", verdict=Verdict.PASS, score=90,
        scanned_at="2026-05-01T00:00:00.000Z", path="skills/pdf",
        skill=Facts(name="pdf-tools", description="It is back."),
    )  # fmt: skip
    after = Scanned(scan).onto(stored)
    assert isinstance(after, Skill)
    return after


def test_a_later_scan_brings_back_what_its_owner_withdrew_and_nothing_else() -> None:
    owner = with_acts(skill(verdict=Verdict.WITHDRAWN, verdict_at=MARCH))
    back = _passed(read_item(item_of(owner))[0])
    assert (back.status, back.description) == (Status.LISTED, "It is back.")
    for acted in (BLOCK, act(ActKind.WITHDRAW)):
        stub, _ = read_item(item_of(with_acts(skill(), acted)))
        assert _passed(stub).status is stub.status
        assert _passed(stub).description == "It is back."


DAMAGES = {
    "description": "Another one.",
    "status": "WITHDRAWN",
    "revision": "0",
    "name": "another",
    "identity": "https://github.com/acme/tools#another",
    "contentDigest": "e" * 64,
}


@pytest.mark.parametrize("field", DAMAGES)
@pytest.mark.parametrize("digest_is_made_anew", [False, True])
def test_what_was_changed_on_the_way_is_refused(field: str, digest_is_made_anew: bool) -> None:
    item = over_the_wire(item_of(skill(content_digest="d" * 64, updated_at=JANUARY)))
    item[field] = DAMAGES[field]
    if digest_is_made_anew:
        if field == "name":
            return  # a slug is in no revision: the marketplace gave it
        told = {name: value for name, value in item.items() if name not in ("number", "digest")}
        text = json.dumps(told, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        item["digest"] = hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(InvalidData):
        read_item(item)


@pytest.mark.parametrize("item", [{}, {"name": "a"}, {"identity": 7, "status": "LISTED"}])
def test_what_is_no_item_is_refused(item: dict[str, Any]) -> None:
    with pytest.raises(InvalidData):
        read_item(item)
