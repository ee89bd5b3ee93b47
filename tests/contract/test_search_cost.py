"""What listings, searches and their totals read in a large table is bounded, whatever is asked."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pytest

from marketplace.postgres.db import PostgresSkillDatabase
from marketplace.postgres.listing_sql import count_statement, page_statement
from marketplace.skills.listing_rules import (
    MAX_SEARCH_OFFSET,
    Cursor,
    ListingQuery,
    SortDirection,
    SortField,
)
from marketplace.skills.seed import EMPTY_SEED
from marketplace.skills.tiers import CertTier
from pgwire import Connection, Result, Statement
from tests.contract.conftest import ROWS
from tests.contract.plans import nodes_of, root_of
from tests.contract.postgres import PostgresServer

MOST_BUFFERS: Final = 1_500
"""The table has 14,000 pages; reading it in the order of an index takes 27,000 buffers."""


MOST_IN_FILTERS: Final = 6_000  # about one in five rows of the order, or all of a category
MOST_COLLECTED: Final = ROWS // 4
"""Rows that the words' index names, as its cost does not show in buffers."""
_WORD_INDEXES: Final = {"skill_search", "skill_title_search"}


_SEARCHES = {
    # Of the words, "skill" is in every title, "verified" and "community" in every skill and no
    # title, "word1…" in most skills and many titles, "word77…" in one of 14 skills, "word4999" in
    # 200. "owner" and "category" are in every skill too.
    "rare word": ListingQuery(search="word4999"),
    "no word": ListingQuery(search="zzz"),
    "common word": ListingQuery(search="word1"),
    "neither rare nor common": ListingQuery(search="word77"),
    "word in every title": ListingQuery(search="skill"),
    "word in every skill": ListingQuery(search="verified"),
    "two words in every skill": ListingQuery(search="verified community"),
    "two common words that no title has": ListingQuery(search="word1 word2"),
    "two common words that no skill has": ListingQuery(search="even odd"),
    "rare word and a common one": ListingQuery(search="skill word4999"),
    "rare word and the beginning of every word": ListingQuery(search="w word4999"),
    "name": ListingQuery(search="skill 4711"),
    "common word in a small category": ListingQuery(search="skill", category="category-19"),
    "common word in a large category": ListingQuery(search="skill", category="category-0"),
    "half of a category": ListingQuery(search="even", category="category-20"),
    "neither rare nor common, in a category": ListingQuery(search="word77", category="category-10"),
    "common word of an author": ListingQuery(search="word1", author="owner-77"),
    "common word in a tier": ListingQuery(search="word1", cert_tier=CertTier.CERTIFIED),
    "rare word in a tier": ListingQuery(search="word4999", cert_tier=CertTier.SCANNED),
    "behind a cursor": ListingQuery(search="skill", cursor=Cursor((1, 0.0), "skill-5")),
    "behind a cursor, in the text": ListingQuery(
        search="verified", cursor=Cursor((0, 0.0), "skill-5")
    ),
}
_OTHER_ORDERS = [
    (SortField.PUBLISHED_AT, SortDirection.DESC),
    (SortField.NAME, SortDirection.ASC),
    (SortField.CERT_SCORE, SortDirection.DESC),
    (SortField.TRENDING_SCORE_30D, SortDirection.ASC),
]


def _most(query: ListingQuery) -> int:
    filters = (query.category, query.cert_tier, query.author)
    return MOST_BUFFERS if filters == (None, None, None) else MOST_IN_FILTERS


async def _check(server: PostgresServer, database: str, statement: Statement, most: int) -> None:
    root = await root_of(server, database, statement, "analyze", "buffers", "timing off")
    run = [node for node in nodes_of(root) if node["Actual Loops"]]
    read = {node["Node Type"] for node in run if node.get("Relation Name") == "skill"}
    assert "Seq Scan" not in read
    assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] <= most
    collected = [node["Actual Rows"] for node in run if node.get("Index Name") in _WORD_INDEXES]
    assert max(collected, default=0) <= MOST_COLLECTED


