-- migrate:up

-- Which database this is, and how far it has come. KV holds both as last acknowledged, so that a
-- database that was emptied, restored from a dump or bound by mistake is not taken for the right one.
create table instance (
    is_only boolean primary key default true
        constraint instance_has_one_row check (is_only),
    -- Random: a database that is made anew is another one.
    id text collate "C" not null default gen_random_uuid()::text,
    -- The number of its last change. A statement that changes skills raises it and keeps it locked
    -- until it is committed, so that it rises in the order of commits.
    changes bigint not null default 0,
    -- While changes are missing: the number up to which they are. NULL: none are missing.
    missing_until bigint
);

insert into instance default values;

-- The instance, if it is the one that a session expects; else an error, so that nothing else of the
-- transaction happens. `expected` NULL: any instance. `repairing`: also one that lacks changes.
create function expect_instance(
    expected text, known bigint, repairing boolean, out id text, out changes bigint
)
language plpgsql stable as $$
declare
    missing_until bigint;
begin
    select present.id, present.changes, present.missing_until
    into id, changes, missing_until
    from instance as present;
    if id is null or id <> expected then
        raise exception 'the database is the instance %, not %', id, expected
            using errcode = 'SM001';
    elsif not repairing and (changes < known or missing_until is not null) then
        raise exception 'the database is at change %, and was at % before',
            changes, greatest(known, missing_until) using errcode = 'SM002';
    end if;
end
$$;

-- migrate:down

drop function expect_instance;
drop table instance;
