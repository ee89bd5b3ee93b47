-- migrate:up

-- The marketplace never deletes a skill. So a table that was emptied, or lost most of its rows to one
-- statement, lacks changes like one from an old dump: it is noted in the same transaction, and until
-- a repair has brought back what KV and the log have, nothing else uses the database. A few rows
-- deleted by hand are found as differences. Readers and publishers pay nothing for it.
create function note_skills_truncated() returns trigger language plpgsql
set search_path from current as $$
begin
    if exists (select from skill) then
        update instance set missing_until = greatest(missing_until, changes);
    end if;
    return null;
end $$;
create function note_skills_deleted() returns trigger language plpgsql
set search_path from current as $$
declare
    gone bigint := (select count(*) from deleted);
begin
    -- At most as many rows are counted as were deleted.
    if gone >= 10 and (select count(*) from (select from skill limit gone) as kept) < gone then
        update instance set missing_until = greatest(missing_until, changes);
    end if;
    return null;
end $$;
create trigger skill_truncation_noted before truncate on skill
    for each statement execute function note_skills_truncated();
create trigger skill_deletion_noted after delete on skill referencing old table as deleted
    for each statement execute function note_skills_deleted();

-- migrate:down

drop trigger skill_deletion_noted on skill;
drop trigger skill_truncation_noted on skill;
drop function note_skills_deleted, note_skills_truncated;
