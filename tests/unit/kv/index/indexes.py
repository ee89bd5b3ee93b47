"""Indexes to test with, written and read."""

from typing import Any

from marketplace.catalog.published_skills import PublishedSkills, get_published_skills_list
from marketplace.kv.index.blocks import iterate, merge
from marketplace.kv.index.reading import read_index
from marketplace.kv.index.writing import IndexWriter
from marketplace.kv.records import write_record
from tests.doubles.marketplace import Market, make_skill


async def read_names(market: Market) -> list[str]:
    reading = await read_index(market.env)
    return [entry.summary.name for entry in iterate(merge(reading.layers()))]


async def listing(market: Market, **options: Any) -> PublishedSkills:
    return await get_published_skills_list(market.env, **options)


async def write_records(market: Market, *slugs: str) -> None:
    for slug in slugs:
        await write_record(market.env, make_skill(slug))


async def write_index(market: Market, generation: str, *slugs: str) -> None:
    writer = IndexWriter.begin(market.env, generation)
    await writer.add([make_skill(slug).published_summary() for slug in slugs])
    await writer.finish()


SUMMARY = {"name": "z", "repoUrl": "https://github.com/o/z"}
