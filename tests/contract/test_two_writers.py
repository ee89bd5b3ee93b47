"""A row is replaced only over the revision that was read: what others wrote meanwhile stays."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from marketplace.ports.database import SkillDatabase, Upserted
from marketplace.ports.errors import DatabaseConflict
from marketplace.postgres import queries
from marketplace.postgres.db import MAX_ATTEMPTS, PostgresSkillDatabase
from marketplace.skills.acts import ActKind
from marketplace.skills.change import Acted, Change, Scanned, State
from marketplace.skills.merging import merge
from marketplace.skills.scan import Facts, Refusal, Scan
from marketplace.skills.skill import Skill, Status
from marketplace.skills.tiers import Verdict
from pgwire import Connection, Result, Statement
from tests.contract.postgres import PostgresServer
from tests.doubles.database import DatabaseDouble
from tests.examples import FEBRUARY, MARCH, act, change, publish, skill, with_acts

FIRST = skill()
BLOCK = act(ActKind.BLOCK)
TOLD = skill(description="New.", updated_at=MARCH)
BLOCKED = with_acts(FIRST, BLOCK)

_WRITES = {queries.UPSERT_SKILL, queries.UPSERT_SKILLS}


@dataclass
class Rivals:
    """Two sessions. Before each write of ``db`` the other one makes the next change."""

    db: SkillDatabase
    other: SkillDatabase
    changes: list[Change]

    async def interrupt(self) -> None:
        if self.changes:
            asked = self.changes.pop(0)
            await change(self.other, asked, FIRST.name)


class _Interrupted:
    """A connection on which a rival is faster than each write."""

    def __init__(self, connection: Connection, interrupt: Callable[[], Any]) -> None:
        self._connection = connection
        self._interrupt = interrupt

    async def pipeline(self, statements: Sequence[Statement]) -> list[Result]:
        if _WRITES & {statement.sql for statement in statements}:
            await self._interrupt()
        return await self._connection.pipeline(statements)

    @property
    def closed(self) -> bool:
        return self._connection.closed

    def close(self) -> None:
        self._connection.close()


OpenRivals = Callable[..., AbstractAsyncContextManager[Rivals]]


@pytest.fixture(params=["postgres", "double"])
def rivals(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, database: str
) -> OpenRivals:
    """Opens two sessions with the emptied database, for changes that the other one makes."""
    if request.param == "double":
        return _rivals_on_the_double
    request.getfixturevalue("postgres")

    @asynccontextmanager
    async def on_postgres(*changes: Change) -> AsyncIterator[Rivals]:
        with (
            await postgres_server.connect(database) as first,
            await postgres_server.connect(database) as second,
        ):
            opened = Rivals(
                PostgresSkillDatabase(first), PostgresSkillDatabase(second), list(changes)
            )
            slow = cast("Connection", _Interrupted(first, opened.interrupt))
            opened.db = PostgresSkillDatabase(slow)
            yield opened

    return on_postgres


@asynccontextmanager
async def _rivals_on_the_double(*changes: Change) -> AsyncIterator[Rivals]:
    double = DatabaseDouble()
    interrupted = replace(double)
    opened = Rivals(await interrupted.connect(), await double.connect(), list(changes))

    async def before(operation: str) -> None:
        if operation in ("upsert_skill", "upsert_skills", "check_skills"):
            await opened.interrupt()

    interrupted.before = before
    yield opened


@pytest.mark.parametrize(("mine", "other"), [(TOLD, BLOCKED), (BLOCKED, TOLD)])
@pytest.mark.parametrize("row_is_there", [True, False])
async def test_of_two_changes_of_one_row_none_is_lost(
    rivals: OpenRivals, mine: Skill, other: Skill, row_is_there: bool
) -> None:
    async with rivals(State(other)) as sessions:
        if row_is_there:
            await publish(sessions.other, FIRST)
        result = await change(sessions.db, State(mine), FIRST.name)

        assert result.outcome is Upserted.UPDATED
        assert (result.skill.description, result.skill.acts) == ("New.", (BLOCK,))
        assert result.skill.status is Status.BLOCKED
        assert result.skill.revision == merge(TOLD, BLOCKED).revision
        assert await sessions.other.get_skill(FIRST.name) == result.skill
        assert (await sessions.other.fingerprint()).count == 1


@pytest.mark.parametrize("in_bulk", [False, True])
async def test_an_earlier_first_publication_that_another_session_brings_stays(
    rivals: OpenRivals, in_bulk: bool
) -> None:
    """It is in no revision, so the row that is replaced seems the same."""
    earlier = skill(published_at="2025-01-01T00:00:00.000Z")
    async with rivals(State(earlier)) as sessions:
        await publish(sessions.other, FIRST)
        if in_bulk:
            assert await sessions.db.upsert_skills([TOLD]) == []
        else:
            await change(sessions.db, State(TOLD), FIRST.name)
        row = await sessions.other.get_skill(FIRST.name)
        assert row is not None
        assert (row.description, row.published_at) == ("New.", earlier.published_at)


async def test_a_row_that_the_caller_read_too_early_is_read_again(rivals: OpenRivals) -> None:
    async with rivals() as sessions:
        row = (await publish(sessions.other, FIRST)).skill
        await publish(sessions.other, BLOCKED)
        result = await change(sessions.db, State(TOLD), row=row)

        assert (result.skill.description, result.skill.acts) == ("New.", (BLOCK,))


async def test_a_rule_is_asked_about_the_very_state_that_is_replaced(rivals: OpenRivals) -> None:
    """The row that was read has no folder of its own yet; the one that would be replaced has."""
    provisional = skill(provisional=True)
    settled = skill(skill_path="skills/pdf-tools", updated_at=FEBRUARY)
    elsewhere = Scan(
        submission_id="a",
        repo_url=FIRST.repo_url,
        skill_name="pdf-tools",
        base_slug="pdf-tools",
        verdict=Verdict.PASS,
        score=50,
        scanned_at=MARCH,
        path="attic/pdf-tools",
        skill=Facts(name="pdf-tools"),
    )
    async with rivals(State(settled)) as sessions:
        await publish(sessions.other, provisional)
        refused = await sessions.db.upsert_skill(Scanned(elsewhere), candidates=[])

        assert refused is Refusal.OTHER_PATH
        stored = await sessions.other.get_skill(FIRST.name)
        assert stored is not None
        assert stored.skill_path == "skills/pdf-tools"


def _acts(count: int) -> list[Change]:
    return [Acted(FIRST.identity, (act(ActKind.WITHDRAW, id=str(n)),)) for n in range(count)]


async def test_who_loses_a_row_time_and_again_gives_up_and_has_changed_nothing(
    rivals: OpenRivals,
) -> None:
    async with rivals(*_acts(MAX_ATTEMPTS)) as sessions:
        await publish(sessions.other, FIRST)
        with pytest.raises(DatabaseConflict):
            await change(sessions.db, State(TOLD))

        stored = await sessions.other.get_skill(FIRST.name)
        assert stored is not None
        assert len(stored.acts) == MAX_ATTEMPTS
        assert stored.description == FIRST.description


async def test_who_loses_a_row_once_less_is_heard(rivals: OpenRivals) -> None:
    async with rivals(*_acts(MAX_ATTEMPTS - 1)) as sessions:
        await publish(sessions.other, FIRST)
        result = await change(sessions.db, State(TOLD))

    assert result.skill.description == "New."
    assert len(result.skill.acts) == MAX_ATTEMPTS - 1


@pytest.mark.parametrize(("mine", "other"), [(TOLD, BLOCKED), (BLOCKED, TOLD)])
@pytest.mark.parametrize("row_is_there", [True, False])
async def test_a_bulk_upsert_keeps_what_another_session_wrote_meanwhile(
    rivals: OpenRivals, mine: Skill, other: Skill, row_is_there: bool
) -> None:
    new = skill("new")
    async with rivals(State(other)) as sessions:
        if row_is_there:
            await publish(sessions.other, FIRST)
        unplaced = await sessions.db.upsert_skills([mine, new])
        stored = await sessions.other.get_skill(FIRST.name)

        assert unplaced == []
        assert await sessions.other.get_skill("new") == new
        assert stored is not None
        assert (stored.description, stored.acts) == ("New.", (BLOCK,))


async def test_a_check_names_what_another_session_wrote_meanwhile(rivals: OpenRivals) -> None:
    async with rivals(State(BLOCKED)) as sessions:
        await publish(sessions.other, FIRST)
        unplaced = await sessions.db.check_skills([TOLD, skill("new")])

        assert [state.identity for state in unplaced] == [FIRST.identity]
        stored = await sessions.other.get_skill(FIRST.name)
        assert stored is not None
        assert stored.revision == BLOCKED.revision
        assert await sessions.other.get_skill("new") is None
