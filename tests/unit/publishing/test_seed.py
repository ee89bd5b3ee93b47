"""The seed is the oldest state of its skills: whatever happens to one of them is newer."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from marketplace.catalog.listings import get_skill_categories, get_skill_count
from marketplace.catalog.lookup import get_skill_by_name
from marketplace.publishing.publish import publish_skills
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.change import Acted, State
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.seed import seed_of
from marketplace.skills.skill import Skill, Status
from marketplace.skills.tiers import CertTier, Verdict
from tests.doubles.marketplace import Market, make_skill, without_postgres
from tests.unit.publishing.reports import deliver, items, report, reported, row, submitted

BEFORE = "2025-12-01T08:00:00.000Z"
SEEDED = make_skill("reader", repo_url="https://github.com/acme/tools", updated_at=BEFORE)
OTHER = make_skill("writer", repo_url="https://github.com/acme/tools", updated_at=BEFORE)


@pytest.fixture
def market(market: Market) -> Market:
    """A marketplace with two seed skills."""
    market.env = replace(market.env, seed=seed_of([SEEDED, OTHER]))
    return market


async def _block(market: Market) -> None:
    act = Act(id="a", kind=ActKind.BLOCK, reason="steals", at=market.env.now(), by="ops")
    outcome = await publish_skills(market.env, [Acted(SEEDED.identity, (act,))])
    assert set(outcome) == {SEEDED.identity}


async def _listed(market: Market) -> dict[str, dict[str, Any]]:
    """What all sources show, which is the same."""
    found, fallback = [
        {item["name"]: item for item in await items(env)}
        for env in (market.env, without_postgres(market))
    ]
    assert found == fallback
    for env in (market.env, without_postgres(market)):
        assert (await get_skill_count(env, ListingQuery())).value.count == len(found)
        assert sum((await get_skill_categories(env)).value.values()) == len(found)
    return found


async def _scanned(market: Market, verdict: Verdict, text: str | None = None) -> None:
    await submitted(market)
    await asyncio.sleep(1)
    await reported(market, report(verdict=verdict, text=text))
    (message,) = await deliver(market)
    assert message.acknowledged


async def test_a_scan_of_a_seed_skill_is_listed_in_its_place(market: Market) -> None:
    await _scanned(market, Verdict.PASS, "As the repository says.")
    found = await _listed(market)
    assert set(found) == {"reader", "writer"}
    assert found["reader"]["description"] == "As the repository says."


async def test_a_failed_scan_marks_a_seed_skill(market: Market) -> None:
    await _scanned(market, Verdict.FAIL)
    found = (await _listed(market))["reader"]
    assert (found["description"], found["certTier"]) == (SEEDED.description, CertTier.SCANNED)
    assert found["scanFailedAt"] == market.env.now()


async def test_a_seed_skill_that_its_owner_withdraws_is_not_listed(market: Market) -> None:
    await _scanned(market, Verdict.WITHDRAWN)
    assert set(await _listed(market)) == {"writer"}
    assert row(market).status is Status.WITHDRAWN


@pytest.mark.parametrize("away", [False, True])
async def test_a_blocked_seed_skill_is_in_no_listing(market: Market, away: bool) -> None:
    """Also while PostgreSQL is away, when it was blocked then."""
    present = market.env
    market.env = without_postgres(market) if away else present
    await _block(market)
    assert {item["name"] for item in await items(market.env)} == {"writer"}
    found = await get_skill_by_name(market.env, "reader")
    assert found is None or found.value.status is Status.BLOCKED
    market.env = present
    if not away:
        assert set(await _listed(market)) == {"writer"}


async def test_a_scan_does_not_lift_the_block_of_a_seed_skill(market: Market) -> None:
    await _block(market)
    await _scanned(market, Verdict.PASS, "Back.")
    assert set(await _listed(market)) == {"writer"}


async def test_a_published_skill_keeps_its_slug_and_the_seed_gives_way(market: Market) -> None:
    taken = make_skill("reader", repo_url="https://github.com/first/tools", updated_at=BEFORE)
    await market.fill([taken])
    found = await _listed(market)
    assert {name: item["repoUrl"] for name, item in found.items()} == {
        "reader": taken.repo_url,
        "acme-reader": SEEDED.repo_url,
        "writer": OTHER.repo_url,
    }
    for env in (market.env, without_postgres(market)):
        for name in found:
            answer = await get_skill_by_name(env, name)
            assert answer is not None
            assert (answer.value.name, answer.value.repo_url) == (name, found[name]["repoUrl"])


async def test_a_new_skill_does_not_get_the_slug_of_a_seed_skill(market: Market) -> None:
    new: Skill = make_skill("reader", repo_url="https://github.com/evil/tools", author="evil")
    await publish_skills(market.env, [State(new)])
    assert set(await _listed(market)) == {"evil-reader", "reader", "writer"}
    assert (await _listed(market))["reader"]["repoUrl"] == SEEDED.repo_url
