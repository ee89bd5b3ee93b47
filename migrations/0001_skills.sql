-- migrate:up

-- A point in time as text, 2026-11-24T08:15:30.123Z: UTC, milliseconds, one width.
-- Text and not timestamptz, because the same characters are the sort key in KV, in cursors and
-- inside `revision`; text order is time order (COLLATE "C"), and nothing has to be converted,
-- so nothing can be rounded. For date arithmetic cast: published_at::timestamptz.
create domain moment as text collate "C"
    check (value ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$');

create table skill (
    -- What makes two records the same skill: normalised repository + '#' + base_slug.
    identity text collate "C" primary key,
    -- The slug: the public key, in links and in KV. It may change; the old one becomes an alias.
    name text collate "C" not null
        constraint skill_name_key unique
        constraint skill_name_is_a_slug check (name ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
    base_slug text collate "C" not null
        constraint skill_base_slug_is_a_slug check (base_slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
    repository text collate "C" not null,

    display_name text collate "C" not null,
    description text not null,
    -- The description as listings show it; shortened by Python, between characters.
    summary text not null,
    author text not null,
    -- Lower-cased by Python, which is what all sources filter by: databases disagree with it,
    -- and with each other, about lower case beyond ASCII.
    author_lower text collate "C" not null,
    repo_url text not null,
    skill_path text not null default '',
    license text,
    category text collate "C" not null default 'development',
    current_version text not null default '1.0.0',
    cert_tier text not null default 'SCANNED'
        constraint skill_cert_tier_known check (cert_tier in ('SCANNED', 'VERIFIED', 'CERTIFIED')),
    cert_method text not null default 'AUTOMATED_SCAN'
        constraint skill_cert_method_known
        check (cert_method in ('AUTOMATED_SCAN', 'HUMAN_REVIEW', 'VENDOR_AUTO')),
    cert_score integer not null default 0
        constraint skill_cert_score_in_range check (cert_score between 0 and 100),
    certified_at moment,
    labels text[] not null default '{community,verified}',
    extensible boolean not null default false,
    extension_points text[] not null default '{}',
    -- Finite, because JSON has no other numbers (NaN is greater than infinity here).
    trending_score_7d double precision not null default 0
        constraint skill_trending_score_7d_finite
        check (trending_score_7d > '-infinity' and trending_score_7d < 'infinity'),
    trending_score_30d double precision not null default 0
        constraint skill_trending_score_30d_finite
        check (trending_score_30d > '-infinity' and trending_score_30d < 'infinity'),
    published_at moment not null,
    updated_at moment not null,

    -- Total order over the states of one skill; the greater one is the newer.
    revision text collate "C" not null,
    -- The revision that KV is known to hold; anything but `revision` means: write it to KV.
    revision_in_kv text collate "C",

    -- Words made by Python (title_terms and document_terms in skills/listing_rules.py), so that
    -- every source finds the same; PostgreSQL's own text search configurations play no part. The
    -- slug's words are added here, because the statement that inserts the row chooses the slug.
    title_terms text[] not null,
    search_terms text[] not null,
    title_vector tsvector not null
        generated always as (
            array_to_tsvector(title_terms || array_remove(string_to_array(name, '-'), ''))
        ) stored,
    search_vector tsvector not null
        generated always as (
            array_to_tsvector(search_terms || array_remove(string_to_array(name, '-'), ''))
        ) stored,

    -- The first 8 bytes of sha256(name || ' ' || revision) as a signed bigint, so that the digest
    -- over all skills is a plain sum. Doubled backslashes and decode(…, 'escape') give the UTF-8
    -- bytes; convert_to would too, but is not immutable.
    digest bigint not null generated always as (
        ('x' || encode(
            substring(sha256(decode(replace(name || ' ' || revision, '\', '\\'), 'escape')) for 8),
            'hex'
        ))::bit(64)::bigint
    ) stored
);

-- One index for each order of the listing, the slug as the tie-breaker (by name: skill_name_key).
-- The other direction of a time or of a display name comes from the same index by an
-- incremental sort of the few rows that are equal; scores, of which thousands are equal, have
-- an index for each direction.
create index skill_by_published_at on skill (published_at desc, name);
create index skill_by_updated_at on skill (updated_at desc, name);
create index skill_by_display_name on skill (display_name, name);
create index skill_by_cert_score on skill (cert_score desc, name);
create index skill_by_cert_score_ascending on skill (cert_score, name);
create index skill_by_trending_7d on skill (trending_score_7d desc, name);
create index skill_by_trending_7d_ascending on skill (trending_score_7d, name);
create index skill_by_trending_30d on skill (trending_score_30d desc, name);
create index skill_by_trending_30d_ascending on skill (trending_score_30d, name);

-- Filters; each leads to its newest skills first, which is the listing's default order.
create index skill_in_category on skill (category, published_at desc, name);
create index skill_in_cert_tier on skill (cert_tier, published_at desc, name);
create index skill_of_author on skill (author_lower, published_at desc, name);
create index skill_extensible on skill (extensible, published_at desc, name);

create index skill_search on skill using gin (search_vector);

-- Small: counting all rows, and the sum of their digests, without reading the table.
create index skill_digest on skill (digest);

-- What has to be written to KV, oldest first; empty most of the time.
create index skill_not_in_kv on skill (updated_at, name)
    where revision_in_kv is distinct from revision;

-- Old slugs. No foreign key: an alias may be known before its skill is (KV outlives an outage of
-- this database), and an alias that leads nowhere is reported, never dropped.
create table skill_alias (
    alias text collate "C" primary key
        constraint skill_alias_is_a_slug check (alias ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
    identity text collate "C" not null
);

-- migrate:down

drop table skill_alias;
drop table skill;
drop domain moment;
