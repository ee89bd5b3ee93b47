"""KV's copy of the rows: which records may be written, and that the last write is of the newest
row."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from marketplace.basics.concurrency import map_bounded
from marketplace.kv.access import write_again_if_refused
from marketplace.kv.records import Record, Records, read_records, write_record
from marketplace.ports.database import RecordKey
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError, KvError
from marketplace.skills.skill import Skill

_KV_WRITE_ROUNDS: Final = 3  # how often a row may move on under our hands before repair takes over


async def free_for_rows(env: Env, rows: Collection[Skill], records: Records) -> Collection[str]:
    """As `free_in_kv`; what the plans did not look at, a slug by a move, is read now."""
    unread = [row.name for row in rows if row.name not in records]
    if unread and records:
        try:
            records = {**records, **await read_records(env, unread)}
        except KvError as error:
            env.log("kv unavailable: slugs not checked", level="warning", reason=error.reason)
    return await free_in_kv(env, rows, records)


async def free_in_kv(env: Env, rows: Iterable[Skill], records: Records) -> Collection[str]:
    """The slugs whose record may be written from these rows.

    Not those that KV was not asked about, not those of a newer record, and not those of another
    skill's, unless that skill has got another slug: what PostgreSQL lost is there alone.
    """
    free: set[str] = set()
    held: dict[str, Skill] = {}
    for row in rows:
        record = records.get(row.name)
        if isinstance(record, Skill) and record.identity != row.identity:
            held[row.name] = record
        elif row.name in records and newer_record(record, row) is None:
            free.add(row.name)
    return free | await _left_by_holders(env, held) if held else free


def newer_record(record: Record, row: Skill) -> Skill | None:
    """The record, where it is a newer state of the row's skill: PostgreSQL lost the row, and got
    an older state back."""
    if not isinstance(record, Skill) or record.identity != row.identity:
        return None
    return record if record.revision > row.revision else None


async def _left_by_holders(env: Env, held: Mapping[str, Skill]) -> set[str]:
    """The slugs whose record is only what a skill left behind, and not newer than its row."""
    left: set[str] = set()
    try:
        database = await get_db(env)
        for slug, record in held.items():
            row = await database.get_skill_by_identity(record.identity)
            if row is not None and row.name != slug and row.revision >= record.revision:
                left.add(slug)
    except DatabaseError as error:
        env.log("postgres unavailable: slugs not checked", level="warning", reason=error.reason)
    for slug in held.keys() - left:
        env.log(
            f"{slug} not written to kv: another skill has it there",
            level="warning",
            slug=slug,
            reason="conflict",
        )
    return left


async def try_kv_write(
    env: Env, skill: Skill, write: Callable[[Env, Skill], Awaitable[object]]
) -> bool:
    try:
        await write(env, skill)
    except KvError as error:
        env.log(
            f"kv unavailable: {skill.name} not stored there",
            level="warning",
            slug=skill.name,
            reason=error.reason,
            detail=str(error),
        )
        return False
    return True


async def settle_in_kv(env: Env, written: Sequence[Skill]) -> None:
    """Note in PostgreSQL what KV holds now; where the row has moved on meanwhile, write it again.

    Two writers of one record may finish in the wrong order. Both look here afterwards, so the last
    of them sees the newer row and writes it. A row that has another slug by now is left alone, as
    that may be another's in KV. What is left undone stays marked in the table and is found by the
    next light repair.
    """
    names = {skill.name for skill in written}
    for _ in range(_KV_WRITE_ROUNDS):
        if not written:
            return
        try:
            moved_on = await _moved_on(env, written)
        except DatabaseError as error:
            env.log(
                "postgres unavailable: kv state not noted", level="warning", reason=error.reason
            )
            return
        written = await write_rows(env, [row for row in moved_on if row.name in names])


async def _moved_on(env: Env, written: Sequence[Skill]) -> list[Skill]:
    """Mark what was written; return the present rows of those that are newer than that."""
    database = await get_db(env)
    names = await database.mark_in_kv(
        [RecordKey(skill.name, skill.identity, skill.revision) for skill in written]
    )
    rows = [await database.get_skill(name) for name in names]
    return [row for row in rows if row is not None]


async def write_rows(env: Env, rows: Sequence[Skill]) -> list[Skill]:
    """Write the KV records of rows; those that were written. What fails is logged."""
    written = await map_bounded(rows, lambda row: try_kv_write(env, row, write_row))
    return [row for row, is_written in zip(rows, written, strict=True) if is_written]


async def write_row(env: Env, row: Skill) -> None:
    """Write a row's record; where another writer was there within the second, once more after it.

    If what that one wrote is newer, `settle_in_kv` finds the row moved on and writes it again.
    """
    await write_again_if_refused(lambda: write_record(env, row))
