-- migrate:up

-- What was listed of a skill, one row for each change of its version or its content. Rows are
-- never changed and never deleted: they belong to the identity, whatever its slug or status is.
-- No foreign key: a row of `skill` that is lost comes back from KV, and finds its versions here.
create table skill_version (
    identity text collate "C" not null,
    -- The order of what one repository has said, as `place_of` in skills/version_history.py
    -- makes it; the greatest is the newest.
    place text collate "C" not null,
    version text not null,
    commit text,
    content_digest text,
    skill_md_digest text,
    cert_tier text not null
        constraint skill_version_cert_tier_known
        check (cert_tier in ('SCANNED', 'VERIFIED', 'CERTIFIED')),
    cert_score integer not null
        constraint skill_version_cert_score_in_range check (cert_score between 0 and 100),
    created_at moment not null,
    diff_summary text not null,
    primary key (identity, place)
);

-- migrate:down

drop table skill_version;
