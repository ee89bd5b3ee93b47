-- migrate:up

-- Rules of operators. The id begins with the moment.
create table rule (
    id text collate "C" primary key,
    kind text not null constraint rule_kind_known check (kind in ('WITHDRAW', 'BLOCK')),
    matches text collate "C" not null
        constraint rule_matches_known check (matches in ('identity', 'owner', 'contentDigest')),
    value text collate "C" not null,
    reason text not null,
    at moment not null,
    by text not null,
    threat_type text,
    severity text,
    evidence_urls text[] not null default '{}',
    lifted_at moment,
    lifted_by text,
    lift_reason text,
    -- When checks ended to apply it, or to lift its acts.
    applied_at moment
);

create index rule_in_force on rule (matches, value) where lifted_at is null;
create index rule_open on rule (id) where applied_at is null;

-- A rule is applied in the order of identities. That of an owner is a range of them, so that the
-- primary key finds its skills: identities begin with https://{forge}/{owner}/.
drop index skill_by_author, skill_by_content_digest;
create index skill_by_content_digest on skill (content_digest, identity)
    where content_digest is not null;
create index skill_by_act on skill using gin (acts jsonb_path_ops) where acts <> '[]';

-- migrate:down

drop index skill_by_act, skill_by_content_digest;
create index skill_by_author on skill (author_lower, name);
create index skill_by_content_digest on skill (content_digest, name)
    where content_digest is not null;
drop table rule;
