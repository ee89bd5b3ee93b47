-- migrate:up

-- How often a skill was installed, as installers report it. No foreign key: a row of `skill` that
-- is lost comes back from KV, and finds its days here; skills of the seed may have no row.
create table skill_install (
    identity text collate "C" not null,
    -- A day (UTC) as 2026-12-01; empty: all days that no trend counts any more, together.
    day text collate "C" not null
        constraint skill_install_day_is_one check (day ~ '^(\d{4}-\d\d-\d\d)?$'),
    count bigint not null constraint skill_install_count_positive check (count > 0),
    primary key (identity, day)
);

alter table skill add column installs integer not null default 0
    constraint skill_installs_not_negative check (installs >= 0);
-- Whether KV's record is known to have what was measured: installs and trends. No revision counts
-- these, so `revision_in_kv` does not tell.
alter table skill add column measured_in_kv boolean not null default true;
create index skill_by_installs on skill (installs desc, name) where status = 'LISTED';
create index skill_by_installs_ascending on skill (installs, name) where status = 'LISTED';
create index skill_measured on skill (identity) where not measured_in_kv;

-- migrate:down

drop index skill_measured, skill_by_installs_ascending, skill_by_installs;
alter table skill drop column measured_in_kv, drop column installs;
drop table skill_install;
