"""Writing the index while PostgreSQL is away: from the records, and from the index itself.

Of a row that only PostgreSQL has, the index alone knows then, so nothing that it lists is dropped.
The outbox is left out: its slugs are not decided yet.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from marketplace.basics.json_text import InvalidData
from marketplace.kv.access import write_again_if_refused
from marketplace.kv.counting import CountingKv
from marketplace.kv.index.blocks import Block, BlockBuilder, count, entry_of, iterate, merge, pick
from marketplace.kv.index.reading import IndexReading, read_index
from marketplace.kv.index.writing import IndexWriter, new_generation
from marketplace.kv.records import Malformed, enumerate_published_skills
from marketplace.kv.summaries import Moved
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError

READING_SECONDS: Final = 20.0
READING_SHARE: Final = 2
"""One in so many of the KV operations is for reading records; the index takes from the others."""


@dataclass(frozen=True, slots=True)
class WrittenIndex:
    skills: int
    malformed: list[Malformed]
    complete: bool  # all records were read; otherwise the old index answers for the rest


async def write_index_from_kv(env: Env) -> WrittenIndex:
    """Write all that records and index list, in one invocation. Raises KvError."""
    kv = CountingKv(env.submissions_kv)
    env = replace(env, submissions_kv=kv)
    old = await read_index(env)
    deadline = env.clock() + timedelta(seconds=READING_SECONDS)
    records, moved, malformed = BlockBuilder(), list[Moved](), list[Malformed]()
    complete = False
    async for page in enumerate_published_skills(env):
        records.add(map(entry_of, page.summaries))
        moved += page.moved
        malformed += page.malformed
        complete = page.cursor is None
        read_enough = kv.operations * READING_SHARE >= env.settings.kv_operation_budget
        if read_enough or env.clock() >= deadline:
            break
    try:
        skills = await _write(env, _union(records.blocks(), old, moved))
    except InvalidData as error:  # lines of the old index, though its pages are whole
        if not complete:
            raise KvError(f"neither records nor index: {error}", reason="damaged") from error
        env.log("index-page-damaged", level="warning", reason=str(error))
        skills = await _write(env, records.blocks())
    return WrittenIndex(skills, malformed, complete)


def _union(records: list[Block], old: IndexReading, moved: list[Moved]) -> list[Block]:
    """Each skill once. An old slug stays listed as long as KV does not show the new one."""
    layers = [records, *old.layers()]
    targets = {note.moved_to for note in moved}
    listed = {entry.summary.name for blocks in layers for entry in pick(blocks, targets)}
    return merge(layers, without={note.name for note in moved if note.moved_to in listed})


async def _write(env: Env, blocks: list[Block]) -> int:
    writer = IndexWriter.begin(env, new_generation(env))
    await writer.add(iterate(blocks))
    # Somebody may have written the manifest this very second.
    await write_again_if_refused(writer.finish)
    return count(blocks)
