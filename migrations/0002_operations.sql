-- migrate:up

-- Messages that could not be processed, until an operator or cron redrives them.
create table dead_letter (
    id text collate "C" primary key,
    queue text not null,
    -- json, not jsonb: a message must be kept as it came, whatever is in it.
    body json not null,
    reason text collate "C" not null,
    detail text not null,
    attempts integer not null,
    failed_at moment not null,
    redrives integer not null default 0,
    redriven_at moment
);

create index dead_letter_open on dead_letter (reason, id) where redriven_at is null;
create index dead_letter_open_by_id on dead_letter (id) where redriven_at is null;

-- Who may do what only one may do at a time. A crashed holder loses it at expires_at.
create table lease (
    name text primary key,
    holder text not null,
    expires_at moment not null
);

-- Small JSON documents under a name: reports, progress of jobs.
create table state (
    name text primary key,
    value json not null
);

-- migrate:down

drop table state;
drop table lease;
drop table dead_letter;
