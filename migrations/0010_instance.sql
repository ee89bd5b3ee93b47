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

-- What each transaction begins with is cast to these two. A false one is an error that names its
-- constraint, so that nothing else of the transaction happens; a function in PL/pgSQL would do the
-- same, and costs a new session more.
create domain is_acknowledged as boolean
    constraint instance_is_the_acknowledged_one check (value);
create domain is_complete as boolean
    constraint instance_lacks_no_changes check (value);

-- migrate:down

drop domain is_complete;
drop domain is_acknowledged;
drop table instance;
