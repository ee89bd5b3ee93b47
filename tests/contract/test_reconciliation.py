"""What the repair relies on: what KV holds, how a range differs, and the fingerprint."""

import random
from collections.abc import Awaitable, Mapping, Sequence
from hashlib import sha256

import msgspec
import pytest

from marketplace.ports.database import (
    AliasKey,
    ChangePlace,
    DatabaseConnector,
    Difference,
    DifferenceKind,
    RecordKey,
    Upserted,
)
from marketplace.skills.skill import Skill
from marketplace.skills.slugs import key_digest
from marketplace.skills.tiers import Verdict
from tests.examples import APRIL, FEBRUARY, JANUARY, MARCH, key_of, publish, random_skills, skill


async def test_a_skill_is_dirty_until_kv_holds_its_revision(connect: DatabaseConnector) -> None:
    record, newer = skill(), skill(updated_at=MARCH)
    with await connect() as db:
        await publish(db, record)
        assert await db.skills_not_in_kv(limit=10) == [record]

        assert await db.mark_in_kv([key_of(record)]) == []
        assert await db.skills_not_in_kv(limit=10) == []

        await publish(db, newer)
        assert [s.revision for s in await db.skills_not_in_kv(limit=10)] == [newer.revision]


async def test_bulk_upserts_make_dirty_only_what_they_change(connect: DatabaseConnector) -> None:
    first, second = skill("first"), skill("second")
    with await connect() as db:
        await db.upsert_skills([first, second])
        await db.mark_in_kv([key_of(first), key_of(second)])
        await db.upsert_skills([first, skill("second", updated_at=MARCH)])

        assert [record.name for record in await db.skills_not_in_kv(limit=10)] == ["second"]


async def test_marking_tells_which_rows_have_moved_on(connect: DatabaseConnector) -> None:
    changed, renamed, same = skill("changed"), skill("renamed"), skill("same")
    with await connect() as db:
        await db.upsert_skills([changed, renamed.renamed("renamed-now"), same])
        await publish(db, skill("changed", updated_at=MARCH))

        versions = [key_of(same), key_of(renamed), key_of(changed), RecordKey("no", "no", "no")]
        assert await db.mark_in_kv(versions) == ["changed", "renamed"]
        dirty = await db.skills_not_in_kv(limit=10)
        assert sorted(record.name for record in dirty) == ["changed", "renamed-now"]


async def test_dirty_skills_come_oldest_first_and_bounded(connect: DatabaseConnector) -> None:
    records = [
        skill("c", updated_at=FEBRUARY),
        skill("b", updated_at=MARCH),
        skill("a", updated_at=MARCH),
        skill("d", updated_at=JANUARY),
    ]
    with await connect() as db:
        await db.upsert_skills(records)

        assert [s.name for s in await db.skills_not_in_kv(limit=3)] == ["d", "c", "a"]
        after = ChangePlace(MARCH, "a")
        assert [s.name for s in await db.skills_not_in_kv(after=after, limit=3)] == ["b"]
        after = ChangePlace(FEBRUARY, "b")
        assert [s.name for s in await db.skills_not_in_kv(after=after, limit=2)] == ["c", "a"]


async def test_equal_sets_have_no_differences(connect: DatabaseConnector) -> None:
    records = random_skills(random.Random(1), 50)
    with await connect() as db:
        await db.upsert_skills(records)

        assert await db.compare_range([key_of(s) for s in records], after="", until=None) == []


async def test_each_difference_is_named_with_the_row_it_is_about(
    connect: DatabaseConnector,
) -> None:
    same, newer, older = skill("a-same"), skill("b-newer"), skill("c-older")
    moved, occupant, missing = skill("d-moved"), skill("e-taken"), skill("f-missing")
    squatter = skill("e-taken", repository="zed/x")
    newer_in_kv = skill("b-newer", updated_at=MARCH)
    newer_in_table = skill("c-older", updated_at=MARCH)
    with await connect() as db:
        row = moved.renamed("a-moved")
        await db.upsert_skills([same, newer, newer_in_table, row, occupant, skill("g-only-row")])
        records = [
            key_of(record) for record in (same, newer_in_kv, older, moved, squatter, missing)
        ]
        found = await db.compare_range(records, after="", until=None)

    assert found == [
        Difference(DifferenceKind.NEWER_IN_KV, "b-newer", newer),
        Difference(DifferenceKind.NEWER_IN_DATABASE, "c-older", newer_in_table),
        Difference(DifferenceKind.OTHER_SLUG, "d-moved", row),
        Difference(DifferenceKind.TAKEN_SLUG, "e-taken"),
        Difference(DifferenceKind.MISSING_IN_KV, "e-taken", occupant),
        Difference(DifferenceKind.MISSING_IN_DATABASE, "f-missing"),
        Difference(DifferenceKind.MISSING_IN_KV, "g-only-row", skill("g-only-row")),
    ]


