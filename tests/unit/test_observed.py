"""The judge of answers during faults notices what it is there for, and nothing else."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from tests.worker.observed import LATE, Acknowledged, Observer, planned

SKILLS = planned("x", 3)
LONG_AGO = LATE + 1.0


def observer(*, seconds_ago: float = LONG_AGO) -> Observer:
    """One that knows three skills, acknowledged so long ago, beside ten others."""
    at = time.monotonic() - seconds_ago
    known = Acknowledged(dict.fromkeys(SKILLS, at), {s: f"slug-{n}" for n, s in enumerate(SKILLS)})
    return Observer("http://test", known, 10)


def page(count: int = 3, *, total: int | None = None, degraded: bool = False) -> dict[str, Any]:
    """A listing of the first skills."""
    listed = [{"displayName": skill.title} for skill in SKILLS[:count]]
    total = count if total is None else total
    return {"skills": listed, "total": total, "degraded": degraded, "source": "postgres"}


def judged(judge: Observer, ask: str, asked: int, *answers: httpx.Response) -> list[str]:
    """What is wrong with these answers to a question, in turn."""
    given = iter(answers)

    async def run() -> None:
        transport = httpx.MockTransport(lambda _: next(given))
        async with httpx.AsyncClient(base_url=judge.url, transport=transport) as client:
            for _ in answers:
                await getattr(judge, ask)(client, asked)

    asyncio.run(run())
    return [what.split(" ", 1)[1] for what in judge.judgement.wrong]


def ok(body: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json=body)


def count(number: int) -> httpx.Response:
    return ok({"count": number, "degraded": False, "source": "postgres"})


@pytest.mark.parametrize("ask", ["list_", "search"])
def test_a_page_that_lacks_a_skill_is_wrong(ask: str) -> None:
    (lacks,) = judged(observer(), ask, 1, ok(page(2, total=3)))

    assert f"lacks {SKILLS[2].title}" in lacks


@pytest.mark.parametrize("ask", ["list_", "search"])
def test_a_page_that_is_marked_or_has_every_skill_is_right(ask: str) -> None:
    judge = observer()

    assert judged(judge, ask, 1, ok(page(0, degraded=True)), ok(page())) == []
    assert dict(judge.judgement.kinds) == {"marked postgres": 1, "whole": 1}


def test_a_skill_may_be_missing_as_long_as_the_caches_keep_anything() -> None:
    judge = observer(seconds_ago=LATE - 1.0)

    assert judged(judge, "list_", 1, ok(page(2))) == []
    assert LATE - 1.0 <= judge.judgement.latest < LATE


@pytest.mark.parametrize("asked", [0, 1])
def test_a_count_below_what_is_owed_is_wrong(asked: int) -> None:
    owed = 3 if asked else 13

    assert judged(observer(), "count", asked, count(owed)) == []
    assert len(judged(observer(), "count", asked, count(owed - 1))) == 1


def test_a_total_that_falls_is_wrong() -> None:
    (fell,) = judged(observer(seconds_ago=0.0), "count", 0, count(13), count(14), count(12))

    assert fell.endswith("told 12 after 14")


@pytest.mark.parametrize("status", [404, 410])
def test_a_slug_that_is_gone_is_wrong(status: int) -> None:
    assert len(judged(observer(), "look_up", 0, httpx.Response(status, json={}))) == 1


def test_a_503_says_when_to_come_again() -> None:
    told, bare = httpx.Response(503, headers={"retry-after": "2"}), httpx.Response(503)

    assert judged(observer(), "look_up", 0, told) == []
    assert len(judged(observer(), "list_", 0, bare)) == 1
