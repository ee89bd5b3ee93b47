"""What the running marketplace has stored: looked into, emptied, taken away and given back."""

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import httpx

from local.host.postgres import DATABASE
from pgwire import ConnectOptions
from pgwire.asyncio_stream import connect
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import OPERATOR, eventually, listing, names, publish_many

SEED_COUNT: Final = 118
INDEX_KEY: Final = "skills:published-index"


def query(
    marketplace: Marketplace, sql: str, *parameters: str, database: str = DATABASE
) -> list[tuple[str | None, ...]]:
    """Rows out of the marketplace's own database, or of another one of its server."""
    url = httpx.URL(marketplace.postgres.dsn)
    options = ConnectOptions(
        host=url.host, port=url.port or 0, user=url.username, database=database
    )

    async def ask() -> list[tuple[str | None, ...]]:
        with await connect(options) as connection:
            return list((await connection.query(sql, *parameters)).rows)

    return asyncio.run(ask())


def keys(marketplace: Marketplace, prefix: str) -> list[str]:
    """The keys in KV that begin so."""
    return [key for key, _ in marketplace.worker.control.kv_list(prefix)]


def records(marketplace: Marketplace) -> set[str]:
    """The slugs of all records in KV."""
    return {key.removeprefix("skill:") for key in keys(marketplace, "skill:")}


def rows(marketplace: Marketplace) -> set[str | None]:
    """The slugs of all rows in the table."""
    return {name for (name,) in query(marketplace, "select name from skill")}


def empty_kv(marketplace: Marketplace) -> None:
    """Delete every key."""
    marketplace.worker.control.kv_delete(keys(marketplace, ""))


def empty(marketplace: Marketplace) -> None:
    """Delete everything in KV and in PostgreSQL, which is no loss."""
    empty_kv(marketplace)
    query(
        marketplace,
        "truncate skill, skill_alias, skill_version, dead_letter, audit, report, rule, lease,"
        " state, scan_request, scan_hour",
    )
    query(marketplace, "update instance set missing_until = null")


def publish_only(marketplace: Marketplace, owner: str, skill_names: Sequence[str]) -> Marketplace:
    """A marketplace that holds these skills of one owner, and nothing else."""
    empty(marketplace)
    with marketplace.client() as client:
        publish_many(client, owner, skill_names)
    return marketplace


def everything_listed(client: httpx.Client, *, but: str | None = None) -> dict[str, Any]:
    """The whole listing, page by page: its first page with the skills of all (``but`` one
    author's)."""
    answer = listing(client, limit=100, sortBy="name")
    cursor = answer["nextCursor"]
    while cursor is not None:
        page = listing(client, limit=100, sortBy="name", cursor=cursor)
        assert (page["source"], page["total"]) == (answer["source"], answer["total"])
        answer["skills"] += page["skills"]
        cursor = page["nextCursor"]
    assert len(names(answer)) == len(answer["skills"]) == answer["total"]
    answer["skills"] = [skill for skill in answer["skills"] if skill["author"] != but]
    return answer


def rebuild(client: httpx.Client, **parameters: Any) -> dict[str, Any]:
    """A rebuild that fits in one step, after one that may be under way; its report."""
    url = "/api/v1/admin/rebuild-index"
    response = client.post(url, params={"wait": 20} | parameters, headers=OPERATOR)
    assert response.status_code in {200, 202}, response.text
    report: dict[str, Any] = response.json()
    if report["complete"]:
        return report
    return eventually(
        lambda: client.get(f"{url}/{report['jobId']}", headers=OPERATOR).json(),
        lambda found: found["complete"],
    )


def health(client: httpx.Client) -> dict[str, Any]:
    """The health answer."""
    response = client.get("/api/v1/admin/health/skills", headers=OPERATOR)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@contextmanager
def without_postgres(marketplace: Marketplace) -> Iterator[None]:
    """PostgreSQL killed; at the end it is back, and the Worker reaches it again."""
    marketplace.postgres.kill()
    try:
        yield
    finally:
        marketplace.postgres.start()
        with marketplace.client() as client:
            eventually(lambda: listing(client), lambda answer: answer["source"] == "postgres")


@contextmanager
def refusing_postgres(marketplace: Marketplace) -> Iterator[None]:
    """PostgreSQL without the database that the Worker is configured for; at the end it has it."""
    query(marketplace, f"alter database {DATABASE} rename to elsewhere", database="postgres")
    try:
        yield
    finally:
        query(marketplace, f"alter database elsewhere rename to {DATABASE}", database="postgres")


@contextmanager
def hanging_postgres(marketplace: Marketplace) -> Iterator[None]:
    """PostgreSQL accepting connections and answering nothing; at the end it goes on, and the
    Worker asks it again."""
    pid = int((marketplace.postgres.data / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        with marketplace.client() as client:
            eventually(lambda: listing(client), lambda answer: answer["source"] == "postgres")
