"""Upserts, slugs and aliases."""

from typing import Any

import msgspec
import pytest

from marketplace.basics.timestamps import normalize_timestamp
from marketplace.ports.database import DatabaseConnector, Upserted, UpsertResult
from marketplace.ports.errors import DatabaseError
from marketplace.skills.acts import Act, ActKind, Severity
from marketplace.skills.change import Acted, State
from marketplace.skills.merging import as_listed, merge
from marketplace.skills.scan import Refusal
from marketplace.skills.skill import Skill, Status
from marketplace.skills.tiers import CertMethod, CertTier, Verdict
from tests.examples import FEBRUARY, JANUARY, MARCH, publish, skill


async def test_a_new_skill_gets_its_first_candidate_and_reads_back_whole(
    connect: DatabaseConnector,
) -> None:
    record = skill(
        display_name='Ünïcode "quoted" \\ {a,b} 🦊',
        description="x" * 2000 + "\n\té",
        license="MIT",
        labels=("a b", 'c"d', "NULL", ""),
        extension_points=("on-save",),
        trending_score_7d=0.1,
        certified_at=MARCH,
    )
    with await connect() as db:
        result = await publish(db, record)

        assert (result.outcome, result.skill) == (Upserted.INSERTED, record)
        assert await db.get_skill(record.name) == record
        assert await db.get_skill_by_identity(record.identity) == record


async def test_the_earliest_and_the_latest_times_are_taken(connect: DatabaseConnector) -> None:
    record = skill(
        published_at=normalize_timestamp("0001-01-01T00:00:00Z"),
        updated_at=normalize_timestamp("9999-12-31T23:59:59.9999Z"),
    )
    with await connect() as db:
        assert (await publish(db, record)).skill == record


async def test_unknown_skills_are_none(connect: DatabaseConnector) -> None:
    with await connect() as db:
        assert await db.get_skill("nothing") is None
        assert await db.get_skill("nul\0") is None
        assert await db.get_skill_by_identity("nothing") is None


async def test_another_repositorys_skill_gets_the_next_free_candidate(
    connect: DatabaseConnector,
) -> None:
    repositories = ["acme/tools", "zed/tools", "zed/more", "zed/more-"]
    with await connect() as db:
        names = [
            (await publish(db, skill("pdf", repository=repository))).skill.name
            for repository in repositories
        ]

    assert names[:3] == ["pdf", "zed-pdf", "zed-more-pdf"]
    assert names[3].startswith("zed-more-pdf-")


async def test_newer_facts_replace_all_but_slug_first_publication_and_trending(
    connect: DatabaseConnector,
) -> None:
    first = skill(published_at=FEBRUARY, trending_score_7d=3.5, trending_score_30d=4.5)
    newer = skill(
        name="ignored",
        current_version="1.1.0",
        display_name="New",
        description="new",
        category="data",
        labels=("new",),
        published_at=MARCH,
        updated_at=MARCH,
    )
    with await connect() as db:
        await publish(db, first)
        result = await db.upsert_skill(State(newer), candidates=["elsewhere"])

        expected = merge(first, newer)
        assert result == UpsertResult(expected, Upserted.UPDATED)
        assert await db.get_skill(first.name) == expected
        assert expected == msgspec.structs.replace(
            newer,
            name=first.name,
            published_at=FEBRUARY,
            trending_score_7d=3.5,
            trending_score_30d=4.5,
            read_at=MARCH,
            verdict_at=MARCH,
        )


