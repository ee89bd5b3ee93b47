"""The statements that ``db`` sends, named and described. SQL text is fixed here, once, at import.

What is put together is put together from constants of this module, never from input; input
travels as parameters. ``listing_sql`` composes the listing, whose filters and order vary.
"""

# ruff: noqa: S608 - see above: every fragment is a constant

from typing import Final

import msgspec
from msgspec import inspect

from marketplace.ports.audit import AuditEntry
from marketplace.ports.dead_letter import DeadLetter
from marketplace.ports.scan_request import ScanRequest
from marketplace.ports.skill_report import SkillReport
from marketplace.skills.rules import Matches, Rule
from marketplace.skills.skill import KEPT, Skill, SkillSummary
from marketplace.skills.version_history import SkillVersion

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

MANAGED_COLUMNS: Final = (
    "revision_in_kv",
    "title_vector",
    "search_vector",
    "digest",
    "due_at",
    "identity_digest",
    "measured_in_kv",
    "change",
)
"""Columns that an upsert does not take from the skill: ``mark_in_kv``, ``hand_out_due_scans``,
``measure_installs`` or PostgreSQL itself fills them."""

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
_INSERTED = ", ".join([*SKILL_COLUMNS, "change"])
_VALUES = ", ".join(
    "chosen.name" if column == "name" else f"record.{column}" for column in SKILL_COLUMNS
)
# A revision names one state of one skill, so those of all skills of a statement can be asked for at
# once: a row is replaced only in the state that the new one was made from.
_ON_CONFLICT = """
    on conflict (identity) do update set {assignments}, change = excluded.change,
        published_at = least(stored.published_at, excluded.published_at),
        -- The revision does not tell that KV has another first publication.
        revision_in_kv = case
            when stored.published_at <= excluded.published_at then stored.revision_in_kv
        end
    where stored.revision = any($2::text[])
""".format(
    assignments=", ".join(
        f"{column} = excluded.{column}"
        for column in SKILL_COLUMNS
        if column not in (*_KEPT_ON_UPDATE, "published_at")
    )
)


_VERSION_COLUMNS = {
    field.name: _column_type(inspect.type_info(field.type))
    for field in msgspec.structs.fields(SkillVersion)
}


def _add_versions(parameter: str, *, written: str) -> str:
    """An INSERT of the versions in a JSON parameter, whose identity is among those ``written``.

    A version that is a skill's ``first`` is left out where the skill has any.
    """
    columns = ", ".join(_VERSION_COLUMNS)
    types = ", ".join(f"{column} {type_}" for column, type_ in _VERSION_COLUMNS.items())
    return f"""
        insert into skill_version ({columns})
        select {columns}
        from json_to_recordset({parameter}::json) as version ({types}, first boolean)
        where {written} and not (
            first
            and exists (select from skill_version as kept where kept.identity = version.identity)
        )
        order by identity, place
        on conflict do nothing
    """


_IN_A_STATEMENT = 2**20
"""Skills that one statement may change: the number of a skill's change is that of the statement,
times this, and its place."""

_TAKE_NUMBER = f"""
    -- Before anything is written, as the rows get it. The row stays locked until the transaction
    -- ends, so that what has a greater number is committed later. One that is not used is lost.
    update instance set changes = changes + 1 where {{condition}}
    returning changes * {_IN_A_STATEMENT} as before
"""

EXPECT_INSTANCE: Final = """
select max(id), max(changes),
    coalesce(bool_and(id = coalesce($1::text, id)), false)::is_acknowledged,
    coalesce(
        bool_and($3::boolean or changes >= $2::bigint and missing_until is null), false
    )::is_complete
from instance
"""
"""$1 the instance's id or NULL for any, $2 the least number of its last change, $3 whether changes
may be missing. A check_violation tells by its constraint what is not so; without its one row the
database is none that was acknowledged."""

NOTE_MISSING: Final = """
update instance
set missing_until = greatest(missing_until, case when id = $1::text then $2::bigint else 0 end)
where id <> $1::text or changes < $2::bigint
"""
"""$1 the known instance or NULL, $2 the known number of its last change."""

IS_MISSING: Final = "select missing_until is not null from instance"

NOTE_COMPLETE: Final = """
update instance
set changes = greatest(changes, missing_until), missing_until = null,
    generation = gen_random_uuid()::text
where missing_until is not null
"""
"""What was repaired has numbers below those that followers have seen: they begin anew."""

