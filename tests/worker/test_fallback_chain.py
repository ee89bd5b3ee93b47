"""All that was accepted stays listed, with any source gone, damaged or silent."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest

from local.host.control import KvEntry
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import eventually, listing, names, publish
from tests.worker.storage import (
    INDEX_KEY,
    SEED_COUNT,
    empty_kv,
    everything_listed,
    hanging_postgres,
    health,
    keys,
    publish_only,
    query,
    rebuild,
    records,
    rows,
    without_postgres,
)

OWNER: Final = "chain-owner"
LATER: Final = "chain-later"  # its skills are published in the outage
NAMES: Final = [f"Chain link {number:02}" for number in range(24)]
SLUGS: Final = {f"chain-link-{number:02}" for number in range(24)}
FORMER: Final = "chain-before"  # leads to chain-link-07
ALIAS: Final = KvEntry(f"skill:alias:{FORMER}", '{"slug": "chain-link-07"}')
ANSWER_SECONDS: Final = 3.0
MAX_VALUE: Final = 25 * 1024 * 1024

QUESTIONS: Final = {
    "a skill by slug": "/api/v1/skills/chain-link-07",
    "a skill by a former slug": f"/api/v1/skills/{FORMER}",
    "a skill by repository": f"/api/v1/skills/{OWNER}/tools/chain-link-07",
    "a seed skill by slug": "/api/v1/skills/pdf",
    "the count": "/api/v1/skills/count",
    "the count of an author": f"/api/v1/skills/count?author={OWNER}",
    "the categories": "/api/v1/skills/categories",
    "a search": "/api/v1/skills/search?q=chain+link",
    "a filtered page": f"/api/v1/skills?author={OWNER}&sortBy=name&limit=10&offset=5",
}

Chain = tuple[Marketplace, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def published(marketplace: Marketplace) -> Chain:
    """A marketplace with the seed and 24 skills; the whole listing as PostgreSQL gives it."""
    publish_only(marketplace, OWNER, NAMES)
    marketplace.worker.control.kv_put([ALIAS])
    with marketplace.client() as client:
        answer = everything_listed(client)
    assert answer["source"] == "postgres"
    assert answer["total"] == SEED_COUNT + len(SLUGS)
    return marketplace, answer["skills"]


@pytest.fixture
def chain(published: Chain, client: httpx.Client) -> Iterator[Chain]:
    """The same, whole again after a test that damages it."""
    yield published
    published[0].worker.control.kv_put([ALIAS])
    rebuild(client)


@pytest.fixture(scope="class")
def no_postgres(published: Chain) -> Iterator[Chain]:
    """The same, with PostgreSQL away for a class of tests."""
    with without_postgres(published[0]):
        yield published


def seconds(client: httpx.Client, question: str) -> float:
    """How long an answer takes."""
    start = time.monotonic()
    client.get(question)
    return time.monotonic() - start


def answer_to(client: httpx.Client, question: str) -> dict[str, Any]:
    """An answer without what tells its source."""
    response = client.get(question)
    assert response.status_code == 200, response.text
    return {k: v for k, v in response.json().items() if k not in ("source", "degraded", "reasons")}


def is_whole_index(entry: KvEntry | None) -> bool:
    """Whether it is an index of ours with pages, of which none is the made-up one."""
    value = "" if entry is None else str(entry.value)
    return '"format":"published-index"' in value and f'"key":"{INDEX_KEY}:20' in value


def summaries(count: int) -> list[dict[str, str]]:
    return [
        {"name": f"chain-link-{n:02}", "repoUrl": f"https://github.com/{OWNER}/tools"}
        for n in range(count)
    ]


DAMAGE: Final[dict[str, Callable[[str], str]]] = {
    "corrupted": lambda value: value.replace('"', "'", 40),
    "truncated": lambda value: value[: len(value) // 2],
    "no JSON of 25 MiB": lambda _: "x" * MAX_VALUE,
    "25 MiB of garbage in a list": lambda _: "[" + "1234567," * (MAX_VALUE // 8 - 1) + "7]",
    "the original shape, shrunk to three": lambda _: json.dumps(summaries(3)),
    "a list of garbage": lambda _: json.dumps([None, 7, "chain-link-01", {}, [[]], {"name": ""}]),
    "pages that are gone": lambda value: value.replace(f"{INDEX_KEY}:", f"{INDEX_KEY}:gone"),
}


def test_every_read_gives_the_same_answer_without_postgres(
    chain: Chain, client: httpx.Client
) -> None:
    with_postgres = {what: answer_to(client, where) for what, where in QUESTIONS.items()}

    with without_postgres(chain[0]):
        without = {what: answer_to(client, where) for what, where in QUESTIONS.items()}
        times = {what: seconds(client, where) for what, where in QUESTIONS.items()}

    assert without == with_postgres
    assert {what: taken for what, taken in times.items() if taken > ANSWER_SECONDS} == {}


def test_a_postgres_that_hangs_is_one_that_failed(chain: Chain, client: httpx.Client) -> None:
    with hanging_postgres(chain[0]):
        start = time.monotonic()
        answer = listing(client, limit=100, sortBy="name")
        taken = time.monotonic() - start

    assert taken < ANSWER_SECONDS
    assert (answer["source"], answer["degraded"]) == ("kv-enumeration", True)
    assert answer["total"] == len(chain[1])


def test_half_of_the_records_gone_is_complete_from_postgres_and_restored_by_a_rebuild(
    chain: Chain, client: httpx.Client
) -> None:
    marketplace, expected = chain
    lost = sorted(SLUGS)[::2]
    marketplace.worker.control.kv_delete([f"skill:{slug}" for slug in lost])

    assert everything_listed(client)["skills"] == expected
    planned = rebuild(client, dryRun="true")
    done = rebuild(client)
    again = rebuild(client)

    assert records(marketplace) >= SLUGS
    assert planned["kvBackfilled"] == done["kvBackfilled"] == len(lost)
    assert (again["kvBackfilled"], again["prismaBackfilled"], again["conflictsResolved"]) == (
        0,
        0,
        0,
    )
    with without_postgres(marketplace):
        assert everything_listed(client)["skills"] == expected


def test_half_of_the_rows_gone_is_restored_by_a_rebuild(chain: Chain, client: httpx.Client) -> None:
    marketplace, expected = chain
    query(marketplace, "delete from skill where right(name, 1) in ('0', '2', '4', '6', '8')")

    planned = rebuild(client, dryRun="true")
    done = rebuild(client)

    assert rows(marketplace) == SLUGS
    assert planned["prismaBackfilled"] == done["prismaBackfilled"] == 12
    assert everything_listed(client)["skills"] == expected


def test_everything_gone_leaves_the_seed_and_postgres_brings_the_rest_back(
    chain: Chain, client: httpx.Client
) -> None:
    marketplace, expected = chain
    with without_postgres(marketplace):
        empty_kv(marketplace)  # an answer of some seconds ago may be given for a while
        eventually(lambda: listing(client), lambda answer: answer["total"] == SEED_COUNT)
        answer = everything_listed(client)
        assert answer["degraded"] is True
        assert names(answer).isdisjoint(SLUGS)

    assert everything_listed(client)["skills"] == expected
    rebuild(client)
    assert records(marketplace) == SLUGS | {f"alias:{FORMER}"}
    assert health(client)["status"] == "ok"


class TestWithPostgresAway:
    """The last ones in this module: they leave skills of another owner behind."""

    def test_the_listing_is_the_same_and_says_that_it_is_degraded(
        self, no_postgres: Chain, client: httpx.Client
    ) -> None:
        answer = everything_listed(client)

        assert answer["skills"] == no_postgres[1]
        assert (answer["source"], answer["degraded"]) == ("kv-enumeration", True)
        assert seconds(client, "/api/v1/skills?limit=100") < ANSWER_SECONDS

    @pytest.mark.parametrize("damage", DAMAGE)
    def test_a_damaged_index_hides_nothing_delays_nothing_and_is_repaired(
        self, no_postgres: Chain, client: httpx.Client, damage: str
    ) -> None:
        marketplace, expected = no_postgres
        control = marketplace.worker.control
        rebuild(client)
        entry = control.kv_get(INDEX_KEY)
        assert is_whole_index(entry)
        damaged = DAMAGE[damage](str(entry.value if entry else ""))
        control.kv_put([KvEntry(INDEX_KEY, damaged)])
        assert not is_whole_index(control.kv_get(INDEX_KEY))
        slug = publish(client, LATER, f"While {damage}".replace(",", ""))["slug"]

        def repaired() -> KvEntry | None:
            start = time.monotonic()
            answer = listing(client, limit=100, sortBy="name")
            assert time.monotonic() - start < ANSWER_SECONDS
            assert (answer["source"], answer["degraded"]) == ("kv-enumeration", True)
            return control.kv_get(INDEX_KEY)

        assert is_whole_index(eventually(repaired, is_whole_index))
        assert everything_listed(client, but=LATER)["skills"] == expected
        assert slug in names(listing(client, author=LATER))

    def test_a_deleted_index_hides_nothing_and_is_repaired(
        self, no_postgres: Chain, client: httpx.Client
    ) -> None:
        marketplace, expected = no_postgres
        control = marketplace.worker.control
        control.kv_delete(keys(marketplace, INDEX_KEY))

        def repaired() -> KvEntry | None:
            answer = everything_listed(client, but=LATER)
            assert (answer["skills"], answer["degraded"]) == (expected, True)
            return control.kv_get(INDEX_KEY)

        assert is_whole_index(eventually(repaired, is_whole_index))

    def test_the_index_answers_for_records_that_are_gone(
        self, no_postgres: Chain, client: httpx.Client
    ) -> None:
        marketplace, expected = no_postgres
        rebuild(client)
        control = marketplace.worker.control
        lost = [key for key, _ in control.kv_list("skill:chain")]
        kept = [entry for key in lost if (entry := control.kv_get(key)) is not None]
        control.kv_delete(lost)
        try:  # an answer of some seconds ago may be given for a while
            eventually(lambda: listing(client), lambda answer: answer["source"] == "kv-index")
            answer = everything_listed(client, but=LATER)
        finally:
            control.kv_put(kept)

        assert answer["degraded"] is True
        assert names(answer) == {skill["name"] for skill in expected}

    def test_skill_pages_and_redirects_of_former_slugs_go_on(
        self, no_postgres: Chain, client: httpx.Client
    ) -> None:
        assert "<h1>Chain link 07</h1>" in client.get("/skills/chain-link-07").text
        redirect = client.get(f"/skills/{FORMER}")
        assert (redirect.status_code, redirect.headers["location"]) == (
            308,
            "/skills/chain-link-07",
        )
