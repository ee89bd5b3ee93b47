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