GET_INSTANCE: Final = "select id, changes from instance"

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
select identity, revision, {skill_json("skill")} from skill where identity = any($1::text[])
"""

IS_OUTDONE: Final = """
    waiting.identity = skill.identity and waiting.revision collate "C" > skill.revision
    and (
        waiting.hides
        or skill.acts = '[]'
        and (skill.provisional or waiting.path is null or waiting.path = skill.skill_path)
        and waiting.updated_at collate "C" >= skill.updated_at
        and coalesce(waiting.certified_at, '') collate "C" >= coalesce(skill.certified_at, '')
    )
"""
"""Whether a state in the outbox, of WAITING_COLUMNS, is listed in place of a row. The greater
revision may be an act's alone, so the moments of what is told are compared besides."""

WAITING_COLUMNS: Final = {
    "identity": "text[]",
    "revision": "text[]",
    "hides": "boolean[]",  # it is withheld
    "path": "text[]",  # NULL where no scan has told one
    "updated_at": "text[]",
    "certified_at": "text[]",
}

SEED_CLAIMS: Final = """
select name, identity from skill
where identity = any($1::text[]) or name = any($2::text[])
union all
select alias, identity from skill_alias join skill using (identity)
where alias = any($2::text[])
"""
"""$1 identities, $2 slugs of the seed."""

_WAITING_PARAMETERS = ", ".join(
    f"${number}::{type_}" for number, type_ in enumerate(WAITING_COLUMNS.values(), 1)
)

ROWS_OF_WAITING: Final = f"""
select {SUMMARY_JSON}, exists (
    select from unnest({_WAITING_PARAMETERS}) as waiting ({", ".join(WAITING_COLUMNS)})
    where {IS_OUTDONE}
)
from skill
where skill.identity = any($1::text[]) or skill.name = any($7::text[])
"""
"""The WAITING_COLUMNS in order, then the slugs of what waits."""

ROOM_FOR_WORDS: Final = "select set_config('work_mem', '16MB', true)"
"""For the transaction. What the words' index collects of two beginnings of very many words fits in;
in the usual 4 MB it would be coarse at a million rows, and a large part of the table be read."""

COUNT_CATEGORIES: Final = """
select category, sum(count) from skill_count
group by category having sum(count) > 0
order by category
"""

_SKILL_COUNTS = """
    select category, cert_tier, extensible, count(*) as count
    from skill where status = 'LISTED'
    group by category, cert_tier, extensible
"""

MISCOUNTED: Final = f"""
select count(*)
from ({_SKILL_COUNTS}) as counted
full join (
    select category, cert_tier, extensible, sum(count) as count from skill_count
    group by category, cert_tier, extensible
) as kept using (category, cert_tier, extensible)
where coalesce(counted.count, 0) <> coalesce(kept.count, 0)
"""
"""In how many groups of skills the kept counts are wrong. One statement sees both at one moment."""

HOLD_SKILL_COUNTS: Final = "lock table skill_count in exclusive mode"
"""In a transaction. Who has changed a count ends before, who is to change one waits, so that the
statements behind it see of each transaction the skills and the counts, or neither."""

FORGET_SKILL_COUNTS: Final = "delete from skill_count"

COUNT_SKILLS_ANEW: Final = f"""
insert into skill_count (category, cert_tier, extensible, part, count)
select category, cert_tier, extensible, 0, count from ({_SKILL_COUNTS}) as counted
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
numbered as ({_TAKE_NUMBER.format(condition="true")}),
written as (
    insert into skill as stored ({_INSERTED})
    select {_VALUES}, numbered.before + 1
    from {_RECORDS} cross join chosen cross join numbered
    where chosen.name is not null
    {_ON_CONFLICT}
    -- A row version that an UPDATE made carries the lock of its transaction in xmax.
    returning stored.*, stored.xmax = 0 as inserted
),
versioned as (
    {_add_versions("$5", written="exists (select from written)")}
)
select case when inserted then 'inserted' else 'updated' end, {skill_json("written")} from written
union all
select 'no-slug', '{{}}' from chosen where name is null
"""
"""$1 JSON array of one record, $2 the revision that it replaces, as an array, empty for none; $3
identity, $4 candidate slugs, $5 JSON array of the versions that it begins.

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
numbered as ({_TAKE_NUMBER.format(condition="true")}),
written as (
    insert into skill as stored ({_INSERTED})
    select {_VALUES}, numbered.before + row_number() over (order by record.identity)
    from record join chosen using (identity) cross join numbered
    -- One order for all sessions, so that they wait for each other in line, not in a circle.
    order by record.identity
    {_ON_CONFLICT}
    returning stored.identity
),
versioned as (
    {_add_versions("$3", written="identity in (select identity from written)")}
)
select identity from record where identity not in (select identity from written)
"""
"""$1 JSON array of records, each identity once; $2 the revisions that they replace; $3 JSON array
of the versions that they begin. Returns the identities that were not written."""

