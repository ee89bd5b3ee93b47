"""Records are enumerated whole, and broken ones never hide the others."""

import msgspec
import pytest

from marketplace.basics.json_text import InvalidData, Unreadable
from marketplace.kv.access import MAX_RECORD_BYTES
from marketplace.kv.aliases import mark_moved
from marketplace.kv.records import (
    Alias,
    enumerate_published_skills,
    read_record,
    read_records,
    write_record,
)
from marketplace.kv.summaries import Moved, encode_metadata
from marketplace.ports.errors import KvError
from marketplace.ports.kv import KV_VALUE_LIMIT
from marketplace.skills.skill import Skill
from tests.doubles.marketplace import Market, fault, make_skill
from tests.doubles.network import Fault
from tests.unit.kv.records import enumerate_all, listed


@pytest.mark.market(page_limit=3)
async def test_metadata_and_values_enumerate_the_same_over_all_pages(market: Market) -> None:
    skills = [make_skill(f"skill-{number}") for number in range(25)]
    for number, skill in enumerate(skills):
        await write_record(market.env, skill)
        if number % 2:  # as an older generation wrote it
            market.kv.damage(f"skill:{skill.name}", msgspec.json.encode(skill), metadata={"v": 0})
    pages = await enumerate_all(market)
    found = {e.summary.name: e for page in pages for e in page.summaries}
    assert found == {skill.name: skill.published_summary() for skill in skills}
    assert len(pages) == 9
    assert pages[-1].cursor is None


async def test_empty_pages_are_not_the_end(market: Market) -> None:
    await write_record(market.env, make_skill())
    empty = iter([Fault.EMPTY_PAGE, Fault.EMPTY_PAGE])
    market.kv.faults = lambda operation: next(empty, None) if operation.kind == "list" else None
    assert await listed(market) == ["pdf-tools"]


@pytest.mark.market(page_limit=2)
async def test_the_page_budget_stops_with_a_cursor_to_go_on(market: Market) -> None:
    for number in range(6):
        await write_record(market.env, make_skill(f"skill-{number}"))
    first = await enumerate_all(market, page_budget=2)
    assert [page.last_slug for page in first] == ["skill-1", "skill-3"]
    rest = await enumerate_all(market, cursor=first[-1].cursor)
    assert [e.summary.name for page in rest for e in page.summaries] == ["skill-4", "skill-5"]


BROKEN = {
    "skill:no-json": b"{",
    "skill:random": bytes(range(256)),
    "skill:deep": b"[" * 200_000,
    "skill:deep-name": b'{"repoUrl": "https://github.com/o/r", "labels": '
    + b"[" * 900
    + b"]" * 900
    + b"}",
    "skill:huge-number": b'{"repoUrl": "https://github.com/o/r", "certScore": 1'
    + b"0" * 6000
    + b"}",
    "skill:cut-off": b'{"repoUrl": "https://github.com/o/',
    "skill:nan": b'{"repoUrl": "https://github.com/o/r", "certScore": NaN}',
    "skill:surrogate": b'{"repoUrl": "https://github.com/o/r", "description": "\\ud800"}',
    "skill:list": b"[1, 2]",
    "skill:no-repository": b'{"name": "no-repository"}',
    "skill:bad-repository": b'{"repoUrl": "javascript:alert(1)"}',
    "skill:moved-nowhere": b'{"movedTo": 7}',
    "skill:wrong-types": b'{"repoUrl": "https://github.com/o/r", "labels": {"a": 1}}',
    "skill:empty": b"",
    "skill:whale": b'{"description": "' + b"x" * (KV_VALUE_LIMIT - 100) + b'"}',
    "skill:": b"{}",
    "skill:UPPER": b"{}",
    "skill:a b": b"{}",
    "skill:\u202e\u0000\U0001f4a9": b"{}",
    "skill:a:b": b"{}",
    "skill:../x": b"{}",
}


async def test_malformed_records_are_named_and_never_hide_the_others(market: Market) -> None:
    for key, value in BROKEN.items():
        market.kv.damage(key, value)
    healthy = [make_skill(f"skill-{number:03}") for number in range(150)]
    for skill in healthy:
        market.kv.damage(f"skill:{skill.name}", msgspec.json.encode(skill))
    market.kv.damage(
        "skill:twice", b'{"name": "x", "name": "twice", "repoUrl": "https://github.com/o/r"}'
    )
    pages = await enumerate_all(market)
    assert [e.summary.name for p in pages for e in p.summaries] == [
        *(skill.name for skill in healthy),
        "twice",
    ]
    assert {broken.key for p in pages for broken in p.malformed} == set(BROKEN)
    named = [line["key"] for line in market.log.lines if line["event"] == "kv-record-malformed"]
    assert len(named) == 20
    assert market.log.lines[-1]["not_named"] == len(BROKEN) - 20
    assert market.kv.operations["get_many"] + market.kv.operations["get"] < 20


