"""The health check: reads all sources and compares them.

Every source is read within a time of its own, the counting of KV a moment after the others. One
that fails is ``None`` with its error and a finding of its own, and never fails the whole.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from marketplace.basics.timestamps import seconds_between
from marketplace.health.drift import find_drifts
from marketplace.health.findings import recommend, status_of
from marketplace.health.readings import (
    DATABASE_SECONDS,
    KV_SECONDS,
    FoundInDatabase,
    FoundInKv,
    SkillCount,
    count_records,
    read_database,
    read_rest_of_kv,
    read_source,
)
from marketplace.health.report import DeadLetterCounts, Health
from marketplace.health.scanning import describe_scanning
from marketplace.kv.counting import CountingKv
from marketplace.kv.index.manifest import IndexHeader, index_header
from marketplace.operations.reports import LAST_CHECK, LAST_REPAIR, newest_report
from marketplace.ports.env import Env
from marketplace.skills.fingerprint import NO_SKILLS

HEAD_START_SECONDS: Final = 0.5


async def check_health(env: Env) -> Health:
    """Read all sources and compare them. Never raises because of a source."""
    kv = CountingKv(env.submissions_kv)
    env = replace(env, submissions_kv=kv)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read_source(env, "postgres", DATABASE_SECONDS, read_database))
        heading = group.create_task(read_source(env, "kv_index", KV_SECONDS, index_header))
        looking = group.create_task(read_source(env, "kv", KV_SECONDS, read_rest_of_kv))
        # Counting keeps the one thread busy, and would be measured as PostgreSQL's latency.
        await asyncio.wait([reading, heading], timeout=HEAD_START_SECONDS)
        records = await read_source(env, "kv", KV_SECONDS, count_records)
    database, index, rest = reading.result(), heading.result(), looking.result()
    health = Health(seed_count=len(env.seed.skills), drifts=[], recommendations=[])
    health.sources = {
        "postgres": database.state(),
        "kv": records.state(),
        "kv_index": index.state(),
    }
    counted = {"postgres": database.value.skills if database.value else None, "kv": records.value}
    counted["kv_index"] = _index_counted(index.value, counted)
    counts = {source: found.count if found else None for source, found in counted.items()}
    health.prisma_count = counts["postgres"]
    health.kv_enumerated_count = counts["kv"]
    health.kv_index_count = counts["kv_index"]
    _describe_index(health, index.value)
    health.drifts = find_drifts(counted)
    health.drift_detected = bool(health.drifts)
    _add_operations(env, health, database.value, rest.value)
    heap = env.heap_bytes()
    health.heap = None if heap is None else {"bytes": heap}
    health.kv_operations = {"list": kv.lists, "all": kv.operations}
    recommend(health, database.failure)
    health.status = status_of(health)
    return health


def _index_counted(
    header: IndexHeader | None, others: Mapping[str, SkillCount | None]
) -> SkillCount | None:
    """The index's number of skills; of an unreadable one None, of an absent one 0.

    Its recent entries may be new skills or new states of listed ones, which only the pages tell.
    So the number within that range is taken which is closest to what it is a copy of.
    """
    if header is None or header.problem not in (None, "missing"):
        return None
    if header.fingerprint is None:
        return SkillCount(0, NO_SKILLS.digest)
    if header.recent == 0:
        return SkillCount(header.count, header.fingerprint.digest)
    reference = others["postgres"] or others["kv"]
    truth = reference.count if reference else header.count
    return SkillCount(min(max(truth, header.count), header.count + header.recent), None)


def _describe_index(health: Health, header: IndexHeader | None) -> None:
    if header is None:
        return
    state = health.sources["kv_index"]
    state.age_seconds = header.age_seconds
    if header.problem == "missing":
        others = (health.prisma_count, health.kv_enumerated_count)
        state.error = "missing" if any(others) else None  # nothing published: nothing to index
    elif header.problem is not None:
        state.damaged = True
        state.error = header.problem


def _add_operations(
    env: Env, health: Health, database: FoundInDatabase | None, rest: FoundInKv | None
) -> None:
    """Dead letters, the scanners' work, reports, and the submission that has waited longest to be
    published."""
    if database:
        letters = dict(database.letters)
        health.scanning = describe_scanning(database.scans, env.now())
        health.dead_letters = DeadLetterCounts(total=sum(letters.values()), by_reason=letters)
    sources = [source for source in (database, rest) if source is not None]
    health.last_repair = newest_report(env, LAST_REPAIR, [s.last_repair for s in sources])
    health.last_check = newest_report(env, LAST_CHECK, [s.last_check for s in sources])
    if rest and rest.pending:
        scanned_at = rest.pending.scanned_at
        health.oldest_pending = {
            "id": rest.pending.id,
            "scanned_at": scanned_at,
            "age_seconds": seconds_between(scanned_at, env.now()),
        }