_VERSION_JSON = _json_of(SkillVersion, "skill_version")

LIST_VERSIONS: Final = f"""
select {_VERSION_JSON}
from skill_version
where identity = $1::text and ($2::text is null or place < $2::text)
order by place desc
limit $3::bigint
"""
"""$1 identity, $2 the place before the page or NULL, $3 limit."""


def _names_digits(table: str) -> str:
    fields = ("commit", "content_digest", "skill_md_digest")
    matches = " or ".join(f"starts_with({table}.{field}, asked.digits)" for field in fields)
    return f"(asked.digits <> '' and coalesce({matches}, false))"


FIND_INSTALLED: Final = f"""
select
    case when skill.identity is not null then {SUMMARY_JSON} end,
    skill.identity is not null and not {_names_digits("skill")} and exists (
        select from skill_version as version
        where version.identity = skill.identity and (
            (version.version = asked.version and version.version <> skill.current_version)
            or (
                {_names_digits("version")}
                and (version.version <> skill.current_version
                    or version.content_digest is distinct from skill.content_digest)
            )
        )
    )
from unnest($1::text[], $2::text[], $3::text[], $4::text[])
    with ordinality as asked (slug, identity, version, digits, number)
left join skill_alias on skill_alias.alias = asked.slug
left join skill as named on named.name = asked.slug
left join skill on skill.identity = coalesce(
    named.identity, skill_alias.identity, nullif(asked.identity, '')
)
order by asked.number
"""
"""$1 slugs, $2 identities, $3 versions, $4 digits of what is installed, each empty for none. One
row for each, in order; `updates.is_superseded` says the same of a skill and its versions."""

LOOK_FOR_VERSIONS: Final = """
select max(identity), count(*)
from (
    select identity from skill where identity > $1::text order by identity limit $2::bigint
) as looked_at
"""
"""$1 the identity before, $2 limit. The last of the rows that WITHOUT_VERSIONS looks at, and how
many these are."""

WITHOUT_VERSIONS: Final = f"""
select {skill_json("looked_at")}
from (
    select * from skill where identity > $1::text order by identity limit $2::bigint
) as looked_at
where not exists (
    select from skill_version where skill_version.identity = looked_at.identity
)
order by identity
"""
"""$1 the identity before, $2 limit."""

ADD_FIRST_VERSIONS: Final = _add_versions("$1", written="true")
"""$1 JSON array of versions."""

HOLD_NUMBERS: Final = "select changes from instance for update"
"""For the transaction: nobody else changes a skill until it ends, and what its later statements
see is what all who came before have committed."""

ADD_ALIASES: Final = f"""
with added as (
    insert into skill_alias (alias, identity)
    select alias, identity from unnest($1::text[], $2::text[]) as old (alias, identity)
    order by alias
    on conflict do nothing
    returning identity
),
renamed as (
    select identity, row_number() over (order by identity) as place
    from skill where identity in (select identity from added)
),
numbered as ({_TAKE_NUMBER.format(condition="(select count(*) from renamed) > 0")})
update skill set change = numbered.before + renamed.place
from renamed, numbered
where skill.identity = renamed.identity
"""
"""$1 aliases, $2 identities; behind HOLD_NUMBERS, as an alias is a change of its skill. An alias
that leads to another skill stays: it is that skill's link."""

FIND_CLAIMS: Final = """
select slug, coalesce(skill.identity, skill_alias.identity)
from unnest($1::text[]) as asked (slug)
left join skill on skill.name = slug
left join skill_alias on skill_alias.alias = slug
where skill.identity is not null or skill_alias.identity is not null
"""
"""$1 slugs."""

