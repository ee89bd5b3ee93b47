"""The listing's rules (``skills.listing_rules``: filters, search, order, pages) in PostgreSQL's
words.

Statements are composed of fixed fragments; what is asked for travels in parameters. Only the
filters that are asked for appear, so that a plan never has to serve all of them.

What a search finds is looked for in two ways. The first matches of a common word are soon met
along the index of the order: it is *walked*, some thousand rows and no further. Those of a rare
word are *found* by the words' own index, and ordered then. A sample of rows tells the one from the
other, and which words nearly all rows have, so that the words' index is not asked to collect them.
The planner decides none of this: its statistics say nothing of two words together, and for two
common ones that no skill has both it would read the whole table.
"""

# ruff: noqa: S608 - every fragment is a constant of this module, input goes into Parameters

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from marketplace.postgres.queries import IS_OUTDONE, SKILL_COLUMNS, SUMMARY_JSON, WAITING_COLUMNS
from marketplace.skills.listing_rules import (
    EQUAL_RELEVANCE,
    MOST_COUNTED,
    ListingQuery,
    SortDirection,
    SortField,
    SortKey,
)
from marketplace.skills.skill import PublishedSummary, Status
from marketplace.skills.slugs import slugify
from pgwire import Parameter, Statement

_SAMPLE: Final = 200  # rows, the newest
_NEARLY_ALL: Final = 160  # of the sample
_COMMON: Final = 40  # of the sample; up to there the words' index counts sooner than a walk

_WALKED: Final = 2_000
"""Rows along the index of an order in which the matches of a page are looked for first. A word that
more than one in 80 skills has fills a page of 24 there; of a rarer one, few have to be ordered."""
_WALKED_IN_FILTERS: Final = 100
"""Fewer, as many more are passed that filters leave out. The words' index and that of a filter
together find what fewer than one in six skills have."""
_WALKED_TO_COUNT: Final = 20_000

_NUL = "\0"  # no text in PostgreSQL has it

_BEYOND: Final = {SortDirection.ASC: ">", SortDirection.DESC: "<"}
_LISTED: Final = "skill.status = 'LISTED'"  # as the indexes of the listing have it


class _Parameters:
    def __init__(self) -> None:
        self.values: list[Parameter] = []

    def add(self, value: Parameter, type_: str) -> str:
        self.values.append(value)
        return f"${len(self.values)}::{type_}"


@dataclass(frozen=True, slots=True)
class _Words:
    """The terms of a search, as conditions on a row."""

    every: str  # tsquery: all terms
    each: str | None  # text[]: a tsquery for each, where there are several

    def match(self, vector: str) -> str:
        return f"skill.{vector} @@ {self.every}"

    def compare(self, vector: str) -> str:
        """The same for rows that something else leads to: no index serves "is true"."""
        return f"({self.match(vector)}) is true"

    def find(self, vector: str) -> str:
        """The same, by the words' index. A step ``rare`` has to be in front."""
        if self.each is None:
            return self.match(vector)
        return f"skill.{vector} @@ (select terms from rare) and {self.compare(vector)}"

    def steps(self, filters: Sequence[str]) -> list[str]:
        """What goes in front of a statement that looks for them."""
        sample = f"sample as materialized ({_newest(filters, _SAMPLE)})"
        if self.each is None:
            return [sample]
        found = "(select count(*) from sample where search_vector @@ term::tsquery)"
        rare = f"string_agg(term, ' & ') filter (where {found} < {_NEARLY_ALL})"
        terms = f"select coalesce({rare}::tsquery, {self.every}) as terms from unnest({self.each})"
        return [sample, f"rare as materialized ({terms} as term)"]


@dataclass(frozen=True, slots=True)
class _Segment:
    """A part of a listing that is a range of one order, and comes as a whole before the next.

    ``matched``: its conditions on a row; ``found``: the same, as an index looks for them.
    """

    relevance: int
    range: Sequence[str] = ()
    matched: Sequence[str] = ()
    found: Sequence[str] = ()
    is_walked: bool = True


_NOTHING: Final = _Segment(EQUAL_RELEVANCE, range=["false"])  # behind a cursor that is made up


