-- migrate:up

-- What the archive and provenance need. `files_digest`: of the list of files, which KV keeps.
alter table skill add column files_digest text, add column scanned_by text;
alter table skill_version add column license text;

-- Who names a digest. `skill_by_content_digest` is there.
create index skill_by_skill_md_digest on skill (skill_md_digest) where skill_md_digest is not null;
create index skill_version_by_content_digest on skill_version (content_digest)
    where content_digest is not null;
create index skill_version_by_skill_md_digest on skill_version (skill_md_digest)
    where skill_md_digest is not null;

-- migrate:down

drop index skill_by_skill_md_digest, skill_version_by_content_digest,
    skill_version_by_skill_md_digest;
alter table skill_version drop column license;
alter table skill drop column files_digest, drop column scanned_by;
