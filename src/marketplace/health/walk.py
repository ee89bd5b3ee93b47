"""A walk over all records in bounded steps, and the differences that looks have found.

Each check makes a step. Its place, the counts of the last complete walk and the differences are
kept in KV, which a walk cannot do without anyway: so health shows them while PostgreSQL is away.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, TypeVar

import msgspec

from marketplace.health.differences import Counts, Look, Place, Suspect, join, look_again
from marketplace.kv import state as kv_state
from marketplace.kv.counting import CountingKv
from marketplace.kv.index.manifest import index_header
from marketplace.kv.records import PublishedPage, enumerate_published_skills
from marketplace.operations.reports import read_state
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import KvError

WALK_PAGES: Final = 40
"""List calls of one step: 110,000 skills take three checks."""
_STEP_OPERATIONS: Final = 150  # after which a step ends; a page takes up to 30 more
_STEP_SECONDS: Final = 60.0

LAST_WALK: Final = "last-walk"
_PLACE: Final = "walk-place"
_DIFFERENCES: Final = "differences"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Walked:
    """What a step found. ``complete``: it began and ended the walk."""

    complete: bool
    suspects: Sequence[Suspect]


async def walk_on(env: Env) -> Walked:
    """Look at known differences again, then go on with the walk. Raises KvError, DatabaseError."""
    kv = CountingKv(env.submissions_kv)
    env = replace(env, submissions_kv=kv)
    database = await get_db(env)
    manifest = (await index_header(env)).manifest
    known = await load_suspects(env)
    suspects = await look_again(env, database, manifest, known)
    place = await _load_place(env)
    begun_here = place.cursor is None
    look = Look(env, database, place, manifest)
    deadline = env.clock() + timedelta(seconds=_STEP_SECONDS)
    try:
        async for page in enumerate_published_skills(
            env, cursor=place.cursor, page_budget=WALK_PAGES
        ):
            await look.take(page)
            if kv.operations >= _STEP_OPERATIONS or env.clock() >= deadline:
                break
    except KvError:
        if look.place == place:  # perhaps because of the cursor
            await kv_state.save_state(env, _PLACE, msgspec.json.encode(beginning(env)))
        raise
    found = join(suspects, look.suspects)
    await save_suspects(env, found, before=known)
    if look.place.cursor is None:
        await save_walk(env, look.place.counts)
    if look.place.cursor != place.cursor:
        await kv_state.save_state(env, _PLACE, msgspec.json.encode(look.place))
    return Walked(begun_here and look.place.cursor is None, found)


def beginning(env: Env) -> Place:
    """Of a walk that begins now."""
    return Place(counts=Counts(begun_at=env.now()))


async def _load_place(env: Env) -> Place:
    """Where the walk goes on; at its beginning, if a rebuild has repaired everything meanwhile."""
    place, last = await _load(env, _PLACE, Place), await load_walk(env)
    if place is None or place.cursor is None:
        return beginning(env)
    return beginning(env) if last and last.finished_at > place.counts.begun_at else place


async def count_page(env: Env, counts: Counts | None, page: PublishedPage, after: str) -> Counts:
    """Count a page of another walk, which comes after a slug. Raises DatabaseError."""
    counts = counts or Counts(begun_at=env.now())
    if page.cursor is not None and page.last_slug is None:
        return counts.with_page(page, 0)
    until = None if page.cursor is None else page.last_slug
    database = await get_db(env)
    return counts.with_page(page, await database.count_range(after=after, until=until))


async def load_walk(env: Env) -> Counts | None:
    """The last complete walk. Raises KvError."""
    return await _load(env, LAST_WALK, Counts)


async def save_walk(env: Env, counts: Counts) -> None:
    """Raises KvError."""
    complete = msgspec.structs.replace(counts, finished_at=env.now())
    await kv_state.save_state(env, LAST_WALK, msgspec.json.encode(complete))


async def load_suspects(env: Env) -> list[Suspect]:
    """The differences that looks have found and that were there still. Raises KvError."""
    return await _load(env, _DIFFERENCES, list[Suspect]) or []


async def save_suspects(
    env: Env, suspects: Sequence[Suspect], *, before: Sequence[Suspect]
) -> None:
    """Raises KvError."""
    if list(suspects) != list(before):
        await kv_state.save_state(env, _DIFFERENCES, msgspec.json.encode(suspects))


async def _load(env: Env, name: str, kind: type[T]) -> T | None:
    return read_state(env, name, await kv_state.load_state(env, name), kind)
