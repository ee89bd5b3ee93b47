-- migrate:up

-- A search lists matches in titles first, and before them the skills of that name. The indexes of
-- words have all rows, withheld ones too: the planner combines no two indexes with one condition,
-- and a search among many rows of a filter needs both.
drop index skill_search;
create index skill_search on skill using gin (search_vector);
create index skill_title_search on skill using gin (title_vector);
create index skill_by_base_slug on skill (base_slug) where status = 'LISTED';

-- How many skills are listed, by what most totals ask for: the sum of the rows. Each session adds to
-- rows of its own number, so that publishers hardly ever wait for each other.
create table skill_count (
    category text collate "C" not null,
    cert_tier text not null,
    extensible boolean not null,
    part integer not null,
    count bigint not null,
    primary key (category, cert_tier, extensible, part)
) with (fillfactor = 50);  -- an UPDATE finds room beside the row, and leaves the index alone

-- What the counts are compared with, without reading the table.
create index skill_counted on skill (category, cert_tier, extensible) where status = 'LISTED';

-- Triggers, so that whatever writes skills is counted in the same transaction, a dump that is read
-- and statements by hand too. One for each event: PostgreSQL gives only such a one the rows. Their
-- search path is fixed, as reading a dump sets none.
create function count_skills_inserted() returns trigger language plpgsql
set search_path from current as $$
begin
    insert into skill_count as counted (category, cert_tier, extensible, part, count)
    select category, cert_tier, extensible, pg_backend_pid() % 8, count(*)
    from inserted where status = 'LISTED'
    group by category, cert_tier, extensible
    -- In one order, so that sessions wait for each other in line, not in a circle.
    order by category, cert_tier, extensible
    on conflict (category, cert_tier, extensible, part)
        do update set count = counted.count + excluded.count;
    return null;
end $$;
create function count_skills_updated() returns trigger language plpgsql
set search_path from current as $$
begin
    insert into skill_count as counted (category, cert_tier, extensible, part, count)
    select category, cert_tier, extensible, pg_backend_pid() % 8, sum(change)
    from (
        select category, cert_tier, extensible, 1 as change from inserted where status = 'LISTED'
        union all
        select category, cert_tier, extensible, -1 from deleted where status = 'LISTED'
    ) as changed
    group by category, cert_tier, extensible
    having sum(change) <> 0
    order by category, cert_tier, extensible
    on conflict (category, cert_tier, extensible, part)
        do update set count = counted.count + excluded.count;
    return null;
end $$;
create function count_skills_deleted() returns trigger language plpgsql
set search_path from current as $$
begin
    insert into skill_count as counted (category, cert_tier, extensible, part, count)
    select category, cert_tier, extensible, pg_backend_pid() % 8, -count(*)
    from deleted where status = 'LISTED'
    group by category, cert_tier, extensible
    order by category, cert_tier, extensible
    on conflict (category, cert_tier, extensible, part)
        do update set count = counted.count + excluded.count;
    return null;
end $$;
create function count_no_skills() returns trigger language plpgsql
set search_path from current as $$
begin
    delete from skill_count;
    return null;
end $$;
create trigger skill_inserted after insert on skill referencing new table as inserted
    for each statement execute function count_skills_inserted();
create trigger skill_updated after update on skill
    referencing old table as deleted new table as inserted
    for each statement execute function count_skills_updated();
create trigger skill_deleted after delete on skill referencing old table as deleted
    for each statement execute function count_skills_deleted();
create trigger skill_truncated after truncate on skill
    for each statement execute function count_no_skills();

insert into skill_count (category, cert_tier, extensible, part, count)
select category, cert_tier, extensible, 0, count(*) from skill where status = 'LISTED'
group by category, cert_tier, extensible;

-- migrate:down

drop trigger skill_inserted on skill;
drop trigger skill_updated on skill;
drop trigger skill_deleted on skill;
drop trigger skill_truncated on skill;
drop function count_skills_inserted, count_skills_updated, count_skills_deleted, count_no_skills;
drop table skill_count;
drop index skill_counted, skill_by_base_slug, skill_title_search, skill_search;
create index skill_search on skill using gin (search_vector) where status = 'LISTED';