@pytest.mark.parametrize("whales", [1, 3])
async def test_a_value_of_25_mib_is_found_in_few_reads_of_it(market: Market, whales: int) -> None:
    for number in range(100):
        skill = make_skill(f"skill-{number:02}")
        market.kv.damage(f"skill:{skill.name}", msgspec.json.encode(skill))
    for number in range(whales):
        market.kv.damage(f"skill:skill-{31 * number:02}", b"x" * KV_VALUE_LIMIT)
    (page,) = await enumerate_all(market)
    assert len(page.summaries) == 100 - whales
    assert len(page.malformed) == whales
    assert page.waiting == []
    assert market.kv.operations["get_many"] + market.kv.operations["get"] <= 1 + 10 + 10 * whales


async def test_aliases_and_moved_records_are_told_apart_from_skills(market: Market) -> None:
    await write_record(market.env, make_skill("new"))
    await mark_moved(market.env, "old", "new")
    market.kv.damage("skill:alias:older", b'"new"')
    (page,) = await enumerate_all(market)
    assert [e.summary.name for e in page.summaries] == ["new"]
    assert page.moved == [Moved("old", "new")]
    assert page.aliases == [Alias("old", "new"), Alias("older", None)]
    assert [key.name for key in page.record_keys()] == ["new"]


async def test_a_skill_named_alias_is_a_skill(market: Market) -> None:
    await write_record(market.env, make_skill("alias"))
    assert await listed(market) == ["alias"]


async def test_110_000_keys_take_111_list_calls_at_most(market: Market) -> None:
    template = encode_metadata(make_skill("s-000000"))
    assert template is not None
    for number in range(110_000):
        metadata = template.replace("s-000000", f"s-{number:06}")
        market.kv.damage(f"skill:s-{number:06}", b"{}", metadata=metadata)
    found = 0
    async for page in enumerate_published_skills(market.env):
        found += len(page.summaries)
    assert found == 110_000
    assert market.kv.operations == {"list": 110}


async def test_a_hanging_kv_is_a_failed_kv(market: Market) -> None:
    market.kv.faults = fault(Fault.HANG, "list", "get", "put")
    with pytest.raises(KvError) as failure:
        await listed(market)
    assert failure.value.reason == "timeout"
    with pytest.raises(KvError):
        await read_record(market.env, "a")
    with pytest.raises(KvError):
        await write_record(market.env, make_skill())


async def test_records_are_read_in_bulk_and_told_apart(market: Market) -> None:
    skill = make_skill(description="long " * 200)
    await write_record(market.env, skill)
    await mark_moved(market.env, "old", "pdf-tools")
    market.kv.damage("skill:bad", b"[]")
    before = market.kv.operations.total()
    records = await read_records(market.env, ["pdf-tools", "old", "bad", "none", "x" * 600])
    assert records["pdf-tools"] == skill
    assert records["old"] == Moved("old", "pdf-tools")
    assert isinstance(records["bad"], Unreadable)
    assert records["none"] is None
    assert records["x" * 600] is None
    assert market.kv.operations.total() - before == 1


@pytest.mark.parametrize(
    "skill",
    [
        make_skill(name="Not A Slug", base_slug="a"),
        make_skill(repo_url="nowhere"),
        make_skill(description="\ud800"),
        make_skill(description="x" * MAX_RECORD_BYTES),
    ],
)
async def test_what_could_not_be_read_back_is_not_written(market: Market, skill: Skill) -> None:
    with pytest.raises(InvalidData):
        await write_record(market.env, skill)
    assert market.kv.keys() == []


@pytest.mark.parametrize("score", [b"1e309", b"-1e309", b"true", b'"ninety"', b"null"])
async def test_a_score_that_is_no_number_hides_no_record(market: Market, score: bytes) -> None:
    market.kv.damage("skill:a", b'{"repoUrl":"https://github.com/a/b","certScore":' + score + b"}")
    (page,) = await enumerate_all(market)
    assert page.malformed == []
    (found,) = page.summaries
    assert (found.summary.name, found.summary.cert_score) == ("a", 0)


async def test_a_trend_beyond_all_numbers_hides_no_record(market: Market) -> None:
    value = b'{"repoUrl":"https://github.com/a/b","trendingScore7d":1e400}'
    market.kv.damage("skill:a", value)
    (page,) = await enumerate_all(market)
    assert [found.summary.trending_score_7d for found in page.summaries] == [0.0]
