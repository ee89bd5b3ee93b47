"""What a listing shows is found by slug and by repository too, with PostgreSQL away."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from marketplace.catalog.answer import Answer, Source
from marketplace.catalog.listings import get_skills
from marketplace.catalog.lookup import (
    PerhapsMissing,
    find_by_identity,
    get_skill_by_identity,
    get_skill_by_name,
)
from marketplace.kv.aliases import write_alias
from marketplace.kv.index.writing import add_to_published_index
from marketplace.kv.keys import INDEX_KEY
from marketplace.kv.outbox import write_outbox
from marketplace.kv.records import write_record
from marketplace.ports.errors import DatabaseError, DatabaseRefused, KvError
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.skill import Skill
from marketplace.web.app import create_app
from tests.doubles.database import no_hook
from tests.doubles.marketplace import EARLIER, LATER, Market, fault, make_skill, postgres_away
from tests.doubles.network import Fault

SKILL = make_skill("pdf-tools", description="Long. " * 200, extension_points=("ocr",))


async def _record(market: Market) -> None:
    await write_record(market.env, SKILL)


async def _outbox(market: Market) -> None:
    await write_outbox(market.env, SKILL)


async def _outbox_without_metadata(market: Market) -> None:
    key = await write_outbox(market.env, SKILL)
    market.kv.damage(key, market.kv.peek(key))


async def _index(market: Market) -> None:
    await market.index([make_skill("a"), SKILL, make_skill("z")])


async def _recent(market: Market) -> None:
    await add_to_published_index(market.env, [SKILL])


async def _original_index(market: Market) -> None:
    items = [msgspec.json.encode(skill.summary()) for skill in (make_skill("a"), SKILL)]
    market.kv.damage(INDEX_KEY, b"[" + b",".join(items) + b"]")


PLACES = [_record, _outbox, _outbox_without_metadata, _index, _recent, _original_index]


async def _find(market: Market) -> list[Answer[Skill] | None]:
    return [
        await get_skill_by_name(market.env, "pdf-tools"),
        await get_skill_by_identity(market.env, "octo", "pdf-tools", "PDF tools"),
        await find_by_identity(market.env, SKILL.repo_url, SKILL.base_slug),
    ]


async def _listed(market: Market) -> set[str]:
    page = (await get_skills(market.env, ListingQuery())).value
    return {json.loads(item)["name"] for item in page.items}


@pytest.mark.parametrize("place", PLACES)
async def test_a_skill_that_is_in_one_place_of_kv_alone_is_listed_and_found(
    market: Market, place: Callable[[Market], Awaitable[None]]
) -> None:
    market.tables.before = postgres_away
    await place(market)
    assert "pdf-tools" in await _listed(market)
    for answer in await _find(market):
        assert answer is not None
        assert answer.degraded
        assert answer.value.summary() == SKILL.summary()
        if answer.source is Source.KV_ENUMERATION:
            assert answer.value == SKILL


async def test_of_record_and_outbox_the_newer_state_is_found_as_it_is_listed(
    market: Market,
) -> None:
    market.tables.before = postgres_away
    newer = make_skill("pdf-tools", updated_at=LATER)
    older = make_skill("pdf-tools", updated_at=EARLIER)
    for waiting in (older, newer):
        await write_outbox(market.env, waiting)
    await _record(market)
    for answer in await _find(market):
        assert answer is not None
        assert answer.value == newer


async def test_another_skill_of_that_slug_in_the_outbox_is_not_mistaken_for_it(
    market: Market,
) -> None:
    market.tables.before = postgres_away
    other = make_skill("pdf-tools", repo_url="https://github.com/b/c", updated_at=LATER)
    await write_outbox(market.env, other)
    await _record(market)
    for answer in await _find(market):
        assert answer is not None
        assert answer.value == SKILL


async def test_an_alias_leads_to_a_skill_whose_record_is_lost(market: Market) -> None:
    market.tables.before = postgres_away
    await _index(market)
    await write_alias(market.env, "former", "pdf-tools")
    answer = await get_skill_by_name(market.env, "former")
    assert answer is not None
    assert answer.value.name == "pdf-tools"


async def test_what_cannot_be_ruled_out_is_not_called_missing(market: Market) -> None:
    assert await _find(market) == [None, None, None]
    market.tables.before = postgres_away
    with pytest.raises(PerhapsMissing):
        await get_skill_by_name(market.env, "pdf-tools")
    with pytest.raises(PerhapsMissing):
        await get_skill_by_identity(market.env, "octo", "pdf-tools", "pdf-tools")
    assert await find_by_identity(market.env, SKILL.repo_url, SKILL.base_slug) is None
    assert await get_skill_by_name(market.env, "Not A Slug") is None
    market.tables.before = no_hook
    market.kv.faults = fault(Fault.FAIL, "get", "get_many")
    with pytest.raises(KvError):
        await get_skill_by_name(market.env, "pdf-tools")


@pytest.mark.parametrize(
    ("error", "level"),
    [(DatabaseError("away"), "warning"), (DatabaseRefused("unknown database"), "error")],
)
async def test_a_fallback_is_logged_and_a_refusal_at_the_level_of_an_error(
    market: Market, error: DatabaseError, level: str
) -> None:
    async def fails(_step: str) -> None:
        raise error

    market.tables.before = fails
    assert (await get_skills(market.env, ListingQuery())).degraded
    (line,) = (line for line in market.log.lines if line.get("source") == Source.POSTGRES)
    assert (line["level"], line["reason"]) == (level, error.reason)


@pytest.mark.parametrize("key", ["outbox:", INDEX_KEY])
async def test_a_record_is_found_though_the_rest_of_kv_fails(market: Market, key: str) -> None:
    market.tables.before = postgres_away
    await _record(market)
    market.kv.faults = fault(Fault.FAIL, "get", "list", key=key)
    for answer in await _find(market):
        assert answer is not None
        assert answer.value == SKILL


async def test_with_postgres_there_leftovers_are_no_skills(market: Market) -> None:
    """They are in no listing then; the repair decides about them."""
    await _index(market)
    assert await _find(market) == [None, None, None]


async def test_with_postgres_there_what_waits_for_it_is_found_and_listed(market: Market) -> None:
    await _outbox(market)
    assert "pdf-tools" in await _listed(market)
    for answer in await _find(market):
        assert answer is not None
        assert (answer.value, answer.degraded) == (SKILL, False)


@pytest.mark.parametrize("path", ["/api/v1/skills/nothing", "/api/v1/skills/a/b/c", "/skills/none"])
async def test_an_outage_is_answered_as_one_that_passes_and_never_stored(
    market: Market, path: str
) -> None:
    app = create_app()

    async def with_env(scope: Scope, receive: Receive, send: Send) -> None:
        scope["env"] = market.env
        await app(scope, receive, send)

    market.tables.before = postgres_away
    transport = httpx.ASGITransport(app=with_env)
    async with httpx.AsyncClient(transport=transport, base_url="https://a.example") as client:
        answer: Any = await client.get(path)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.headers["cache-control"] == "no-store"
