-- migrate:up

-- As `key_digest` in skills/slugs.py makes it: the order of the acceptance log, which the
-- rebuild compares with the rows, a range at a time.
alter table skill add column identity_digest text collate "C" not null generated always as (
    left(encode(sha256(decode(replace(identity, '\', '\\'), 'escape')), 'hex'), 32)
) stored;
create index skill_by_identity_digest on skill (identity_digest);

-- migrate:down

alter table skill drop column identity_digest;
