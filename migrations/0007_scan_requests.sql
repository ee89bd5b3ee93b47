-- migrate:up

-- What scanners are asked to read: one row an identity, its newest request.
create table scan_request (
    identity text collate "C" primary key,
    submission_id text collate "C" not null
        constraint scan_request_submission_id_key unique,
    reason text not null
        constraint scan_request_reason_known check (reason in ('new', 'rescan', 'due')),
    requested_at moment not null,
    -- json, not jsonb: the submission as KV has it, which is written again where KV lost it.
    submission json not null,
    -- How often it was handed out, and when it may be the next time.
    attempts integer not null default 0,
    free_at moment not null,
    answered_at moment
);

-- What was never handed out; then what was, and not answered.
create index scan_request_fresh on scan_request ((reason <> 'new'), requested_at)
    where answered_at is null and attempts = 0;
create index scan_request_unanswered on scan_request (free_at)
    where answered_at is null and attempts > 0;
-- What is forgotten.
create index scan_request_by_requested_at on scan_request (requested_at);

-- Hand-outs and results, counted by the hour.
create table scan_hour (
    hour moment primary key,
    handed_out integer not null default 0,
    results integer not null default 0
);

-- Listed skills by when they were last read (Skill.decided_at), or last due to be read, so that
-- those at which scanners fail are not in front for ever.
alter table skill add column due_at moment;
create index skill_by_reading on skill (
    greatest(coalesce(verdict_at, certified_at, read_at, updated_at), due_at)
) where status = 'LISTED';

-- migrate:down

drop index skill_by_reading;
alter table skill drop column due_at;
drop table scan_hour;
drop table scan_request;
