-- migrate:up

-- The author of a skill on another forge than GitHub has the forge in front, and the words of that
-- are searched for too. Revisions do not change: they count the owner alone there, as before
-- (`Skill.content`), and what KV has from before is read as if it had the forge.
update skill
set author = left(told.host || '/' || told.owner, 256),
    author_lower = left(told.host || '/' || lower(told.owner), 256),
    search_terms = skill.search_terms
        || array_remove(regexp_split_to_array(told.host, '[^a-z0-9]+'), '')
        || array_remove(regexp_split_to_array(lower(told.owner), '[^a-z0-9]+'), '')
from (
    select identity, host,
        -- In the letter case that it was stored in.
        case when lower(author) = owner then author else owner end as owner
    from (
        select identity, author, split_part(repository, '/', 3) as host,
            regexp_replace(repository, '^https://[^/]+/(.*)/[^/]+$', '\1') as owner
        from skill
    ) as parts
    where host <> 'github.com'
) as told
where told.identity = skill.identity;

-- migrate:down

-- The words of the forge stay: they are found, and hide nothing.
update skill
set author = substr(author, length(split_part(repository, '/', 3)) + 2),
    author_lower = substr(author_lower, length(split_part(repository, '/', 3)) + 2)
where split_part(repository, '/', 3) <> 'github.com'
    and author like split_part(repository, '/', 3) || '/%';