@pytest.mark.parametrize("search", _SEARCHES)
async def test_the_best_matches_of_a_search_and_their_number_are_found_in_bounded_work(
    postgres_server: PostgresServer, large_database: str, search: str
) -> None:
    query = replace(_SEARCHES[search], sort_by=SortField.RELEVANCE)
    for statement in (page_statement(query, offset=0, limit=25), count_statement(query)):
        await _check(postgres_server, large_database, statement, _most(query))


@pytest.mark.parametrize(("field", "direction"), _OTHER_ORDERS)
@pytest.mark.parametrize("search", [each for each in _SEARCHES if "cursor" not in each])
async def test_in_every_other_order_too(
    postgres_server: PostgresServer,
    large_database: str,
    search: str,
    field: SortField,
    direction: SortDirection,
) -> None:
    query = replace(_SEARCHES[search], sort_by=field, sort_dir=direction)
    statement = page_statement(query, offset=0, limit=25)
    await _check(postgres_server, large_database, statement, _most(query))


@pytest.mark.parametrize("search", _SEARCHES)
async def test_a_page_of_one_skill_is_no_reason_to_read_an_order_to_its_end(
    postgres_server: PostgresServer, large_database: str, search: str
) -> None:
    query = replace(_SEARCHES[search], sort_by=SortField.RELEVANCE)
    statement = page_statement(query, offset=0, limit=1)
    await _check(postgres_server, large_database, statement, _most(query))


async def test_the_words_index_and_that_of_a_filter_are_looked_at_together(
    postgres_server: PostgresServer, large_database: str
) -> None:
    statement = count_statement(_SEARCHES["neither rare nor common, in a category"])
    root = await root_of(postgres_server, large_database, statement, "analyze")
    assert "BitmapAnd" in {node["Node Type"] for node in nodes_of(root) if node["Actual Loops"]}


async def test_a_search_has_room_for_what_the_index_of_words_collects(
    postgres_server: PostgresServer, large_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[str | None] = []
    run = Connection.pipeline

    async def and_tell(connection: Connection, asked: Sequence[Statement]) -> list[Result]:
        *results, room = await run(connection, [*asked, Statement("show work_mem")])
        rooms.append(room.scalar())
        return results

    monkeypatch.setattr(Connection, "pipeline", and_tell)
    with await postgres_server.connect(large_database) as connection:
        database = PostgresSkillDatabase(connection)
        for search in (None, "word1 word2", None):
            query = ListingQuery(search=search)
            await database.list_skills(query, seed=EMPTY_SEED, offset=0, limit=1)
    assert rooms == ["4MB", "16MB", "4MB"]


async def test_a_search_can_be_paged_through_by_offset_as_far_as_one_may(
    postgres_server: PostgresServer, large_database: str
) -> None:
    query = ListingQuery(search="verified", sort_by=SortField.RELEVANCE)
    statement = page_statement(query, offset=MAX_SEARCH_OFFSET, limit=25)
    await _check(postgres_server, large_database, statement, MAX_SEARCH_OFFSET + MOST_BUFFERS)


_UNSEARCHED = {
    "newest": ListingQuery(),
    "category": ListingQuery(category="category-0"),
    "tier": ListingQuery(cert_tier=CertTier.SCANNED),
    "extensible": ListingQuery(extensible=False),
    "author": ListingQuery(author="owner-0"),
}


@pytest.mark.parametrize("filters", _UNSEARCHED)
async def test_a_page_without_a_search_and_its_exact_total_read_little(
    postgres_server: PostgresServer, large_database: str, filters: str
) -> None:
    query = _UNSEARCHED[filters]
    for statement in (page_statement(query, offset=0, limit=25), count_statement(query)):
        await _check(postgres_server, large_database, statement, 200)
