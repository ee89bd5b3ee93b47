"""The double's hooks: how a simulator lets operations fail before or after they happen."""

import pytest

from marketplace.ports.errors import DatabaseError
from tests.doubles.database import DatabaseDouble
from tests.examples import publish, skill


class Fault:
    """A hook that fails one operation."""

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.seen: list[str] = []

    async def __call__(self, operation: str) -> None:
        self.seen.append(operation)
        if operation == self.operation:
            raise DatabaseError("injected")


async def test_a_fault_before_leaves_the_operation_undone() -> None:
    double = DatabaseDouble(before=Fault("upsert_skill"))
    with await double.connect() as db:
        with pytest.raises(DatabaseError):
            await publish(db, skill())
        assert await db.get_skill(skill().name) is None


async def test_a_fault_after_leaves_it_done_though_the_caller_sees_an_error() -> None:
    double = DatabaseDouble(after=Fault("upsert_skill"))
    with await double.connect() as db:
        with pytest.raises(DatabaseError):
            await publish(db, skill())
        assert await db.get_skill(skill().name) == skill()


async def test_hooks_hear_of_each_operation_by_its_name_connecting_included() -> None:
    hook = Fault("none")
    double = DatabaseDouble(before=hook)
    with await double.connect() as db:
        await publish(db, skill())
        await db.fingerprint()

    assert hook.seen == ["connect", "get_skill_by_identity", "upsert_skill", "fingerprint"]


async def test_a_fault_can_refuse_the_connection() -> None:
    with pytest.raises(DatabaseError):
        await DatabaseDouble(before=Fault("connect")).connect()


async def test_sessions_share_their_tables() -> None:
    double = DatabaseDouble()
    with await double.connect() as first, await double.connect() as second:
        await publish(first, skill())
        assert await second.get_skill(skill().name) == skill()
