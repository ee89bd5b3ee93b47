"""Damaged marketplaces and rebuilds to their end, for the tests of the rebuild."""

from typing import Any

import msgspec

from cli.answers import Rebuild as CliRebuild
from marketplace.kv.records import encode_skill
from marketplace.kv.summaries import encode_summary
from marketplace.repair.rebuild import get_rebuild, start_rebuild
from marketplace.skills.skill import PublishedSummary
from marketplace.worker.consumers import MAINTENANCE_QUEUE, consume
from tests.doubles.marketplace import LATER, REFUSED, Delivered, Market, make_skill, make_skills

_NUMBERS = (
    "rebuilt",
    "errors",
    "orphanedAliases",
    "prismaBackfilled",
    "kvBackfilled",
    "conflictsResolved",
    "metadataRestored",
    "aliasesRepaired",
)


def numbers(report: dict[str, Any]) -> dict[str, int]:
    """What a report counts."""
    return {name: report[name] for name in _NUMBERS}


def changes(report: dict[str, Any]) -> list[int]:
    """What a report says was changed; all 0 after a repair."""
    return [report[name] for name in _NUMBERS[3:]]


async def rebuild(market: Market, *, dry_run: bool = False) -> dict[str, Any]:
    """Run a rebuild to its end, one queue message after the other."""
    job = await start_rebuild(market.env, dry_run=dry_run, wait_seconds=5)
    await deliver(market)
    return await finished(market, job.id)


async def deliver(market: Market) -> None:
    """Run the steps that wait in the queue, and those that these ask for."""
    while market.maintenance.bodies:
        message = Delivered(
            msgspec.json.decode(msgspec.json.encode(market.maintenance.bodies.pop(0)))
        )
        await consume(market.env, MAINTENANCE_QUEUE, [message])
        assert message.acknowledged


async def finished(market: Market, job_id: str) -> dict[str, Any]:
    """The report of a rebuild that is complete."""
    kept = await get_rebuild(market.env, job_id)
    assert kept is not None
    assert kept.complete
    report: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(kept.report(market.env.now())))
    msgspec.convert(report, CliRebuild)
    return report


async def damaged(market: Market) -> None:
    """A marketplace with a damage of every kind."""
    skills = make_skills(40)
    await market.fill(skills)
    market.lose_rows(skills[:7])
    market.lose_records(skills[10:15])
    newer = [replace_version(skill, "2.0.0") for skill in skills[20:23]]
    await market.fill(newer, table=False)
    await market.fill([replace_version(skill, "3.0.0") for skill in skills[23:25]], kv=False)
    market.kv.damage("skill:broken", b"no json")
    market.kv.damage("skill:alias:old-one", b'{"slug": "skill-00001"}')
    market.kv.damage("skill:alias:lost-one", b'{"slug": "nowhere"}')
    taken = make_skill("taken", repo_url="https://github.com/first/taken")
    await market.fill([taken], kv=False)
    await market.fill(
        [make_skill("taken", repo_url="https://github.com/second/taken")], table=False
    )
    moved = make_skill("new-name", base_slug="moved")
    await market.fill([moved], kv=False)
    await market.fill([moved.renamed("moved")], table=False)
    for skill in skills[30:32]:  # as a plain "kv key put" leaves them
        market.kv.damage(f"skill:{skill.name}", market.kv.peek(f"skill:{skill.name}"))
    await _refused(market)
    await _in_each_others_way(market)


async def _refused(market: Market) -> None:
    """Records that PostgreSQL does not take, one under the slug of a row, and odd metadata."""
    await market.fill([make_skill("refused", category=REFUSED)], table=False)
    await market.fill([make_skill("wanted", repo_url="https://github.com/first/x")], kv=False)
    squatter = make_skill("wanted", repo_url="https://github.com/second/x", category=REFUSED)
    await market.fill([squatter], table=False)
    odd = make_skill("odd")
    summary = PublishedSummary(odd.summary(), "a\0b")
    market.kv.damage("skill:odd", encode_skill(odd), metadata=encode_summary(summary).decode())


async def _in_each_others_way(market: Market) -> None:
    """A slug that is another skill's alias, and a record left where another skill has its row."""
    with await market.database() as database:
        await database.add_alias("held", make_skill("skill-00001").identity)
    await market.fill([make_skill("held")], table=False)
    gone = make_skill("gone-on", base_slug="occupied", repo_url="https://github.com/first/y")
    await market.fill([gone], kv=False)
    await market.fill([gone.renamed("occupied")], table=False)
    await market.fill([make_skill("occupied")], kv=False)


def replace_version(skill: Any, version: str) -> Any:
    """A newer state of a skill."""
    return msgspec.structs.replace(skill, current_version=version, updated_at=LATER)
