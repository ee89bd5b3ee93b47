"""Versions of skills: what makes one, their order, and what is told of installed skills."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from marketplace.ports.database import DatabaseConnector, SkillDatabase
from marketplace.skills.acts import ActKind
from marketplace.skills.change import Acted, Scanned, State
from marketplace.skills.scan import Facts, Refusal, Scan
from marketplace.skills.skill import Skill, Status
from marketplace.skills.tiers import CertTier, Verdict
from marketplace.skills.updates import Installed, is_superseded
from marketplace.skills.version_history import SkillVersion, version_of, versions_told
from tests.contract.postgres import PostgresServer
from tests.examples import FEBRUARY, JANUARY, MARCH, act, change, publish, random_skills, skill

ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64
COMMIT = "c0ffee" + "0" * 34
IDENTITY = skill().identity


def facts(at: str = JANUARY, version: str = "1.0.0", **fields: Any) -> Skill:
    """What a scan read at a moment."""
    return skill(current_version=version, updated_at=at, **fields)


def scan(at: str, version: str = "1.0.0", digest: str | None = None, **fields: Any) -> Scan:
    read = Facts(name="pdf-tools", version=version)
    values = {"verdict": Verdict.PASS, "score": 90, "skill": read, **fields}
    return Scan(
        submission_id=f"s-{at}-{version}",
        repo_url=skill().repo_url,
        skill_name="pdf-tools",
        base_slug="pdf-tools",
        scanned_at=at,
        content_digest=digest,
        **values,
    )


async def told(db: SkillDatabase, identity: str = IDENTITY) -> Sequence[SkillVersion]:
    return await db.list_versions(identity, before=None, limit=100)


async def versions(db: SkillDatabase, identity: str = IDENTITY) -> list[tuple[str, str | None]]:
    return [(each.version, each.content_digest) for each in await told(db, identity)]


async def test_each_change_of_version_or_content_is_a_version(connect: DatabaseConnector) -> None:
    first = facts(content_digest=ONE, commit=COMMIT, cert_score=80, skill_md_digest=TWO)
    second = facts(FEBRUARY, "1.1.0", content_digest=TWO, cert_tier=CertTier.VERIFIED)
    third = facts(MARCH, "1.1.0", content_digest=THREE, description="Another.")
    with await connect() as db:
        for state in (first, second, third):
            await publish(db, state)
        newest, middle, oldest = await told(db)

    assert oldest == SkillVersion(
        identity=IDENTITY,
        place=oldest.place,
        version="1.0.0",
        commit=COMMIT,
        content_digest=ONE,
        skill_md_digest=TWO,
        cert_tier=CertTier.SCANNED,
        cert_score=80,
        created_at=JANUARY,
        diff_summary="First listed as version 1.0.0.",
    )
    assert (middle.version, middle.cert_tier, middle.created_at) == (
        *("1.1.0", CertTier.VERIFIED),
        FEBRUARY,
    )
    assert middle.diff_summary == "Version 1.0.0 → 1.1.0; files changed."
    assert newest.diff_summary == "Version 1.1.0 as before; description and files changed."


async def test_a_bulk_upsert_keeps_versions_too(connect: DatabaseConnector) -> None:
    states = [facts(content_digest=ONE), facts(FEBRUARY, "2.0.0"), facts(MARCH, "3.0.0")]
    other = skill("csv-tools")
    with await connect() as db:
        await db.upsert_skills([states[0], other])
        await db.upsert_skills([states[1], other])
        await db.upsert_skills([states[2]])

        assert await versions(db) == [("3.0.0", None), ("2.0.0", None), ("1.0.0", ONE)]
        assert await versions(db, other.identity) == [("1.0.0", None)]
        assert (await told(db))[0].diff_summary == "Version 2.0.0 → 3.0.0."


async def test_other_changes_are_no_versions(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await publish(db, facts(content_digest=ONE))
        await publish(db, facts(FEBRUARY, content_digest=ONE, description="New.", commit=COMMIT))
        await publish(db, facts(MARCH, description="Without a digest."))
        await change(db, Scanned(scan(MARCH, verdict=Verdict.FAIL, score=0, skill=None)))
        await change(db, Acted(IDENTITY, (act(ActKind.CORRECT, MARCH, category="data"),)))

        assert await versions(db) == [("1.0.0", ONE)]


async def test_repeated_and_late_messages_add_nothing(connect: DatabaseConnector) -> None:
    first, second = facts(content_digest=ONE), facts(MARCH, "2.0.0", content_digest=TWO)
    with await connect() as db:
        for state in (first, second, second, first, facts(FEBRUARY, "9999999999.0.0")):
            await publish(db, state)
            await db.upsert_skills([state])

        assert await versions(db) == [("2.0.0", TWO), ("1.0.0", ONE)]


async def test_a_version_that_comes_back_is_one_once_more(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await publish(db, facts(JANUARY, "1.2.0", content_digest=ONE))
        await publish(db, facts(FEBRUARY, "1.3.0", content_digest=TWO))
        await publish(db, facts(MARCH, "1.2.0", content_digest=ONE))

        assert await versions(db) == [("1.2.0", ONE), ("1.3.0", TWO), ("1.2.0", ONE)]


async def test_the_newest_version_is_what_is_listed(connect: DatabaseConnector) -> None:
    """In whatever order a hundred states of one skill come, some of the same moment."""
    chance = random.Random(8)
    for round_ in range(20):
        base = f"tool-{round_}"
        states = [
            skill(
                base,
                current_version=f"{chance.randint(0, 2)}.0.0",
                content_digest=chance.choice((ONE, TWO, THREE)),
                description=str(chance.randint(0, 3)),
                updated_at=chance.choice((JANUARY, FEBRUARY, MARCH)),
                provisional=chance.random() < 0.3,
            )
            for _ in range(8)
        ]
        with await connect() as db:
            for state in states:
                await publish(db, state)
            row = await db.get_skill_by_identity(states[0].identity)
            assert row is not None
            newest, *_ = await versions(db, row.identity)
            assert newest == (row.current_version, row.content_digest)


async def test_facts_that_are_read_late_are_newer_than_none(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await publish(db, facts(MARCH, provisional=True))
        await publish(db, facts(JANUARY, content_digest=ONE))

        read, listed = await told(db)
        assert (read.version, read.content_digest) == ("1.0.0", ONE)
        assert read.diff_summary == "First read by a scan, as version 1.0.0."
        assert listed.diff_summary == "First listed before a scan has told its version."


async def test_a_refused_or_lost_write_adds_no_version(connect: DatabaseConnector) -> None:
    taken = skill(repository="zed/tools", name="pdf-tools")
    with await connect() as db:
        row = (await publish(db, facts())).skill
        await publish(db, facts(FEBRUARY, "1.1.0"))
        assert await db.upsert_skills([taken]) == [taken]
        assert await db.check_skills([facts(MARCH, "9.0.0")]) == []
        await change(db, State(facts(FEBRUARY, "1.1.0")), row=row)  # the row has moved on

        assert await versions(db) == [("1.1.0", None), ("1.0.0", None)]
        assert await told(db, taken.identity) == []


async def test_versions_stay_whatever_becomes_of_the_skill(connect: DatabaseConnector) -> None:
    withdrawn = (act(ActKind.WITHDRAW, FEBRUARY),)
    with await connect() as db:
        await publish(db, facts())
        row = (await change(db, Acted(IDENTITY, withdrawn))).skill
        assert row.status is Status.WITHDRAWN
        assert await versions(db) == [("1.0.0", None)]
        await change(db, Scanned(scan(MARCH, "2.0.0")))
        assert await versions(db) == [("2.0.0", None), ("1.0.0", None)]


async def test_pages_are_cut_by_place(connect: DatabaseConnector) -> None:
    with await connect() as db:
        for day in range(1, 8):
            await publish(db, facts(f"2026-01-0{day}T00:00:00.000Z", f"1.{day}.0"))
        page = await db.list_versions(IDENTITY, before=None, limit=3)
        assert [each.version for each in page] == ["1.7.0", "1.6.0", "1.5.0"]
        rest = await db.list_versions(IDENTITY, before=page[-1].place, limit=9)
        assert [each.version for each in rest] == ["1.4.0", "1.3.0", "1.2.0", "1.1.0"]
        assert await db.list_versions("nobody", before=None, limit=9) == []


async def test_the_log_tells_the_same_versions(connect: DatabaseConnector) -> None:
    verdicts = [
        scan(JANUARY, "1.0.0", ONE),
        scan("2026-01-15T00:00:00.000Z", verdict=Verdict.FAIL),
        scan(FEBRUARY, "1.1.0", TWO, path="elsewhere"),
        scan(FEBRUARY, "1.2.0", TWO, score=70),
        scan(MARCH, "1.2.0", THREE),
    ]
    with await connect() as db:
        for verdict in verdicts:
            await db.upsert_skill(Scanned(verdict), candidates=["pdf-tools"])
        row = await db.get_skill_by_identity(IDENTITY)
        assert versions_told(verdicts, (), row) == await told(db)
        assert len(await told(db)) == 3


async def test_rows_from_before_versions_are_found_and_get_their_present_one(
    postgres_server: PostgresServer, database: str, postgres: DatabaseConnector
) -> None:
    states = [skill(f"tool-{number}") for number in range(5)]
    with await postgres() as db:
        await db.upsert_skills(states)
        with await postgres_server.connect(database) as connection:
            await connection.query("delete from skill_version where identity not like '%tool-1'")

        first = await db.without_versions(after="", limit=3)
        assert [each.name for each in first.skills] == ["tool-0", "tool-2"]
        assert first.after == states[2].identity
        last = await db.without_versions(after=first.after, limit=3)
        assert [each.name for each in last.skills] == ["tool-3", "tool-4"]
        assert last.after is None

        for _ in range(2):
            await db.add_first_versions([version_of(None, each) for each in first.skills])
        assert await versions(db, states[0].identity) == [("1.0.0", None)]
        assert (await db.without_versions(after="", limit=3)).skills == []

        # Changed before a repair comes to it, and then it does, too late.
        await publish(db, skill("tool-4", current_version="2.0.0", updated_at=FEBRUARY))
        await db.add_first_versions([version_of(None, last.skills[1])])
        older = skill("tool-4", current_version="0.9.0")
        await db.add_first_versions([version_of(None, older)])
        assert await versions(db, states[4].identity) == [("2.0.0", None), ("1.0.0", None)]


async def test_a_skill_without_versions_is_found_in_the_double_too(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        assert (await db.without_versions(after="", limit=2)).after is None
        states = [skill(f"tool-{number}") for number in range(3)]
        await db.upsert_skills(states)
        found = await db.without_versions(after="", limit=2)
        assert (found.skills, found.after) == ([], states[1].identity)
        await db.add_first_versions([version_of(None, skill("later"))])
        assert await versions(db, skill("later").identity) == [("1.0.0", None)]


def installed(name: str = "pdf-tools", version: str = "1.0.0", digits: str = "") -> Installed:
    return Installed(name=name, version=version, digits=digits)


async def test_installed_skills_are_found_by_slug_old_slug_and_identity(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await db.upsert_skills([facts(), skill("other")])
        await db.add_alias("pdf-old", IDENTITY)
        asked = [
            *map(installed, ("other", "nothing", "pdf-old", "acme/tools/pdf-tools", "pdf-tools")),
            installed("pdf-tools"),
            installed("not a slug"),
        ]
        found = await db.find_installed(asked, [each.identity for each in asked])

        names = [None if each is None else each.skill.name for each in found]
        assert names == ["other", None, *["pdf-tools"] * 4, None]
        assert await db.find_installed([], []) == []
        seeded = await db.find_installed([installed("nothing")], [IDENTITY])
        assert [each and each.skill.name for each in seeded] == ["pdf-tools"]


async def test_what_was_listed_before_is_superseded(connect: DatabaseConnector) -> None:
    states = [
        facts(JANUARY, "1.0.0", content_digest=ONE, commit="a" * 40, skill_md_digest="d" * 64),
        facts(FEBRUARY, "9.0.0", content_digest=TWO, commit="b" * 40, skill_md_digest="d" * 64),
        facts(MARCH, "1.0.1", content_digest=THREE, commit=COMMIT, skill_md_digest="e" * 64),
    ]
    cases = {
        ("1.0.1", ""): False,
        ("1.0.0", ""): True,
        ("9.0.0", ""): True,  # a later version came after it
        ("8.0.0", ""): False,  # was never listed
        ("", ""): False,
        ("1.0.1", THREE): False,
        ("1.0.1", ONE): True,
        ("1.0.1", "aaaaaaa"): True,
        ("1.0.1", "ddddddd"): True,
        ("1.0.0", "eeeeeee"): False,  # its SKILL.md is the listed one
        ("1.0.1", "f" * 64): False,  # an installer's own hash
    }
    with await connect() as db:
        for state in states:
            await publish(db, state)
        asked = [installed("pdf-tools", *case) for case in cases]
        found = await db.find_installed(asked, [""] * len(asked))

    assert [each is not None and each.superseded for each in found] == list(cases.values())


async def test_content_that_changed_under_one_number_is_told_by_its_digest(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        for at, digest in ((JANUARY, ONE), (FEBRUARY, TWO), (MARCH, ONE)):
            await publish(db, facts(at, content_digest=digest))
        asked = [installed(digits=digits) for digits in (ONE, TWO, THREE, "")]
        found = await db.find_installed(asked, [""] * len(asked))
    assert [each is not None and each.superseded for each in found] == [False, True, False, False]


async def test_a_commit_that_changed_no_content_is_no_older_state(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await publish(db, facts(content_digest=ONE, commit="a" * 40))
        await publish(db, facts(FEBRUARY, content_digest=ONE, commit="b" * 40))
        (found,) = await db.find_installed([installed(digits="a" * 40)], [""])
    assert found is not None
    assert not found.superseded


async def test_a_row_that_comes_back_finds_its_versions(
    postgres_server: PostgresServer, database: str, postgres: DatabaseConnector
) -> None:
    states = [facts(content_digest=ONE), facts(FEBRUARY, "2.0.0", content_digest=TWO)]
    with await postgres() as db:
        for state in states:
            await publish(db, state)
        before = await told(db)
        for write in (lambda: publish(db, states[1]), lambda: db.upsert_skills(states)):
            with await postgres_server.connect(database) as connection:
                await connection.query("delete from skill")
            await write()
            assert await told(db) == before


async def test_the_statement_and_the_rule_agree(connect: DatabaseConnector) -> None:
    chance = random.Random(11)
    pool = ["1.0.0", "1.1.0", "v1", "", "9999999999"]
    digests = [None, ONE, TWO, THREE]
    with await connect() as db:
        for day in range(1, 10):
            state = facts(
                f"2026-01-0{day}T00:00:00.000Z",
                chance.choice(pool[:3]),
                content_digest=chance.choice(digests),
                skill_md_digest=chance.choice(digests),
                commit=chance.choice((None, "a" * 40, "b" * 40)),
            )
            await publish(db, state)
            told_digits = ("", ONE, "2" * 8, "aaaaaaa")
            asked = [
                installed("pdf-tools", chance.choice(pool), chance.choice(told_digits))
                for _ in range(40)
            ]
            found = await db.find_installed(asked, [""] * len(asked))
            row = await db.get_skill("pdf-tools")
            assert row is not None
            expected = [is_superseded(each, row, await told(db)) for each in asked]
            assert [each is not None and each.superseded for each in found] == expected


async def test_a_version_may_be_any_text_that_was_stored(connect: DatabaseConnector) -> None:
    with await connect() as db:
        for record in random_skills(random.Random(3), 40):
            stored = (await publish(db, record)).skill
            (version,) = await told(db, stored.identity)
            assert version == version_of(None, record)
            odd = msgspec.structs.replace(
                stored, current_version='9"\\🦊' * 8, read_at="2026-09-01T00:00:00.000Z",
                provisional=False,
            )  # fmt: skip
            result = await db.upsert_skill(State(odd), candidates=[])
            assert not isinstance(result, Refusal)
            assert (await told(db, stored.identity))[0].version == odd.current_version
