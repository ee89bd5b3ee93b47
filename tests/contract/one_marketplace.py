"""Publish a skill and look at it everywhere; also run in a process of its own, on changed code.

``python -m tests.contract.one_marketplace`` reads a Task from stdin and writes what was Seen.
"""

import asyncio
import sys
from typing import Any

import httpx
import msgspec
from starlette.types import Receive, Scope, Send

import marketplace
from marketplace.kv.records import read_record
from marketplace.kv.summaries import decode_metadata
from marketplace.ports.database import DatabaseConnector, DatabaseSession, SkillDatabase
from marketplace.ports.env import Env, get_db
from marketplace.ports.errors import DatabaseError
from marketplace.postgres.db import postgres_connector
from marketplace.publishing.publish import publish_skill
from marketplace.skills.skill import PublishedSummary, Skill
from marketplace.skills.stored import read_skill
from marketplace.web.app import create_app
from pgwire import ConnectOptions, asyncio_stream
from tests.doubles.kv import SimulatedKv
from tests.examples import key_of

_NOTHING: Any = None  # in place of bindings that are not used


class Task(msgspec.Struct, kw_only=True):
    """What to publish, and where."""

    options: ConnectOptions
    record: dict[str, Any]  # of the skill to publish
    kv: dict[str, tuple[str, str]] = {}  # values and metadata that are there already


class Seen(msgspec.Struct, kw_only=True):
    """What the marketplace says afterwards; skills by slug."""

    code: str
    openapi: dict[str, Any]
    pages: dict[str, Any]
    listed: dict[str, Any]
    listed_from_kv: dict[str, Any]
    kv: dict[str, tuple[str, str]]
    revisions_of_summaries: dict[str, str]
    revisions_of_records: dict[str, str]
    revisions_of_rows: dict[str, str]
    differences: int


async def _away() -> SkillDatabase:
    raise DatabaseError("away")


def _client(env: Env) -> httpx.AsyncClient:
    app = create_app()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "env": env}, receive, send)

    transport = httpx.ASGITransport(application)
    return httpx.AsyncClient(transport=transport, base_url="https://skills.example")


async def carry_out(task: Task) -> Seen:
    """Publish, then read from every source."""
    kv = SimulatedKv()
    for key, (value, metadata) in task.kv.items():
        kv.damage(key, value.encode(), metadata=metadata)

    def env_on(connect: DatabaseConnector) -> Env:
        return Env(
            submissions_kv=kv,
            database=DatabaseSession(connect),
            publish_queue=_NOTHING,
            maintenance_queue=_NOTHING,
            log=lambda *_, **__: None,
        )

    env = env_on(postgres_connector(lambda: asyncio_stream.connect(task.options)))
    await publish_skill(env, read_skill(task.record))
    slugs = [key.removeprefix("skill:") for key in kv.keys("skill:")]
    records = [record for s in slugs if isinstance(record := await read_record(env, s), Skill)]
    rows = [row for s in slugs if (row := await (await get_db(env)).get_skill(s))]
    async with _client(env) as client, _client(env_on(_away)) as fallback:
        listed = (await client.get("/api/v1/skills")).json()
        seen = Seen(
            code=str(marketplace.__path__[0]),
            openapi=(await client.get("/openapi.json")).json(),
            pages={s: (await client.get(f"/api/v1/skills/{s}")).json() for s in slugs},
            listed={item["name"]: item for item in listed["skills"]},
            listed_from_kv={
                item["name"]: item
                for item in (await fallback.get("/api/v1/skills")).json()["skills"]
            },
            kv={
                key: ((kv.peek(key) or b"").decode(), kv.peek_metadata(key))
                for key in kv.keys("skill:")
            },
            revisions_of_summaries={
                slug: published.revision
                for slug in slugs
                if isinstance(
                    published := decode_metadata(slug, kv.peek_metadata(f"skill:{slug}")),
                    PublishedSummary,
                )
            },
            revisions_of_records={record.name: record.revision for record in records},
            revisions_of_rows={row.name: row.revision for row in rows},
            differences=len(
                await (await get_db(env)).compare_range(
                    [key_of(record) for record in records], after="", until=None
                )
            ),
        )
    env.close()
    return seen


if __name__ == "__main__":
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(carry_out(task))))
