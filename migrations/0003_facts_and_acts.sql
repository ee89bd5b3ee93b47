-- migrate:up

-- Who said what: the repository (facts), the newest verdict, and operators (acts).
alter table skill
    -- What listings show follows from the acts and the newest verdict.
    add column status text not null default 'LISTED'
        constraint skill_status_known check (status in ('LISTED', 'WITHDRAWN', 'BLOCKED')),
    add column scan_failed_at moment,
    add column source_gone_at moment,
    add column provisional boolean not null default false,
    add column commit text,
    add column ref text,
    add column repository_id text,
    add column owner_id text,
    add column content_digest text,
    add column skill_md_digest text,
    add column read_at moment,
    add column verdict text not null default 'PASS'
        constraint skill_verdict_known check (verdict in ('PASS', 'FAIL', 'WITHDRAWN', 'GONE')),
    add column verdict_at moment,
    add column verdict_reason text,
    -- The repository's own category, labels and tier, where something else is listed instead.
    add column said jsonb,
    add column acts jsonb not null default '[]';

alter table skill alter column labels set default '{}';
update skill set labels = array_remove(labels, 'verified'), revision_in_kv = null
where cert_tier = 'SCANNED' and 'verified' = any(labels);

-- Revisions as `Skill.revision` makes them. A row is replaced only over the revision that its
-- fields give, so none may keep one of the form from before.
create or replace function pg_temp.json_texts(texts text[]) returns text language sql as $$
    select '[' || coalesce(string_agg(to_json(each)::text, ',' order by place), '') || ']'
    from unnest(texts) with ordinality as t (each, place)
$$;
create or replace function pg_temp.compact(at text) returns text language sql as $$
    select lpad(digits, greatest(11, length(digits)), '0')
    from to_hex(greatest(0, extract(epoch from at::timestamptz) * 1000)::bigint) as t (digits)
$$;
update skill set revision = concat_ws(
    '|',
    pg_temp.compact(greatest(decided_at, told.certified_at, skill.updated_at)),
    '000',
    pg_temp.compact(decided_at),
    pg_temp.compact(told.certified_at),
    pg_temp.compact(skill.updated_at),
    left(encode(sha256(convert_to(
        '[' || to_json(skill.identity) || ',[' || to_json(skill.updated_at::text) || ',{'
        || concat_ws(
            ',',
            '"display_name":' || to_json(display_name),
            '"description":' || to_json(description),
            '"author":' || to_json(author),
            '"repo_url":' || to_json(repo_url),
            '"skill_path":' || to_json(nullif(skill_path, '')),
            '"license":' || to_json(license),
            '"category":' || to_json(nullif(category, 'development')),
            '"current_version":' || to_json(nullif(current_version, '1.0.0')),
            '"labels":' || nullif(pg_temp.json_texts(labels), '[]'),
            case when extensible then '"extensible":true' end,
            '"extension_points":' || nullif(pg_temp.json_texts(extension_points), '[]')
        )
        || '}],[' || to_json(cert_tier) || ',' || to_json(cert_method) || ',' || cert_score || ','
        || coalesce(to_json(skill.certified_at::text)::text, 'null')
        || ',"PASS",' || to_json(decided_at) || ',null],[]]',
        'UTF8'
    )), 'hex'), 16)
)
from (
    select identity, coalesce(certified_at, updated_at)::text collate "C" as decided_at,
        coalesce(certified_at, '1970-01-01T00:00:00.000Z')::text collate "C" as certified_at
    from skill
) as told
where told.identity = skill.identity;

-- The indexes of the listing have the listed skills alone.
drop index skill_by_published_at, skill_by_updated_at, skill_by_display_name, skill_by_cert_score,
    skill_by_cert_score_ascending, skill_by_trending_7d, skill_by_trending_7d_ascending,
    skill_by_trending_30d, skill_by_trending_30d_ascending, skill_in_category, skill_in_cert_tier,
    skill_of_author, skill_extensible, skill_search;
create index skill_by_name on skill (name) where status = 'LISTED';
create index skill_by_published_at on skill (published_at desc, name) where status = 'LISTED';
create index skill_by_updated_at on skill (updated_at desc, name) where status = 'LISTED';
create index skill_by_display_name on skill (display_name, name) where status = 'LISTED';
create index skill_by_cert_score on skill (cert_score desc, name) where status = 'LISTED';
create index skill_by_cert_score_ascending on skill (cert_score, name) where status = 'LISTED';
create index skill_by_trending_7d on skill (trending_score_7d desc, name) where status = 'LISTED';
create index skill_by_trending_7d_ascending on skill (trending_score_7d, name)
    where status = 'LISTED';
create index skill_by_trending_30d on skill (trending_score_30d desc, name)
    where status = 'LISTED';
create index skill_by_trending_30d_ascending on skill (trending_score_30d, name)
    where status = 'LISTED';
create index skill_in_category on skill (category, published_at desc, name)
    where status = 'LISTED';
create index skill_in_cert_tier on skill (cert_tier, published_at desc, name)
    where status = 'LISTED';
create index skill_of_author on skill (author_lower, published_at desc, name)
    where status = 'LISTED';
create index skill_extensible on skill (extensible, published_at desc, name)
    where status = 'LISTED';
create index skill_search on skill using gin (search_vector) where status = 'LISTED';

-- What is not shown; and what rules are applied to.
create index skill_withheld on skill (name) where status <> 'LISTED';
create index skill_by_author on skill (author_lower, name);
create index skill_by_content_digest on skill (content_digest, name)
    where content_digest is not null;

-- migrate:down

drop index skill_by_name, skill_withheld, skill_by_author, skill_by_content_digest;
delete from skill where status <> 'LISTED';
alter table skill
    drop column status, drop column scan_failed_at, drop column source_gone_at,
    drop column provisional, drop column commit, drop column ref, drop column repository_id,
    drop column owner_id, drop column content_digest, drop column skill_md_digest,
    drop column read_at, drop column verdict, drop column verdict_at, drop column verdict_reason,
    drop column said, drop column acts;