def matches_nothing(query: ListingQuery) -> bool:
    """Whether no row can match, so that nothing has to be asked.

    A search without any word matches nothing by definition. A text with a NUL equals none that
    PostgreSQL can hold, but as a parameter it would be refused like a fault of ours.
    """
    return bool(query.search and not query.terms) or any(
        text is not None and _NUL in text for text in (query.category, query.author)
    )


def page_statement(
    query: ListingQuery, *, offset: int, limit: int, waiting: Sequence[PublishedSummary] = ()
) -> Statement:
    """Rows ``(relevance, sort key, slug, summary JSON)`` of one page, in order."""
    parameters = _Parameters()
    key, key_type = _sort_key(query)
    filters = _filters(query, parameters)
    if waiting:
        filters.append(_is_not_outdone(waiting, parameters))
    words = _words(query, parameters)
    segments = list(_segments(query, words, key, key_type, parameters)) or [_NOTHING]
    direction = query.sort_dir.value
    most = parameters.add(offset + limit, "bigint")
    if words is None:
        order = f"order by {key} {direction}, skill.name"
        source = " union all ".join(
            f"({_select(s.relevance, key, [_LISTED, *filters, *s.range])} {order} limit {most})"
            for s in segments
        )
        steps = ""
    else:
        source, steps = _searched(filters, words, segments, _Order(key, direction, most))
    places = [f"relevance {direction}"] if len({s.relevance for s in segments}) > 1 else []
    places.append(f"sort_key {direction}")
    if query.sort_by is not SortField.NAME:  # else PostgreSQL 15 sorts by the same column again
        places.append("name")
    in_order = f"order by {', '.join(places)}"
    skipped, count = parameters.add(offset, "bigint"), parameters.add(limit, "bigint")
    # Inside only what an index holds, so that rows skipped by an offset are never fetched; whole
    # rows are fetched, and their JSON made, for the page alone.
    sql = (
        f"{steps}select page.relevance, page.sort_key, page.name, {SUMMARY_JSON}"
        f" from (select * from ({source}) as listed {in_order} offset {skipped} limit {count})"
        f" as page join skill on skill.name = page.name"
        f" order by {', '.join(f'page.{place}' for place in places)}"
    )
    return Statement(sql, parameters.values)


def count_statement(query: ListingQuery) -> Statement:
    """How many rows match; no more than one over MOST_COUNTED where the query is not counted
    whole."""
    parameters = _Parameters()
    filters, words = _filters(query, parameters), _words(query, parameters)
    if words is not None:
        sql = f"with {', '.join(words.steps(filters))} {_bounded_count(filters, words)}"
    elif query.author is None:
        sql = f"select coalesce(sum(skill.count), 0) from skill_count as skill{_where(filters)}"
    elif query.is_counted_whole:
        sql = f"select count(*) from skill{_where([_LISTED, *filters])}"
    else:
        sql = f"select {_count(_some([_LISTED, *filters], MOST_COUNTED + 1))}"
    return Statement(sql, parameters.values)


def columns_of_waiting(waiting: Sequence[PublishedSummary]) -> tuple[Parameter, ...]:
    """The states as WAITING_COLUMNS."""
    summaries = [state.summary for state in waiting]
    return (
        [summary.identity for summary in summaries],
        [state.revision for state in waiting],
        [summary.status is not Status.LISTED for summary in summaries],
        [None if summary.provisional else summary.skill_path for summary in summaries],
        [summary.updated_at for summary in summaries],
        [summary.certified_at for summary in summaries],
    )


def _is_not_outdone(waiting: Sequence[PublishedSummary], parameters: _Parameters) -> str:
    values = zip(columns_of_waiting(waiting), WAITING_COLUMNS.values(), strict=True)
    columns = ", ".join(parameters.add(column, type_) for column, type_ in values)
    named = f"unnest({columns}) as waiting ({', '.join(WAITING_COLUMNS)})"
    return f"not exists (select from {named} where {IS_OUTDONE})"


def read_sort_key(query: ListingQuery, relevance: str, text: str) -> SortKey:
    match query.sort_by:
        case SortField.RELEVANCE:
            return int(relevance), float(text)
        case SortField.CERT_SCORE | SortField.INSTALLS:
            return int(text)
        case SortField.TRENDING_SCORE_7D | SortField.TRENDING_SCORE_30D:
            return float(text)
        case _:
            return text


