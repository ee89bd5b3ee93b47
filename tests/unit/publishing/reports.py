"""What anybody submits, what scanners report of it, and what becomes of both."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from marketplace.catalog.listings import get_skills
from marketplace.kv.submissions import create_submission
from marketplace.ports.env import Env
from marketplace.publishing.messages import PUBLISH_QUEUE
from marketplace.publishing.publish import publish_skills
from marketplace.publishing.submissions import ResultsReceipt, record_scan_results
from marketplace.repair.light_repair import run_light_repair
from marketplace.repair.rebuild import start_rebuild
from marketplace.skills.acts import Act, ActKind
from marketplace.skills.change import Acted
from marketplace.skills.listing_rules import ListingQuery
from marketplace.skills.scan import Facts, ScanReport
from marketplace.skills.skill import Skill
from marketplace.skills.submission import Submission
from marketplace.skills.tiers import CertTier, Verdict
from marketplace.worker.consumers import consume
from tests.doubles.marketplace import Delivered, Market

LAST_ATTEMPT = 6
"""A delivery at which what KV shows is believed."""


async def submitted(market: Market, id_: str = "first", **fields: Any) -> Submission:
    """A submission that nothing turned away, as when none was listed yet."""
    values: dict[str, Any] = {
        "repo_url": "https://github.com/acme/tools",
        "skill_name": "Reader",
        "base_slug": "reader",
        "created_at": market.env.now(),
        **fields,
    }
    submission = Submission(id=id_, **values)
    await create_submission(market.env, submission)
    return submission


def report(
    id_: str = "first", verdict: Verdict = Verdict.PASS, text: str | None = None, **fields: Any
) -> ScanReport:
    """A verdict; with facts where a description is given."""
    values: dict[str, Any] = {
        "score": 80,
        "cert_tier": CertTier.VERIFIED,
        "skill": None if text is None else Facts(name="Reader", description=text),
        **fields,
    }
    return ScanReport(submission_id=id_, verdict=verdict, **values)


async def reported(market: Market, *reports: ScanReport, env: Env | None = None) -> ResultsReceipt:
    """Tell the webhook."""
    return await record_scan_results(env or market.env, reports)


async def deliver(
    market: Market, *, env: Env | None = None, attempts: int = LAST_ATTEMPT
) -> list[Delivered]:
    """Deliver what waits in the queue, and what is retried once more later."""
    bodies = [json.loads(json.dumps(body)) for body in market.publish.bodies]
    messages = [Delivered(body, attempts, str(n)) for n, body in enumerate(bodies)]
    market.publish.bodies.clear()
    await consume(env or market.env, PUBLISH_QUEUE, messages)
    market.publish.bodies += [message.body for message in messages if message.retried]
    return messages


async def carried_out(market: Market, *reports: ScanReport) -> None:
    """Report verdicts of which each is accepted, and let them be carried out."""
    receipt = await reported(market, *reports)
    assert receipt.rejected == []
    assert all(message.acknowledged for message in await deliver(market))


async def listed(market: Market, text: str = "As listed.", **fields: Any) -> Skill:
    """Get the skill of acme/tools published, as the repository says it is."""
    await submitted(market)
    await carried_out(market, report(text=text, **fields))
    return row(market)


async def acted(market: Market, identity: str, kind: ActKind, **fields: Any) -> None:
    """Let an operator act."""
    act = Act(id=f"{kind}", kind=kind, reason="because", at=market.env.now(), by="ops", **fields)
    await publish_skills(market.env, [Acted(identity, (act,))])


def row(market: Market) -> Skill:
    """The only row."""
    (held,) = market.tables.rows.values()
    return held.skill


def letters(market: Market) -> list[str]:
    """Why messages became dead letters."""
    return sorted(letter.reason for letter in market.tables.dead_letters.values())


async def items(env: Env, search: str | None = None, **filters: Any) -> list[dict[str, Any]]:
    """What a listing shows."""
    page = (await get_skills(env, ListingQuery(limit=100, search=search, **filters))).value
    return [msgspec.json.decode(item) for item in page.items]


async def repaired(market: Market) -> None:
    """The light repair and a rebuild: whatever lies anywhere has come to its place."""
    assert (await run_light_repair(market.env)).errors == []
    job = await start_rebuild(market.env, wait_seconds=20)
    assert (job.complete, job.error_details) == (True, [])


def texts_of(skills: Sequence[dict[str, Any]]) -> list[str]:
    """The descriptions of a listing."""
    return [skill["description"] for skill in skills]
