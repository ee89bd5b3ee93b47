"""Skills published one after the other, while a listing, a search, a count and a look-up are asked
for every 0.2 s, each whether the last one was answered or not. Every answer is judged.

An answer that is not marked as degraded has every skill that was acknowledged more than LATE
seconds before it was asked for, and no total falls from one such answer to one asked for after it.
No slug that was acknowledged so long ago is answered with 404 or 410, marked or not.
"""

import asyncio
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx

from marketplace.catalog.waiting import READ_AGAIN, READ_EVERY, WAIT_SECONDS
from tests.worker.marketplace import Marketplace
from tests.worker.publishing import OPERATOR, eventually, status
from tests.worker.storage import empty, everything_listed, health, rebuild, records, rows

EVERY: Final = 0.2  # seconds between two questions of a kind
LATE: Final = READ_EVERY + 2 * (READ_AGAIN + WAIT_SECONDS)
"""The caches' own seconds where KV is never late: what an isolate knows of the outbox is so old at
most, and twice older where a busy thread kept it from being read."""
GROUP: Final = 50  # skills of one owner; one listing page holds them
TOGETHER: Final = 2  # skills in one report of a scanner, so that few come at once
SCANNERS: Final = 3
PATIENCE: Final = 180.0  # seconds for what is waited for
SHOWN: Final = 5  # wrong answers in a message

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Planned:
    """A skill to be published. Its group's word is in no other group's titles."""

    owner: str
    word: str
    title: str


def planned(kind: str, count: int) -> list[Planned]:
    """So many skills of one kind of test, in the order of publishing."""
    return [
        Planned(f"{kind}-{n // GROUP}", f"{kind}word{n // GROUP}", f"{kind}word{n // GROUP} {n:03}")
        for n in range(count)
    ]


@dataclass
class Acknowledged:
    """The skills of which a submission has said PUBLISHED: when (monotonic), and the slug."""

    at: dict[Planned, float] = field(default_factory=dict)
    slugs: dict[Planned, str] = field(default_factory=dict)

    def before(self, moment: float, **of: str) -> list[Planned]:
        """Those that were acknowledged by then; of an owner, or with a word."""
        return [
            skill
            for skill, at in list(self.at.items())
            if at <= moment and all(getattr(skill, name) == value for name, value in of.items())
        ]


@dataclass
class Judgement:
    """What was answered, and what was wrong with it."""

    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    latest: float = 0.0
    """Seconds: the longest that a skill was acknowledged and not in an undegraded answer."""
    slowest: float = 0.0
    totals: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    """Of undegraded answers to a question: when they came, and what they said."""

    def figures(self) -> str:
        """One line for a report."""
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.kinds.most_common())
        return (
            f"{self.kinds.total()} answers ({kinds}), {len(self.wrong)} wrong; a skill was missing "
            f"{self.latest:.1f} s at most in an undegraded one; slowest {self.slowest:.1f} s"
        )