@dataclass(frozen=True, slots=True)
class _Order:
    """The order of a page's rows within a segment, and how many are wanted from the start."""

    key: str
    direction: str
    most: str

    def walk(self, conditions: Sequence[str], width: str) -> str:
        order = f"order by {self.key} {self.direction}, skill.name"
        return f"select skill.* from skill{_where(conditions)} {order} limit {width}"

    def first(self, relevance: int, conditions: Sequence[str]) -> str:
        """With "offset 0" the rows are ordered when they are found. An index in this order would
        be read to its end where few match."""
        rows = f"({_select(relevance, self.key, conditions)} offset 0) as found"
        order = f"order by sort_key {self.direction}, name"
        return f"select * from {rows} {order} limit {self.most}"


def _searched(
    filters: Sequence[str], words: _Words, segments: Sequence[_Segment], order: _Order
) -> tuple[str, str]:
    """The first rows that a search lists, and the steps in front of it that they take."""
    steps = words.steps(filters)
    before: list[str] = []  # how many rows the segments before this one give
    for number, segment in enumerate(segments):
        wanted = [f"{' + '.join(before)} < {order.most}"] if before else []
        if segment.is_walked:
            in_front, rows = _walked(filters, segment, wanted, order, number)
            steps += in_front
        else:
            conditions = [_LISTED, *segment.range, *filters, *segment.found, *wanted]
            rows = order.first(segment.relevance, conditions)
        steps.append(f"segment_{number} as materialized ({rows})")
        before.append(f"(select count(*) from segment_{number})")
    source = " union all ".join(f"select * from segment_{n}" for n in range(len(segments)))
    return source, f"with {', '.join(steps)} "


def _walked(
    filters: Sequence[str], segment: _Segment, wanted: Sequence[str], order: _Order, number: int
) -> tuple[list[str], str]:
    """The first rows of a segment, walked if the sample promises enough, else found; and the steps
    in front."""
    base = [_LISTED, *segment.range, *filters]
    width = (
        f"({_WALKED_IN_FILTERS} + 2 * {order.most})"
        if filters
        else (f"({_WALKED} + 10 * {order.most})")
    )
    hits = _count(f"select from sample as skill{_where(segment.matched)}")
    promised = f"select {hits} * {width} >= {_SAMPLE} * {order.most} as it_is"
    is_promised = f"(select it_is from promised_{number})"
    walk = f"({order.walk(base, width)}) as skill"
    conditions = [*segment.matched, is_promised, *wanted]
    walked = _select(segment.relevance, order.key, conditions, source=walk)
    is_enough = f"(select count(*) from walked_{number}) >= {order.most}"
    found = order.first(segment.relevance, [*base, *segment.found, *wanted])
    rows = (
        f"select * from walked_{number} where {is_enough}"
        f" union all select * from ({found}) as found where not {is_enough}"
    )
    steps = [
        f"promised_{number} as materialized ({promised})",
        f"walked_{number} as materialized ({walked} limit {order.most})",
    ]
    return steps, rows


def _bounded_count(filters: Sequence[str], words: _Words) -> str:
    """How many rows match a search, up to one over MOST_COUNTED; ``words.steps`` in front."""
    most = MOST_COUNTED + 1
    vector = "search_vector"
    hits = _count(f"select from sample as skill{_where([words.match(vector)])}")
    is_common = f"{hits} >= {_COMMON}"
    found = _count(_some([_LISTED, *filters, words.find(vector)], most))
    if filters:  # what has a common word is counted in what the filters leave
        compared = _count(_some([_LISTED, *filters, words.compare(vector)], most))
        found = f"(case when {is_common} then {compared} else {found} end)"
    newest = f"({_newest(filters, _WALKED_TO_COUNT)}) as skill"
    walked = _some([words.match(vector), is_common], most, newest)
    return (
        f"select case when number = {most} then number else {found} end"
        f" from (select count(*) as number from ({walked}) as matched) as walked"
    )


def _newest(filters: Sequence[str], number: int) -> str:
    """Rows of a listing in the order in which an index of each filter has them."""
    columns = "skill.name, skill.base_slug, skill.title_vector, skill.search_vector"
    order = "order by skill.published_at desc, skill.name"
    return f"select {columns} from skill{_where([_LISTED, *filters])} {order} limit {number}"


