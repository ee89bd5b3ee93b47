"""Records, enumeration, aliases, outbox and submissions in KV."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.kv.access import MAX_RECORD_BYTES
from marketplace.kv.aliases import mark_moved, resolve_alias, write_alias
from marketplace.kv.outbox import clear_outbox, list_outbox, list_outbox_summaries, write_outbox
from marketplace.kv.records import (
    Alias,
    PublishedPage,
    enumerate_published_skills,
    read_record,
    read_records,
    write_record,
)
from marketplace.kv.state import load_state, save_state
from marketplace.kv.submissions import (
    PendingSubmission,
    create_submission,
    find_by_identity,
    get_scans,
    get_submission,
    oldest_pending,
    record_publication,
    record_scan,
    submission_status,
)
from marketplace.kv.summaries import Moved, decode_metadata, encode_metadata
from marketplace.ports.env import Settings
from marketplace.ports.errors import KvError
from marketplace.ports.kv import KV_METADATA_LIMIT, KV_VALUE_LIMIT
from marketplace.skills.skill import Skill
from marketplace.skills.stored import InvalidRecord
from marketplace.skills.submission import (
    Publication,
    Scan,
    Submission,
    SubmissionState,
    SubmissionStatus,
    Verdict,
)
from tests.doubles.marketplace import Market, fault, make_skill
from tests.doubles.network import Fault

# Text that every store can hold: everything but lone surrogates and NUL
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=120)


async def enumerate_all(market: Market, **options: Any) -> list[PublishedPage]:
    return [page async for page in enumerate_published_skills(market.env, **options)]


async def listed(market: Market) -> list[str]:
    return [e.summary.name for page in await enumerate_all(market) for e in page.summaries]


# --- metadata


@given(
    description=text,
    display_name=text,
    labels=st.lists(text, max_size=4).map(tuple),
    score=st.integers(0, 100),
    trend=st.floats(allow_nan=False, allow_infinity=False),
    base_slug=st.sampled_from(["pdf-tools", "tools"]),
)
def test_metadata_fits_and_comes_back_the_same_or_is_left_out(
    description: str,
    display_name: str,
    labels: tuple[str, ...],
    score: int,
    trend: float,
    base_slug: str,
) -> None:
    skill = make_skill(
        description=description,
        display_name=display_name,
        labels=labels,
        cert_score=score,
        trending_score_7d=trend,
        base_slug=base_slug,
    )
    metadata = encode_metadata(skill)
    if metadata is None:
        size = len(json.dumps(description + display_name + "".join(labels), ensure_ascii=False))
        assert size > 200
    else:
        assert len(json.dumps(metadata, ensure_ascii=False).encode()) <= KV_METADATA_LIMIT
        assert decode_metadata("pdf-tools", metadata) == skill.published_summary()


def test_a_text_that_only_looks_like_nul_is_a_text() -> None:
    skill = make_skill(description="Escapes \\u0000 and \\\\u0000.")
    metadata = encode_metadata(skill)
    assert decode_metadata("pdf-tools", metadata) == skill.published_summary()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("description", "nul \0"), ("labels", ("a", "\0"))),
        *(("cert_score", 101), ("cert_score", -1), ("cert_score", 2**60)),
        *(("updated_at", "yesterday"), ("published_at", ""), ("certified_at", "2026-01-01")),
    ],
)
def test_metadata_that_no_skill_can_have_is_not_believed(field: str, value: Any) -> None:
    metadata = encode_metadata(msgspec.structs.replace(make_skill(), **{field: value}))
    assert decode_metadata("pdf-tools", metadata) is None


def test_an_ordinary_skill_with_the_longest_description_fits() -> None:
    skill = make_skill(description="A sentence. " * 90, license="Apache-2.0")
    assert encode_metadata(skill) is not None


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"name": "pdf-tools"},
        [],
        7,
        True,
        "",
        "[]",
        "null",
        '["s9"]',
        "[" * 100_000,
        "\ud800",
    ],
)
def test_unusable_metadata_is_none(metadata: object) -> None:
    assert decode_metadata("pdf-tools", metadata) is None


@given(st.data())
def test_damaged_metadata_never_raises_nor_breaks_the_identity(data: st.DataObject) -> None:
    metadata = encode_metadata(make_skill())
    assert metadata is not None
    at = data.draw(st.integers(0, len(metadata) - 1))
    damaged = metadata[:at] + data.draw(st.text(max_size=2)) + metadata[at + 1 :]
    match decode_metadata("pdf-tools", damaged):
        case None | Moved():
            pass
        case published:
            assert published.summary.name == "pdf-tools"
            assert published.summary.identity


def test_metadata_of_another_slug_is_not_believed() -> None:
    assert decode_metadata("other", encode_metadata(make_skill())) is None


# --- enumeration


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
    "skill:overflow": b'{"repoUrl": "https://github.com/o/r", "trendingScore7d": 1e400}',
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


# --- single records


async def test_records_are_read_in_bulk_and_told_apart(market: Market) -> None:
    skill = make_skill(description="long " * 200)
    await write_record(market.env, skill)
    await mark_moved(market.env, "old", "pdf-tools")
    market.kv.damage("skill:bad", b"[]")
    before = market.kv.operations.total()
    records = await read_records(market.env, ["pdf-tools", "old", "bad", "none", "x" * 600])
    assert records["pdf-tools"] == skill
    assert records["old"] == Moved("old", "pdf-tools")
    assert isinstance(records["bad"], InvalidRecord)
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
    with pytest.raises(InvalidRecord):
        await write_record(market.env, skill)
    assert market.kv.keys() == []


# --- aliases


async def test_aliases_resolve_over_chains(market: Market) -> None:
    env = market.env
    await write_record(env, make_skill("c"))
    await mark_moved(env, "b", "c")
    await write_alias(env, "a", "b")
    market.kv.damage("skill:alias:plain", b"c")
    market.kv.damage("skill:alias:quoted", b'"c"')
    market.kv.damage("skill:alias:object", b'{"newSlug": "c"}')
    for slug in ("a", "b", "c", "plain", "quoted", "object"):
        assert await resolve_alias(env, slug) == "c", slug
    assert await resolve_alias(env, "unknown") is None
    assert market.log.lines == []


async def test_aliases_that_lead_nowhere_end(market: Market) -> None:
    env = market.env
    await write_alias(env, "lost", "nothing")
    await write_alias(env, "x", "y")
    await write_alias(env, "y", "x")
    for number in range(30):
        await write_alias(env, f"n{number}", f"n{number + 1}")
    market.kv.damage("skill:alias:self", b'"self"')
    for slug in ("lost", "x", "n0"):
        assert await resolve_alias(env, slug) is None, slug
    assert market.log.events() == ["alias-unresolved"] * 3
    for slug in ("self", "\ud800", "x" * 2000, ""):
        assert await resolve_alias(env, slug) is None, slug


async def test_moving_leaves_the_old_record_until_the_alias_is_there(market: Market) -> None:
    await write_record(market.env, make_skill("old"))
    market.kv.faults = fault(Fault.FAIL, "put", key="alias")
    with pytest.raises(KvError):
        await mark_moved(market.env, "old", "new")
    assert await listed(market) == ["old"]


# --- outbox


async def test_the_outbox_keeps_every_state_and_broken_entries_do_not_stand_in_the_way(
    market: Market,
) -> None:
    env = market.env
    first, second = make_skill(), make_skill(current_version="2.0.0")
    keys = {await write_outbox(env, skill) for skill in (first, second, first)}
    market.kv.damage("outbox:0:broken", b"{")
    entries = await list_outbox(env)
    assert {entry.key for entry in entries} == keys
    assert {entry.skill.current_version for entry in entries} == {"1.0.0", "2.0.0"}
    assert len(await list_outbox_summaries(env)) == 2
    assert len(await list_outbox(env, limit=1)) == 1
    await clear_outbox(env, keys)
    assert market.kv.keys() == ["outbox:0:broken"]
    with pytest.raises(ValueError, match="not a key of the outbox"):
        await clear_outbox(env, ["skill:a"])


# --- submissions


def make_submission(
    identifier: str = "id-1", created_at: str = "2026-11-02T08:00:00.000Z"
) -> Submission:
    return Submission(
        id=identifier,
        repo_url="https://github.com/octo/tools",
        skill_name="PDF tools",
        base_slug="pdf-tools",
        created_at=created_at,
    )


def make_scan(verdict: Verdict = Verdict.PASS, at: str = "2026-11-03T08:00:00.000Z") -> Scan:
    return Scan(submission_id="id-1", verdict=verdict, score=90, scanned_at=at, reason="because")


PUBLICATION = Publication(
    submission_id="id-1",
    slug="pdf-tools",
    version="1.0.0",
    published_at="2026-11-04T08:00:00.000Z",
    scanned_at="2026-11-03T08:00:00.000Z",
)


async def status(market: Market) -> SubmissionStatus:
    found = await submission_status(market.env, "id-1")
    assert found is not None
    return found


async def test_a_submission_moves_forward_only(market: Market) -> None:
    env, submission = market.env, make_submission()
    assert await submission_status(env, "id-1") is None
    await create_submission(env, submission)
    assert (await status(market)).state is SubmissionState.RECEIVED
    assert await find_by_identity(env, submission.identity) == "id-1"
    assert await oldest_pending(env) is None
    await record_scan(env, submission, make_scan())
    pending = PendingSubmission("id-1", make_scan().scanned_at)
    assert await oldest_pending(env) == pending
    assert (await status(market)).state is SubmissionState.SCANNED
    await record_publication(env, PUBLICATION)
    assert (await status(market)).slug == "pdf-tools"
    assert await oldest_pending(env) is None
    await record_scan(env, submission, make_scan(Verdict.FAIL, "2026-11-05T08:00:00.000Z"))
    assert (await status(market)).state is SubmissionState.PUBLISHED


async def test_a_rejected_submission_stays_rejected(market: Market) -> None:
    env, submission = market.env, make_submission()
    await create_submission(env, submission)
    await record_scan(env, submission, make_scan())
    late = make_scan(Verdict.FAIL, "2026-11-02T09:00:00.000Z")
    assert (await record_scan(env, submission, late)).verdict is Verdict.PASS
    rejection = make_scan(Verdict.FAIL, "2026-11-04T09:00:00.000Z")
    assert await record_scan(env, submission, rejection) == rejection
    later = make_scan(Verdict.PASS, "2026-11-05T09:00:00.000Z")
    assert await record_scan(env, submission, later) == rejection
    found = await status(market)
    assert (found.state, found.reason) == (SubmissionState.REJECTED, "because")
    assert found.rejected_at == rejection.scanned_at
    assert await oldest_pending(env) is None


async def test_the_oldest_pending_is_one_list_call(market: Market) -> None:
    for number in (5, 3, 4):
        submission = make_submission(f"a:{number}", "2026-11-01T08:00:00.000Z")
        scan = make_scan(at=f"2026-11-0{number}T08:00:00.000Z")
        scan = msgspec.structs.replace(scan, submission_id=submission.id)
        await create_submission(market.env, submission)
        await record_scan(market.env, submission, scan)
    oldest = await oldest_pending(market.env)
    assert oldest == PendingSubmission("a:3", "2026-11-03T08:00:00.000Z")
    assert market.kv.operations["list"] == 1


async def test_what_nobody_answers_expires_and_what_passed_stays(market: Market) -> None:
    env = replace(market.env, settings=Settings(submission_ttl=60))
    scans = [make_scan(), make_scan(Verdict.FAIL), None]
    for number, scan in enumerate(scans):
        submission = make_submission(f"id-{number}")
        await create_submission(env, submission)
        if scan is not None:
            scan = msgspec.structs.replace(scan, submission_id=submission.id)
            await record_scan(env, submission, scan)
    assert len(market.kv.keys("sub:")) == 3
    await asyncio.sleep(61)
    kept = {"sub:id-0", "scan:id-0", "pending:2026-11-03T08:00:00.000Z:id-0"}
    assert set(market.kv.keys()) == kept
    assert await submission_status(env, "id-2") is None
    found = await submission_status(env, "id-0")
    assert found is not None
    assert found.state is SubmissionState.SCANNED


async def test_a_submission_lives_thirty_days(market: Market) -> None:
    await create_submission(market.env, make_submission())
    await asyncio.sleep(30 * 86_400 - 1)
    assert (await status(market)).state is SubmissionState.RECEIVED
    await asyncio.sleep(2)
    assert market.kv.keys() == []


async def test_a_rejection_after_a_pass_stays(market: Market) -> None:
    env, submission = market.env, make_submission()
    await create_submission(env, submission)
    await record_scan(env, submission, make_scan())
    rejection = make_scan(Verdict.FAIL, "2026-11-04T09:00:00.000Z")
    await record_scan(env, submission, rejection)
    assert await oldest_pending(env) is None
    await asyncio.sleep(env.settings.submission_ttl + 1)
    assert (await status(market)).state is SubmissionState.REJECTED


@pytest.mark.market(rate_limited=True)
async def test_a_verdict_within_a_second_keeps_its_submission(market: Market) -> None:
    env, submission = market.env, make_submission()
    await create_submission(env, submission)
    await record_scan(env, submission, make_scan())
    assert market.kv.refusals["sub:id-1"] == 1
    await asyncio.sleep(env.settings.submission_ttl + 1)
    assert (await status(market)).state is SubmissionState.SCANNED


@pytest.mark.parametrize("key", ["sub:", "pending:", "scan:"])
async def test_a_pass_that_is_cut_off_leaves_what_it_can_be_taken_up_from(
    market: Market, key: str
) -> None:
    """No verdict without its mark, no mark of a submission that expires."""
    env, submission = market.env, make_submission()
    await create_submission(env, submission)
    market.kv.faults = fault(Fault.FAIL, "put", key=key)
    with pytest.raises(KvError):
        await record_scan(env, submission, make_scan())
    market.kv.faults = None
    assert market.kv.keys("scan:") == []
    await asyncio.sleep(env.settings.submission_ttl + 1)
    marks, submissions = market.kv.keys("pending:"), market.kv.keys("sub:")
    assert bool(marks) == (key == "scan:")
    assert bool(submissions) == (key != "sub:")


async def test_damaged_submissions_are_told_from_missing_ones(market: Market) -> None:
    market.kv.damage("sub:id-1", b'{"id": 7}')
    market.kv.damage("scan:id-1", b"\xff")
    assert isinstance(await get_submission(market.env, "id-1"), InvalidRecord)
    assert isinstance((await get_scans(market.env, ["id-1"]))["id-1"], InvalidRecord)
    with pytest.raises(InvalidRecord):
        await submission_status(market.env, "id-1")
    assert await get_submission(market.env, "\ud800") is None


# --- states


async def test_a_state_is_kept_under_its_name(market: Market) -> None:
    assert await load_state(market.env, "report") is None
    await save_state(market.env, "report", b"{}")
    assert await load_state(market.env, "report") == b"{}"
