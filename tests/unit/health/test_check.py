"""What the health answer tells about each state of the sources."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from cli.answers import Health as CliHealth
from marketplace.health.check import check_health
from marketplace.health.report import REBUILD_CALL, Health
from marketplace.operations.reports import LAST_REPAIR, save_report
from marketplace.ports.database import DatabaseSession, SkillDatabase
from marketplace.ports.dead_letter import DeadLetter
from marketplace.ports.env import get_db
from marketplace.ports.errors import DatabaseRefused
from marketplace.skills.skill import Skill
from tests.doubles.marketplace import Market, fault, make_skills, postgres_away
from tests.doubles.network import Fault


def _counts(health: Health) -> tuple[int | None, int | None, int | None]:
    return health.prisma_count, health.kv_enumerated_count, health.kv_index_count


async def _healthy(market: Market, count: int = 100) -> list[Skill]:
    skills = make_skills(count)
    await market.fill(skills)
    await market.index(skills)
    return skills


async def test_a_healthy_marketplace_has_no_findings(market: Market) -> None:
    await _healthy(market)
    health = await check_health(market.env)
    assert _counts(health) == (100, 100, 100)
    assert (health.status, health.drifts, health.recommendations) == ("ok", [], [])
    answer = msgspec.json.decode(msgspec.json.encode(health))
    assert msgspec.convert(answer, CliHealth).is_healthy


async def test_an_empty_marketplace_is_healthy(market: Market) -> None:
    health = await check_health(market.env)
    assert _counts(health) == (0, 0, 0)
    assert health.status == "ok"


async def test_a_missing_index_is_a_drift(market: Market) -> None:
    await market.fill(make_skills(100))
    health = await check_health(market.env)
    assert _counts(health) == (100, 100, 0)
    assert health.drift_detected
    assert health.needs_rebuild
    assert health.sources["kv_index"].error == "missing"


async def test_a_damaged_index_has_no_count_and_asks_for_a_rebuild(market: Market) -> None:
    await _healthy(market)
    market.kv.damage("skills:published-index", b'{"format": "published-index"')
    health = await check_health(market.env)
    assert _counts(health) == (100, 100, None)
    assert health.sources["kv_index"].damaged
    assert health.needs_rebuild


async def test_a_stale_index_is_a_drift(market: Market) -> None:
    skills = make_skills(100)
    await market.fill(skills)
    await market.index(skills[:80])
    health = await check_health(market.env)
    assert _counts(health) == (100, 100, 80)
    assert {drift.sources for drift in health.drifts} == {
        ("postgres", "kv_index"),
        ("kv", "kv_index"),
    }
    assert {drift.difference for drift in health.drifts} == {20}


@pytest.mark.parametrize(("lost", "is_drift"), [(5, False), (6, True)])
async def test_a_table_short_by_more_than_five_percent_is_a_drift(
    market: Market, lost: int, is_drift: bool
) -> None:
    skills = await _healthy(market)
    market.lose_rows(skills[:lost])
    health = await check_health(market.env)
    assert _counts(health) == (100 - lost, 100, 100)
    assert health.drift_detected is is_drift


async def test_eleven_skills_of_ten_thousand_are_a_drift_and_ten_are_not(market: Market) -> None:
    skills = await _healthy(market, 10_000)
    market.lose_rows(skills[:10])
    health = await check_health(market.env)
    assert _counts(health) == (9_990, 10_000, 10_000)
    assert not health.drift_detected
    market.lose_rows(skills[10:11])
    health = await check_health(market.env)
    assert _counts(health) == (9_989, 10_000, 10_000)
    assert [(d.kind, d.sources, d.counts, d.difference) for d in health.drifts] == [
        ("count", ("postgres", "kv"), (9_989, 10_000), 11),
        ("count", ("postgres", "kv_index"), (9_989, 10_000), 11),
    ]
    assert health.recommendations[0].call == REBUILD_CALL


async def test_equal_counts_of_different_members_are_no_drift(market: Market) -> None:
    skills = await _healthy(market)
    market.lose_rows(skills[:1])
    await market.fill(make_skills(1, "other"), kv=False)
    health = await check_health(market.env)
    assert _counts(health) == (100, 100, 100)
    assert (health.status, health.drifts) == ("ok", [])
    await asyncio.sleep(60)
    health = await check_health(market.env)
    assert {finding.kind for finding in health.findings} == {
        "record-missing", "row-missing", "index-entry-missing"
    }  # fmt: skip
    assert health.recommendations[0].call == REBUILD_CALL


async def test_postgres_away_is_null_and_a_finding(market: Market) -> None:
    await _healthy(market)

    health = await check_health(replace(market.env, database=DatabaseSession(postgres_away)))
    assert _counts(health) == (None, 100, 100)
    assert health.status == "failing"
    assert not health.sources["postgres"].reachable
    assert "Hyperdrive" in health.recommendations[0].action
    assert market.log.lines[-1]["level"] == "warning"


async def test_a_postgres_that_refuses_every_session_is_an_alarm(market: Market) -> None:
    await _healthy(market)

    async def refuses() -> SkillDatabase:
        raise DatabaseRefused("password authentication failed")

    health = await check_health(replace(market.env, database=DatabaseSession(refuses)))
    assert _counts(health) == (None, 100, 100)
    assert health.status == "failing"
    assert health.sources["postgres"].error == "refused: password authentication failed"
    (recommendation,) = health.recommendations
    assert "refuses every session" in recommendation.action
    assert recommendation.reason == "postgres: refused: password authentication failed"
    assert market.log.lines[-1]["level"] == "error"


async def test_a_database_that_hangs_does_not_hang_the_answer(market: Market) -> None:
    await _healthy(market)

    async def hangs() -> SkillDatabase:
        await asyncio.sleep(3600)
        raise AssertionError

    health = await check_health(replace(market.env, database=DatabaseSession(hangs)))
    assert _counts(health) == (None, 100, 100)
    assert "timeout" in (health.sources["postgres"].error or "")


async def test_a_failing_kv_list_is_null_and_a_finding(market: Market) -> None:
    await _healthy(market)
    market.kv.faults = fault(Fault.FAIL, "list")
    health = await check_health(market.env)
    assert _counts(health) == (100, None, 100)
    assert health.status == "failing"
    assert "SUBMISSIONS_KV" in health.recommendations[0].action


async def test_an_index_that_cannot_be_read_is_null_and_a_missing_one_is_nothing(
    market: Market,
) -> None:
    await _healthy(market)
    market.kv.faults = fault(Fault.FAIL, "get", key="skills:published-index")
    health = await check_health(market.env)
    assert _counts(health) == (100, 100, None)
    assert health.status == "failing"
    assert not health.sources["kv_index"].reachable
    assert (health.sources["kv_index"].error or "").startswith("unavailable")
    market.kv.faults = None
    market.kv.damage("skills:published-index", None)
    health = await check_health(market.env)
    assert _counts(health) == (100, 100, 0)
    assert health.status == "drift"
    assert health.sources["kv_index"].reachable
    assert health.sources["kv_index"].error == "missing"


@pytest.mark.market(page_limit=20)
async def test_the_answer_tells_its_kv_operations(market: Market) -> None:
    await _healthy(market)
    before = market.kv.operations.copy()
    health = await check_health(market.env)
    used = market.kv.operations - before
    assert health.kv_operations == {"list": used["list"], "all": used.total()}
    assert used["list"] == 100 // 20 + 1  # besides: submissions that wait


async def test_a_repair_that_failed_is_a_finding(market: Market) -> None:
    await _healthy(market)
    await save_report(market.env, LAST_REPAIR, {"ok": False})
    assert (await check_health(market.env)).needs_rebuild
    await save_report(market.env, LAST_REPAIR, {"ok": True})
    assert not (await check_health(market.env)).recommendations


@pytest.mark.parametrize("reason", ["too-many-withdrawn", "changed-hands"])
async def test_letters_that_wait_for_a_decision_are_recommended_to_be_looked_at(
    market: Market, reason: str
) -> None:
    await _healthy(market)
    letter = DeadLetter(
        id="one", queue="skill-publish", body={}, reason=reason, detail="", attempts=1,
        failed_at=market.env.now(),
    )  # fmt: skip
    await (await get_db(market.env)).store_dead_letter(letter)
    (recommendation,) = (await check_health(market.env)).recommendations
    assert recommendation.action.startswith("Look ")
    assert recommendation.reason.startswith("1 ")


async def test_records_without_metadata_are_counted_by_value(market: Market) -> None:
    skills = await _healthy(market)
    key = f"skill:{skills[0].name}"
    market.kv.damage(key, market.kv.peek(key), metadata=None)
    market.kv.damage("skill:broken", b"no json")
    market.kv.damage("skill:alias:old", b'{"slug": "skill-00000"}')
    health = await check_health(market.env)
    assert _counts(health) == (100, 100, 100)
    assert health.status == "ok"


async def test_a_damaged_mark_hides_no_submission_that_waits(market: Market) -> None:
    market.kv.damage("pending:", b"{}")
    market.kv.damage("pending:0000-13-01T00:00:00.000Z:never", b"{}")
    market.kv.damage("pending:0001-01-01T00:00:00+1000:before-all-time", b"{}")
    market.kv.damage("pending:2025-12-31T00:00:00.000Z:waiting", b"{}")
    health = await check_health(market.env)
    assert health.oldest_pending is not None
    assert health.oldest_pending["id"] == "waiting"
    damaged = [line["key"] for line in market.log.lines if line["event"] == "pending-malformed"]
    assert damaged == [
        "pending:",
        "pending:0000-13-01T00:00:00.000Z:never",
        "pending:0001-01-01T00:00:00+1000:before-all-time",
    ]