def _some(conditions: Sequence[str], most: int, source: str = "skill") -> str:
    return f"select from {source}{_where(conditions)} limit {most}"


def _count(rows: str) -> str:
    return f"(select count(*) from ({rows}) as counted)"


def _select(relevance: int, key: str, conditions: Sequence[str], source: str = "skill") -> str:
    return (
        f"select {relevance} as relevance, {key} as sort_key, skill.name"
        f" from {source}{_where(conditions)}"
    )


def _where(conditions: Sequence[str]) -> str:
    return f" where {' and '.join(conditions)}" if conditions else ""


def _filters(query: ListingQuery, parameters: _Parameters) -> list[str]:
    """The filters of ``skills.listing_rules.matches`` as conditions."""
    conditions = []
    if query.category is not None:
        conditions.append(f"skill.category = {parameters.add(query.category, 'text')}")
    if query.cert_tier is not None:
        conditions.append(f"skill.cert_tier = {parameters.add(query.cert_tier.value, 'text')}")
    if query.author is not None:
        conditions.append(f"skill.author_lower = {parameters.add(query.author.lower(), 'text')}")
    if query.extensible is not None:
        conditions.append(f"skill.extensible = {parameters.add(query.extensible, 'boolean')}")
    return conditions


def _words(query: ListingQuery, parameters: _Parameters) -> _Words | None:
    if not query.search:
        return None
    every = parameters.add(_prefixes(query.terms), "tsquery")
    several = [_prefixes([term]) for term in query.terms] if len(query.terms) > 1 else None
    return _Words(every, None if several is None else parameters.add(several, "text[]"))


def _segments(
    query: ListingQuery, words: _Words | None, key: str, key_type: str, parameters: _Parameters
) -> Iterator[_Segment]:
    """What is listed after the cursor, in order."""
    segments = _all_segments(query, words, parameters)
    if query.cursor is None:
        yield from segments
        return
    after = query.cursor.key
    relevance, value = after if isinstance(after, tuple) else (EQUAL_RELEVANCE, after)
    for segment in segments:
        if segment.relevance == relevance:
            last_key = parameters.add(value, key_type)
            last_name = parameters.add(query.cursor.name, "text")
            # Two and not one OR: each is a range of the index, however many keys are equal.
            yield replace(segment, range=[f"{key} = {last_key}", f"skill.name > {last_name}"])
            yield replace(segment, range=[f"{key} {_BEYOND[query.sort_dir]} {last_key}"])
        elif (segment.relevance < relevance) is (query.sort_dir is SortDirection.DESC):
            yield segment


def _all_segments(
    query: ListingQuery, words: _Words | None, parameters: _Parameters
) -> list[_Segment]:
    """``skills.listing_rules.relevance`` as conditions, for each of its values."""
    if words is None:
        return [_Segment(EQUAL_RELEVANCE)]
    match, find = words.match("search_vector"), words.find("search_vector")
    compare = words.compare("search_vector")
    if query.sort_by is not SortField.RELEVANCE:
        return [_Segment(EQUAL_RELEVANCE, matched=[match], found=[find])]
    wanted = parameters.add(slugify(query.search or ""), "text")
    is_named = f"(skill.name = {wanted} or skill.base_slug = {wanted})"
    in_title, other = words.compare("title_vector"), f"not {is_named}"
    segments = [
        _Segment(2, found=[is_named, compare], is_walked=False),
        _Segment(
            1,
            matched=[in_title, other],
            found=[words.find("title_vector"), other],
        ),
        _Segment(
            0,
            matched=[match, f"not {in_title}", other],
            found=[find, f"not {in_title}", other],
        ),
    ]
    return segments if query.sort_dir is SortDirection.DESC else segments[::-1]


def _sort_key(query: ListingQuery) -> tuple[str, str]:
    """``skills.listing_rules.sort_key`` as an expression, and its type; beside the relevance."""
    field = query.sort_by
    if field is SortField.RELEVANCE:
        field = SortField.TRENDING_SCORE_7D
    return f"skill.{field.attribute}", SKILL_COLUMNS[field.attribute]


def _prefixes(terms: Sequence[str]) -> str:
    """A tsquery for: each term is the beginning of a word."""
    quoted = (term.replace("\\", "\\\\").replace("'", "''") for term in terms)
    return " & ".join(f"'{term}':*" for term in quoted)
