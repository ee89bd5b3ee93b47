"""Whatever is read as a skill, every store takes and gives back the same."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from marketplace.kv.records import decode_skill_record, encode_skill
from marketplace.kv.summaries import (
    decode_metadata,
    decode_summary,
    encode_metadata,
    encode_summary,
)
from marketplace.ports.database import DatabaseConnector
from marketplace.skills.scan import Facts, Refusal, Scan, apply_scan
from marketplace.skills.skill import Skill
from marketplace.skills.stored import read_skill, storable
from marketplace.skills.tiers import Verdict
from tests.examples import JANUARY

_TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.sampled_from(
        ("", "\0", "nul \0 inside", "\\u0000", "\x01\x1f\x7f", "\ufffe\uffff", "ﷺ" * 90)
    ),
    st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=3), st.just(40_000)),
)
_NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(("5", "NaN", "Infinity", "-inf", "1e999", 5e-324, -0.0, 1.7e308, 99.5, 100.5)),
)
_TIMES = st.one_of(
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.sampled_from(
        (
            *(
                "0001-01-01T00:00:00+14:00",
                "9999-12-31T23:59:59.999-12:00",
                "2026-02-30",
                "yesterday",
            ),
            *(
                "2026-W01-1",
                "2026-11-24",
                "20261124T081530,5Z",
                "\0",
                "",
                0,
                1.5,
                1_700_000_000_000,
            ),
        )
    ),
)
_ANYTHING = st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS, st.lists(_TEXTS, max_size=3))
_LISTS = st.one_of(
    st.lists(_TEXTS, max_size=4), st.text(max_size=60).map(lambda text: [text] * 300)
)


def _mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What belongs there; one time in eight anything."""
    return st.integers(0, 7).flatmap(lambda chance: usual if chance else _ANYTHING)


_RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "baseSlug": st.one_of(st.just("base"), st.just("b" * 400), _mostly(st.just("base-2"))),
        "title": _mostly(_TEXTS),
        "description": _mostly(_TEXTS),
        "author": _mostly(_TEXTS),
        "path": _mostly(_TEXTS),
        "license": _mostly(_TEXTS),
        "category": _mostly(_TEXTS),
        "version": _mostly(_TEXTS),
        "certTier": _mostly(st.sampled_from(("SCANNED", "VERIFIED", "CERTIFIED"))),
        "certMethod": _mostly(st.sampled_from(("HUMAN_REVIEW", "VENDOR_AUTO"))),
        "score": _mostly(_NUMBERS),
        "certifiedAt": _mostly(_TIMES),
        "createdAt": _mostly(_TIMES),
        "updatedAt": _mostly(_TIMES),
        "labels": _mostly(_LISTS),
        "extensionPoints": _mostly(_LISTS),
        "extensible": _mostly(st.booleans()),
        "trendingScore7d": _mostly(_NUMBERS),
        "trending_score_30d": _mostly(_NUMBERS),
        "unknown": _ANYTHING,
    },
)
_PLAIN = "https://github.com/acme/tools-{}"
_PLACES = st.sampled_from(
    (
        _PLAIN,
        "git@github.com:acme/tools-{}.git",
        "https://git.example/" + "group/" * 140 + "tools-{}",
        "https://github.com/acme/tools-{}?" + "q" * 1_900,
    )
)


_numbers = itertools.count()  # no example gets what another has stored


def _read(record: dict[str, Any], place: str) -> Skill | None:
    """As it is read out of KV: through JSON, under the slug that its key names."""
    number = next(_numbers)
    slug = f"skill-{number}" if number % 5 else "s" * 490 + f"-{number}"
    document = json.dumps({"repoUrl": place.format(number), **record})
    skill = decode_skill_record(slug, document.encode())
    return skill if isinstance(skill, Skill) else None


def _check_encoders(skill: Skill) -> None:
    assert storable(skill) == skill
    assert decode_skill_record(skill.name, encode_skill(skill)) == skill
    published = skill.published_summary()
    assert decode_summary(encode_summary(published)) == published
    metadata = encode_metadata(skill)
    assert metadata is None or decode_metadata(skill.name, metadata) == published


async def _check_database(connect: DatabaseConnector, skills: Sequence[Skill]) -> None:
    with await connect() as db:
        assert await db.upsert_skills(skills) == []
        for skill in skills:
            assert await db.get_skill(skill.name) == skill


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(records=[({"labels": [f"\ufdfa{number}" * 9 for number in range(6_000)]}, _PLAIN)])
@example(records=[({"baseSlug": "-".join(map(str, range(2_900)))}, _PLAIN)])
@given(records=st.lists(st.tuples(_RECORDS, _PLACES), min_size=1, max_size=8))
async def test_a_record_that_is_read_can_be_stored_anywhere(
    connect: DatabaseConnector, records: list[tuple[dict[str, Any], str]]
) -> None:
    read = [_read(record, place) for record, place in records]
    skills = [skill for skill in read if skill is not None]
    for skill in skills:
        _check_encoders(skill)
    await _check_database(connect, skills)


@pytest.mark.parametrize(
    ("given", "field", "stored"),
    [
        ({"score": 101}, "cert_score", 100),
        ({"score": -5}, "cert_score", 0),
        ({"score": 99.6}, "cert_score", 100),
        ({"score": "87"}, "cert_score", 87),
        *(({"score": no_number}, "cert_score", 0) for no_number in (True, "ninety", None, [9])),
        ({"score": float("inf")}, "cert_score", 0),
        ({"score": 10**400}, "cert_score", 0),
        ({"description": "a\0b"}, "description", "a\N{REPLACEMENT CHARACTER}b"),
        ({"trendingScore7d": "Infinity"}, "trending_score_7d", 0.0),
        ({"updatedAt": "yesterday"}, "updated_at", "1970-01-01T00:00:00.000Z"),
        ({"title": "x" * 300}, "display_name", "x" * 100),
        ({"category": ""}, "category", "development"),
    ],
)
def test_what_can_be_mended_hides_no_skill(
    given: dict[str, Any], field: str, stored: object
) -> None:
    skill = read_skill({"name": "a", "repoUrl": "https://github.com/a/b", **given})
    assert getattr(skill, field) == stored


@pytest.mark.parametrize(
    "damage",
    [
        {"repo_url": "nowhere"},
        {"repo_url": "https://github.com/acme/" + "x" * 3_000},
        {"base_slug": "Not A Slug"},
        {"skill": Facts(name="tools", description="\ud800")},
    ],
)
def test_a_damaged_scan_makes_no_skill(damage: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "submission_id": "a",
        "repo_url": "https://github.com/acme/tools",
        "skill_name": "tools",
        "base_slug": "tools",
        "verdict": Verdict.PASS,
        "score": 500,
        "scanned_at": JANUARY,
    }
    skill = apply_scan(None, Scan(**fields))
    assert isinstance(skill, Skill)
    assert skill.cert_score == 100
    assert apply_scan(None, Scan(**(fields | damage))) is Refusal.UNUSABLE
