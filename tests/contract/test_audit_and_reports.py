"""The audit, and what visitors report."""

from typing import Any

import msgspec
import pytest

from marketplace.ports.audit import AuditEntry, AuditFilter
from marketplace.ports.database import DatabaseConnector
from marketplace.ports.principal import Role
from marketplace.ports.skill_report import ReportPlace, ReportReason, SkillReport
from tests.examples import FEBRUARY, JANUARY, MARCH


def entry(mark: str = "a", at: str = JANUARY, **fields: Any) -> AuditEntry:
    values: dict[str, Any] = {
        "principal": "ann",
        "role": Role.OPERATOR,
        "action": "block",
        "target": "pdf-tools",
    }
    return AuditEntry(id=f"{at}-{mark}", at=at, **(values | fields))


def report(mark: str = "a", at: str = JANUARY, **fields: Any) -> SkillReport:
    values: dict[str, Any] = {
        "slug": "pdf-tools",
        "identity": "https://github.com/octo/pdf-tools#pdf-tools",
        "reason": ReportReason.MALICIOUS,
        "text": "It sends\nmy keys 🦊 away.",
    }
    return SkillReport(id=f"{at}-{mark}", at=at, **(values | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"before": {"status": "LISTED"}, "after": {"status": "BLOCKED"}, "reason": "It steals."},
        {"before": 0, "after": [1.5, None, 'text " \\ 🦊 \0'], "role": Role.SCANNER},
        {"before": "", "after": False, "target": "", "reason": ""},
    ],
)
async def test_an_entry_comes_back_as_it_was(
    connect: DatabaseConnector, fields: dict[str, Any]
) -> None:
    with await connect() as db:
        await db.add_audit_entry(entry(**fields))

        found = await db.list_audit_entries(AuditFilter(), before=None, limit=9)
        assert found == [entry(**fields)]


async def test_an_entry_is_never_refused_for_a_nul(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await db.add_audit_entry(entry(principal="a\0", target="t\0", reason="r\0"))

        (found,) = await db.list_audit_entries(AuditFilter(), before=None, limit=9)
        assert (found.principal, found.target, found.reason) == ("a\ufffd", "t\ufffd", "r\ufffd")


async def test_the_newest_entries_come_first_by_page_and_filter(
    connect: DatabaseConnector,
) -> None:
    entries = [
        entry("a", JANUARY),
        entry("b", JANUARY, principal="bob"),
        entry("a", FEBRUARY, action="restore"),
        entry("a", MARCH, target="csv-tools"),
    ]
    with await connect() as db:
        for each in entries:
            await db.add_audit_entry(each)

        async def listed(before: str | None = None, limit: int = 9, **wanted: str) -> list[int]:
            found = await db.list_audit_entries(AuditFilter(**wanted), before=before, limit=limit)
            return [entries.index(each) for each in found]

        assert await listed() == [3, 2, 1, 0]
        assert await listed(limit=2) == [3, 2]
        assert await listed(entries[2].id) == [1, 0]
        assert await listed(principal="bob") == [1]
        assert await listed(action="block") == [3, 1, 0]
        assert await listed(target="pdf-tools", principal="ann") == [2, 0]
        assert await listed(since=FEBRUARY) == [3, 2]
        assert await listed(entries[3].id, 1, since=JANUARY) == [2]
        assert await listed(action="none") == []


async def test_a_report_comes_back_as_it_was(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await db.add_report(report())

        assert await db.get_report(report().id) == report()
        assert await db.get_report("none") is None
        assert await db.list_reports(after=None, limit=9) == [report()]


async def test_open_reports_come_first_each_kind_by_age(connect: DatabaseConnector) -> None:
    first, second, third = (report("a", at) for at in (JANUARY, FEBRUARY, MARCH))
    with await connect() as db:
        for each in (second, third, first):
            await db.add_report(each)
        assert await db.list_reports(after=None, limit=9) == [first, second, third]

        for id_ in (second.id, first.id):
            assert await db.resolve_report(id_, at=MARCH, by="ann", resolution="Looked at.")

        listed = await db.list_reports(after=None, limit=9)
        assert [each.id for each in listed] == [third.id, first.id, second.id]
        for number in range(3):
            page = await db.list_reports(after=listed[number].place, limit=1)
            assert page == listed[number + 1 : number + 2]
        assert await db.list_reports(after=ReportPlace(resolved=True, id=""), limit=9) == listed[1:]


async def test_a_report_is_resolved_once(connect: DatabaseConnector) -> None:
    with await connect() as db:
        await db.add_report(report())
        assert await db.resolve_report(report().id, at=MARCH, by="ann", resolution="Blocked.")
        assert not await db.resolve_report(report().id, at=MARCH, by="bob", resolution="Nothing.")
        assert not await db.resolve_report("none", at=MARCH, by="bob", resolution="Nothing.")

        assert await db.get_report(report().id) == msgspec.structs.replace(
            report(), resolved_at=MARCH, resolved_by="ann", resolution="Blocked."
        )
