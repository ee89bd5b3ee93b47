"""The versions of a skill from either source, and what is told where one of them fails."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from marketplace.catalog import versions as catalog_versions
from marketplace.catalog.answer import Answer, Source
from marketplace.catalog.lookup import get_skill_by_name
from marketplace.catalog.versions import VersionPage, versions_of
from marketplace.kv.acceptance_log import log_verdict
from marketplace.ports.env import Env
from marketplace.ports.errors import KvError
from marketplace.publishing.publish import publish_skills
from marketplace.skills.change import Scanned
from marketplace.skills.scan import Facts, Scan
from marketplace.skills.seed import read_seed
from marketplace.skills.tiers import Verdict
from tests.doubles.marketplace import Market, fault, kv_away, make_skill, without_postgres
from tests.doubles.network import Fault

SEED = read_seed(
    b'[{"name": "pdf-tools", "displayName": "P", "currentVersion": "0.5.0",'
    b' "repoUrl": "https://github.com/octo/pdf-tools"}]'
)


def scan(day: int, version: str, digest: str = "a") -> Scan:
    return Scan(
        submission_id=f"s-{day}",
        repo_url=make_skill().repo_url,
        skill_name="pdf-tools",
        base_slug="pdf-tools",
        verdict=Verdict.PASS,
        score=90,
        scanned_at=f"2026-01-{day:02d}T00:00:00.000Z",
        skill=Facts(name="pdf-tools", version=version),
        content_digest=digest * 64,
    )


async def _publish(market: Market, *scans: Scan) -> None:
    for each in scans:
        await log_verdict(market.env, each)
        await publish_skills(market.env, [Scanned(each)])


async def _versions(env: Env, limit: int = 100, before: str | None = None) -> Answer[VersionPage]:
    found = await get_skill_by_name(env, "pdf-tools")
    assert found is not None
    return await versions_of(env, found, before=before, limit=limit)


def _told(answer: Answer[VersionPage]) -> list[str]:
    return [version.version for version in answer.value.versions]


async def test_the_table_tells_them_page_by_page(market: Market) -> None:
    await _publish(market, *(scan(day, f"1.{day}.0") for day in range(1, 6)))
    first = await _versions(market.env, limit=3)
    assert (first.source, first.reasons) == (Source.POSTGRES, ())
    assert _told(first) == ["1.5.0", "1.4.0", "1.3.0"]
    last = await _versions(market.env, limit=3, before=first.value.next_cursor)
    assert _told(last) == ["1.2.0", "1.1.0"]
    assert last.value.next_cursor is None
    exact = await _versions(market.env, limit=5)
    assert exact.value.next_cursor is None
    beyond = await _versions(market.env, before=exact.value.versions[-1].place)
    assert _told(beyond) == []


async def test_with_postgres_away_the_log_tells_the_same(market: Market) -> None:
    scans = [scan(1, "1.0.0"), scan(2, "1.0.0", "b"), scan(3, "1.0.0", "b"), scan(4, "2.0.0", "b")]
    await _publish(market, *scans)
    whole = await _versions(market.env)
    kept = await _versions(without_postgres(market))
    assert kept.value == whole.value
    assert (kept.source, kept.reasons) == (Source.KV_ENUMERATION, ("postgres: unavailable",))
    page = await _versions(without_postgres(market), limit=2)
    rest = await _versions(without_postgres(market), limit=2, before=page.value.next_cursor)
    assert _told(page) + _told(rest) == _told(whole)
    assert rest.value.next_cursor is None


async def test_a_table_that_fails_after_the_lookup_is_noted_too(market: Market) -> None:
    await _publish(market, scan(1, "1.0.0"), scan(2, "2.0.0"))
    found = await get_skill_by_name(market.env, "pdf-tools")
    assert found is not None
    answer = await versions_of(without_postgres(market), found)
    assert _told(answer) == ["2.0.0", "1.0.0"]
    assert answer.degraded


async def test_a_skill_that_the_log_knows_nothing_of_has_its_present_version(
    market: Market,
) -> None:
    await market.fill([make_skill(current_version="3.1.0")])
    market.tables.versions.clear()
    for env, source in (
        (market.env, Source.POSTGRES),
        (without_postgres(market), Source.KV_ENUMERATION),
    ):
        answer = await _versions(env)
        assert (_told(answer), answer.source) == (["3.1.0"], source)
        assert _told(await _versions(env, before=answer.value.versions[0].place)) == []


async def test_a_skill_that_the_index_alone_has(market: Market) -> None:
    """Its summary tells no digest, which is no change."""
    await _publish(market, scan(1, "1.0.0"))
    (row,) = [held.skill for held in market.tables.rows.values()]
    await market.index([row])
    market.lose_records([row])
    assert _told(await _versions(without_postgres(market))) == ["1.0.0"]
    for key in market.kv.keys("verdict:"):
        market.kv.damage(key, None)
    assert _told(await _versions(without_postgres(market))) == ["1.0.0"]


@pytest.mark.parametrize("faults", [kv_away, fault(Fault.FAIL, "list", key="verdict:")])
async def test_with_neither_source_nothing_is_told(
    market: Market, faults: Callable[..., Fault | None]
) -> None:
    await _publish(market, scan(1, "1.0.0"))
    market.env = replace(market.env, seed=SEED)
    market.kv.faults = faults
    with pytest.raises(KvError):
        await _versions(without_postgres(market))


async def test_a_seed_skill_has_the_version_that_ships(market: Market) -> None:
    market.env = replace(market.env, seed=SEED)
    answer = await _versions(market.env)
    assert (_told(answer), answer.source, answer.reasons) == (["0.5.0"], Source.SEED, ())
    assert _told(await _versions(without_postgres(market))) == ["0.5.0"]


async def test_of_many_verdicts_the_newest_are_read_and_the_rest_is_missed(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_versions, "MAX_VERDICTS", 3)
    await _publish(market, *(scan(day, f"1.{day}.0") for day in range(1, 4)))
    whole = await _versions(without_postgres(market))
    assert _told(whole) == ["1.3.0", "1.2.0", "1.1.0"]
    await _publish(market, scan(4, "1.4.0"), scan(5, "1.5.0"))
    before = market.kv.operations.total()
    answer = await _versions(without_postgres(market))
    assert _told(answer) == ["1.5.0", "1.4.0"]  # of the third nobody knows what it changed
    assert "kv-enumeration: older verdicts" in answer.reasons
    assert market.kv.operations.total() - before < 12
