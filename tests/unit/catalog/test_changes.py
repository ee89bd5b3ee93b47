"""The feed: rows and seed in one order, whole, and what a follower of it ends with."""

from dataclasses import replace
from typing import Any

import pytest

from marketplace.catalog.changes import SEED_NUMBERS, Feed, FeedRestarted, read_changes
from marketplace.ports.errors import DatabaseError, OtherDatabase
from marketplace.ports.known_database import Standing
from marketplace.skills.acts import ActKind
from marketplace.skills.change import Acted
from marketplace.skills.fingerprint import NO_SKILLS, add_versions_to_digest
from marketplace.skills.seed import load_seed
from tests.doubles.marketplace import Market, make_skill, make_skills, without_postgres
from tests.examples import act, seed_of

SEED = seed_of(make_skill("apple"), make_skill("pear"), make_skill("plum"))


def with_seed(market: Market) -> None:
    market.env = replace(market.env, seed=SEED)


class Follower:
    """Keeps what the feed tells, by identity."""

    def __init__(self, market: Market, limit: int = 1000) -> None:
        self.market = market
        self.limit = limit
        self.kept: dict[str, dict[str, Any]] = {}
        self.since = 0
        self.generation: str | None = None

    async def catch_up(self) -> Feed:
        while True:
            feed = await read_changes(
                self.market.env, since=self.since, limit=self.limit, generation=self.generation
            )
            self.kept.update({item["identity"]: item for item in feed.changes})
            assert [item["number"] for item in feed.changes] == sorted(
                item["number"] for item in feed.changes
            )
            self.since, self.generation = feed.next, feed.generation
            if feed.next == feed.head:
                self.check(feed)
                return feed

    def check(self, feed: Feed) -> None:
        """That it has all, and in no slug two."""
        versions = [
            (item["name"], item["revision"] if item["status"] == "LISTED" else item["status"])
            for item in self.kept.values()
        ]
        assert len({name for name, _ in versions}) == len(versions)
        assert feed.fingerprint is not None
        assert feed.fingerprint.count == len(versions)
        assert feed.fingerprint.digest == add_versions_to_digest(NO_SKILLS.digest, versions)

    def names(self) -> set[str]:
        return {item["name"] for item in self.kept.values()}


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
async def test_from_0_it_is_the_whole_catalogue(market: Market, limit: int) -> None:
    with_seed(market)
    await market.fill(make_skills(8))
    follower = Follower(market, limit)
    feed = await follower.catch_up()
    assert follower.names() == {"apple", "pear", "plum", *(s.name for s in make_skills(8))}
    assert feed.head >= max(item["number"] for item in follower.kept.values())
    assert {item["seed"] for item in follower.kept.values()} == {True, False}


@pytest.mark.parametrize("limit", [1, 4, 11])
async def test_no_part_is_larger_than_asked_and_each_skill_comes_once(
    market: Market, limit: int
) -> None:
    with_seed(market)
    await market.fill(make_skills(8))
    seen, since = [], 0
    while True:
        feed = await read_changes(market.env, since=since, limit=limit)
        assert 0 < len(feed.changes) <= limit
        seen += [item["name"] for item in feed.changes]
        assert (feed.fingerprint is None) == (feed.next < feed.head)
        since = feed.next
        if since == feed.head:
            break
    assert len(seen) == len(set(seen)) == 11


async def test_an_empty_marketplace_has_the_seed_and_then_nothing_new(market: Market) -> None:
    with_seed(market)
    feed = await read_changes(market.env, since=0, limit=1000)
    assert [item["name"] for item in feed.changes] == ["apple", "pear", "plum"]
    assert feed.next == feed.head >= SEED_NUMBERS
    again = await read_changes(market.env, since=feed.next, limit=1000)
    assert (again.changes, again.next) == ([], feed.head)


