"""The listing's rules (``skills.listing_rules``: filters, search, order, pages) in PostgreSQL's
words.

Statements are composed of fixed fragments; what is asked for travels in parameters. Only the
filters that are asked for appear, so that a plan never has to serve all of them.
"""

# ruff: noqa: S608 - every fragment is a constant of this module, input goes into Parameters

from collections.abc import Sequence
from typing import Final

from marketplace.postgres.queries import SKILL_COLUMNS, SUMMARY_JSON
from marketplace.skills.listing_rules import ListingQuery, SortDirection, SortField, SortKey
from marketplace.skills.slugs import slugify
from pgwire import Parameter, Statement

_NUL = "\0"  # no text in PostgreSQL has it

_BEYOND: Final = {SortDirection.ASC: ">", SortDirection.DESC: "<"}


class _Parameters:
    def __init__(self) -> None:
        self.values: list[Parameter] = []

    def add(self, value: Parameter, type_: str) -> str:
        self.values.append(value)
        return f"${len(self.values)}::{type_}"


def matches_nothing(query: ListingQuery) -> bool:
    """Whether no row can match, so that nothing has to be asked.

    A search without any word matches nothing by definition. A text with a NUL equals none that
    PostgreSQL can hold, but as a parameter it would be refused like a fault of ours.
    """
    return bool(query.search and not query.terms) or any(
        text is not None and _NUL in text for text in (query.category, query.author)
    )


def page_statement(query: ListingQuery, *, offset: int, limit: int) -> Statement:
    """Rows ``(sort key, slug, summary JSON)`` of one page, in order."""
    parameters = _Parameters()
    conditions = _conditions(query, parameters)
    key, key_type = _sort_key(query, parameters)
    direction = query.sort_dir.value
    order = f"order by {key} {direction}, skill.name"
    count = parameters.add(limit, "bigint")
    if query.cursor is None:
        skipped = parameters.add(offset, "bigint")
        source = f"{_select(key, conditions)} {order} offset {skipped}"
    else:
        # Two branches and not one OR: each is a range of the index, however many keys are equal.
        last_key = parameters.add(query.cursor.key, key_type)
        last_name = parameters.add(query.cursor.name, "text")
        equal = [*conditions, f"{key} = {last_key}", f"skill.name > {last_name}"]
        beyond = [*conditions, f"{key} {_BEYOND[query.sort_dir]} {last_key}"]
        source = (
            f"({_select(key, equal)} order by skill.name limit {count})"
            f" union all ({_select(key, beyond)} {order} limit {count})"
            f" order by sort_key {direction}, name"
        )
    # Inside only what an index holds, so that rows skipped by an offset are never fetched; whole
    # rows are fetched, and their JSON made, for the page alone.
    sql = (
        f"select page.sort_key, page.name, {SUMMARY_JSON}"
        f" from ({source} limit {count}) as page join skill on skill.name = page.name"
        f" order by page.sort_key {direction}, page.name"
    )
    return Statement(sql, parameters.values)


def count_statement(query: ListingQuery) -> Statement:
    """How many rows match."""
    parameters = _Parameters()
    conditions = _conditions(query, parameters)
    return Statement(f"select count(*) from skill{_where(conditions)}", parameters.values)


def read_sort_key(query: ListingQuery, text: str) -> SortKey:
    match query.sort_by:
        case SortField.RELEVANCE | SortField.CERT_SCORE:
            return int(text)
        case SortField.TRENDING_SCORE_7D | SortField.TRENDING_SCORE_30D:
            return float(text)
        case _:
            return text


def _select(key: str, conditions: Sequence[str]) -> str:
    return f"select {key} as sort_key, skill.name from skill{_where(conditions)}"


def _where(conditions: Sequence[str]) -> str:
    return f" where {' and '.join(conditions)}"


def _conditions(query: ListingQuery, parameters: _Parameters) -> list[str]:
    """``skills.listing_rules.matches`` as conditions, for a query of which something can match."""
    conditions = ["skill.status = 'LISTED'"]  # as the indexes of the listing have it
    if query.category is not None:
        conditions.append(f"skill.category = {parameters.add(query.category, 'text')}")
    if query.cert_tier is not None:
        conditions.append(f"skill.cert_tier = {parameters.add(query.cert_tier.value, 'text')}")
    if query.author is not None:
        conditions.append(f"skill.author_lower = {parameters.add(query.author.lower(), 'text')}")
    if query.extensible is not None:
        conditions.append(f"skill.extensible = {parameters.add(query.extensible, 'boolean')}")
    if query.search:
        terms = parameters.add(_prefixes(query.terms), "tsquery")
        conditions.append(f"skill.search_vector @@ {terms}")
    return conditions


def _sort_key(query: ListingQuery, parameters: _Parameters) -> tuple[str, str]:
    """``skills.listing_rules.sort_key`` as an expression, and its type."""
    if query.sort_by is not SortField.RELEVANCE:
        column = query.sort_by.attribute
        return f"skill.{column}", SKILL_COLUMNS[column]
    if not query.terms:
        # Without terms all rows are equally relevant. A subquery, since ORDER BY would take a
        # bare constant for the number of a column.
        return "(select 1)", "integer"
    wanted = parameters.add(slugify(query.search or ""), "text")
    terms = parameters.add(_prefixes(query.terms), "tsquery")
    relevance = (
        f"(case when {wanted} in (skill.name, skill.base_slug) then 2"
        f" when skill.title_vector @@ {terms} then 1 else 0 end)"
    )
    return relevance, "integer"


def _prefixes(terms: Sequence[str]) -> str:
    """A tsquery for: each term is the beginning of a word."""
    quoted = (term.replace("\\", "\\\\").replace("'", "''") for term in terms)
    return " & ".join(f"'{term}':*" for term in quoted)
