"""Upserts, slugs and aliases."""

from typing import Any

import msgspec
import pytest

from marketplace.basics.timestamps import normalize_timestamp
from marketplace.ports.database import DatabaseConnector, Upserted
from marketplace.ports.errors import DatabaseError
from marketplace.skills.tiers import CertMethod, CertTier
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


async def test_a_newer_revision_replaces_all_but_slug_first_publication_and_trending(
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
        result = await db.upsert_skill(newer, candidates=["elsewhere"])

        expected = msgspec.structs.replace(
            newer,
            name=first.name,
            published_at=FEBRUARY,
            trending_score_7d=3.5,
            trending_score_30d=4.5,
        )
        assert (result.outcome, result.skill) == (Upserted.UPDATED, expected)
        assert await db.get_skill(first.name) == expected


async def test_first_publication_moves_back_with_a_newer_revision(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await publish(db, skill(published_at=MARCH))
        result = await publish(db, skill(published_at=JANUARY, updated_at=MARCH))

    assert result.skill.published_at == JANUARY


async def test_a_late_older_revision_changes_nothing(connect: DatabaseConnector) -> None:
    newest = skill(current_version="2.0.0", published_at=FEBRUARY)
    with await connect() as db:
        await publish(db, newest)
        late = await publish(db, skill(description="late", published_at=JANUARY, updated_at=MARCH))

        assert (late.outcome, late.skill) == (Upserted.UNCHANGED, newest)
        assert await db.get_skill(newest.name) == newest


_SAID_DIFFERENTLY: dict[str, Any] = {
    "display_name": "Other",
    "description": "Other.",
    "author": "Acme",
    "repo_url": "https://github.com/Acme/tools",
    "skill_path": "other",
    "license": "MIT",
    "category": "other",
    "current_version": "2.0.0",
    "labels": ("other",),
    "extensible": True,
    "extension_points": ("other",),
}


@pytest.mark.parametrize("field", _SAID_DIFFERENTLY)
async def test_an_untrusted_state_that_says_something_else_changes_nothing(
    connect: DatabaseConnector, field: str
) -> None:
    listed = skill()
    said = {field: _SAID_DIFFERENTLY[field], "updated_at": MARCH}
    other = msgspec.structs.replace(listed, **said)
    with await connect() as db:
        await publish(db, listed)
        result = await db.upsert_skill(other, candidates=["free"], trusted=False)

        assert (result.outcome, result.skill) == (Upserted.UNCHANGED, listed)
        assert await db.get_skill(listed.name) == listed
        assert await db.get_skill("free") is None
        assert (await publish(db, other)).outcome is Upserted.UPDATED


async def test_an_untrusted_state_may_be_new_and_bring_a_later_verdict(
    connect: DatabaseConnector,
) -> None:
    first = skill(license=None)
    later = skill(
        updated_at=MARCH,
        certified_at=MARCH,
        cert_score=99,
        cert_tier=CertTier.VERIFIED,
        cert_method=CertMethod.HUMAN_REVIEW,
    )
    with await connect() as db:
        results = [
            await db.upsert_skill(state, candidates=["pdf-tools"], trusted=False)
            for state in (first, later, first, later)
        ]

    assert [result.outcome for result in results] == [
        Upserted.INSERTED,
        Upserted.UPDATED,
        Upserted.UNCHANGED,
        Upserted.UNCHANGED,
    ]
    assert [result.skill for result in results] == [first, later, later, later]


async def test_the_same_revision_again_is_unchanged(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await publish(db, skill())
        again = await publish(db, skill())

    assert again.outcome is Upserted.UNCHANGED


async def test_an_existing_identity_needs_no_candidates(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await publish(db, skill())
        result = await db.upsert_skill(skill(updated_at=MARCH), candidates=[])

    assert result.outcome is Upserted.UPDATED


async def test_without_a_free_candidate_it_is_a_conflict(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await publish(db, skill("pdf"))
        with pytest.raises(DatabaseError) as failure:
            await db.upsert_skill(skill("pdf", repository="zed/x"), candidates=["pdf"])

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
    kept = skill("kept", current_version="2.0.0")
    with await connect() as db:
        await db.upsert_skills([kept, skill("old")])
        unplaced = await db.upsert_skills(
            [
                skill("kept", description="late"),
                skill("old", name="other-name", updated_at=MARCH, published_at=MARCH),
                skill("new"),
            ]
        )

        assert unplaced == []
        assert await db.get_skill("kept") == kept
        assert await db.get_skill("old") == skill("old", updated_at=MARCH)
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
    states = [skill(current_version=f"1.{number}.0") for number in (1, 3, 2)]
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
