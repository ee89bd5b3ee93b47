"""What a listing is asked for, and the one meaning of filters, search, order and pages.

Every source answers by these rules: the fallbacks run them here, PostgreSQL runs their
translation in ``postgres.db``, and the property tests hold the two together.
"""

import base64
import binascii
import functools
import re
import sys
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from marketplace.skills.skill import SkillSummary, Status
from marketplace.skills.slugs import slugify
from marketplace.skills.tiers import CertTier

DEFAULT_LIMIT: Final = 24
MAX_LIMIT: Final = 100
MAX_OFFSET: Final = 1_000_000
MAX_SEARCH_OFFSET: Final = 10_000
"""Of a search, whose skipped matches have to be ranked; a cursor leads further."""
MAX_SEARCH_LENGTH: Final = 200
MAX_TERMS: Final = 16
MAX_TERM_LENGTH: Final = 64
MOST_COUNTED: Final = 1_000
"""Matches of a query that is not counted whole; of more, the total is this number, as a floor."""
EQUAL_RELEVANCE: Final = 1  # of all skills, where nothing is searched for

_GREATEST_SCORE: Final = 100
_GREATEST_TRENDING: Final = sys.float_info.max
_MOST_INSTALLS: Final = 2**31 - 1

_TERM = re.compile(r"[^\W_]+")


class SortField(StrEnum):
    """What a listing can be ordered by. Ties are always broken by slug, ascending."""

    RELEVANCE = "relevance"
    NAME = "name"
    DISPLAY_NAME = "displayName"
    PUBLISHED_AT = "publishedAt"
    UPDATED_AT = "updatedAt"
    CERT_SCORE = "certScore"
    TRENDING_SCORE_7D = "trendingScore7d"
    TRENDING_SCORE_30D = "trendingScore30d"
    INSTALLS = "installs"

    @property
    def attribute(self) -> str:
        """The skill's field of this name; relevance is none."""
        return self.name.lower()


class SortDirection(StrEnum):
    """Ascending or descending."""

    ASC = "asc"
    DESC = "desc"


SortKey = str | int | float | tuple[int, float]
"""Relevance is a pair: how well a skill matches, then its trending score."""

_ASCENDING_BY_DEFAULT = {SortField.NAME, SortField.DISPLAY_NAME}


class InvalidQuery(ValueError):
    """A listing question that makes no sense; ``field`` names the parameter to change."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a listing page ended: the sort key and the slug of its last skill."""

    key: SortKey
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingQuery:
    """A question to the catalog. ``None`` means: not filtered by this.

    Page by ``offset`` or, cheaper at depth and stable under inserts, by ``cursor``.
    """

    category: str | None = None
    cert_tier: CertTier | None = None
    author: str | None = None
    extensible: bool | None = None
    search: str | None = None
    sort_by: SortField = SortField.PUBLISHED_AT
    sort_dir: SortDirection = SortDirection.DESC
    limit: int = DEFAULT_LIMIT
    offset: int = 0
    cursor: Cursor | None = None

    @property
    def is_counted_whole(self) -> bool:
        """Whether its total is exact however many skills match.

        The stores keep totals by category, tier and extensibility, and by author; what else a
        query asks for has to be looked up in the skills that it finds.
        """
        others = (self.category, self.cert_tier, self.extensible)
        return not self.search and (self.author is None or others == (None, None, None))

    @property
    def terms(self) -> tuple[str, ...]:
        """The search text as terms; a skill must have each of them as a prefix of a word."""
        return _wanted_terms(self.search or "")


def default_order(search: str | None) -> tuple[SortField, SortDirection]:
    """Best match first for a search, newest first otherwise."""
    field = SortField.RELEVANCE if search else SortField.PUBLISHED_AT
    return field, default_direction(field)


def default_direction(field: SortField) -> SortDirection:
    return SortDirection.ASC if field in _ASCENDING_BY_DEFAULT else SortDirection.DESC


@functools.lru_cache(maxsize=16)
def _wanted_terms(search: str) -> tuple[str, ...]:
    """Asked for again with every skill that is matched."""
    return search_terms(search)[:MAX_TERMS]


def search_terms(text: str) -> tuple[str, ...]:
    """The distinct words of a text in order: NFKC, case-folded, runs of letters and digits."""
    return tuple(dict.fromkeys(term[:MAX_TERM_LENGTH] for term in _TERM.findall(_folded(text))))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def title_terms(skill: SkillSummary) -> tuple[str, ...]:
    """Words of the slug and of the display name; a match here outranks one elsewhere."""
    return search_terms(f"{skill.name} {skill.display_name}")


def document_terms(skill: SkillSummary) -> tuple[str, ...]:
    """Every word by which a skill can be found.

    Made from the summary, so that sources which hold no more than summaries find the same.
    """
    return search_terms(_document(skill))


def _document(skill: SkillSummary) -> str:
    return " ".join(
        (
            skill.name,
            skill.display_name,
            skill.author,
            skill.category,
            *skill.labels,
            skill.description,
        )
    )


