"""Dead letters, leases and small documents."""

from typing import Any

import msgspec
import pytest

from marketplace.ports.database import DatabaseConnector
from marketplace.ports.dead_letter import DeadLetter
from tests.examples import FEBRUARY, JANUARY, MARCH


def letter(id_: str = "a", **fields: Any) -> DeadLetter:
    values: dict[str, Any] = {
        "queue": "publish",
        "body": {"submissionId": "1"},
        "reason": "unknown-submission",
        "detail": "no sub:1",
        "attempts": 3,
        "failed_at": JANUARY,
    }
    return DeadLetter(id=id_, **(values | fields))


@pytest.mark.parametrize(
    "body", [None, 1, 'text " \\ 🦊 \0', [1, [None]], {"b": 1.5, "a": {"": []}}, {"n": 2**53}]
)
async def test_a_letter_keeps_any_body(connect: DatabaseConnector, body: Any) -> None:
    with await connect() as db:
        await db.store_dead_letter(letter(body=body))

        assert await db.get_dead_letters(["a"]) == [letter(body=body)]


async def test_a_letter_is_never_refused_for_a_nul_in_its_texts(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await db.store_dead_letter(letter(reason="r\0", detail="d\0"))

        assert await db.count_dead_letters() == {"r\N{REPLACEMENT CHARACTER}": 1}


async def test_letters_are_listed_by_id_reason_and_page(connect: DatabaseConnector) -> None:
    with await connect() as db:
        for id_ in "dbca":
            await db.store_dead_letter(letter(id_, reason="odd" if id_ in "ac" else "even"))

        listed = await db.list_dead_letters(reason=None, after=None, limit=3)
        assert [found.id for found in listed] == ["a", "b", "c"]
        listed = await db.list_dead_letters(reason=None, after="c", limit=3)
        assert [found.id for found in listed] == ["d"]
        listed = await db.list_dead_letters(reason="odd", after="a", limit=3)
        assert [found.id for found in listed] == ["c"]
        assert await db.count_dead_letters() == {"even": 2, "odd": 2}


async def test_what_can_be_redriven_is_found_by_reason_before_the_limit(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        letters: dict[str, dict[str, Any]] = {
            "a": {"failed_at": MARCH},
            "b": {"redrives": 2},
            "c": {"reason": "odd"},
            "d": {"body": "no message"},
            "e": {"redriven_at": FEBRUARY},
            "f": {"failed_at": FEBRUARY},
            "g": {"failed_at": FEBRUARY, "body": {}},
        }
        for id_, fields in letters.items():
            await db.store_dead_letter(letter(id_, **fields))

        async def ids(reason: str | None = None, limit: int = 9) -> str:
            found = await db.list_redrivable(reason=reason, limit=limit)
            return "".join(item.id for item in found)

        assert await ids() == "bcfga"
        assert await ids(limit=2) == "bc"
        assert await ids("odd") == "c"
        assert await ids("none") == ""


async def test_letters_are_closed_unless_they_failed_again_meanwhile(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await db.store_dead_letter(letter("a"))
        await db.store_dead_letter(letter("b", failed_at=MARCH))
        await db.store_dead_letter(letter("c", redrives=1, redriven_at=FEBRUARY))
        await db.mark_redriven(["a", "b", "c", "unknown"], at=MARCH)
        found = await db.get_dead_letters(["a", "b", "c"])
        assert [(x.redriven_at, x.redrives) for x in found] == [
            (MARCH, 1),
            (None, 0),
            (FEBRUARY, 1),
        ]


async def test_what_the_queue_does_not_take_comes_last(connect: DatabaseConnector) -> None:
    with await connect() as db:
        for id_ in "abc":
            await db.store_dead_letter(letter(id_))
        await db.store_dead_letter(letter("d", redrives=1, redriven_at=FEBRUARY))
        for id_ in ("a", "d", "unknown"):
            await db.note_failed_again(id_, at=MARCH)
        await db.note_failed_again("b", at=JANUARY)  # a late note

        found = await db.list_redrivable(reason=None, limit=9)
        assert [item.id for item in found] == ["b", "c", "a"]
        assert found[2] == letter("a", failed_at=MARCH)


async def test_a_letter_that_fails_again_keeps_its_number_of_redrives(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        await db.store_dead_letter(letter("a"))
        await db.mark_redriven(["a"], at=FEBRUARY)
        await db.store_dead_letter(letter("a", failed_at=MARCH))
        (found,) = await db.get_dead_letters(["a"])
        assert (found.redrives, found.is_open) == (1, True)


async def test_a_redriven_letter_is_kept_but_no_longer_listed(connect: DatabaseConnector) -> None:
    redriven = letter(redrives=1, redriven_at=FEBRUARY)
    with await connect() as db:
        await db.store_dead_letter(letter())
        await db.store_dead_letter(redriven)

        assert await db.list_dead_letters(reason=None, after=None, limit=9) == []
        assert await db.count_dead_letters() == {}
        assert await db.get_dead_letters(["a", "unknown"]) == [redriven]


async def test_a_late_copy_of_a_failure_does_not_undo_its_redrive(
    connect: DatabaseConnector,
) -> None:
    redriven = letter(redrives=1, redriven_at=FEBRUARY)
    with await connect() as db:
        await db.store_dead_letter(redriven)
        await db.store_dead_letter(letter())

        assert await db.get_dead_letters(["a"]) == [redriven]


async def test_a_failure_after_the_redrive_is_listed_again(connect: DatabaseConnector) -> None:
    failed_again = letter(failed_at=MARCH, redrives=1)
    with await connect() as db:
        await db.store_dead_letter(letter(redrives=1, redriven_at=FEBRUARY))
        await db.store_dead_letter(failed_again)

        assert await db.list_dead_letters(reason=None, after=None, limit=9) == [failed_again]


@pytest.mark.parametrize("failed_at", [FEBRUARY, MARCH])
async def test_a_redrive_noted_late_does_not_hide_what_failed_since(
    connect: DatabaseConnector, failed_at: str
) -> None:
    failed_again = letter(failed_at=failed_at, redrives=0)
    with await connect() as db:
        await db.store_dead_letter(letter())
        await db.store_dead_letter(failed_again)
        await db.store_dead_letter(letter(redrives=1, redriven_at=FEBRUARY))

        assert await db.get_dead_letters(["a"]) == [failed_again]


async def test_the_redrive_can_be_noted_twice(connect: DatabaseConnector) -> None:
    first = letter(redrives=1, redriven_at=FEBRUARY)
    second = msgspec.structs.replace(first, redrives=2, redriven_at=MARCH)
    with await connect() as db:
        for state in (first, second, first):
            await db.store_dead_letter(state)

        assert await db.get_dead_letters(["a"]) == [second]


async def test_a_lease_is_held_by_one_until_it_expires(connect: DatabaseConnector) -> None:
    with await connect() as db:
        assert await db.acquire_lease("repair", "one", now=JANUARY, expires_at=FEBRUARY)
        assert not await db.acquire_lease("repair", "two", now=JANUARY, expires_at=MARCH)
        assert await db.acquire_lease("other", "two", now=JANUARY, expires_at=MARCH)
        assert await db.acquire_lease("repair", "two", now=FEBRUARY, expires_at=MARCH)
        assert not await db.acquire_lease("repair", "one", now=FEBRUARY, expires_at=MARCH)


async def test_the_holder_may_extend_its_lease(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await db.acquire_lease("repair", "one", now=JANUARY, expires_at=FEBRUARY)
        assert await db.acquire_lease("repair", "one", now=JANUARY, expires_at=MARCH)
        assert not await db.acquire_lease("repair", "two", now=FEBRUARY, expires_at=MARCH)


async def test_only_the_holder_gives_a_lease_back(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await db.acquire_lease("repair", "one", now=JANUARY, expires_at=MARCH)
        await db.release_lease("repair", "two")
        assert not await db.acquire_lease("repair", "two", now=JANUARY, expires_at=MARCH)

        await db.release_lease("repair", "one")
        assert await db.acquire_lease("repair", "two", now=JANUARY, expires_at=MARCH)


async def test_a_document_comes_back_byte_for_byte_and_is_replaced(
    connect: DatabaseConnector,
) -> None:
    with await connect() as db:
        assert await db.load_state("job") is None
        await db.save_state("job", '{"b": 1,  "a": "ü\\u0000"}'.encode())
        await db.save_state("other", b"{}")
        assert await db.load_state("job") == '{"b": 1,  "a": "ü\\u0000"}'.encode()

        await db.save_state("job", b"[]")
        assert await db.load_state("job") == b"[]"


async def test_of_two_that_replace_one_state_only_the_first_does(
    postgres: DatabaseConnector,
) -> None:
    with await postgres() as db:
        assert not await db.replace_state("job", b"{}", before=b"[]")
        assert await db.load_state("job") is None
        assert await db.replace_state("job", b'{"a":  1}', before=None)
        assert not await db.replace_state("job", b"{}", before=None)
        assert not await db.replace_state("job", b"{}", before=b'{"a": 1}')
        assert await db.replace_state("job", b"[2]", before=b'{"a":  1}')
        assert not await db.replace_state("job", b"[3]", before=b'{"a":  1}')
        assert await db.load_state("job") == b"[2]"
