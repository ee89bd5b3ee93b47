"""What is not listed is found again, by both databases alike."""

from typing import Any

from marketplace.ports.database import DatabaseConnector, UpsertResult
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.change import Acted, State
from marketplace.skills.skill import Skill, Status
from marketplace.skills.withholding import WithheldKey, key_of
from tests.doubles.marketplace import make_skills


def _act(id_: str, kind: ActKind, **fields: Any) -> Act:
    at = f"2026-11-25T08:00:0{id_}.000Z"
    return Act(id=id_, kind=kind, reason="So.", at=at, by="operator", **fields)


async def _withhold(connect: DatabaseConnector, skill: Skill, *acts: Act) -> Skill:
    with await connect() as database:
        stored = await database.upsert_skill(Acted(skill.identity, acts), candidates=[skill.name])
    assert isinstance(stored, UpsertResult)
    return stored.skill


async def test_the_withheld_skills_are_told_whole_and_by_key(connect: DatabaseConnector) -> None:
    skills = make_skills(4)
    with await connect() as database:
        for skill in skills:
            await database.upsert_skill(State(skill), candidates=[skill.name])
        assert await database.withheld_keys() == []
        assert await database.list_withheld(after="", limit=10) == []
    blocked = await _withhold(connect, skills[3], _act("1", ActKind.BLOCK, threat_type="a"))
    withdrawn = await _withhold(connect, skills[1], _act("1", ActKind.WITHDRAW))
    await _withhold(
        connect, skills[2], _act("1", ActKind.WITHDRAW), _act("2", ActKind.RESTORE, lifts=("1",))
    )
    with await connect() as database:
        assert await database.withheld_keys() == [key_of(withdrawn), key_of(blocked)]
        assert await database.list_withheld(after="", limit=10) == [withdrawn, blocked]
        assert await database.list_withheld(after="", limit=1) == [withdrawn]
        assert await database.list_withheld(after=withdrawn.name, limit=10) == [blocked]
    assert key_of(blocked) == WithheldKey(blocked.name, blocked.identity, Status.BLOCKED)