@pytest.mark.parametrize(
    ("after", "until", "expected"),
    [
        ("", None, ["a", "b", "c"]),
        ("a", None, ["b", "c"]),
        ("", "b", ["a", "b"]),
        ("a", "b", ["b"]),
        ("c", None, []),
    ],
)
async def test_a_range_leaves_out_its_beginning_and_holds_its_end(
    connect: DatabaseConnector, after: str, until: str | None, expected: list[str]
) -> None:
    with await connect() as db:
        await db.upsert_skills([skill(name) for name in "abc"])
        found = await db.compare_range([], after=after, until=until)

    assert [difference.name for difference in found] == expected


async def test_a_limited_comparison_can_be_gone_on_with(connect: DatabaseConnector) -> None:
    rows = [skill(f"s-{number:02}") for number in range(9)]
    squatters = [skill(f"s-{number:02}", repository="zed/x") for number in range(0, 9, 2)]
    records = [key_of(record) for record in squatters]
    with await connect() as db:
        await db.upsert_skills(rows)
        everything = await db.compare_range(records, after="", until=None)
        collected: list[Difference] = []
        after = ""
        while True:
            rest = [record for record in records if record.name > after]
            page = await db.compare_range(rest, after=after, until=None, limit=4)
            collected += page
            if len(page) < 4:
                break
            after = page[-1].name

    assert len(everything) == len(rows) + len(squatters)
    assert collected == everything


async def test_the_fingerprint_is_the_sum_of_digests_over_slug_and_revision(
    connect: DatabaseConnector,
) -> None:
    records = random_skills(random.Random(2), 50)
    records.append(skill("odd-version", current_version="back\\slash \\101 ü 🦊"))
    total = sum(
        int.from_bytes(sha256(f"{record.name} {record.revision}".encode()).digest()[:8], "big")
        for record in records
    )
    with await connect() as db:
        empty = await db.fingerprint()
        await db.upsert_skills(records)
        full = await db.fingerprint()

    assert (empty.count, empty.digest) == (0, "0" * 16)
    assert (full.count, full.digest) == (len(records), f"{total % 2**64:016x}")


async def test_the_fingerprint_follows_updates(connect: DatabaseConnector) -> None:
    record = skill(updated_at=MARCH)
    with await connect() as db:
        await publish(db, skill())
        await publish(db, record)
        updated = await db.fingerprint()

    expected = sha256(f"{record.name} {record.revision}".encode()).hexdigest()[:16]
    assert (updated.count, updated.digest) == (1, expected)


async def test_a_row_read_from_the_table_has_the_revision_it_was_stored_with(
    connect: DatabaseConnector,
) -> None:
    records = random_skills(random.Random(3), 80)
    with await connect() as db:
        await db.upsert_skills(records)
        stored = {s.name: s for s in await db.skills_not_in_kv(limit=100)}

    assert stored == {record.name: record for record in records}
    assert all(msgspec.json.encode(stored[s.name]) == msgspec.json.encode(s) for s in records)