async def test_a_follower_is_told_what_changed_and_what_left(market: Market) -> None:
    await market.fill([make_skill("a"), make_skill("b")])
    follower = Follower(market)
    await follower.catch_up()
    with await market.database() as database:
        block = Acted(make_skill("a").identity, (act(ActKind.BLOCK),))
        await database.upsert_skill(block, candidates=["a"])
        await database.add_alias("b-before", make_skill("b").identity)
    told = (await read_changes(market.env, since=follower.since, limit=9)).changes
    assert [(item["name"], item["status"]) for item in told] == [("a", "BLOCKED"), ("b", "LISTED")]
    assert (told[0]["reason"], told[1]["aliases"]) == ("because", ["b-before"])
    await follower.catch_up()


async def test_a_seed_skill_that_has_to_give_way_is_told_under_its_new_slug(
    market: Market,
) -> None:
    with_seed(market)
    follower = Follower(market, limit=2)
    await follower.catch_up()
    assert "apple" in follower.names()
    taker = make_skill("apple", repo_url="https://github.com/other/apple")
    await market.fill([make_skill("unrelated"), taker])
    await follower.catch_up()
    assert {"apple", "octo-apple", "unrelated"} <= follower.names()

    other = make_skill("octo-apple", repo_url="https://github.com/octo/another")
    await market.fill([other])
    await follower.catch_up()
    assert follower.kept[make_skill("apple").identity]["name"] not in ("apple", "octo-apple")


async def test_a_seed_skill_that_is_published_is_told_as_that(market: Market) -> None:
    with_seed(market)
    follower = Follower(market)
    await follower.catch_up()
    await market.fill([make_skill("pear", description="As it is read now.")])
    feed = await follower.catch_up()
    assert follower.kept[make_skill("pear").identity]["seed"] is False
    assert feed.fingerprint is not None
    assert feed.fingerprint.count == 3


async def test_a_random_history_is_followed(market: Market) -> None:
    """Of skills that take slugs of the seed, in parts of any size."""
    with_seed(market)
    followers = [Follower(market, limit) for limit in (1, 3, 1000)]
    names = ("apple", "pear", "plum", "octo-apple", "octo-pear", "fig")
    for number in range(40):
        name = names[number * 7 % len(names)]
        owner = ("octo", "other", "third")[number % 3]
        made = make_skill(
            name,
            repo_url=f"https://github.com/{owner}/{name}",
            updated_at=f"2026-11-01T08:00:{number:02d}.000Z",
        )
        await market.fill([made], kv=False)
        await followers[number % 3].catch_up()
    for follower in followers:
        await follower.catch_up()


async def test_a_number_that_was_not_given_yet_restarts(market: Market) -> None:
    await market.fill([make_skill("a")])
    head = (await read_changes(market.env, since=0, limit=1)).head
    assert (await read_changes(market.env, since=head, limit=1)).changes == []
    with pytest.raises(FeedRestarted) as restarted:
        await read_changes(market.env, since=head + 1, limit=1)
    assert restarted.value.feed.head == head


async def test_another_seed_restarts(market: Market) -> None:
    with_seed(market)
    follower = Follower(market)
    await follower.catch_up()
    market.env = replace(market.env, seed=seed_of(*SEED.skills[1:], SEED.skills[0]))
    with pytest.raises(FeedRestarted):
        await follower.catch_up()


async def test_a_database_that_was_repaired_restarts(market: Market) -> None:
    await market.fill([make_skill("a")])
    follower = Follower(market)
    feed = await follower.catch_up()
    market.tables.missing_until = market.tables.changes
    with await market.database() as database:
        database.hold_to(replace(market.env.database.known.expectation, repairing=True))
        await database.note_missing(Standing(market.tables.instance, 9))
        await database.note_complete()
    with pytest.raises(FeedRestarted) as restarted:
        await follower.catch_up()
    assert restarted.value.feed.generation != feed.generation


async def test_without_postgres_nothing_is_told(market: Market) -> None:
    with pytest.raises(DatabaseError):
        await read_changes(without_postgres(market), since=0, limit=10)


async def test_another_database_tells_nothing(market: Market) -> None:
    await market.fill([make_skill("a")])
    await read_changes(market.env, since=0, limit=10)
    market.tables.instance = "another"
    with pytest.raises(OtherDatabase):
        await read_changes(market.env, since=0, limit=10)


def test_the_seed_has_room_for_its_numbers() -> None:
    assert len(load_seed().skills) <= SEED_NUMBERS