@dataclass
class Observer:
    """Asks and judges, until it is told that it is over."""

    url: str
    acknowledged: Acknowledged
    others: int  # skills that were listed before
    judgement: Judgement = field(default_factory=Judgement)
    chance: random.Random = field(default_factory=lambda: random.Random(12))

    async def run(self, over: threading.Event) -> None:
        """Ask each question every EVERY seconds, and wait for the last answers."""
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=30, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            asked = 0
            while not over.is_set():
                for ask in (self.list_, self.search, self.count, self.look_up):
                    group.create_task(ask(client, asked))
                asked += 1
                await asyncio.sleep(EVERY)

    async def list_(self, client: httpx.AsyncClient, asked: int) -> None:
        """The newest page and the total of everything, and the page of an owner, in turn."""
        begun, owner = time.monotonic(), self._any("owner")
        of = {"owner": owner} if asked % 2 and owner else {}
        query = f"author={owner}&" if of else ""
        answer = await self._ask(client, f"/api/v1/skills?{query}limit=100")
        if answer is not None:
            if of:
                self._judge_members(answer["skills"], begun, f"listing {of}", of)
            self._judge_total(answer["total"], begun, f"listing {of}", of)

    async def search(self, client: httpx.AsyncClient, asked: int) -> None:
        """The skills with a word."""
        begun, word = time.monotonic(), self._any("word")
        of = {"word": word}
        answer = await self._ask(client, f"/api/v1/skills?search={word or 'none'}&limit=100")
        if answer is not None and word:
            self._judge_members(answer["skills"], begun, f"search {of}", of)
            self._judge_total(answer["total"], begun, f"search {of}", of)

    async def count(self, client: httpx.AsyncClient, asked: int) -> None:
        """All skills, and those of an owner, in turn."""
        begun, owner = time.monotonic(), self._any("owner")
        of = {"owner": owner} if asked % 2 and owner else {}
        query = f"?author={owner}" if of else ""
        answer = await self._ask(client, f"/api/v1/skills/count{query}")
        if answer is not None:
            self._judge_total(answer["count"], begun, f"count {of}", of)

    async def look_up(self, client: httpx.AsyncClient, asked: int) -> None:
        """One of the skills, by the slug that its submission told."""
        begun = time.monotonic()
        known = list(self.acknowledged.slugs.items())
        if not known:
            return
        skill, slug = self.chance.choice([*known[-20:], self.chance.choice(known)])
        response = await self._get(client, f"/api/v1/skills/{slug}")
        if response is None or response.is_success:
            return
        for_so_long = begun - self.acknowledged.at[skill]
        self.judgement.latest = max(self.judgement.latest, for_so_long)
        if for_so_long > LATE:
            self._wrong(f"{slug} is {response.status_code} after {for_so_long:.1f} s")

    def _any(self, attribute: str) -> str:
        """The owner or word of any of the last skills, or of an earlier one."""
        known = list(self.acknowledged.at)
        if not known:
            return ""
        skill = self.chance.choice([known[-1], self.chance.choice(known)])
        return str(getattr(skill, attribute))

    async def _ask(self, client: httpx.AsyncClient, path: str) -> dict[str, Any] | None:
        """An answer that claims to be whole. None: it does not, or is none."""
        response = await self._get(client, path)
        if response is None:
            return None
        if not response.is_success:
            self._wrong(f"{path} is {response.status_code}")
            return None
        answer: dict[str, Any] = response.json()
        return None if answer["degraded"] else answer

    async def _get(self, client: httpx.AsyncClient, path: str) -> httpx.Response | None:
        """Any response but a 503 that says when to come again, which is None."""
        begun = time.monotonic()
        try:
            response = await client.get(path)
        except httpx.HTTPError as error:
            self._wrong(f"{path} has no answer: {error!r}")
            return None
        seconds = time.monotonic() - begun
        self.judgement.slowest = max(self.judgement.slowest, seconds)
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            self.judgement.kinds["503"] += 1
            if "retry-after" not in response.headers:
                self._wrong(f"{path} is 503 without Retry-After")
            return None
        kind = str(response.status_code)
        if response.is_success:
            body = response.json()
            kind = f"marked {body['source']}" if body["degraded"] else "whole"
        self.judgement.kinds[kind] += 1
        return response

    def _judge_members(
        self, listed: Sequence[dict[str, Any]], begun: float, what: str, of: dict[str, str]
    ) -> None:
        titles = {skill["displayName"] for skill in listed}
        for skill in self.acknowledged.before(begun, **of):
            if skill.title not in titles:
                self._missing(skill, begun, what)

    def _judge_total(self, total: int, begun: float, what: str, of: dict[str, str]) -> None:
        others = 0 if of else self.others
        owed = self.acknowledged.before(begun - LATE, **of)
        if total < others + len(owed):
            self._wrong(f"{what} told {total} of at least {others + len(owed)}")
        seen = self.judgement.totals.setdefault(what, [])
        most = max((number for came, number in seen if came < begun), default=0)
        if total < most:
            self._wrong(f"{what} told {total} after {most}")
        seen.append((time.monotonic(), total))

    def _missing(self, skill: Planned, begun: float, what: str) -> None:
        for_so_long = begun - self.acknowledged.at[skill]
        self.judgement.latest = max(self.judgement.latest, for_so_long)
        if for_so_long > LATE:
            self._wrong(f"{what} lacks {skill.title} {for_so_long:.1f} s after it was acknowledged")

    def _wrong(self, what: str) -> None:
        self.judgement.wrong.append(f"{time.strftime('%H:%M:%S')} {what}")


@dataclass
class Publishing:
    """What is published in the background, and how far that has come."""

    marketplace: Marketplace
    skills: Sequence[Planned]
    observer: Observer
    acknowledged: Acknowledged
    failed: list[BaseException] = field(default_factory=list)

    def reached(self, count: int) -> None:
        """Wait until so many are acknowledged, while further ones are on their way."""
        self.waited_for(count, PATIENCE)
        assert len(self.acknowledged.at) >= count, f"{len(self.acknowledged.at)} of {count}"

    def waited_for(self, count: int, seconds: float) -> None:
        """Wait so long, or until so many are acknowledged."""
        end = time.monotonic() + seconds
        while len(self.acknowledged.at) < count and time.monotonic() < end:
            assert not self.failed, self.failed
            time.sleep(EVERY)

    def judge(self) -> str:
        """Fails if an answer was wrong; one line of figures."""
        judgement = self.observer.judgement
        shown = "\n".join(judgement.wrong[:SHOWN])
        assert not judgement.wrong, f"{judgement.figures()}\n{shown}"
        return judgement.figures()


