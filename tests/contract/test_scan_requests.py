"""The work list of scanners: what is on it, and who gets it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from marketplace.ports.database import DatabaseConnector, SkillDatabase
from marketplace.ports.scan_request import (
    ScanHour,
    ScanReason,
    ScanRequest,
    ScanWork,
    Waiting,
    WantedScan,
)
from marketplace.skills.acts import ActKind
from marketplace.skills.submission import Submission
from tests.examples import JANUARY, act, publish, skill, with_acts

SCANNERS = 8
PAUSES = 2  # moments at which a request is free again


def at(minute: int) -> str:
    """A moment of one day; minutes may be any number below 1,440."""
    return f"2026-02-01T{minute // 60:02}:{minute % 60:02}:00.000Z"


NEVER = "1970-01-01T00:00:00.000Z"


def submission(name: str, id_: str | None = None, **fields: Any) -> Submission:
    values = {
        "id": id_ or f"id-{name}",
        "repo_url": "https://github.com/acme/tools",
        "skill_name": name,
        "base_slug": name,
        "created_at": at(0),
    }
    return Submission(**(values | fields))


async def ask(
    db: SkillDatabase,
    name: str,
    minute: int = 0,
    *,
    id_: str | None = None,
    expired: str = NEVER,
    asked_since: str = NEVER,
) -> ScanRequest:
    """Ask for one scan; what stands afterwards."""
    wanted = submission(name, id_)
    standing = await db.ask_for_scans(
        [WantedScan(wanted, at(minute))], expired=expired, asked_since=asked_since
    )
    return standing[wanted.identity]


async def take(
    db: SkillDatabase, minute: int, *, limit: int = 9, lease: int = 15, expired: str = NEVER
) -> list[str]:
    """The ids that one hand-out gives; the second lease is twice as long as the first."""
    free_at = [at(minute + lease * (n + 1)) for n in range(PAUSES)]
    handed = await db.hand_out_scans(limit=limit, now=at(minute), free_at=free_at, expired=expired)
    return [request.submission_id for request in handed]


async def take_due(
    db: SkillDatabase, ids: Sequence[str], minute: int, read_before: str
) -> list[ScanRequest]:
    return list(
        await db.hand_out_due_scans(
            ids, now=at(minute), free_at=at(minute + 15), read_before=read_before
        )
    )


async def answer(db: SkillDatabase, *ids: str, minute: int = 0, again: Sequence[str] = ()) -> None:
    await db.answer_scans(ids, again=again, again_at=at(minute + 600), now=at(minute))


async def test_a_request_is_handed_out_as_it_was_submitted(connect: DatabaseConnector) -> None:
    told = submission("pdf", description="It's \"\\ 🦊\0", labels=("日本",), version="2.0.0")
    with await connect() as db:
        await db.ask_for_scans([WantedScan(told, at(3))], expired=NEVER, asked_since=NEVER)

        (handed,) = await db.hand_out_scans(limit=9, now=at(5), free_at=[at(20)], expired=NEVER)
        assert handed == ScanRequest(
            identity=told.identity,
            submission_id=told.id,
            reason=ScanReason.NEW,
            requested_at=at(3),
            submission=told,
            attempts=1,
            free_at=at(20),
        )


async def test_new_ones_come_before_rescans_each_kind_by_age(connect: DatabaseConnector) -> None:
    with await connect() as db:
        for name in ("known-a", "known-b"):
            await publish(db, skill(name))
        for minute, name in enumerate(("known-b", "new-b", "known-a", "new-a")):
            await ask(db, name, minute)

        assert await take(db, 10, limit=3) == ["id-new-b", "id-new-a", "id-known-b"]
        assert await take(db, 10) == ["id-known-a"]
        assert await take(db, 10) == []


async def test_an_unanswered_request_is_free_again_when_its_lease_is_over(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await ask(db, "pdf")
        assert await take(db, 0) == ["id-pdf"]
        assert await take(db, 14) == []
        assert await take(db, 15) == ["id-pdf"]
        assert await take(db, 44) == []  # the second time is longer, and so are all further ones
        for minute in (45, 75, 105):
            assert await take(db, minute) == ["id-pdf"]
            assert await take(db, minute + 29) == []


async def test_what_is_never_answered_is_not_in_front_of_what_was_not_tried(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await publish(db, skill("known"))
        for number in range(5):
            await ask(db, f"broken-{number}")
        assert len(await take(db, 0)) == 5
        await ask(db, "known", 20)
        await ask(db, "pdf", 30)

        assert await take(db, 40, limit=3) == ["id-pdf", "id-known", "id-broken-0"]


async def test_an_answered_request_is_not_handed_out_any_more(connect: DatabaseConnector) -> None:
    with await connect() as db:
        for name in ("handed-out", "never-handed-out", "open"):
            await ask(db, name)
        assert await take(db, 0, limit=1) == ["id-handed-out"]

        await answer(db, "id-handed-out", "id-never-handed-out", "id-nobody", minute=5)

        assert await take(db, 100) == ["id-open"]


async def test_what_is_read_again_later_is_free_then(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await ask(db, "gone")
        await ask(db, "never-handed-out")
        assert await take(db, 0, limit=1) == ["id-gone"]

        await answer(db, again=["id-gone", "id-never-handed-out"], minute=5)

        assert await take(db, 604) == []
        assert sorted(await take(db, 605)) == ["id-gone", "id-never-handed-out"]


async def test_an_expired_request_is_neither_handed_out_nor_in_the_way(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await ask(db, "pdf", 1)
        await ask(db, "tried", 1)
        assert await take(db, 1, limit=1) == ["id-pdf"]
        assert await take(db, 60, expired=at(1)) == []

        assert (await ask(db, "pdf", 60, id_="later")).submission_id == "id-pdf"
        assert (await ask(db, "pdf", 60, id_="later", expired=at(1))).submission_id == "later"
        assert await take(db, 60, expired=at(1)) == ["later"]


async def test_an_open_request_stays_and_an_answered_one_gives_way(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        first = await ask(db, "pdf", 1)
        assert await ask(db, "pdf", 2, id_="second") == first
        await answer(db, first.submission_id, minute=3)

        second = await ask(db, "pdf", 4, id_="second")
        assert (second.submission_id, second.attempts, second.answered_at) == ("second", 0, None)


async def test_the_same_submission_asked_for_again_is_no_other_request(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await ask(db, "pdf", 1)
        await take(db, 2)
        await answer(db, "id-pdf", minute=3)

        assert (await ask(db, "pdf", 9)).answered_at == at(3)
        assert await take(db, 100) == []


async def test_an_older_request_never_replaces_a_later_one(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await ask(db, "pdf", 5, id_="later")
        await answer(db, "later", minute=6)
        assert (await ask(db, "pdf", 4, id_="earlier")).submission_id == "later"
        assert (await ask(db, "pdf", 5, id_="at-once")).submission_id == "at-once"


async def test_a_rescan_keeps_its_place_against_another_for_an_hour(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await publish(db, skill("pdf"))
        first = await ask(db, "pdf", 10, id_="first")
        assert first.reason is ScanReason.RESCAN
        await answer(db, "first", minute=20)

        standing = await ask(db, "pdf", 60, id_="second", asked_since=at(0))
        assert (standing.submission_id, standing.answered_at) == ("first", at(20))
        standing = await ask(db, "pdf", 70, id_="second", asked_since=at(10))
        assert standing.submission_id == "second"


async def test_a_rescan_need_not_wait_for_the_hour_of_a_new_submission(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await ask(db, "pdf", 10, id_="first")
        await answer(db, "first", minute=11)
        await publish(db, skill("pdf"))
        standing = await ask(db, "pdf", 12, id_="second", asked_since=at(0))
        assert (standing.submission_id, standing.reason) == ("second", ScanReason.RESCAN)


async def test_listed_skills_are_due_the_longest_unread_first(connect: DatabaseConnector) -> None:
    withdrawn = with_acts(skill("withdrawn", verdict_at=at(1)), act(ActKind.WITHDRAW))
    records = [
        skill("third", verdict_at=at(30)),
        skill("first", certified_at=at(10)),
        skill("second", read_at=at(20), skill_path="skills/second"),
        skill("fresh", verdict_at=at(31), certified_at=at(1)),
        withdrawn,
    ]
    with await connect() as db:
        for record in records:
            await publish(db, record)

        handed = await take_due(db, ["a", "b"], 700, read_before=at(30))

        assert [(r.submission_id, r.submission.base_slug) for r in handed] == [
            ("a", "first"),
            ("b", "second"),
        ]
        second = handed[1]
        assert second == ScanRequest(
            identity=records[2].identity,
            submission_id="b",
            reason=ScanReason.DUE,
            requested_at=at(700),
            submission=Submission(
                id="b",
                repo_url=records[2].repo_url,
                skill_name="second",
                base_slug="second",
                created_at=at(700),
                skill_path="skills/second",
            ),
            attempts=1,
            free_at=at(715),
        )
        (third,) = await take_due(db, ["c", "d"], 700, read_before=at(30))
        assert third.submission.base_slug == "third"
        assert await take_due(db, ["d"], 700, read_before=at(30)) == []
        assert await take(db, 715) == ["a", "b", "c"]


async def test_a_skill_is_not_due_where_its_scan_is_asked_for_or_was(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await publish(db, skill("pdf"))
        await ask(db, "pdf", 10)
        assert await take_due(db, ["a"], 20, read_before=at(15)) == []
        await answer(db, "id-pdf", minute=20)
        assert await take_due(db, ["a"], 30, read_before=at(9)) == []
        (due,) = await take_due(db, ["a"], 40, read_before=at(10))
        assert due.submission_id == "a"


async def test_a_skill_that_nobody_reads_when_it_is_due_is_due_as_long_after_that(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await publish(db, skill("pdf"))
        await take_due(db, ["a"], 10, read_before=JANUARY)
        assert await take_due(db, ["b"], 20, read_before=at(9)) == []
        (due,) = await take_due(db, ["b"], 20, read_before=at(10))
        assert (due.submission_id, due.requested_at) == ("b", at(20))
        assert await take(db, 60) == ["b"]


async def test_skills_that_are_handed_out_are_not_in_front_of_others(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        for number in range(4):
            await publish(db, skill(f"pdf-{number}", verdict_at=at(number)))
        taken = [
            handed.submission.base_slug
            for turn in range(5)
            for handed in await take_due(db, [f"{turn}"], 100 + turn, read_before=at(50))
        ]
        assert taken == [f"pdf-{number}" for number in range(4)]


async def test_who_asks_for_a_scan_need_not_wait_for_one_that_is_due(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await publish(db, skill("pdf"))
        await take_due(db, ["due"], 10, read_before=JANUARY)
        asked = await ask(db, "pdf", 11, asked_since=at(0))
        assert (asked.submission_id, asked.reason) == ("id-pdf", ScanReason.RESCAN)
        await answer(db, "due", minute=12)
        assert await take(db, 12) == ["id-pdf"]


async def test_several_are_asked_for_at_once(connect: DatabaseConnector) -> None:
    wanted = [WantedScan(submission(f"pdf-{n}"), at(n)) for n in range(5)]
    with await connect() as db:
        await ask(db, "pdf-3", 0, id_="earlier")
        standing = await db.ask_for_scans(wanted, expired=NEVER, asked_since=NEVER)
        ids = {identity.partition("#")[2]: s.submission_id for identity, s in standing.items()}
        assert ids == {f"pdf-{n}": f"id-pdf-{n}" for n in range(5)} | {"pdf-3": "earlier"}


async def test_old_requests_and_hours_are_forgotten_so_many_at_a_time(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        for minute in range(5):
            await ask(db, f"pdf-{minute}", minute)
        await answer(db, "id-pdf-0", minute=0)
        await answer(db, "id-pdf-1", minute=60)

        async def forget(limit: int) -> int:
            return await db.forget_scans(asked_before=at(3), hours_before=at(60), limit=limit)

        assert [await forget(3), await forget(3), await forget(3)] == [3, 1, 0]
        assert await take(db, 100) == ["id-pdf-4"]
        work = await db.scan_work(expired=NEVER, read_before=NEVER, hours_since=NEVER)
        assert [hour.hour for hour in work.hours] == [at(60)]


async def test_what_waits_and_what_was_done_is_counted(connect: DatabaseConnector) -> None:
    async def work(db: SkillDatabase, **options: str) -> ScanWork:
        values = {"expired": NEVER, "read_before": at(60), "hours_since": NEVER} | options
        return await db.scan_work(**values)

    with await connect() as db:
        assert await work(db) == ScanWork({}, Waiting(), [])
        for name, minute in (("known", 10), ("unread-a", 20), ("unread-b", 30), ("fresh", 61)):
            await publish(db, skill(name, verdict_at=at(minute)))
        for minute, name in ((5, "new-a"), (3, "new-b"), (50, "known")):
            await ask(db, name, minute)

        asked = {ScanReason.NEW: Waiting(2, at(3)), ScanReason.RESCAN: Waiting(1, at(50))}
        assert await work(db) == ScanWork(asked, Waiting(2, at(20)), [])
        assert (await work(db, expired=at(3))).asked[ScanReason.NEW] == Waiting(1, at(5))

        await take(db, 119, limit=2)
        await answer(db, "id-new-a", minute=120, again=["id-new-b"])
        (due,) = await take_due(db, ["a"], 125, read_before=at(60))
        assert due.submission.base_slug == "unread-a"

        found = await work(db)
        assert found.hours == [
            ScanHour(hour=at(60), handed_out=2),
            ScanHour(hour=at(120), handed_out=1, results=2),
        ]
        assert (await work(db, hours_since=at(61))).hours == found.hours[1:]
        assert found.asked == {
            ScanReason.NEW: Waiting(1, at(3)),
            ScanReason.RESCAN: Waiting(1, at(50)),
            ScanReason.DUE: Waiting(1, at(125)),
        }
        assert found.unread == Waiting(1, at(30))


async def test_a_skill_that_was_read_in_vain_waits_since_then(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await publish(db, skill("pdf", verdict_at=at(1)))
        await ask(db, "asked", 10)
        await publish(db, skill("asked", verdict_at=at(1)))
        await answer(db, "id-asked", minute=11)
        await take_due(db, ["a"], 10, read_before=at(5))
        await answer(db, "a", minute=11)
        for read_before, waiting in ((at(9), Waiting()), (at(10), Waiting(2, at(10)))):
            work = await db.scan_work(expired=NEVER, read_before=read_before, hours_since=NEVER)
            assert work.unread == waiting


@pytest.mark.parametrize("reason", ["asked", "due", "unanswered"])
async def test_scanners_at_once_never_get_the_same_identity(
    postgres: DatabaseConnector, reason: str
) -> None:
    count = SCANNERS * 10
    with await postgres() as db:
        for number in range(count):
            if reason == "due":
                await publish(db, skill(f"pdf-{number}"))
            else:
                await ask(db, f"pdf-{number}", number % 60)
        if reason == "unanswered":
            assert len(await take(db, 60, limit=count, lease=1)) == count
    sessions = [await postgres() for _ in range(SCANNERS)]

    async def work(number: int) -> list[str]:
        taken: list[str] = []
        for turn in range(6):
            if reason == "due":
                ids = [f"{number}-{turn}-{n}" for n in range(4)]
                handed = await sessions[number].hand_out_due_scans(
                    ids, now=at(100), free_at=at(115), read_before=at(0)
                )
            else:
                handed = await sessions[number].hand_out_scans(
                    limit=4, now=at(100), free_at=[at(115)], expired=NEVER
                )
            taken += [request.identity for request in handed]
        return taken

    try:
        taken = [identity for ids in await asyncio.gather(*map(work, range(SCANNERS)))
                 for identity in ids]  # fmt: skip
        with await postgres() as db:
            rest = await db.scan_work(expired=NEVER, read_before=at(0), hours_since=at(60))
    finally:
        for session in sessions:
            session.close()
    assert len(taken) == len(set(taken)) > SCANNERS
    (hour,) = [hour for hour in rest.hours if hour.hour == at(60)]
    earlier = count if reason == "unanswered" else 0
    assert hour.handed_out == len(taken) + earlier  # counted by all at once, and none lost


async def test_two_that_ask_for_one_identity_at_once_get_one_request(
    postgres: DatabaseConnector,
) -> None:
    sessions = [await postgres() for _ in range(SCANNERS)]
    try:
        for turn in range(20):
            standing = await asyncio.gather(
                *[
                    ask(session, f"pdf-{turn}", id_=f"{turn}-{number}")
                    for number, session in enumerate(sessions)
                ]
            )
            assert len({request.submission_id for request in standing}) == 1
    finally:
        for session in sessions:
            session.close()


async def test_requests_are_read_as_they_are_written(connect: DatabaseConnector) -> None:
    """No field is lost between the table and the answer."""
    with await connect() as db:
        standing = await ask(db, "pdf", 1)
        assert msgspec.structs.asdict(standing) == {
            "identity": "https://github.com/acme/tools#pdf",
            "submission_id": "id-pdf",
            "reason": ScanReason.NEW,
            "requested_at": at(1),
            "submission": submission("pdf"),
            "attempts": 0,
            "free_at": at(1),
            "answered_at": None,
        }
