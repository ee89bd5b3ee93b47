"""What visitors report about skills. PostgreSQL alone keeps it."""

from collections.abc import Sequence

from marketplace.operations import audit
from marketplace.ports.env import Env, get_db
from marketplace.ports.principal import Principal
from marketplace.ports.skill_report import ReportPlace, ReportReason, SkillReport
from marketplace.skills.skill import Skill


async def add_report(env: Env, skill: Skill, reason: ReportReason, text: str) -> SkillReport:
    """Keep a report. Raises DatabaseError."""
    now = env.now()
    report = SkillReport(
        id=audit.new_id(now),
        at=now,
        slug=skill.name,
        identity=skill.identity,
        reason=reason,
        text=text,
    )
    await (await get_db(env)).add_report(report)
    return report


async def list_reports(env: Env, *, after: ReportPlace | None, limit: int) -> Sequence[SkillReport]:
    """Up to ``limit`` reports, the open ones first, each kind by age. Raises DatabaseError."""
    return await (await get_db(env)).list_reports(after=after, limit=limit)


async def resolve_report(
    env: Env, principal: Principal, report_id: str, resolution: str
) -> SkillReport | None:
    """Close an open report; the report afterwards, None where there is none of this id.

    One that is resolved keeps its first resolution. Raises DatabaseError.
    """
    database = await get_db(env)
    resolved = await database.resolve_report(
        report_id, at=env.now(), by=principal.name, resolution=resolution
    )
    report = await database.get_report(report_id)
    if resolved and report is not None:
        await audit.record(
            env,
            principal,
            "resolve-report",
            report_id,
            after={"slug": report.slug, "reported": report.reason},
            reason=resolution,
        )
    return report