async def test_first_publication_moves_back_with_a_newer_revision(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await publish(db, skill(published_at=MARCH))
        result = await publish(db, skill(published_at=JANUARY, updated_at=MARCH))

    assert result.skill.published_at == JANUARY


async def test_late_older_facts_change_nothing(connect: DatabaseConnector) -> None:
    newest = skill(updated_at=MARCH, published_at=FEBRUARY)
    with await connect() as db:
        await publish(db, newest)
        late = await publish(
            db, skill(current_version="9.0.0", published_at=JANUARY, updated_at=FEBRUARY)
        )

        assert (late.outcome, late.skill) == (Upserted.UNCHANGED, newest)
        assert await db.get_skill(newest.name) == newest


_BLOCK = Act(
    id="a",
    kind=ActKind.BLOCK,
    reason='says "yes"',
    at=FEBRUARY,
    by="ops",
    threat_type="malware",
    severity=Severity.HIGH,
    evidence_urls=("https://example.org/1",),
)
_CORRECTION = Act(
    id="b", kind=ActKind.CORRECT, reason="wrong", at=MARCH, by="ops", category="data", labels=("x",)
)


async def test_acts_verdict_and_ids_read_back_as_they_were_written(
    connect: DatabaseConnector,
) -> None:
    record = as_listed(
        skill(
            commit="a" * 40,
            ref="main",
            repository_id="1",
            owner_id="2",
            content_digest="b" * 64,
            skill_md_digest="c" * 64,
            read_at=FEBRUARY,
            verdict=Verdict.FAIL,
            verdict_at=MARCH,
            verdict_reason="reads secrets",
            cert_tier=CertTier.VERIFIED,
            cert_method=CertMethod.HUMAN_REVIEW,
            acts=(_BLOCK, _CORRECTION),
        )
    )
    with await connect() as db:
        assert (await publish(db, record)).skill == record
        assert await db.get_skill(record.name) == record
        assert await db.get_skills([record.identity, "nothing"]) == {record.identity: record}
    assert (record.status, record.scan_failed_at) == (Status.BLOCKED, MARCH)
    assert record.said is not None


async def test_an_act_and_newer_facts_are_both_kept_in_either_order(
    connect: DatabaseConnector,
) -> None:
    newer = skill(updated_at=MARCH, description="newer")
    for number, act_first in enumerate((True, False)):
        listed = skill(f"pdf-{number}")
        facts = State(msgspec.structs.replace(listed, updated_at=MARCH, description="newer"))
        act = Acted(listed.identity, (_BLOCK,))
        with await connect() as db:
            await publish(db, listed)
            for change in (act, facts) if act_first else (facts, act):
                await db.upsert_skill(change, candidates=[], row=listed)
            stored = await db.get_skill(listed.name)
        assert stored is not None
        assert (stored.description, stored.status) == (newer.description, Status.BLOCKED)


async def test_bulk_upserts_take_facts_from_one_and_acts_from_the_other(
    connect: DatabaseConnector,
) -> None:
    blocked = as_listed(skill("one", acts=(_BLOCK,)))
    with await connect() as db:
        await db.upsert_skills([blocked, skill("two", updated_at=MARCH)])
        await db.upsert_skills(
            [skill("one", updated_at=MARCH), as_listed(skill("two", acts=(_BLOCK,)))]
        )
        for name in ("one", "two"):
            stored = await db.get_skill(name)
            assert stored is not None
            assert (stored.facts_at, stored.status) == (MARCH, Status.BLOCKED)


async def test_a_refused_change_changes_nothing(connect: DatabaseConnector) -> None:
    with await connect() as db:
        act = Acted(skill().identity, (_BLOCK,))
        assert await db.upsert_skill(act, candidates=["pdf-tools"]) is Refusal.NOT_LISTED
        assert await db.get_skill("pdf-tools") is None


async def test_a_row_that_changed_since_it_was_read_is_read_again(
    connect: DatabaseConnector,
) -> None:
    seen: list[Skill | None] = []

    class Watched(Acted):
        def onto(self, stored: Skill | None) -> Skill | Refusal:
            seen.append(stored)
            return super().onto(stored)

    stale, present = skill(), skill(updated_at=MARCH)
    with await connect() as db:
        await publish(db, present)
        await db.upsert_skill(Watched(stale.identity, (_BLOCK,)), candidates=[], row=stale)
        stored = await db.get_skill(stale.name)
    assert stored is not None
    assert (stored.facts_at, stored.status) == (MARCH, Status.BLOCKED)
    assert seen[-1] == present


async def test_the_same_revision_again_is_unchanged(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await publish(db, skill())
        again = await publish(db, skill())

    assert again.outcome is Upserted.UNCHANGED


async def test_an_existing_identity_needs_no_candidates(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await publish(db, skill())
        result = await db.upsert_skill(State(skill(updated_at=MARCH)), candidates=[])

    assert isinstance(result, UpsertResult)
    assert result.outcome is Upserted.UPDATED


async def test_without_a_free_candidate_it_is_a_conflict(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await publish(db, skill("pdf"))
        with pytest.raises(DatabaseError) as failure:
            await db.upsert_skill(State(skill("pdf", repository="zed/x")), candidates=["pdf"])

    assert failure.value.reason == "conflict"


async def test_an_alias_of_another_identity_is_not_free_but_ones_own_is(
    connect: DatabaseConnector,
) -> None:
    mine, other = skill("pdf"), skill("pdf", repository="zed/x")
    with await connect() as db:
        await db.add_alias("pdf", other.identity)

        assert (await publish(db, mine)).skill.name == "acme-pdf"
        assert (await publish(db, other)).skill.name == "pdf"


@pytest.mark.parametrize(
    "fields",
    [
        {"cert_score": 101},
        {"cert_score": -1},
        {"trending_score_7d": float("inf")},
        {"trending_score_30d": float("nan")},
        {"published_at": "yesterday"},
        {"description": "a\0b"},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_what_no_skill_may_be_is_rejected(
    connect: DatabaseConnector, fields: dict[str, Any]
) -> None:
    record = skill(**fields)
    with await connect() as db:
        with pytest.raises(DatabaseError) as failure:
            await publish(db, record)
        assert failure.value.reason == "rejected"

        with pytest.raises(DatabaseError):
            await db.upsert_skills([skill("innocent"), record])
        assert await db.get_skill("innocent") is None


async def test_a_session_goes_on_after_a_rejection(connect: DatabaseConnector) -> None:
    with await connect() as db:
        with pytest.raises(DatabaseError):
            await publish(db, skill(cert_score=101))
        assert (await publish(db, skill())).outcome is Upserted.INSERTED


async def test_a_closed_session_is_unavailable(connect: DatabaseConnector) -> None:
    db = await connect()
    db.close()
    with pytest.raises(DatabaseError) as failure:
        await db.get_skill("pdf")
    assert failure.value.reason == "unavailable"


async def test_bulk_upserts_insert_update_and_keep_what_is_newer(
    connect: DatabaseConnector,
) -> None:
    kept = skill("kept", updated_at=MARCH)
    with await connect() as db:
        await db.upsert_skills([kept, skill("old")])
        unplaced = await db.upsert_skills(
            [
                skill("kept", description="late", current_version="2.0.0"),
                skill("old", name="other-name", updated_at=MARCH, published_at=MARCH),
                skill("new"),
            ]
        )

        assert unplaced == []
        assert await db.get_skill("kept") == kept
        old = await db.get_skill("old")
        assert old is not None
        assert (old.name, old.facts_at) == ("old", MARCH)
        assert await db.get_skill("other-name") is None
        assert await db.get_skill("new") == skill("new")


async def test_bulk_upserts_return_those_whose_slug_belongs_to_another(
    connect: DatabaseConnector,
) -> None:
    by_row = skill("row", repository="zed/x")
    by_alias = skill("alias", repository="zed/x")
    own_alias = skill("own-alias", repository="zed/x")
    with await connect() as db:
        await publish(db, skill("row"))
        await db.add_alias("alias", skill("alias").identity)
        await db.add_alias("own-alias", own_alias.identity)
        unplaced = await db.upsert_skills([by_row, by_alias, own_alias])

        assert sorted(record.name for record in unplaced) == ["alias", "row"]
        assert await db.get_skill_by_identity(by_row.identity) is None
        assert await db.get_skill("own-alias") == own_alias


async def test_bulk_upserts_give_a_slug_asked_for_twice_to_one(
    connect: DatabaseConnector,
) -> None:
    rivals = [skill("pdf", repository=f"owner-{number}/x") for number in range(5)]
    with await connect() as db:
        unplaced = await db.upsert_skills(rivals)
        winner = await db.get_skill("pdf")

    assert winner is not None
    assert {record.identity for record in unplaced} == {
        record.identity for record in rivals if record.identity != winner.identity
    }


async def test_bulk_upserts_take_the_newest_of_several_states_in_any_order(
    connect: DatabaseConnector,
) -> None:
    states = [
        skill(current_version=f"1.{number}.0", updated_at=f"2026-0{number}-01T00:00:00.000Z")
        for number in (1, 3, 2)
    ]
    with await connect() as db:
        assert await db.upsert_skills(states) == []
        stored = await db.get_skill("pdf-tools")

    assert stored is not None
    assert stored.current_version == "1.3.0"


async def test_a_check_answers_like_the_bulk_upsert_and_changes_nothing(
    connect: DatabaseConnector,
) -> None:
    new, other = skill("new"), skill("pdf", repository="zed/x")
    with await connect() as db:
        await publish(db, skill("pdf"))
        before = await db.fingerprint()
        assert await db.check_skills([new, other]) == [other]
        with pytest.raises(DatabaseError) as failure:
            await db.check_skills([new, skill("bad", cert_score=101)])
        assert failure.value.reason == "rejected"

        assert await db.fingerprint() == before
        assert await db.check_skills([]) == []
        assert await db.upsert_skills([new, other]) == [other]
        assert await db.get_skill("new") == new


async def test_a_thousand_skills_are_one_bulk_upsert(connect: DatabaseConnector) -> None:
    records = [skill(f"skill-{number}") for number in range(1000)]
    with await connect() as db:
        assert await db.upsert_skills(records) == []
        assert await db.upsert_skills([]) == []
        assert (await db.fingerprint()).count == 1000


async def test_an_alias_may_come_before_its_skill_and_never_hides_a_row(
    connect: DatabaseConnector,
) -> None:
    record = skill("pdf")
    with await connect() as db:
        await db.add_alias("old-pdf", record.identity)
        assert await db.get_skill("old-pdf") is None

        await publish(db, record)
        await publish(db, skill("other"))
        await db.add_alias("old-pdf", record.identity)
        await db.add_alias("other", record.identity)

        assert await db.get_skill("old-pdf") == record
        assert await db.get_skill("other") == skill("other")


async def test_an_alias_is_not_taken_from_the_skill_it_leads_to(
    connect: DatabaseConnector,
) -> None:
    first, second = skill("first"), skill("second")
    with await connect() as db:
        await db.upsert_skills([first, second])
        await db.add_alias("old", first.identity)
        await db.add_alias("old", second.identity)

        assert await db.get_skill("old") == first
