-- migrate:up

-- What operators and scanners changed, newest last. The id begins with the moment.
create table audit (
    id text collate "C" primary key,
    at moment not null,
    principal text collate "C" not null,
    role text not null,
    action text collate "C" not null,
    target text collate "C" not null,
    -- json, not jsonb: kept as it was written, whatever is in it.
    before json,
    after json,
    reason text
);

create index audit_by_principal on audit (principal, id);
create index audit_by_action on audit (action, id);
create index audit_by_target on audit (target, id);

-- What visitors report about skills. The id begins with the moment.
create table report (
    id text collate "C" primary key,
    at moment not null,
    slug text collate "C" not null,
    identity text collate "C" not null,
    reason text not null,
    text text not null,
    resolved_at moment,
    resolved_by text,
    resolution text
);

create index report_listed on report ((resolved_at is not null), id);

-- migrate:down

drop table report;
drop table audit;