def _has_all_prefixes(words: Iterable[str], prefixes: tuple[str, ...]) -> bool:
    words = tuple(words)
    return all(any(word.startswith(prefix) for word in words) for prefix in prefixes)


def matches(skill: SkillSummary, query: ListingQuery) -> bool:
    """Whether a skill belongs in the listing. A search without any word matches nothing."""
    if skill.status is not Status.LISTED:
        return False
    if query.category is not None and skill.category != query.category:
        return False
    if query.cert_tier is not None and skill.cert_tier != query.cert_tier:
        return False
    if query.author is not None and skill.author.lower() != query.author.lower():
        return False
    if query.extensible is not None and skill.extensible != query.extensible:
        return False
    if query.search:
        terms = query.terms
        document = _folded(_document(skill))
        # Most skills have not even the letters, and need not be cut into words.
        return (
            bool(terms)
            and all(term in document for term in terms)
            and _has_all_prefixes(document_terms(skill), terms)
        )
    return True


def relevance(skill: SkillSummary, query: ListingQuery) -> int:
    """2: the search is the skill's name; 1: every term is in its title; 0: found elsewhere.

    Of skills that match equally well the one that is trending comes first.
    """
    wanted = slugify(query.search or "")
    if wanted and wanted in (skill.name, skill.base_slug):
        return 2
    return int(_has_all_prefixes(title_terms(skill), query.terms))


@dataclass(frozen=True, slots=True)
class Total:
    """How many skills match a query; where it is not exact, at least so many."""

    count: int
    is_exact: bool


def total_of(query: ListingQuery, found: int) -> Total:
    """The total, of so many skills that were found to match."""
    if query.is_counted_whole or found <= MOST_COUNTED:
        return Total(found, is_exact=True)
    return Total(MOST_COUNTED, is_exact=False)


def sort_key(skill: SkillSummary, query: ListingQuery) -> SortKey:
    """The value that the query orders by. Texts compare by code point, as ``COLLATE "C"`` does."""
    if query.sort_by is SortField.RELEVANCE:
        return relevance(skill, query), skill.trending_score_7d
    key: SortKey = getattr(skill, query.sort_by.attribute)
    return key


@dataclass(frozen=True, slots=True)
class Rank:
    """Position of one skill in a listing; ``a < b`` means that a comes first."""

    key: SortKey
    name: str
    descending: bool

    def __lt__(self, other: "Rank") -> bool:
        if self.key != other.key:
            return (self.key > other.key) is self.descending  # type: ignore[operator]
        return self.name < other.name


def rank(skill: SkillSummary, query: ListingQuery) -> Rank:
    return Rank(sort_key(skill, query), skill.name, query.sort_dir is SortDirection.DESC)


def cursor_rank(query: ListingQuery) -> Rank | None:
    """The position after which the page begins, or None for a page by offset."""
    if query.cursor is None:
        return None
    descending = query.sort_dir is SortDirection.DESC
    return Rank(query.cursor.key, query.cursor.name, descending)


def encode_cursor(query: ListingQuery, last: Rank) -> str:
    """An opaque, URL-safe cursor for the page after ``last``, bound to the query's order."""
    payload = [query.sort_by.value, query.sort_dir.value, last.key, last.name]
    return base64.urlsafe_b64encode(msgspec.json.encode(payload)).decode().rstrip("=")


def decode_cursor(text: str, sort_by: SortField, sort_dir: SortDirection) -> Cursor:
    """Read a cursor back. Raises InvalidQuery when it is damaged or of another order."""
    try:
        padded = text + "=" * (-len(text) % 4)
        field, direction, key, name = msgspec.json.decode(
            base64.urlsafe_b64decode(padded), type=tuple[str, str, SortKey, str]
        )
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise InvalidQuery("cursor", "not a cursor that this API gave out") from error
    if (field, direction) != (sort_by.value, sort_dir.value):
        raise InvalidQuery(
            "cursor", f"belongs to sortBy={field}&sortDir={direction}; repeat that order with it"
        )
    if "\0" in name or not _is_sort_key(key, sort_by):
        raise InvalidQuery("cursor", "not a cursor that this API gave out")
    return Cursor(key, name)


def _is_sort_key(key: SortKey, sort_by: SortField) -> bool:
    """Whether ``sort_key`` could be this value, or at least every source can compare with it.

    What a source refuses would look like its failure, and anyone can make up a cursor.
    """
    match sort_by:
        case SortField.RELEVANCE:
            return isinstance(key, tuple) and key[0] in (0, 1, 2) and _is_trending_score(key[1])
        case SortField.CERT_SCORE:
            return isinstance(key, int) and 0 <= key <= _GREATEST_SCORE
        case SortField.INSTALLS:
            return isinstance(key, int) and 0 <= key <= _MOST_INSTALLS
        case SortField.TRENDING_SCORE_7D | SortField.TRENDING_SCORE_30D:
            return _is_trending_score(key)
        case _:
            return isinstance(key, str) and "\0" not in key


def _is_trending_score(key: SortKey) -> bool:
    return isinstance(key, int | float) and abs(key) <= _GREATEST_TRENDING
