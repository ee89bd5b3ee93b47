"""The statements that ``db`` sends, named and described. SQL text is fixed here, once, at import.

What is put together is put together from constants of this module, never from input; input
travels as parameters. ``listing_sql`` composes the listing, whose filters and order vary.
"""

# ruff: noqa: S608 - see above: every fragment is a constant

from typing import Final

import msgspec
from msgspec import inspect

from marketplace.ports.dead_letter import DeadLetter
from marketplace.skills.skill import KEPT, Skill, SkillSummary

_COLUMN_TYPES: Final[dict[type[inspect.Type], str]] = {
    inspect.StrType: "text",
    inspect.EnumType: "text",
    inspect.IntType: "integer",
    inspect.FloatType: "double precision",
    inspect.BoolType: "boolean",
}


def _column_type(kind: inspect.Type) -> str:
    match kind:
        case inspect.UnionType(types=(present, inspect.NoneType())):
            return _column_type(present)
        case inspect.StructType() | inspect.VarTupleType(item_type=inspect.StructType()):
            return "jsonb"
        case inspect.VarTupleType(item_type=item):
            return f"{_column_type(item)}[]"
        case _:
            return _COLUMN_TYPES[type(kind)]


SKILL_COLUMNS: Final = {
    field.name: _column_type(inspect.type_info(field.type))
    for field in msgspec.structs.fields(Skill)
} | {
    "identity": "text",
    "repository": "text",
    "summary": "text",
    "author_lower": "text",
    "revision": "text",
    "title_terms": "text[]",
    "search_terms": "text[]",
}
"""Columns of ``skill`` that an upsert writes, and the type each is read as from the parameter: a
skill's fields, and what is made of them for looking up and searching."""

MANAGED_COLUMNS: Final = ("revision_in_kv", "title_vector", "search_vector", "digest")
"""Columns that ``mark_in_kv`` or PostgreSQL itself fills."""

_KEPT_ON_UPDATE: Final = {"identity", *KEPT}


def _json_of(kind: type[msgspec.Struct], table: str, **columns: str) -> str:
    """An expression giving the JSON of ``kind`` as msgspec writes it, from a row of ``table``.

    ``columns`` names the column of a field where it is not called like the field.
    """
    fields = ", ".join(
        f'{table}.{columns.get(field.name, field.name)} as "{field.encode_name}"'
        for field in msgspec.structs.fields(kind)
    )
    return f"(select row_to_json(item) from (select {fields}) as item)"


def skill_json(table: str) -> str:
    return _json_of(Skill, table)


SUMMARY_JSON: Final = _json_of(SkillSummary, "skill", description="summary")
"""The expression for a summary."""


_RECORDS = (
    "json_to_recordset($1::json) as record ("
    + ", ".join(f"{column} {type_}" for column, type_ in SKILL_COLUMNS.items())
    + ")"
)
_INSERTED = ", ".join(SKILL_COLUMNS)
_VALUES = ", ".join(
    "chosen.name" if column == "name" else f"record.{column}" for column in SKILL_COLUMNS
)
# A revision names one state of one skill, so those of all skills of a statement can be asked for at
# once: a row is replaced only in the state that the new one was made from.
_ON_CONFLICT = """
    on conflict (identity) do update set {assignments}
    where stored.revision = any($2::text[])
""".format(
    assignments=", ".join(
        f"{column} = excluded.{column}" for column in SKILL_COLUMNS if column not in _KEPT_ON_UPDATE
    )
)


GET_SKILL: Final = f"""
select {skill_json("skill")}
from skill
where identity = coalesce(
    (select identity from skill where name = $1::text),
    (select identity from skill_alias where alias = $1::text)
)
"""
"""$1 slug. The skill that has the slug, or else the one that left it behind."""

GET_SKILL_BY_IDENTITY: Final = f"""
select {skill_json("skill")} from skill where identity = $1::text
"""

GET_SKILLS: Final = f"""
select identity, {skill_json("skill")} from skill where identity = any($1::text[])
"""

SEED_CLAIMS: Final = """
select name, identity from skill
where identity = any($1::text[]) or name = any($2::text[])
"""
"""$1 identities, $2 slugs of the seed."""