@contextmanager
def publishing(marketplace: Marketplace, kind: str, count: int) -> Iterator[Publishing]:
    """Publish so many skills in an empty marketplace, observed. In the end all are acknowledged,
    and answers have been observed for LATE seconds more."""
    empty(marketplace)
    with marketplace.client() as client:
        rebuild(client)
        others = everything_listed(client)["total"]
    acknowledged = Acknowledged()
    observer = Observer(marketplace.url, acknowledged, others)
    running = Publishing(marketplace, planned(kind, count), observer, acknowledged)
    over = threading.Event()
    with ThreadPoolExecutor(SCANNERS + 1) as pool:
        observing = pool.submit(asyncio.run, observer.run(over))
        waiting: queue.SimpleQueue[Sequence[Planned]] = queue.SimpleQueue()
        for start in range(0, count, TOGETHER):
            waiting.put(running.skills[start : start + TOGETHER])
        scanners = [pool.submit(_publish_all, running, waiting, over) for _ in range(SCANNERS)]
        try:
            yield running
            running.reached(count)
            time.sleep(LATE + EVERY)  # so that answers without any of them are seen
        finally:
            over.set()
        for scanner in scanners:
            scanner.result()
        observing.result()


def _publish_all(
    running: Publishing, waiting: queue.SimpleQueue[Sequence[Planned]], over: threading.Event
) -> None:
    try:
        with running.marketplace.client() as client:
            while not waiting.empty() and not over.is_set():
                _publish(client, waiting.get_nowait(), running.acknowledged)
    except queue.Empty:
        return
    except BaseException as error:
        running.failed.append(error)
        raise


def _publish(client: httpx.Client, skills: Sequence[Planned], acknowledged: Acknowledged) -> None:
    """Submit some skills, pass each with its name, wait until all are published."""
    with ThreadPoolExecutor(TOGETHER) as pool:
        ids = dict(zip(pool.map(lambda skill: _submit(client, skill), skills), skills, strict=True))
    results = [
        {"submissionId": id_, "verdict": "PASS", "score": 90, "skill": {"name": skill.title}}
        for id_, skill in ids.items()
    ]
    path = "/api/v1/webhooks/scan-results"
    told = _taken(lambda: client.post(path, json={"results": results}, headers=OPERATOR))
    assert set(told["accepted"]) == set(ids), told
    while ids:
        for id_ in list(ids):
            answer = status(client, id_)
            if answer.get("state") == "PUBLISHED":  # or an error, of a moment
                skill = ids.pop(id_)
                acknowledged.at[skill] = time.monotonic()
                acknowledged.slugs[skill] = answer["slug"]
        time.sleep(EVERY)


def _submit(client: httpx.Client, skill: Planned) -> str:
    address = f"198.18.{random.randrange(1, 255)}.{random.randrange(1, 255)}"
    body = {"repoUrl": f"https://github.com/{skill.owner}/tools", "skillName": skill.title}
    receipt = _taken(
        lambda: client.post("/api/v1/submissions", json=body, headers={"CF-Connecting-IP": address})
    )
    return str(receipt["id"])


def _taken(post: Callable[[], httpx.Response]) -> dict[str, Any]:
    """The answer to a call that is made again while it is answered with 503."""
    end = time.monotonic() + PATIENCE
    while (response := post()).status_code == 503:
        assert time.monotonic() < end, response.text
        time.sleep(EVERY)
    assert response.status_code in {200, 202}, response.text
    answer: dict[str, Any] = response.json()
    return answer


def everything_is_kept(marketplace: Marketplace, skills: Sequence[Planned]) -> None:
    """After one repair all sources agree on exactly these skills; a second one changes nothing."""
    with marketplace.client() as client:
        eventually(lambda: client.get("/api/v1/skills").json(), lambda a: not a.get("degraded", 1))
        first = rebuild(client)
        assert (first["ok"], first["errors"]) == (True, 0), first
        second = rebuild(client)
        changes = {name: second[name] for name in CHANGES}
        assert changes == dict.fromkeys(CHANGES, 0), second
        answer = everything_listed(client)
        assert answer["degraded"] is False
        listed = {skill["name"]: skill["displayName"] for skill in answer["skills"]}
        titles = {skill.title for skill in skills}
        assert sorted(title for title in listed.values() if title in titles) == sorted(titles)
        ours = {slug for slug, title in listed.items() if title in titles}
        assert rows(marketplace) == ours
        assert {slug for slug in records(marketplace) if not slug.startswith("alias:")} == ours
        found = health(client)
        counts = {found[n] for n in ("prisma_count", "kv_enumerated_count", "kv_index_count")}
        assert counts == {len(titles)}, found
        assert found["status"] == "ok", found


CHANGES: Final = ("prismaBackfilled", "kvBackfilled", "conflictsResolved", "errors")
