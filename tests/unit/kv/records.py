"""Records as a listing reads them."""

from typing import Any

from marketplace.kv.records import PublishedPage, enumerate_published_skills
from tests.doubles.marketplace import Market


async def enumerate_all(market: Market, **options: Any) -> list[PublishedPage]:
    return [page async for page in enumerate_published_skills(market.env, **options)]


async def listed(market: Market) -> list[str]:
    return [e.summary.name for page in await enumerate_all(market) for e in page.summaries]