COUNT_CATEGORIES: Final = """
select category, count(*) from skill where status = 'LISTED' group by category order by category
"""

UPSERT_SKILL: Final = f"""
with chosen as (
    select coalesce(
        (select name from skill where identity = $3::text),
        (
            select candidate
            from unnest($4::text[]) with ordinality as option (candidate, place)
            where not exists (select from skill where name = candidate)
                and not exists (
                    select from skill_alias where alias = candidate and identity <> $3::text
                )
            order by place
            limit 1
        )
    ) as name
),
written as (
    insert into skill as stored ({_INSERTED})
    select {_VALUES} from {_RECORDS} cross join chosen where chosen.name is not null
    {_ON_CONFLICT}
    -- A row version that an UPDATE made carries the lock of its transaction in xmax.
    returning stored.*, stored.xmax = 0 as inserted
)
select case when inserted then 'inserted' else 'updated' end, {skill_json("written")} from written
union all
select 'no-slug', '' from chosen where name is null
"""
"""$1 JSON array of one record, $2 the revision that it replaces, as an array, empty for none; $3
identity, $4 candidate slugs.

One row: what happened, and the skill as it stands. No row: the identity has a row of another
revision, or of none that this statement's snapshot sees. A unique_violation on ``skill_name_key``
means that another identity took the chosen slug meanwhile.
"""

UPSERT_SKILLS: Final = f"""
with record as (
    select record.* from {_RECORDS}
),
chosen as (
    select distinct on (name) record.identity, coalesce(own.name, record.name) as name
    from record
    left join skill as own on own.identity = record.identity
    where own.identity is not null
        or not exists (select from skill where skill.name = record.name)
        and not exists (
            select from skill_alias
            where alias = record.name and skill_alias.identity <> record.identity
        )
    order by name, record.identity
),
written as (
    insert into skill as stored ({_INSERTED})
    select {_VALUES} from record join chosen using (identity)
    -- One order for all sessions, so that they wait for each other in line, not in a circle.
    order by record.identity
    {_ON_CONFLICT}
    returning stored.identity
)
select identity from record where identity not in (select identity from written)
"""
"""$1 JSON array of records, each identity once; $2 the revisions that they replace. Returns the
identities that were not written."""

ADD_ALIAS: Final = """
insert into skill_alias (alias, identity) values ($1::text, $2::text) on conflict do nothing
"""
"""$1 alias, $2 identity. An alias that leads to another skill stays: it is that skill's link."""

MARK_IN_KV: Final = """
with noted as (
    select * from unnest($1::text[], $2::text[], $3::text[]) as version (name, identity, revision)
),
locked as (
    -- In one order, as in UPSERT_SKILLS.
    select identity from skill where identity = any($2::text[]) order by identity for update
),
marked as (
    update skill set revision_in_kv = noted.revision
    from noted join locked on locked.identity = noted.identity
    where skill.identity = noted.identity and skill.name = noted.name
        and skill.revision_in_kv is distinct from noted.revision
)
select noted.name
from noted join skill on skill.identity = noted.identity
where skill.name <> noted.name or skill.revision <> noted.revision
order by noted.name collate "C"
"""
"""$1 slugs, $2 identities, $3 revisions. Returns the slugs whose row is at another state."""

SKILLS_NOT_IN_KV: Final = f"""
select {skill_json("dirty")}
from (
    select * from skill
    where revision_in_kv is distinct from revision
    order by updated_at, name
    limit $1::bigint
) as dirty
order by updated_at, name
"""

