"""Who names a digest, and what of it is stored, by both databases alike."""

from typing import Any, Final

import msgspec

from marketplace.ports.database import ContentGroup, ContentNaming, DatabaseConnector, UpsertResult
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.change import Acted, State
from marketplace.skills.skill import Skill
from marketplace.skills.tiers import Verdict
from tests.doubles.marketplace import make_skill

ONE: Final = "1" * 64
TWO: Final = "2" * 64
THREE: Final = "3" * 64
LATER: Final = "2026-11-02T08:00:00.000Z"
LATEST: Final = "2026-11-03T08:00:00.000Z"
WITHDRAWN: Final = Act(
    id="1", kind=ActKind.WITHDRAW, reason="So.", at=LATEST, by="operator"
)  # fmt: skip


async def publish(connect: DatabaseConnector, *skills: Skill) -> list[Skill]:
    stored = []
    with await connect() as database:
        for skill in skills:
            result = await database.upsert_skill(State(skill), candidates=[skill.name])
            assert isinstance(result, UpsertResult)
            stored.append(result.skill)
    return stored


async def withdraw(connect: DatabaseConnector, skill: Skill) -> None:
    with await connect() as database:
        await database.upsert_skill(Acted(skill.identity, (WITHDRAWN,)), candidates=[])


async def naming(connect: DatabaseConnector, digest: str) -> list[tuple[str, str | None]]:
    with await connect() as database:
        found = await database.find_content(digest)
    assert all(isinstance(each, ContentNaming) for each in found)
    return [(each.skill.name, each.license) for each in found]


def newer(skill: Skill, **fields: Any) -> Skill:
    return msgspec.structs.replace(skill, read_at=LATER, updated_at=LATER, **fields)


async def test_a_digest_is_found_by_archive_by_skill_md_and_in_earlier_versions(
    connect: DatabaseConnector,
) -> None:
    first = make_skill("one", content_digest=ONE, skill_md_digest=TWO, license="MIT")
    await publish(connect, first)
    assert await naming(connect, ONE) == await naming(connect, TWO) == [("one", "MIT")]
    assert await naming(connect, THREE) == []

    await publish(connect, newer(first, content_digest=THREE, license="ISC"))

    assert await naming(connect, ONE) == [("one", "MIT")]
    assert await naming(connect, THREE) == [("one", "ISC")]
    assert await naming(connect, TWO) == [("one", "ISC"), ("one", "MIT")]


async def test_of_each_licence_a_skill_is_told_that_is_handed_out(
    connect: DatabaseConnector,
) -> None:
    failed = {"verdict": Verdict.FAIL, "verdict_at": LATER, "scan_failed_at": LATER}
    skills = await publish(
        connect,
        make_skill("a", content_digest=ONE, license="MIT"),
        make_skill("b", content_digest=ONE, license="MIT", **failed),
        make_skill("c", content_digest=ONE, license="MIT"),
        make_skill("d", content_digest=ONE),
        make_skill("e", content_digest=ONE),
    )
    await withdraw(connect, skills[0])
    await withdraw(connect, skills[3])

    assert await naming(connect, ONE) == [("c", "MIT"), ("e", None)]


async def test_stored_digests_are_compared_with_those_that_are_named(
    connect: DatabaseConnector,
) -> None:
    def digest(number: int) -> str:
        return f"ab{number:062x}"

    first = make_skill("one", content_digest=digest(1), skill_md_digest=digest(2), license="MIT")
    gone = make_skill("gone", content_digest=digest(6), license="MIT")
    await publish(
        connect,
        first,
        newer(first, content_digest=digest(3)),
        make_skill("two", content_digest=digest(2)),
        make_skill("three", content_digest=digest(4), license="MIT"),
        make_skill("four", content_digest=digest(5), license="MIT"),
        make_skill("beyond", content_digest="ac" + "0" * 62, license="MIT"),
        make_skill("before", content_digest="aa" + "f" * 62, license="MIT"),
        gone,
        make_skill("purged", content_digest=digest(9), license="MIT"),
    )
    await withdraw(connect, gone)
    stored = [digest(2), digest(3), digest(7), digest(8)]

    with await connect() as database:
        groups = await database.compare_content(stored, [digest(9)], begin="ab", end="ac")
        nothing = await database.compare_content([], [], begin="b", end="g")

    assert nothing == []
    assert groups == [
        ContentGroup(True, ("", "MIT"), 1, digest(2), "one"),
        ContentGroup(True, ("MIT",), 1, digest(3), "one"),
        ContentGroup(False, ("MIT",), 2, digest(4), "four"),
        ContentGroup(True, None, 2, digest(7), None),
    ]


async def test_listed_skills_without_an_archive_are_counted(connect: DatabaseConnector) -> None:
    without = [make_skill("one"), make_skill("two", skill_md_digest=TWO), make_skill("three")]
    await publish(connect, *without, make_skill("four", content_digest=ONE))
    await withdraw(connect, without[0])

    with await connect() as database:
        assert await database.count_without_content() == 2
