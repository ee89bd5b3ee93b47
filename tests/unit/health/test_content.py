"""The walk over the archive counts what is stored, named and not uploaded."""

import hashlib

import pytest

from marketplace.health.check import check_health
from marketplace.health.content import BUCKETS, BUCKETS_A_STEP, count_content
from marketplace.ports.errors import ContentError
from tests.doubles.marketplace import Market, make_skill


def content(number: int) -> tuple[str, bytes]:
    data = f"content {number}".encode()
    return hashlib.sha256(data).hexdigest(), data


async def test_a_walk_in_steps_counts_what_differs(market: Market) -> None:
    market.content.page_size = 2
    digests = [content(number)[0] for number in range(40)]
    for number in range(30):
        digest, data = content(number)
        await market.content.put(digest, data, media_type="application/zip")
    await market.content.purge(digests[0], at=market.env.now())
    for number in (*range(10), *range(30, 33)):
        skill = make_skill(f"s{number}", content_digest=digests[number], license="MIT")
        await market.fill([skill])
    for number in (10, 33):
        await market.fill([make_skill(f"s{number}", content_digest=digests[number])])
    await market.fill([make_skill("bare")])

    for _ in range(BUCKETS // BUCKETS_A_STEP):
        assert (await check_health(market.env)).content is None
        await count_content(market.env)

    health = await check_health(market.env)
    found = health.content
    assert found is not None
    assert (found.stored, found.purged) == (29, 1)
    assert found.bytes == sum(len(content(number)[1]) for number in range(1, 30))
    assert (found.skills_without, found.not_uploaded, found.not_named) == (1, 3, 19)
    assert set(found.not_uploaded_of) == {"s30", "s31", "s32"}
    assert (found.not_licensed, found.not_licensed_ones) == (1, (digests[10],))
    told = " ".join(each.reason for each in health.recommendations)
    assert "3 digests are named and not uploaded" in told
    assert digests[10] in told


async def test_an_archive_that_is_away_stops_a_step_and_no_more(market: Market) -> None:
    market.content.away = True
    with pytest.raises(ContentError):
        await count_content(market.env)
    assert (await check_health(market.env)).content is None