COMPARE_RANGE: Final = f"""
with record as (
    select name collate "C" as name, identity collate "C" as identity,
        revision collate "C" as revision
    from unnest($1::text[], $2::text[], $3::text[]) as record (name, identity, revision)
),
compared as (
    select record.name, mine.identity, case
        when mine.identity is null and taken.identity is not null then 'taken-slug'
        when mine.identity is null then 'missing-in-database'
        when mine.name <> record.name then 'other-slug'
        when mine.revision < record.revision then 'newer-in-kv'
        when mine.revision > record.revision then 'newer-in-database'
    end as kind
    from record
    left join skill as mine on mine.identity = record.identity
    left join skill as taken on taken.name = record.name
    union all
    select name, identity, 'missing-in-kv'
    from skill
    where name > $4::text and ($5::text is null or name <= $5::text)
        and identity not in (select identity from record)
),
difference as (
    select * from compared where kind is not null
    order by name
    -- With ties: the two differences that one slug can have are never torn apart.
    fetch first ($6::bigint) rows with ties
)
select difference.kind, difference.name,
    case when skill.identity is not null then {skill_json("skill")} end
from difference left join skill on skill.identity = difference.identity
order by difference.name, difference.kind = 'missing-in-kv'
"""
"""$1 slugs, $2 identities, $3 revisions of KV's records; $4 after, $5 until (NULL: the end),
$6 how many differences at most."""

FINGERPRINT: Final = "select count(*), coalesce(sum(digest), 0) from skill"
"""Count, and the exact sum (numeric, signed) of all rows' digests."""

STORE_DEAD_LETTER: Final = """
insert into dead_letter as stored
    (id, queue, body, reason, detail, attempts, failed_at, redrives, redriven_at)
values ($1, $2, $3::json, $4, $5, $6::integer, $7, $8::integer, $9)
on conflict (id) do update set
    queue = excluded.queue, body = excluded.body, reason = excluded.reason,
    detail = excluded.detail, attempts = excluded.attempts, failed_at = excluded.failed_at,
    redrives = greatest(stored.redrives, excluded.redrives), redriven_at = excluded.redriven_at
where row(greatest(stored.failed_at, stored.redriven_at), stored.redriven_at is null)
    <= row(greatest(excluded.failed_at, excluded.redriven_at), excluded.redriven_at is null)
"""
"""The fields in order. A letter whose last event is later than the new one's is left alone."""

MARK_REDRIVEN: Final = """
update dead_letter set redrives = redrives + 1, redriven_at = $2::text
where id = any($1::text[]) and redriven_at is null and failed_at < $2::text
"""
"""$1 ids, $2 the moment. A failure of that moment or a later one stays open."""

_DEAD_LETTER_JSON = _json_of(DeadLetter, "dead_letter")

LIST_DEAD_LETTERS: Final = f"""
select {_DEAD_LETTER_JSON}
from dead_letter
where redriven_at is null
    and ($1::text is null or reason = $1::text)
    and ($2::text is null or id > $2::text)
order by id
limit $3::bigint
"""
"""$1 reason or NULL, $2 the id before the page or NULL, $3 limit."""

LIST_REDRIVABLE: Final = f"""
select {_DEAD_LETTER_JSON}
from dead_letter
where redriven_at is null
    and json_typeof(body) = 'object'
    and ($1::text is null or reason = $1::text)
order by failed_at, id
limit $2::bigint
"""
"""$1 reason or NULL, $2 limit.

What is redriven and fails again comes last, so that call after call all letters have their turn.
"""

GET_DEAD_LETTERS: Final = f"""
select {_DEAD_LETTER_JSON} from dead_letter where id = any($1::text[]) order by id
"""

COUNT_DEAD_LETTERS: Final = """
select reason, count(*) from dead_letter where redriven_at is null group by reason order by reason
"""

ACQUIRE_LEASE: Final = """
insert into lease as held (name, holder, expires_at) values ($1::text, $2::text, $4::text)
on conflict (name) do update set holder = excluded.holder, expires_at = excluded.expires_at
where held.holder = excluded.holder or held.expires_at <= $3::text
"""
"""$1 name, $2 holder, $3 now, $4 expiry. One row affected: the lease is the holder's."""

RELEASE_LEASE: Final = "delete from lease where name = $1::text and holder = $2::text"

SAVE_STATE: Final = """
insert into state (name, value) values ($1::text, $2::json)
on conflict (name) do update set value = excluded.value
"""

INSERT_STATE: Final = """
insert into state (name, value) values ($1::text, $2::json) on conflict (name) do nothing
"""

REPLACE_STATE: Final = """
update state set value = $2::json where name = $1::text and value::text = $3::text
"""

LOAD_STATE: Final = "select value from state where name = $1::text"
