"""Time, bytes and memory of the KV listing: ``python -m bench.published_index [skills]``.

Runs on CPython against a KV in memory: bytes and memory carry over to the Workers runtime, times
only as proportions. Memory is what Python allocates beyond that KV, measured in a run of its own.
"""

import asyncio
import random
import sys
import time
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

from bench.memory_kv import MemoryKv
from marketplace.catalog.published_skills import get_published_skills_list
from marketplace.kv.index.reading import read_index
from marketplace.kv.index.writing import rewrite_index
from marketplace.kv.records import enumerate_published_skills
from marketplace.kv.summaries import encode_metadata
from marketplace.ports.env import Env, Settings
from marketplace.skills.skill import Skill

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "sta", "xi")]


def generated_skill(number: int) -> Skill:
    """A skill of ordinary size with words that compress about as well as English."""
    chance = random.Random(number)
    text = " ".join(chance.choices(WORDS, k=chance.randint(15, 60)))
    return Skill(
        name=f"{chance.choice(WORDS)}-{number}",
        base_slug=f"{chance.choice(WORDS)}-{number}",
        display_name=" ".join(chance.choices(WORDS, k=3)).title(),
        description=text,
        author=f"owner-{number % 5000}",
        repo_url=f"https://github.com/owner-{number % 5000}/{chance.choice(WORDS)}-skills",
        updated_at=f"2026-0{number % 9 + 1}-11T08:{number % 60:02d}:00.{number % 1000:03d}Z",
        cert_score=number % 101,
    )


def filled_env(count: int) -> tuple[Env, MemoryKv]:
    """An env whose KV has ``count`` records, and that KV."""
    kv = MemoryKv()
    for number in range(count):
        skill = generated_skill(number)
        kv.store(f"skill:{skill.name}", b"{}", encode_metadata(skill))
    nothing = cast("Any", None)
    env = Env(
        submissions_kv=kv,
        database=nothing,
        publish_queue=nothing,
        maintenance_queue=nothing,
        settings=Settings(enumeration_page_budget=1000),
    )
    return env, kv


async def measure(name: str, run: Callable[[], Awaitable[object]]) -> None:
    """Print how long a call takes, what it keeps and what it needs at its peak."""
    started = time.perf_counter()
    await run()
    seconds = time.perf_counter() - started
    tracemalloc.start()
    result = await run()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{name:32} {seconds:6.2f} s   keeps {kept / 1e6:6.1f} MB   peak {peak / 1e6:6.1f} MB")
    del result


async def enumerate_only(env: Env) -> int:
    """Enumerate and drop what comes."""
    return sum([len(page.summaries) async for page in enumerate_published_skills(env)])


async def main(count: int) -> None:
    env, kv = filled_env(count)
    await measure("enumerate", lambda: enumerate_only(env))
    print("operations of two enumerations:", dict(kv.operations))
    skills = await get_published_skills_list(env, deadline=600)
    await measure("rewrite index", lambda: rewrite_index(env, skills, written_at=None))
    sizes = kv.sizes("skills:published-index:")
    print(f"blocks {len(sizes)}, largest {max(sizes, default=0) / 1e6:.2f} MB")
    await measure("read index", lambda: read_index(env))
    await measure(
        "list: records, index, outbox", lambda: get_published_skills_list(env, deadline=600)
    )
    size = sum(len(block.data) for block in skills.blocks)
    lines = [zlib.decompress(block.data) for block in skills.blocks[:2]]
    print(f"blocks {size / 1e6:.1f} MB for {skills.count} skills")
    for level in (1, 3, 6):
        started = time.perf_counter()
        packed = sum(len(zlib.compress(line, level)) for line in lines)
        seconds = time.perf_counter() - started
        share = packed / sum(map(len, lines))
        print(f"zlib level {level}: {share:.0%} of the JSON, {seconds * 1e3:.0f} ms for two blocks")
    started = time.perf_counter()
    total = sum(1 for _ in skills)
    print(f"iterate {total}: {time.perf_counter() - started:.2f} s")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 110_000))
