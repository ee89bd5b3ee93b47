-- migrate:up

-- Skills that operators did something to: the acceptance log is compared with them.
create index skill_with_acts on skill (name) where acts <> '[]';

-- migrate:down

drop index skill_with_acts;
