"""The seed is the oldest state of its skills: whatever happens to one of them is newer."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from marketplace.catalog.answer import Source
from marketplace.catalog.listings import get_skill_categories, get_skill_count
from marketplace.catalog.lookup import (
    find_by_identity,
    get_skill_by_identity,
    get_skill_by_name,
)
from marketplace.catalog.updates import check_updates
from marketplace.kv.aliases import write_alias
from marketplace.ports.errors import KvTimeout
from marketplace.publishing.publish import publish_skills
from marketplace.publishing.withheld import refresh_withheld
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.change import Acted, State
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.seed import seed_of
from marketplace.skills.skill import Skill, Status
from marketplace.skills.tiers import CertTier, Verdict
from marketplace.skills.updates import Installed
from marketplace.skills.withholding import Standing
from tests.doubles.marketplace import Market, kv_away, make_skill, without_postgres
from tests.doubles.network import Fault
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


@pytest.mark.parametrize("conduct", [Fault.FAIL, Fault.HANG])
async def test_without_postgres_the_seed_answers_for_a_kv_that_fails_and_not_for_a_late_one(
    market: Market, conduct: Fault
) -> None:
    """A KV that is late may have another skill under the slug."""
    market.kv.faults = lambda _operation: conduct
    ask = get_skill_by_name(without_postgres(market), SEEDED.name)
    if conduct is Fault.HANG:
        with pytest.raises(KvTimeout):
            await ask
    else:
        answer = await ask
        assert answer is not None
        assert answer.source is Source.SEED


async def test_a_new_skill_does_not_get_the_slug_of_a_seed_skill(market: Market) -> None:
    new: Skill = make_skill("reader", repo_url="https://github.com/evil/tools", author="evil")
    await publish_skills(market.env, [State(new)])
    assert set(await _listed(market)) == {"evil-reader", "reader", "writer"}
    assert (await _listed(market))["reader"]["repoUrl"] == SEEDED.repo_url


FIRST = make_skill("reader", repo_url="https://github.com/first/tools", updated_at=BEFORE)


async def _leading(market: Market, names: list[str]) -> list[dict[str, str]]:
    """The repositories that slugs lead to, with PostgreSQL and without it."""
    led = []
    for env in (market.env, without_postgres(market)):
        answers = {name: await get_skill_by_name(env, name) for name in names}
        led.append({name: a.value.repo_url for name, a in answers.items() if a is not None})
    return led


async def test_a_seed_skill_gives_way_to_an_old_link(market: Market) -> None:
    """A published skill has left the slug, which goes on leading to it."""
    moved = FIRST.renamed("first-reader")
    await market.fill([moved])
    await write_alias(market.env, "reader", moved.name)
    market.tables.aliases["reader"] = moved.identity
    found = await _listed(market)
    assert {name: item["repoUrl"] for name, item in found.items()} == {
        "first-reader": FIRST.repo_url,
        "acme-reader": SEEDED.repo_url,
        "writer": OTHER.repo_url,
    }
    assert (
        await _leading(market, ["reader", "first-reader", "acme-reader"])
        == [
            {
                "reader": FIRST.repo_url,
                "first-reader": FIRST.repo_url,
                "acme-reader": SEEDED.repo_url,
            }
        ]
        * 2
    )


async def test_an_alias_that_leads_nowhere_moves_no_seed_skill(market: Market) -> None:
    await write_alias(market.env, "reader", "nowhere")
    market.tables.aliases["reader"] = "nobody#x"
    assert set(await _listed(market)) == {"reader", "writer"}


async def test_a_withheld_skill_keeps_its_slug_from_the_seed(market: Market) -> None:
    await market.fill([FIRST])
    act = Act(id="a", kind=ActKind.BLOCK, reason="steals", at=market.env.now(), by="ops")
    await publish_skills(market.env, [Acted(FIRST.identity, (act,))])
    await refresh_withheld(market.env)
    assert set(await _listed(market)) == {"acme-reader", "writer"}
    for env in (market.env, without_postgres(market)):
        blocked = await get_skill_by_name(env, "reader")
        assert blocked is not None
        assert (blocked.value.status, blocked.value.repo_url) == (Status.BLOCKED, FIRST.repo_url)
    market.kv.faults = lambda operation: None if "withheld" in operation.key else Fault.FAIL
    page = await items(without_postgres(market))
    assert {item["name"] for item in page} == {"acme-reader", "writer"}


async def test_a_seed_skill_is_told_by_its_repository_under_the_slug_that_it_has(
    market: Market,
) -> None:
    await market.fill([FIRST])
    for env in (market.env, without_postgres(market)):
        by_repository = await get_skill_by_identity(env, "acme", "tools", "reader")
        assert by_repository is not None
        assert by_repository.value.name == "acme-reader"
        found = await find_by_identity(env, SEEDED.repo_url, SEEDED.base_slug)
        assert found is not None
        assert found.value.name == "acme-reader"
    market.kv.faults = kv_away
    found = await find_by_identity(without_postgres(market), SEEDED.repo_url, SEEDED.base_slug)
    assert found is not None
    assert found.value.name == "reader"


async def test_a_seed_skill_that_is_published_keeps_the_slug_that_it_has(market: Market) -> None:
    await market.fill([FIRST])
    await _scanned(market, Verdict.PASS, "As the repository says.")
    found = await _listed(market)
    assert found["acme-reader"]["description"] == "As the repository says."
    assert set(found) == {"reader", "acme-reader", "writer"}


NAMESAKES = [
    make_skill("builder", repo_url="https://github.com/a/x", updated_at=BEFORE),
    make_skill("b-builder", base_slug="builder", repo_url="https://github.com/b/x"),
    make_skill("c-builder", base_slug="builder", repo_url="https://github.com/c/x"),
]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("taken", ["builder", "b-builder", "c-builder"])
async def test_a_seed_skill_never_gets_the_slug_of_another_one(
    market: Market, taken: str, order: int
) -> None:
    market.env = replace(market.env, seed=seed_of(NAMESAKES[::order]))
    await market.fill([FIRST.renamed(taken)])
    found = await _listed(market)
    own = {s.name: s.repo_url for s in NAMESAKES if s.name != taken}
    assert len(found) == 4
    assert {n: found[n]["repoUrl"] for n in own} == own
    assert found[taken]["repoUrl"] == FIRST.repo_url
    assert (
        await _leading(market, list(found))
        == [{name: item["repoUrl"] for name, item in found.items()}] * 2
    )


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("published", NAMESAKES, ids=lambda skill: skill.name)
async def test_the_slug_of_a_seed_skill_leads_to_no_namesake(
    market: Market, published: Skill, order: int
) -> None:
    market.env = replace(market.env, seed=seed_of(NAMESAKES[::order]))
    await publish_skills(market.env, [State(published)])
    wanted = {skill.name: skill.repo_url for skill in NAMESAKES}
    assert await _leading(market, list(wanted)) == [wanted, wanted]
    for env in (market.env, without_postgres(market)):
        asked = [Installed(name=name, version="0.1.0") for name in wanted]
        updates = (await check_updates(env, asked)).value
        assert [update.status for update in updates] == [Standing.LISTED] * 3
    market.kv.faults = kv_away
    answer = await get_skill_by_name(without_postgres(market), "builder")
    assert answer is not None
    assert answer.value.repo_url == NAMESAKES[0].repo_url


@pytest.mark.parametrize("order", [1, -1])
async def test_of_namesakes_each_is_told_its_own_version(market: Market, order: int) -> None:
    versions = ["1.1.0", "1.2.0", "1.3.0"]
    seed = [
        msgspec.structs.replace(skill, current_version=version)
        for skill, version in zip(NAMESAKES, versions, strict=True)
    ]
    market.env = replace(market.env, seed=seed_of(seed[::order]))
    asked = [Installed(name=skill.name, version="1.0.0") for skill in seed]
    for env in (market.env, without_postgres(market)):
        updates = (await check_updates(env, asked)).value
        assert [update.latest for update in updates] == versions