LIST_ALIASES: Final = """
select alias, old.identity, name, exists (select from skill as taken where taken.name = alias)
from (
    select * from skill_alias where alias > $1::text order by alias limit $2::bigint
) as old
left join skill on skill.identity = old.identity
order by alias
"""
"""$1 the alias before, $2 limit."""

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
        and ($1::text is null or row(updated_at, name) > row($1::text, $2::text))
    order by updated_at, name
    limit $3::bigint
) as dirty
order by updated_at, name
"""
"""$1 and $2 the place before the page or NULL, $3 limit."""

ADD_INSTALLS: Final = """
insert into skill_install as kept (identity, day, count)
select identity, $3::text, count from unnest($1::text[], $2::bigint[]) as told (identity, count)
-- One order for all sessions, so that they wait for each other in line, not in a circle.
order by identity
on conflict (identity, day) do update set count = kept.count + excluded.count
"""
"""$1 identities, each once, $2 how many installs of each, $3 the day."""

MEASURE_INSTALLS: Final = """
with looked_at as (
    select identity from skill where identity > $1::text order by identity limit $2::bigint
),
counted as (
    select looked_at.identity,
        least(coalesce(sum(count), 0), 2147483647)::integer as installs,
        coalesce(sum(count) filter (where day >= $3::text), 0)::double precision as week,
        coalesce(sum(count) filter (where day >= $4::text), 0)::double precision as month
    from looked_at left join skill_install using (identity)
    group by looked_at.identity
),
changed as (
    select counted.identity, greatest(skill.installs, counted.installs) as installs, week, month
    from counted join skill using (identity)
    where counted.installs > skill.installs
        or (week, month) is distinct from (trending_score_7d, trending_score_30d)
    order by identity
    for no key update of skill
),
measured as (
    update skill
    set installs = changed.installs, trending_score_7d = week, trending_score_30d = month,
        measured_in_kv = false
    from changed where skill.identity = changed.identity
    returning skill.identity
),
old as (
    delete from skill_install using looked_at
    where skill_install.identity = looked_at.identity and day < $4::text and day <> ''
    returning skill_install.identity, count
),
kept_together as (
    insert into skill_install as kept (identity, day, count)
    select identity, '', sum(count) from old group by identity
    on conflict (identity, day) do update set count = kept.count + excluded.count
)
select max(identity), count(*), (select count(*) from measured) from looked_at
"""
"""$1 the identity before, $2 limit, $3 the first day of the week, $4 that of the month. The last of
the rows that were looked at, how many these are, and how many of them changed.

Every part sees the counts as they were when the statement began, so what one adds up and another
removes is the same. The total of a row never falls: the counts may have been lost with a database.
"""

MEASURED: Final = f"""
select {skill_json("skill")} from skill
where not measured_in_kv and identity > $1::text order by identity limit $2::bigint
"""
"""$1 the identity before, $2 limit."""

NOTE_MEASURED: Final = """
update skill set measured_in_kv = true
from json_to_recordset($1::json) as told (
    identity text, installs integer, week double precision, month double precision
)
where skill.identity = told.identity
    and (skill.installs, trending_score_7d, trending_score_30d)
        = (told.installs, told.week, told.month)
