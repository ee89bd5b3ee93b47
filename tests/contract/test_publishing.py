"""Upserts, slugs and aliases."""

import itertools
from typing import Any, Final

import msgspec
import pytest

from marketplace.basics.timestamps import normalize_timestamp
from marketplace.ports.database import AliasRow, DatabaseConnector, Upserted
from marketplace.ports.errors import DatabaseError
from marketplace.skills.acts import Act, ActKind, Severity
from marketplace.skills.change import Acted, Scanned, State
from marketplace.skills.merging import as_listed, merge
from marketplace.skills.scan import Refusal, Scan
from marketplace.skills.seed import Claim
from marketplace.skills.skill import Said, Skill, Status
from marketplace.skills.tiers import CertMethod, CertTier, Verdict
from tests.examples import FEBRUARY, JANUARY, MARCH, act, change, publish, seed_of, skill, with_acts


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
    first = skill(published_at=FEBRUARY, trending_score_7d=3.5, trending_score_30d=4.5, installs=9)
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
        result = await change(db, State(newer), "elsewhere")

        expected = msgspec.structs.replace(
            newer,
            name=first.name,
            published_at=FEBRUARY,
            trending_score_7d=3.5,
            trending_score_30d=4.5,
            installs=9,
            read_at=MARCH,
            verdict_at=MARCH,
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
    newest = skill(updated_at=MARCH, published_at=FEBRUARY)
    with await connect() as db:
        await publish(db, newest)
        late = await publish(db, skill(description="late", published_at=MARCH))

        assert (late.outcome, late.skill) == (Upserted.UNCHANGED, newest)
        assert await db.get_skill(newest.name) == newest


async def test_an_absurd_version_orders_nothing(connect: DatabaseConnector) -> None:
    absurd = skill(current_version="9999999999.0.0")
    later = skill(current_version="1.0.1", updated_at=FEBRUARY)
    with await connect() as db:
        await publish(db, absurd)
        assert (await publish(db, later)).skill.current_version == "1.0.1"
        again = await publish(db, absurd)
        assert (again.outcome, again.skill.current_version) == (Upserted.UNCHANGED, "1.0.1")


async def test_facts_verdict_and_acts_are_merged_each_for_itself(
    connect: DatabaseConnector,
) -> None:
    failed = as_listed(skill(verdict=Verdict.FAIL, verdict_at=MARCH, verdict_reason="bad"))
    told = skill(description="Told later.", updated_at=FEBRUARY)
    acted = with_acts(skill(), act(ActKind.CORRECT, category="writing"))
    for number, states in enumerate(itertools.permutations((failed, told, acted))):
        with await connect() as db:
            for state in states:
                result = await publish(db, _called(state, f"pdf-{number}"))
            stored = await db.get_skill(f"pdf-{number}")

        assert stored == result.skill
        assert stored is not None
        assert (stored.description, stored.facts_at) == ("Told later.", FEBRUARY)
        assert (stored.verdict, stored.scan_failed_at) == (Verdict.FAIL, MARCH)
        assert (stored.category, stored.acts) == ("writing", acted.acts)
        assert stored.said == Said(
            category="development", labels=told.labels, cert_tier=CertTier.SCANNED
        )


def _called(record: Skill, base_slug: str) -> Skill:
    return msgspec.structs.replace(record, name=base_slug, base_slug=base_slug)


async def test_a_refused_change_stores_nothing(connect: DatabaseConnector) -> None:
    listed = skill(skill_path="skills/pdf-tools")
    elsewhere = Scan(
        submission_id="a",
        repo_url=listed.repo_url,
        skill_name="pdf-tools",
        base_slug="pdf-tools",
        verdict=Verdict.PASS,
        score=50,
        scanned_at=MARCH,
        path="attic/pdf-tools",
    )
    block = Acted(listed.identity, (act(ActKind.BLOCK),))
    with await connect() as db:
        assert await db.upsert_skill(block, candidates=["pdf-tools"]) is Refusal.NOT_LISTED
        assert (await db.fingerprint()).count == 0

        await publish(db, listed)
        refused = await db.upsert_skill(Scanned(elsewhere), candidates=[])
        assert refused is Refusal.OTHER_PATH
        assert await db.get_skill("pdf-tools") == listed


async def test_a_row_that_the_caller_has_read_is_not_read_again(
    connect: DatabaseConnector,
) -> None:
    seen: list[Skill | None] = []

    class Noting(State):
        def onto(self, stored: Skill | None) -> Skill | Refusal:
            seen.append(stored)
            return super().onto(stored)

    with await connect() as db:
        row = (await publish(db, skill())).skill
        told = Noting(skill(updated_at=MARCH))
        assert (await change(db, told, row=row)).outcome is Upserted.UPDATED

    assert len(seen) == 1
    assert seen[0] is row


_WHOLE: Final = as_listed(
    Skill(
        name="whole-skill",
        base_slug="whole",
        display_name='Ünïcode "quoted" \\ {a,b} 🦊',
        description="x" * 2000 + "\n\té",
        author="Acme",
        repo_url="https://github.com/acme/tools",
        skill_path="skills/whole",
        license="MIT",
        category="data",
        current_version="2.0.0-rc.1",
        cert_tier=CertTier.VERIFIED,
        cert_method=CertMethod.HUMAN_REVIEW,
        cert_score=77,
        certified_at=JANUARY,
        labels=("a b", 'c"d', "NULL", ""),
        extensible=True,
        trending_score_7d=0.1,
        trending_score_30d=-3.5,
        installs=2**31 - 1,
        published_at=JANUARY,
        updated_at=FEBRUARY,
        provisional=True,
        extension_points=("on-save",),
        commit="c0ffee",
        ref="refs/heads/ünal",
        repository_id="4711",
        owner_id="7",
        content_digest="d1" * 32,
        skill_md_digest="d2" * 32,
        files_digest="d3" * 32,
        scanned_by="scan-ü",
        read_at=FEBRUARY,
        verdict=Verdict.FAIL,
        verdict_at=MARCH,
        verdict_reason='reads "secrets" \\ 🦊',
        acts=(
            act(ActKind.WITHDRAW, JANUARY),
            act(
                ActKind.CORRECT,
                FEBRUARY,
                id="0197-ä",
                reason='wröng "category" \\',
                by="ops:jo",
                category="writing",
                labels=("x", "日本"),
                cert_tier=CertTier.CERTIFIED,
                rule="rule-1",
            ),
            act(
                ActKind.BLOCK,
                FEBRUARY,
                id="0198",
                threat_type="malware",
                severity=Severity.CRITICAL,
                evidence_urls=("https://threat.example/a?b=1&c", "https://threat.example/d"),
            ),
            act(ActKind.ACCEPT_OWNER, FEBRUARY, id="0199", repository_id="4711", owner_id="8"),
            act(ActKind.RESTORE, MARCH, lifts=("0198",)),
        ),
    )
)
_GONE: Final = as_listed(msgspec.structs.replace(_WHOLE, verdict=Verdict.GONE))


def test_one_of_the_whole_skills_has_every_field_at_another_value_than_its_default() -> None:
    for kind, having in ((Skill, [_WHOLE, _GONE]), (Act, _WHOLE.acts), (Said, [_WHOLE.said])):
        at_default = {
            field.name
            for field in msgspec.structs.fields(kind)
            if all(getattr(each, field.name) == field.default for each in having)
        }
        assert at_default == set(), kind


@pytest.mark.parametrize(
    "record",
    [_WHOLE, _GONE, skill()],
    ids=["whole", "gone", "plain"],
)
@pytest.mark.parametrize("in_bulk", [False, True])
async def test_every_field_survives_a_round_trip(
    connect: DatabaseConnector, record: Skill, in_bulk: bool
) -> None:
    with await connect() as db:
        if in_bulk:
            assert await db.upsert_skills([record]) == []
        else:
            assert (await change(db, State(record), record.name)).skill == record
        read = [
            await db.get_skill(record.name),
            await db.get_skill_by_identity(record.identity),
            (await db.get_skills([record.identity]))[record.identity],
            *await db.skills_not_in_kv(limit=2),
            *(found.row for found in await db.compare_range([], after="", until=None)),
        ]

    assert read == [record] * 5
    assert {skill.revision for skill in read if skill is not None} == {record.revision}
    assert {msgspec.json.encode(skill) for skill in read} == {msgspec.json.encode(record)}


async def test_the_skills_of_identities_are_those_that_have_a_row(
    connect: DatabaseConnector,
) -> None:
    first, second = skill("first"), skill("second")
    with await connect() as db:
        await db.upsert_skills([first, second, skill("third")])
        found = await db.get_skills([second.identity, "nothing", first.identity])

        assert found == {first.identity: first, second.identity: second}
        assert await db.get_skills([]) == {}


async def test_the_same_revision_again_is_unchanged(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await publish(db, skill())
        again = await publish(db, skill())

    assert again.outcome is Upserted.UNCHANGED


async def test_an_existing_identity_needs_no_candidates(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await publish(db, skill())
        result = await change(db, State(skill(updated_at=MARCH)))

    assert result.outcome is Upserted.UPDATED


async def test_without_a_free_candidate_it_is_a_conflict(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await publish(db, skill("pdf"))
        with pytest.raises(DatabaseError) as failure:
            await change(db, State(skill("pdf", repository="zed/x")), "pdf")

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
        {"installs": -1},
        {"published_at": "yesterday"},
        {"description": "a\0b"},
        {"acts": (act(ActKind.WITHDRAW, reason="a\0b"),)},
        {"said": Said(category="a\0b", labels=(), cert_tier=CertTier.SCANNED)},
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
                skill("old", name="other-name", description="New.", updated_at=MARCH),
                skill("new"),
            ]
        )

        assert unplaced == []
        assert await db.get_skill("kept") == kept
        updated = await db.get_skill("old")
        assert updated == merge(skill("old"), skill("old", description="New.", updated_at=MARCH))
        assert updated is not None
        assert (updated.description, updated.updated_at) == ("New.", MARCH)
        assert await db.get_skill("other-name") is None
        assert await db.get_skill("new") == skill("new")


async def test_bulk_upserts_merge_newer_facts_with_acts(connect: DatabaseConnector) -> None:
    blocked = with_acts(skill("row-acts"), act(ActKind.BLOCK))
    told = skill("row-facts", description="Told later.", updated_at=MARCH)
    with await connect() as db:
        await db.upsert_skills([blocked, told])
        unplaced = await db.upsert_skills(
            [
                skill("row-acts", description="Told later.", updated_at=MARCH),
                with_acts(skill("row-facts"), act(ActKind.BLOCK)),
            ]
        )
        stored = [await db.get_skill(name) for name in ("row-acts", "row-facts")]

    assert unplaced == []
    for merged in stored:
        assert merged is not None
        assert (merged.status, merged.acts) == (Status.BLOCKED, blocked.acts)
        assert (merged.description, merged.facts_at) == ("Told later.", MARCH)


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
        skill(current_version=version, updated_at=at)
        for version, at in (("9.0.0", JANUARY), ("1.3.0", MARCH), ("2.0.0", FEBRUARY))
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


async def test_aliases_are_added_found_and_listed_in_bulk(connect: DatabaseConnector) -> None:
    first, second = skill("first"), skill("second")
    with await connect() as db:
        assert await db.find_claims([]) == {}
        assert await db.list_aliases(after="", limit=9) == []
        await db.upsert_skills([first, second])
        await db.add_aliases({})
        await db.add_aliases({"b": first.identity, "a": second.identity, "c": "nobody#x"})
        await db.add_aliases({"a": first.identity, "second": first.identity})
        assert await db.find_claims(["a", "b", "c", "first", "second", "none"]) == {
            "a": second.identity,
            "b": first.identity,
            "c": "nobody#x",
            "first": first.identity,
            "second": second.identity,
        }
        listed = await db.list_aliases(after="a", limit=2)
        assert listed == [
            AliasRow("b", first.identity, "first"),
            AliasRow("c", "nobody#x", None),
        ]
        listed = await db.list_aliases(after="c", limit=2)
        assert listed == [AliasRow("second", first.identity, "first", is_taken=True)]


async def test_the_seed_gives_way_to_slugs_old_slugs_and_published_states(
    connect: DatabaseConnector,
) -> None:
    seed = seed_of(*(skill(name, repository="seed/x") for name in ("a", "b", "c", "d")))
    first, moved = skill("a"), skill("moved")
    published = skill("c", repository="seed/x", name="elsewhere")
    with await connect() as db:
        await db.upsert_skills([first, moved, published, skill("other")])
        await db.add_aliases({"b": moved.identity, "d": "nobody#x", "old": first.identity})
        assert sorted(await db.seed_claims(seed)) == [
            Claim("a", first.identity),
            Claim("b", moved.identity),
            Claim("elsewhere", published.identity),
        ]


async def test_an_alias_is_not_taken_from_the_skill_it_leads_to(
    connect: DatabaseConnector,
) -> None:
    first, second = skill("first"), skill("second")
    with await connect() as db:
        await db.upsert_skills([first, second])
        await db.add_alias("old", first.identity)
        await db.add_alias("old", second.identity)

        assert await db.get_skill("old") == first
