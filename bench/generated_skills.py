"""Many skills, made by PostgreSQL itself, for tests of plans and for benchmarks."""

# The shape of a real catalogue: 20 categories and 4,000 authors of uneven size, a few certified
# skills, most of them never trending, descriptions of some 250 bytes from 5,000 words.

from typing import Final

from pgwire import Connection

_GENERATE: Final = """
insert into skill (
    identity, name, base_slug, repository, display_name, description, summary,
    author, author_lower, repo_url, category, cert_tier, cert_score, extensible,
    trending_score_7d, trending_score_30d, published_at, updated_at, revision,
    title_terms, search_terms, change
)
select
    'https://github.com/owner-' || owner || '/repo#skill-' || n,
    'skill-' || n, 'skill-' || n, 'https://github.com/owner-' || owner || '/repo',
    'Skill ' || n || ' ' || words[1], array_to_string(words, ' '), array_to_string(words, ' '),
    'Owner-' || owner, 'owner-' || owner, 'https://github.com/owner-' || owner || '/repo',
    category,
    case when n % 500 = 0 then 'CERTIFIED' when n % 10 = 0 then 'VERIFIED' else 'SCANNED' end,
    n * 7919 % 101, n % 20 = 0,
    case when n % 50 = 0 then n * 7919 % 10007 else 0 end,
    case when n % 20 = 0 then n * 7919 % 10007 else 0 end,
    moment, moment, '0000000001.0000000000.0000000000~|' || moment || '|' || left(md5(n::text), 16),
    array['skill', n::text, words[1]],
    array['skill', n::text, 'owner', owner::text, 'category', category, 'community', 'verified',
        case when n % 2 = 0 then 'even' else 'odd' end]
        || words,
    n
from generate_series($1::bigint, $2::bigint) as n
cross join lateral (
    select
        (4000 * power((n * 7919 % 10007) / 10007.0, 3))::integer as owner,
        'category-' || (20 * power((n * 104729 % 10009) / 10009.0, 2))::integer as category,
        (
            select array_agg('word' || (5000 * power(random(), 3))::integer)
            from generate_series(1, 25 + 0 * n)
        ) as words,
        to_char(
            timestamp '2026-01-01' + (n * 7919 % 31536000) * interval '1 second',
            'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'
        ) as moment
) as made
"""
_BATCH: Final = 20_000


async def generate_skills(connection: Connection, count: int) -> None:
    """Fill an empty table ``skill`` with ``count`` rows and bring its statistics up to date."""
    await connection.query("select setseed(0.5)")
    for first in range(1, count + 1, _BATCH):
        last = min(first + _BATCH - 1, count)
        await connection.query(_GENERATE, first, last, timeout=600)
    await connection.query("update instance set changes = greatest(changes, $1)", count // 2**20)
    await connection.query("vacuum analyze skill", timeout=600)