"""
"""$1 JSON array of what KV has of each skill."""

_DECIDED_AT = "coalesce(skill.verdict_at, skill.certified_at, skill.read_at, skill.updated_at)"
"""`Skill.decided_at`."""

COMPARE_RANGE: Final = f"""
with record as (
    select name collate "C" as name, identity collate "C" as identity,
        revision collate "C" as revision, published_at
    from unnest($1::text[], $2::text[], $3::text[], $7::text[])
        as record (name, identity, revision, published_at)
),
compared as (
    select record.name, mine.identity, case
        when mine.identity is null and taken.identity is not null then 'taken-slug'
        when mine.identity is null then 'missing-in-database'
        when mine.name <> record.name then 'other-slug'
        when mine.revision < record.revision then 'newer-in-kv'
        when mine.revision > record.revision then 'newer-in-database'
        when record.published_at <> '' and mine.published_at <> record.published_at
            then 'newer-in-kv'
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
$6 how many differences at most; $7 first publications of KV's records, empty: not compared."""

COUNT_RANGE: Final = """
select count(*) from skill where name > $1::text and ($2::text is null or name <= $2::text)
"""
"""$1 after, $2 until (NULL: the end)."""

COMPARE_ALIASES: Final = """
with asked as (
    select alias collate "C" as alias, slug collate "C" as slug
    from unnest($1::text[], $2::text[]) as asked (alias, slug)
),
lacking as (
    select asked.alias, true as in_kv
    from asked
    left join skill_alias as mine on mine.alias = asked.alias
    left join skill_alias as target on target.alias = asked.slug
    where mine.alias is null and exists (
        select from skill where skill.name = asked.slug or skill.identity = target.identity
    )
    union all
    select alias, false
    from skill_alias
    where alias > $3::text and ($4::text is null or alias <= $4::text)
        and alias not in (select alias from asked)
        and exists (select from skill where skill.identity = skill_alias.identity)
)
select alias, in_kv from lacking
where not exists (select from skill where skill.name = lacking.alias)
order by alias
limit $5::bigint
"""
"""$1 old slugs, $2 the slugs that they lead to; $3 after, $4 until (NULL: the end), $5 limit."""

ROWS_BEHIND_THE_LOG: Final = f"""
select logged.identity
from unnest($1::text[], $2::text[], $3::text[]) as logged (identity, moment, first)
left join skill on skill.identity = logged.identity
where skill.identity is null or {_DECIDED_AT} < logged.moment collate "C"
    or skill.published_at > logged.first collate "C"
"""
"""$1 identities, each once, $2 the moments of their newest verdicts in the log, $3 those of their
first publication, NULL where that is not known."""

ROWS_NOT_IN_THE_LOG: Final = f"""
select {skill_json("unlogged")}
from (
    select *
    from skill
    where identity_digest > $2::text and ($3::text is null or identity_digest <= $3::text)
        and {_DECIDED_AT} < $5::text
        and not exists (
            select from unnest($1::text[]) as logged (identity)
            where logged.identity = skill.identity
        )
    order by identity_digest
    limit $4::bigint
) as unlogged
order by identity_digest
"""
"""$1 identities that the log has, $2 the digest after which, $3 until which (NULL: the end),
$4 limit, $5 the moment before which a row was decided."""

LIST_ACTED: Final = f"""
select {skill_json("acted")}
from (
    select * from skill where acts <> '[]' and name > $1::text order by name limit $2::bigint
) as acted
order by name
"""
"""$1 the slug before the page, $2 limit."""

ADD_RULE: Final = """
insert into rule
    (id, kind, matches, value, reason, at, by, threat_type, severity, evidence_urls,
     lifted_at, lifted_by, lift_reason)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text[], $11, $12, $13)
on conflict (id) do nothing
"""
"""The fields in order, without the last."""

LIFT_RULE: Final = """
update rule
set lifted_at = $2::text, lifted_by = $3::text, lift_reason = $4::text, applied_at = null
where id = $1::text and lifted_at is null
"""

_RULE_JSON = _json_of(Rule, "rule")

LIST_RULES: Final = f"""
select {_RULE_JSON} from rule
where $1::text is null or id < $1::text
order by id desc
limit $2::bigint
"""
"""$1 the id before the page or NULL, $2 limit."""

FIND_RULES: Final = f"""
select {_RULE_JSON}
from rule
where id in (
    select rule.id
    from unnest($1::text[], $2::text[]) as target (matches, value)
    join rule on rule.matches = target.matches and rule.value = target.value
    where rule.lifted_at is null
    union all
    select unnest($3::text[])
)
order by id
"""
"""$1 what the targets are matched by, $2 their values, $3 ids."""

COUNT_OPEN_RULES: Final = "select count(*) from rule where applied_at is null"

NEXT_OPEN_RULE: Final = f"""
select {_RULE_JSON} from rule where applied_at is null and id > $1::text order by id limit 1
"""

_UNRULED = """
select identity from skill
where {condition} and identity > $2::text and not acts @> $3::jsonb
order by identity
limit $4::bigint
"""

LIST_UNRULED: Final = {
    Matches.IDENTITY: _UNRULED.format(condition="identity = $1::text"),
    # What follows the owner is a slash, and 0 is the character after it.
    Matches.OWNER: _UNRULED.format(
        condition="identity > 'https://' || $1::text || '/'"
        " and identity < 'https://' || $1::text || '0'"
    ),
    Matches.CONTENT_DIGEST: _UNRULED.format(condition="content_digest = $1::text"),
}
"""$1 the value that a rule matches, $2 the identity before the page, $3 what the acts of a skill
that the rule was applied to contain, $4 limit."""

LIST_UNLIFTED: Final = _UNRULED.format(condition="acts <> '[]' and acts @> $1::jsonb")
"""$1 what the acts of a skill that a rule was applied to contain, $2 the identity before the page,
$3 what those contain of which the rule's are lifted, $4 limit."""

MARK_APPLIED: Final = """
update rule set applied_at = $2::text
where id = $1::text and lifted_at is not distinct from $3::text
"""

FIND_CONTENT: Final = f"""
with named as (
    select identity, license from skill where content_digest = $1::text
    union select identity, license from skill where skill_md_digest = $1::text
    union select identity, license from skill_version where content_digest = $1::text
    union select identity, license from skill_version where skill_md_digest = $1::text
), chosen as (
    select distinct on (named.license) named.license, skill.identity
    from named join skill on skill.identity = named.identity
    order by named.license, skill.status <> 'LISTED', skill.scan_failed_at is not null, skill.name
)
select {skill_json("skill")}, chosen.license
from chosen join skill on skill.identity = chosen.identity
order by skill.name, chosen.license
"""
"""$1 digest."""

COMPARE_CONTENT: Final = """
with named as (
    select digest, array_agg(distinct coalesce(license, '')) as licenses, min(name) as name
    from (
        select content_digest as digest, license, case when status = 'LISTED' then name end as name
        from skill where content_digest >= $2::text and content_digest < $3::text
        union all
        select skill_md_digest, license, case when status = 'LISTED' then name end
        from skill where skill_md_digest >= $2::text and skill_md_digest < $3::text
        union all
        select content_digest, license, null
        from skill_version where content_digest >= $2::text and content_digest < $3::text
        union all
        select skill_md_digest, license, null
        from skill_version where skill_md_digest >= $2::text and skill_md_digest < $3::text
    ) as each
    group by digest
), compared as (
    select stored.digest is not null as is_stored,
        coalesce(stored.digest, named.digest) as digest, named.licenses, named.name
    from unnest($1::text[]) as stored (digest)
    full join named on named.digest = stored.digest
)
select is_stored, to_json(licenses), count(*), min(digest), min(name)
from compared
where (is_stored or name is not null) and digest <> all($4::text[])
group by is_stored, licenses
order by min(digest)
"""
"""$1 the stored digests from $2 on and before $3, $4 those to leave out."""

COUNT_WITHOUT_CONTENT: Final = """
select count(*) from skill where status = 'LISTED' and content_digest is null
"""

WITHHELD_KEYS: Final = """
select name, identity, status from skill where status <> 'LISTED' order by name
"""

LIST_WITHHELD: Final = f"""
select {skill_json("withheld")}
from (
    select * from skill where status <> 'LISTED' and name > $1::text order by name limit $2::bigint
) as withheld
order by name
"""
"""$1 the slug before the page, $2 limit."""

FINGERPRINT: Final = "select count(*), coalesce(sum(digest), 0) from skill"
"""Count, and the exact sum (numeric, signed) of all rows' digests."""

_DIGEST_WITHHELD = """
    ('x' || encode(substring(sha256(convert_to(name || ' ' || status, 'UTF8')) for 8), 'hex'))
        ::bit(64)::bigint
"""
"""As the column ``digest``, with the status in the place of the revision."""

LIST_CHANGES: Final = f"""
with page as (
    select change, name, identity from skill
    where change > $1::bigint
    order by change
    fetch first ($2::bigint) rows with ties
)
select 'head' as kind, (changes + 1) * {_IN_A_STATEMENT} - 1 as number, generation as told,
    '' as revision, '' as aliases
from instance
union all
select 'change', page.change, {skill_json("skill")}::text, revision,
    (
        select coalesce(json_agg(alias order by alias), '[]')
        from skill_alias where skill_alias.identity = page.identity
    )::text
from page join skill using (identity)
union all
select 'claim', change, json_build_array(name, identity)::text, '', '' from skill
where identity = any($3::text[]) or name = any($4::text[])
union all
select 'claim', change, json_build_array(alias, identity)::text, '', ''
from skill_alias join skill using (identity)
where alias = any($4::text[])
union all
-- Read only where the page is the last one.
select 'fingerprint', all_skills.count,
    (all_skills.digest + coalesce(withheld.difference, 0))::text, '', ''
from (select count(*), coalesce(sum(digest), 0) as digest from skill) as all_skills,
    (
        select sum({_DIGEST_WITHHELD}::numeric - digest) as difference
        from skill where status <> 'LISTED'
    ) as withheld
where not exists (
    select from skill where change > coalesce((select max(change) from page), $1::bigint)
)
"""
"""$1 the number after which, $2 limit, $3 identities and $4 slugs of the seed. All of one moment:
the number of the last change, the changes, what the seed gives way to and, with the last of them,
the count and the sum of `fingerprint.add_items`."""

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

NOTE_FAILED_AGAIN: Final = """
update dead_letter set failed_at = $2::text
where id = $1::text and redriven_at is null and failed_at < $2::text
"""
"""$1 id, $2 the moment."""

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

ADD_AUDIT_ENTRY: Final = """
insert into audit (id, at, principal, role, action, target, before, after, reason)
values ($1, $2, $3, $4, $5, $6, $7::json, $8::json, $9)
"""
"""The fields in order."""

LIST_AUDIT_ENTRIES: Final = f"""
select {_json_of(AuditEntry, "audit")}
from audit
where ($1::text is null or principal = $1::text)
    and ($2::text is null or action = $2::text)
    and ($3::text is null or target = $3::text)
    and ($4::text is null or id >= $4::text)
    and ($5::text is null or id < $5::text)
order by id desc
limit $6::bigint
"""
"""$1 principal, $2 action, $3 target, $4 since, each or NULL; $5 the id before the page or NULL,
$6 limit. An id begins with its moment, so that those since a moment are not less than it."""

ADD_REPORT: Final = """
insert into report (id, at, slug, identity, reason, text) values ($1, $2, $3, $4, $5, $6)
"""

_REPORT_JSON = _json_of(SkillReport, "report")

LIST_REPORTS: Final = f"""
select {_REPORT_JSON}
from report
where $2::text is null or row(resolved_at is not null, id) > row($1::boolean, $2::text)
order by (resolved_at is not null), id
limit $3::bigint
"""
"""$1 and $2 the place before the page or NULL, $3 limit."""

GET_REPORT: Final = f"select {_REPORT_JSON} from report where id = $1::text"

RESOLVE_REPORT: Final = """
update report set resolved_at = $2::text, resolved_by = $3::text, resolution = $4::text
where id = $1::text and resolved_at is null
"""

ASK_FOR_SCANS: Final = """
with asked as (
    select wanted.*, case when skill.identity is null then 'new' else 'rescan' end as reason
    from unnest($1::text[], $2::text[], $3::text[], $4::text[])
        as wanted (identity, submission_id, requested_at, submission)
    left join skill on skill.identity = wanted.identity
)
insert into scan_request as stored
    (identity, submission_id, reason, requested_at, submission, free_at)
select identity, submission_id, reason, requested_at, submission::json, requested_at from asked
-- In one order, as in UPSERT_SKILLS.
order by identity
on conflict (identity) do update set
    submission_id = excluded.submission_id, reason = excluded.reason,
    requested_at = excluded.requested_at, submission = excluded.submission,
    attempts = 0, free_at = excluded.free_at, answered_at = null
where stored.requested_at <= excluded.requested_at
    and stored.submission_id <> excluded.submission_id
    and (stored.answered_at is not null or stored.reason = 'due' or stored.requested_at <= $5::text)
    and not (
        stored.reason = 'rescan' and excluded.reason = 'rescan' and stored.requested_at > $6::text
    )
"""
"""$1 identities, each once, $2 ids of submissions, $3 moments, $4 submissions as JSON; $5 the
moment up to which requests are expired, $6 the one since which a rescan is in the way of another.
"""

_SCAN_JSON = _json_of(ScanRequest, "scan_request")

GET_SCANS: Final = f"select {_SCAN_JSON} from scan_request where identity = any($1::text[])"

_COUNT_HANDED_OUT = """
    insert into scan_hour as counted (hour, handed_out)
    select {hour}, count(*) from handed having count(*) > 0
    on conflict (hour) do update set handed_out = counted.handed_out + excluded.handed_out
"""

HAND_OUT_SCANS: Final = f"""
with fresh as (
    select identity
    from scan_request
    where answered_at is null and attempts = 0 and requested_at > $4::text
    order by (reason <> 'new'), requested_at
    limit $1::bigint
    for update skip locked
),
unanswered as (
    select identity
    from scan_request
    where answered_at is null and attempts > 0 and free_at <= $2::text and requested_at > $4::text
    order by free_at
    limit $1::bigint - (select count(*) from fresh)
    for update skip locked
),
handed as (
    update scan_request
    set attempts = attempts + 1,
        free_at = ($3::text[])[least(attempts + 1, cardinality($3::text[]))]
    where identity in (select identity from fresh union all select identity from unanswered)
    returning *
),
counted as ({_COUNT_HANDED_OUT.format(hour="$5::text")})
select {_json_of(ScanRequest, "handed")}
from handed
order by attempts > 1, reason <> 'new', requested_at, identity
"""
"""$1 limit, $2 now, $3 when the first, second … hand-out is over, $4 the moment up to which
requests are expired, $5 the hour."""

_READ_AT = f"greatest({_DECIDED_AT}, skill.due_at)"

HAND_OUT_DUE_SCANS: Final = f"""
with due as (
    select identity, repo_url, base_slug, skill_path, {_READ_AT} as read_at
    from skill
    where status = 'LISTED' and {_READ_AT} <= $4::text
        and not exists (
            select from scan_request
            where scan_request.identity = skill.identity
                and (answered_at is null and reason <> 'due' or requested_at > $4::text)
        )
    order by {_READ_AT}
    limit cardinality($1::text[])
    -- Others that ask at this moment get the next ones.
    for no key update of skill skip locked
),
marked as (
    update skill set due_at = $2::text from due where skill.identity = due.identity
),
numbered as (
    select due.*, ($1::text[])[row_number() over (order by read_at, identity)] as submission_id
    from due
),
handed as (
    insert into scan_request as stored
        (identity, submission_id, reason, requested_at, submission, attempts, free_at)
    select identity, submission_id, 'due', $2::text,
        json_build_object(
            'id', submission_id, 'repoUrl', repo_url, 'skillName', base_slug,
            'baseSlug', base_slug, 'createdAt', $2::text, 'skillPath', skill_path
        ),
        1, $3::text
    from numbered
    order by identity
    on conflict (identity) do update set
        submission_id = excluded.submission_id, reason = excluded.reason,
        requested_at = excluded.requested_at, submission = excluded.submission,
        attempts = 1, free_at = excluded.free_at, answered_at = null
    where (stored.answered_at is not null or stored.reason = 'due')
        and stored.requested_at <= $4::text
    returning *
),
counted as ({_COUNT_HANDED_OUT.format(hour="$5::text")})
select {_json_of(ScanRequest, "handed")}
from handed join due using (identity)
order by due.read_at, identity
"""
"""$1 ids of the submissions that are made, $2 now, $3 when the hand-out is over, $4 the moment up
to which a reading is old, $5 the hour."""

ANSWER_SCANS: Final = """
with answered as (
    update scan_request set answered_at = $4::text
    where submission_id = any($1::text[]) and answered_at is null
),
postponed as (
    update scan_request
    set free_at = greatest(free_at, $3::text), attempts = greatest(attempts, 1)
    where submission_id = any($2::text[]) and answered_at is null
)
insert into scan_hour as counted (hour, results)
select $5::text, cardinality($1::text[]) + cardinality($2::text[])
on conflict (hour) do update set results = counted.results + excluded.results
"""
"""$1 ids of answered submissions, $2 of those to be read again, $3 when, $4 now, $5 the hour."""

FORGET_SCANS: Final = """
delete from scan_request
where requested_at <= $1::text and identity in (
    select identity from scan_request
    where requested_at <= $1::text
    order by requested_at
    limit $2::bigint
)
"""

FORGET_SCAN_HOURS: Final = "delete from scan_hour where hour < $1::text"

COUNT_OPEN_SCANS: Final = """
select reason, count(*), min(requested_at)
from scan_request
where answered_at is null and requested_at > $1::text
group by reason
"""

COUNT_UNREAD: Final = f"""
select count(*), min(greatest({_READ_AT}, scan_request.requested_at))
from skill left join scan_request on scan_request.identity = skill.identity
where status = 'LISTED' and {_READ_AT} <= $1::text
    and (
        scan_request.identity is null
        or scan_request.answered_at is not null and scan_request.requested_at <= $1::text
    )
"""
"""$1 the moment up to which a reading is old."""

LIST_SCAN_HOURS: Final = """
select hour, handed_out, results from scan_hour where hour >= $1::text order by hour
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