async def test_the_rows_of_a_range_are_counted(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await db.upsert_skills([skill(name) for name in ("a", "b", "b-c", "c")])

        assert await db.count_range(after="", until=None) == 4
        assert await db.count_range(after="a", until="b-c") == 2
        assert await db.count_range(after="b", until=None) == 2
        assert await db.count_range(after="c", until=None) == 0


async def test_old_slugs_that_one_source_lacks(connect: DatabaseConnector) -> None:
    named = skill("named")
    with await connect() as db:
        await db.upsert_skills([named, skill("live")])
        for alias in ("a-both", "b-table", "live", "z-table"):
            await db.add_alias(alias, named.identity)
        await db.add_alias("c-nobody", "github.com/no/body#nobody")
        in_kv = [
            AliasKey("a-both", "named"),
            AliasKey("d-kv", "named"),
            AliasKey("e-kv", "a-both"),  # over another old slug
            AliasKey("f-kv", "nowhere"),
            AliasKey("named", "live"),  # a skill has it: nobody is led on
        ]
        compared = await db.compare_aliases(in_kv, after="", until="y", limit=9)
        assert [(lacking.alias, lacking.in_kv) for lacking in compared] == [
            ("b-table", False),
            ("d-kv", True),
            ("e-kv", True),
        ]
        assert list(await db.compare_aliases(in_kv, after="", until="y", limit=2)) == compared[:2]
        rest = await db.compare_aliases([], after="b-table", until=None, limit=9)
        assert [lacking.alias for lacking in rest] == ["z-table"]
        assert await db.compare_aliases([], after="", until="", limit=9) == []


async def test_the_first_publication_is_compared_and_the_earlier_one_stays(
    connect: DatabaseConnector,
) -> None:
    early, late = skill(published_at=JANUARY), skill(published_at=MARCH)
    with await connect() as db:
        await publish(db, late)
        await db.mark_in_kv([key_of(late)])

        async def compared(published_at: str) -> list[DifferenceKind]:
            key = RecordKey(late.name, late.identity, late.revision, published_at)
            return [d.kind for d in await db.compare_range([key], after="", until=None)]

        assert await compared(MARCH) == await compared("") == []
        assert await compared(JANUARY) == [DifferenceKind.NEWER_IN_KV]
        assert await db.check_skills([early]) == []
        assert (await publish(db, late)).outcome is Upserted.UNCHANGED
        assert await db.skills_not_in_kv(limit=9) == []
        assert (await publish(db, early)).outcome is Upserted.UPDATED
        assert await _published(db.skills_not_in_kv(limit=9)) == [JANUARY]
        await db.mark_in_kv([key_of(early)])
        for state in (late, skill(published_at=FEBRUARY)):
            assert (await publish(db, state)).outcome is Upserted.UNCHANGED
            assert await db.upsert_skills([state]) == []
        assert await _published(db.get_skills([late.identity])) == [JANUARY]
        newer = skill(published_at=MARCH, description="New.", updated_at=MARCH)
        assert (await publish(db, newer)).skill.published_at == JANUARY


async def test_bulk_upserts_bring_an_earlier_first_publication(
    connect: DatabaseConnector,
) -> None:
    early, late = skill(published_at=JANUARY), skill(published_at=MARCH)
    with await connect() as db:
        await db.upsert_skills([late])
        assert await db.upsert_skills([early]) == []
        assert await _published(db.get_skills([late.identity])) == [JANUARY]


async def _published(found: Awaitable[Sequence[Skill] | Mapping[str, Skill]]) -> list[str]:
    skills = await found
    return [s.published_at for s in (skills.values() if isinstance(skills, Mapping) else skills)]


async def test_the_log_and_the_rows_are_compared_by_a_range_of_digests(
    connect: DatabaseConnector,
) -> None:
    records = [skill(f"log-{number}", certified_at=FEBRUARY) for number in range(8)]
    records.append(skill("other", repository="Acme-2/a.b_c", certified_at=FEBRUARY))
    in_order = sorted((record.identity for record in records), key=key_digest)
    digests = [key_digest(identity) for identity in in_order]
    with await connect() as db:
        await db.upsert_skills(records)
        logged = {in_order[2]: FEBRUARY, in_order[3]: MARCH, "https://github.com/no/row#x": JANUARY}
        found = await db.compare_log(
            logged, first={}, after=digests[0], until=digests[5], before=MARCH, limit=10
        )
        assert found.behind == {in_order[3], "https://github.com/no/row#x"}
        assert [row.identity for row in found.unlogged] == [in_order[i] for i in (1, 4, 5)]
        found = await db.compare_log(
            logged, first={}, after=digests[0], until=None, before=MARCH, limit=3
        )
        assert [row.identity for row in found.unlogged] == [in_order[i] for i in (1, 4, 5)]
        found = await db.compare_log({}, first={}, after="", until=None, before=MARCH, limit=100)
        assert (found.behind, len(found.unlogged)) == (frozenset(), len(records))
        found = await db.compare_log({}, first={}, after="", until=None, before=FEBRUARY, limit=100)
        assert found.unlogged == []


async def test_a_verdict_is_newer_than_the_moment_that_decides_of_a_row(
    connect: DatabaseConnector,
) -> None:
    failed = skill("failed", certified_at=JANUARY, verdict=Verdict.FAIL, verdict_at=MARCH)
    passed = skill("passed", certified_at=FEBRUARY, updated_at=MARCH)
    read = skill("read", certified_at=None, read_at=FEBRUARY, updated_at=JANUARY)
    rows = [failed, passed, read]
    with await connect() as db:
        await db.upsert_skills(rows)
        for moment, behind in (
            (JANUARY, []),
            (FEBRUARY, []),
            (MARCH, ["passed", "read"]),
            (APRIL, ["failed", "passed", "read"]),
        ):
            found = await db.compare_log(
                {row.identity: moment for row in rows},
                first={},
                after="",
                until=None,
                before="",
                limit=1,
            )
            names = [row.base_slug for row in rows if row.identity in found.behind]
            assert names == behind


async def test_a_row_that_was_published_later_than_the_log_says_is_behind(
    connect: DatabaseConnector,
) -> None:
    rows = [skill(name, certified_at=MARCH, published_at=FEBRUARY) for name in ("a", "b", "c", "d")]
    newest = {row.identity: MARCH for row in rows}
    first = dict(zip(newest, (JANUARY, FEBRUARY, MARCH), strict=False))
    with await connect() as db:
        await db.upsert_skills(rows)
        found = await db.compare_log(newest, first=first, after="", until=None, before="", limit=1)
        assert found.behind == {rows[0].identity}
