"""The commands against a scripted marketplace: what they call, show, and exit with."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.client import BATCH_SIZE
from cli.commands import MAX_FAILED_POLLS, follow
from cli.output import Output
from local.paths import REPOSITORY
from tests.unit.cli.double import FakeMarketplace

HEALTH = "/api/v1/admin/health/skills"
REBUILD = "/api/v1/admin/rebuild-index"
LETTERS = "/api/v1/admin/dead-letters"
REDRIVE = "/api/v1/admin/dead-letters/redrive"
SUBMIT = "/api/v1/submissions"
SCANS = "/api/v1/webhooks/scan-results"


def health(**changes: Any) -> dict[str, Any]:
    return {
        "status": "ok",
        "kv_index_count": 110_118,
        "kv_enumerated_count": 110_118,
        "prisma_count": 110_118,
        "seed_count": 118,
        "drift_detected": False,
        "drifts": [],
        "recommendations": [],
        "sources": {
            "postgres": {"reachable": True, "latency_ms": 12.3, "error": None},
            "kv": {"reachable": True, "latency_ms": 840.0, "error": None},
            "kv_index": {"reachable": True, "age_seconds": 300, "damaged": False, "error": None},
        },
        "last_repair": {"ok": True, "finishedAt": "2026-11-24T03:18:00.000Z", "steps": [1, 2]},
        "last_check": {"ok": True, "cron": "*/5 * * * *", "status": "ok"},
        "dead_letters": {"total": 3, "by_reason": {"other-path": 2, "invalid-record": 1}},
        "oldest_pending": {
            "id": "sub-1",
            "scanned_at": "2026-11-24T08:00:00.000Z",
            "age_seconds": 9,
        },
        "scanning": {
            "waiting": {"new": 4, "rescan": 0, "due": 1_500},
            "oldest_age_seconds": 7_300.0,
            "oldest_reason": "new",
            "handed_out": 2_100,
            "results": 2_050,
            "hours": [{"hour": "2026-11-24T08:00:00.000Z", "handed_out": 2_100, "results": 2_050}],
        },
        "heap": {"bytes": 38_000_000},
        "kv_operations": {"list": 112, "all": 118},
    } | changes


DRIFT = {
    "kind": "members",
    "sources": ["postgres", "kv-enumeration"],
    "counts": [110_118, 110_118],
    "difference": 0,
    "message": "counts agree, members do not",
}
ADVICE = {"action": "rebuild", "reason": "the sources differ", "call": f"POST {REBUILD}"}


def test_health_shows_everything_and_exits_with_0(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", HEALTH, health())
    result = marketplace.run("health")
    assert result.exit_code == 0
    for expected in (
        "Marketplace: ok",
        "110,118",
        "12 ms",
        "840 ms",
        "5 min",
        "3 (invalid-record: 1, other-path: 2)",
        "sub-1",
        "finishedAt 2026-11-24T03:18:00.000Z",
        "cron */5 * * * *, status ok",
        "bytes 38,000,000",
        "list 112, all 118",
        "new: 4, rescan: 0, due: 1,500; the oldest (new) for 2.0 h",
        "2,100 handed out, 2,050 results",
    ):
        assert expected in result.stdout
    assert "Drifts" not in result.stdout
    assert "unreadable" not in result.stdout


def test_health_shows_drifts_and_what_to_do(marketplace: FakeMarketplace) -> None:
    marketplace.on(
        "GET",
        HEALTH,
        health(status="drift", drift_detected=True, drifts=[DRIFT], recommendations=[ADVICE]),
    )
    result = marketplace.run("health")
    assert result.exit_code == 1
    for expected in (
        "Marketplace: drift",
        "postgres / kv-enumeration",
        "110,118 / 110,118",
        "counts agree, members do not",
        f"POST {REBUILD}",
    ):
        assert expected in result.stdout


LASTING = {
    "kind": "record-missing",
    "sources": ["postgres", "kv"],
    "number": 3,
    "examples": ["pdf-tools", "csv-tools"],
    "since": "2026-11-24T08:00:00.000Z",
    "recommendation": "Rebuild.",
}


def test_health_shows_differences_of_members(marketplace: FakeMarketplace) -> None:
    counted = {"postgres": "2026-11-24T08:15:00.000Z", "kv": "2026-11-24T08:05:00.000Z"}
    changes = {"findings": [LASTING], "counted_at": counted, "open_rules": 7}
    marketplace.on("GET", HEALTH, health(**changes))
    shown = marketplace.run("health").stdout
    for expected in ("record-missing", "pdf-tools, csv-tools", *counted.values(), "rules being"):
        assert expected in shown


AWAY = {"reachable": False, "latency_ms": None, "error": "connection refused"}
FINDINGS: dict[str, dict[str, Any]] = {
    "status drift": {"status": "drift"},
    "status failing": {"status": "failing"},
    "status unknown": {"status": "odd"},
    "drift detected": {"drift_detected": True},
    "a drift": {"drifts": [DRIFT]},
    "a difference of members": {"findings": [LASTING]},
    "a recommendation": {"recommendations": [ADVICE]},
    "a source away": {"prisma_count": None, "sources": {"postgres": AWAY}},
    "a source with an error": {"sources": {"kv": {"reachable": True, "error": "slow"}}},
    "a damaged index": {"sources": {"kv_index": {"reachable": True, "damaged": True}}},
}


@pytest.mark.parametrize("changes", FINDINGS.values(), ids=FINDINGS.keys())
def test_every_finding_exits_with_1(marketplace: FakeMarketplace, changes: dict[str, Any]) -> None:
    marketplace.on("GET", HEALTH, health(**changes))
    assert marketplace.run("health").exit_code == 1
    assert marketplace.run("health", "--json").exit_code == 1


def test_a_source_that_is_away_is_shown_as_such(marketplace: FakeMarketplace) -> None:
    marketplace.on(
        "GET",
        HEALTH,
        health(prisma_count=None, sources={"postgres": AWAY}, dead_letters=None, scanning=None),
    )
    result = marketplace.run("health")
    assert result.stdout.count("unreadable") == 3
    assert "unreachable" in result.stdout
    assert "connection refused" in result.stdout


def test_health_as_json_is_the_answer_itself(marketplace: FakeMarketplace) -> None:
    answer = health(added_later={"by": "a newer marketplace"})
    marketplace.on("GET", HEALTH, answer)
    assert json.loads(marketplace.run("health", "--json").stdout) == answer


def test_health_is_coloured_on_a_terminal(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", HEALTH, health())
    env = {"FORCE_COLOR": "1", "NO_COLOR": "", "TERM": "xterm-256color"}
    assert "\x1b[1;32mok" in marketplace.run("health", env=env).stdout


def test_what_strangers_wrote_neither_styles_nor_steers_the_terminal(
    marketplace: FakeMarketplace,
) -> None:
    evil = "[bold red]x[/] \x1b[2J\x07\u202e"
    letter = {
        "id": "1",
        "reason": "invalid-message",
        "detail": evil,
        "body": {"submissionId": evil},
    }
    marketplace.on("GET", LETTERS, {"deadLetters": [letter], "nextCursor": None})
    output = marketplace.run("dead-letters").output
    assert "[bold red]x[/]" in output
    assert not {"\x1b", "\x07", "\u202e"} & set(output)


def report(**changes: Any) -> dict[str, Any]:
    return {
        "ok": True,
        "rebuilt": 110_118,
        "errors": 0,
        "orphanedAliases": 4,
        "prismaBackfilled": 5_000,
        "kvBackfilled": 4_999,
        "conflictsResolved": 7,
        "metadataRestored": 3_210,
        "errorDetails": [],
        "durationMs": 93_000.0,
        "complete": True,
        "dryRun": False,
        "jobId": "job-1",
        "progress": {"processed": 110_118, "estimatedTotal": 110_118, "steps": 12},
    } | changes


def running(processed: int, total: int | None = 110_118) -> httpx.Response:
    progress = {"processed": processed, "estimatedTotal": total, "steps": 1}
    return httpx.Response(202, json=report(complete=False, progress=progress))


def test_a_rebuild_that_fits_in_one_step(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REBUILD, report())
    result = marketplace.run("rebuild")
    assert result.exit_code == 0
    (request,) = marketplace.requests
    assert dict(request.url.params) == {"dryRun": "false", "wait": "5"}
    for expected in ("Rebuild complete after 93 s", "110,118", "5,000", "4,999", "3,210", "7", "4"):
        assert expected in result.stdout
    assert "dry run" not in result.stdout


def test_a_long_rebuild_is_followed_to_its_end(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REBUILD, running(0, None))
    marketplace.on("GET", f"{REBUILD}/job-1", running(30_000), running(80_000), report())
    env = {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "TERM": "xterm"}
    result = marketplace.run("rebuild", env=env)
    assert result.exit_code == 0
    assert len(marketplace.requests) == 4
    assert "30000/110118" in result.stderr
    assert "80000/110118" in result.stderr
    assert "Rebuild complete" in result.stdout


def test_polling_slows_down_to_a_limit(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REBUILD, running(0))
    marketplace.on("GET", f"{REBUILD}/job-1", *[running(n) for n in range(10)], report())
    marketplace.run("rebuild")
    assert marketplace.slept[0] == 1.0
    assert marketplace.slept == sorted(marketplace.slept)
    assert max(marketplace.slept) == 5.0


def test_following_survives_a_short_absence(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REBUILD, running(0))
    marketplace.on("GET", f"{REBUILD}/job-1", httpx.Response(500, json={}), running(1), report())
    assert marketplace.run("rebuild").exit_code == 0


def test_following_gives_up_on_a_long_absence(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REBUILD, running(0))
    marketplace.on("GET", f"{REBUILD}/job-1", httpx.Response(500, json={"title": "Down"}))
    result = marketplace.run("rebuild")
    assert result.exit_code == 2
    assert len(marketplace.requests) == 1 + MAX_FAILED_POLLS


def test_following_ends_with_the_time(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REBUILD, running(0))
    marketplace.on("GET", f"{REBUILD}/job-1", running(10))
    result = marketplace.run("rebuild", "--max-minutes", "1")
    assert result.exit_code == 1
    assert 60 <= sum(marketplace.slept) < 66
    assert "Rebuild goes on" in result.stdout
    assert "rebuild --job job-1" in result.stderr


def test_a_rebuild_is_followed_without_the_command_line(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", f"{REBUILD}/job-1", running(30_000), report())
    with closing(marketplace.client()) as client:
        unfinished = report(complete=False)
        assert follow(client, Output(as_json=True), unfinished, max_seconds=60) == report()
        assert follow(client, Output(as_json=True), unfinished, max_seconds=0) == unfinished
    assert marketplace.slept == [1.0, 1.5]


def test_the_commands_do_not_know_the_command_line() -> None:
    program = "import sys, cli.commands; sys.exit('typer' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False).returncode == 0
    )


def test_control_c_tells_how_to_look_again(marketplace: FakeMarketplace) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    marketplace.after_sleep = interrupt
    marketplace.on("POST", REBUILD, running(0))
    result = marketplace.run("rebuild")
    assert result.exit_code == 130
    assert "rebuild --job job-1" in result.stderr


def test_no_wait_starts_and_leaves(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REBUILD, running(0))
    result = marketplace.run("rebuild", "--no-wait")
    assert result.exit_code == 0
    (request,) = marketplace.requests
    assert request.url.params["wait"] == "0"
    assert "rebuild --job job-1" in result.stderr


def test_a_job_can_be_followed_later(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", f"{REBUILD}/job-1", running(5), report())
    assert marketplace.run("rebuild", "--job", "job-1").exit_code == 0
    assert all(request.method == "GET" for request in marketplace.requests)
    assert marketplace.run("rebuild", "--job", "job-1", "--dry-run").exit_code == 2


def test_a_job_id_stays_one_segment_of_the_path(marketplace: FakeMarketplace) -> None:
    marketplace.run("rebuild", "--job", "../../x?y")
    assert marketplace.requests[0].url.raw_path == f"{REBUILD}/..%2F..%2Fx%3Fy".encode()


def test_a_dry_run_says_so(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REBUILD, report(dryRun=True))
    result = marketplace.run("rebuild", "--dry-run")
    assert result.exit_code == 0
    assert marketplace.requests[0].url.params["dryRun"] == "true"
    assert "nothing was changed" in result.stdout


def test_a_database_is_adopted_only_where_that_was_asked_for(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REBUILD, report())
    marketplace.run("rebuild")
    marketplace.run("rebuild", "--adopt")
    assert [r.url.params.get("adopt") for r in marketplace.requests] == [None, "true"]
    assert marketplace.run("rebuild", "--job", "job-1", "--adopt").exit_code == 2


def test_records_in_error_are_named_and_exit_with_1(marketplace: FakeMarketplace) -> None:
    details = [{"key": "skill:broken", "reason": "no repoUrl"}]
    marketplace.on("POST", REBUILD, report(errors=1, errorDetails=details))
    result = marketplace.run("rebuild")
    assert result.exit_code == 1
    assert "skill:broken" in result.stdout
    assert "no repoUrl" in result.stdout


def test_a_failed_rebuild_exits_with_1(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REBUILD, report(ok=False))
    assert marketplace.run("rebuild").exit_code == 1


def test_a_rebuild_as_json_is_the_final_answer(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REBUILD, running(0))
    marketplace.on("GET", f"{REBUILD}/job-1", report())
    result = marketplace.run("rebuild", "--json")
    assert json.loads(result.stdout) == report()
    assert result.stderr == ""


def letter(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"letter-{number:04}",
        "queue": "skill-publish",
        "body": {"submissionId": f"sub-{number:04}"},
        "reason": "storage-unavailable",
        "detail": "both sources away",
        "attempts": 11,
        "failedAt": "2026-11-24T07:00:00.000Z",
        "redrives": 2,
    } | changes


def pages(*sizes: int) -> list[dict[str, Any]]:
    made, first = [], 0
    for number, size in enumerate(sizes, 1):
        last = number == len(sizes)
        made.append(
            {
                "deadLetters": [letter(n) for n in range(first, first + size)],
                "nextCursor": None if last else f"cursor-{number}",
            }
        )
        first += size
    return made


def test_dead_letters_are_listed(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", LETTERS, *pages(2))
    result = marketplace.run("dead-letters", "--reason", "storage-unavailable", "--limit", "7")
    assert result.exit_code == 0
    assert dict(marketplace.requests[0].url.params) == {
        "reason": "storage-unavailable",
        "limit": "7",
    }
    for expected in ("letter-0001", "sub-0001", "both sources away", "11", "07:00:00.000Z"):
        assert expected in result.stdout


def test_dead_letters_are_paged_up_to_the_limit(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", LETTERS, *pages(100, 100, 50, 1))
    result = marketplace.run("dead-letters", "--limit", "250", "--json")
    sent = [dict(request.url.params) for request in marketplace.requests]
    assert sent == [
        {"limit": "100"},
        {"limit": "100", "cursor": "cursor-1"},
        {"limit": "50", "cursor": "cursor-2"},
    ]
    answer = json.loads(result.stdout)
    assert [item["id"] for item in answer["deadLetters"]] == [f"letter-{n:04}" for n in range(250)]
    assert answer["nextCursor"] == "cursor-3"
    assert "--cursor cursor-3" in result.stderr


def test_a_cursor_that_repeats_ends_the_listing(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", LETTERS, {"deadLetters": [], "nextCursor": "same"})
    assert marketplace.run("dead-letters").exit_code == 2
    assert len(marketplace.requests) == 2


def test_no_dead_letters(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", LETTERS, *pages(0))
    assert "No dead letters" in marketplace.run("dead-letters").stdout


AUDIT = "/api/v1/admin/audit"
REPORTS = "/api/v1/admin/reports"
ENTRY = {
    "id": "2026-11-24T08:00:00.000Z-1",
    "at": "2026-11-24T08:00:00.000Z",
    "principal": "ann",
    "role": "operator",
    "action": "block",
    "target": "pdf-tools",
    "before": {"status": "LISTED"},
    "after": {"status": "BLOCKED"},
    "reason": "It steals \x1b[31mkeys.",
}
REPORT = {
    "id": "2026-11-24T08:00:00.000Z-2",
    "at": "2026-11-24T08:00:00.000Z",
    "slug": "pdf-tools",
    "identity": "https://github.com/octo/tools#pdf-tools",
    "reason": "malicious",
    "text": "It sends\nkeys \x1b[31maway.",
    "resolvedAt": None,
    "resolvedBy": None,
    "resolution": None,
}


def test_the_audit_is_listed_by_filter(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", AUDIT, {"entries": [ENTRY], "nextCursor": None})
    result = marketplace.run(
        *("audit", "--principal", "ann", "--action", "block", "--target", "pdf-tools"),
        *("--since", "2026-11-24T00:00:00Z", "--limit", "7"),
    )
    assert result.exit_code == 0
    assert dict(marketplace.requests[0].url.params) == {
        "principal": "ann",
        "action": "block",
        "target": "pdf-tools",
        "since": "2026-11-24T00:00:00Z",
        "limit": "7",
    }
    for expected in ("ann", "block", "pdf-tools", "status LISTED", "status BLOCKED", "steals"):
        assert expected in result.stdout
    assert "\x1b[31m" not in result.stdout


def test_the_audit_is_paged_up_to_the_limit(marketplace: FakeMarketplace) -> None:
    full = {"entries": [ENTRY] * 100, "nextCursor": "2"}
    marketplace.on("GET", AUDIT, full, {"entries": [ENTRY] * 20, "nextCursor": "3"})
    result = marketplace.run("audit", "--limit", "120", "--json")
    sent = [dict(request.url.params) for request in marketplace.requests]
    assert sent == [{"limit": "100"}, {"limit": "20", "cursor": "2"}]
    assert len(json.loads(result.stdout)["entries"]) == 120
    assert "--cursor 3" in result.stderr


def test_an_entry_without_documents_is_shown(marketplace: FakeMarketplace) -> None:
    bare = {name: ENTRY[name] for name in ("at", "principal", "action", "target")}
    marketplace.on("GET", AUDIT, {"entries": [bare, ENTRY | {"after": 3}], "nextCursor": None})
    assert marketplace.run("audit").exit_code == 0
    marketplace.on("GET", AUDIT, {"entries": [], "nextCursor": None})
    assert "No entries" in marketplace.run("audit").stdout


def test_reports_are_listed(marketplace: FakeMarketplace) -> None:
    resolved = REPORT | {"resolvedBy": "ann", "resolvedAt": "2026", "resolution": "Blocked it."}
    marketplace.on("GET", REPORTS, {"reports": [REPORT, resolved], "nextCursor": "resolved:1"})
    result = marketplace.run("reports", "--limit", "2", "--cursor", "open:0")
    assert result.exit_code == 0
    assert dict(marketplace.requests[0].url.params) == {"limit": "2", "cursor": "open:0"}
    for expected in ("pdf-tools", "malicious", "open", "ann: Blocked it."):
        assert expected in result.stdout
    assert "\x1b[31m" not in result.stdout
    assert "--cursor resolved:1" in result.stderr


def test_no_reports(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", REPORTS, {"reports": [], "nextCursor": None})
    assert "No reports" in marketplace.run("reports").stdout


def test_a_report_is_resolved_with_a_reason(marketplace: FakeMarketplace) -> None:
    id_ = str(REPORT["id"])
    answer = REPORT | {"resolvedBy": "ann", "resolvedAt": "2026", "resolution": "Blocked it."}
    marketplace.on("POST", f"{REPORTS}/{id_}/resolve", answer)
    result = marketplace.run("resolve", id_, "--reason", "Blocked it.")
    assert result.exit_code == 0
    assert marketplace.bodies(f"{REPORTS}/{id_}/resolve") == [{"reason": "Blocked it."}]
    assert "ann: Blocked it." in result.stdout
    assert marketplace.run("resolve", id_).exit_code == 2


SKILLS = "/api/v1/admin/skills"
SKILL = {
    "name": "pdf-tools",
    "status": "BLOCKED",
    "repoUrl": "https://github.com/octo/tools",
    "labels": ["pdf", "forms"],
    "certScore": 90,
    "acts": [{"id": "act-1"}, {"id": "act-2"}, {"id": "act-3"}],
}
BLOCKED = {
    "id": "act-1",
    "kind": "BLOCK",
    "reason": "It steals \x1b[31mkeys.",
    "at": "2026-11-24T08:00:00.000Z",
    "by": "ann",
    "liftedBy": None,
}
RESTORED = {"id": "act-3", "kind": "RESTORE", "reason": "So.", "at": "2026", "by": "bob"}
LIFTED = BLOCKED | {"id": "act-2", "kind": "WITHDRAW", "liftedBy": "act-3"}


def shown(**changes: Any) -> dict[str, Any]:
    return {
        "skill": SKILL,
        "row": SKILL,
        "record": SKILL,
        "acts": [BLOCKED, LIFTED, RESTORED | {"lifts": ["act-2"]}],
        "versions": [
            {
                "version": "1.4.0",
                "certTier": "SCANNED",
                "createdAt": "2026-11-23T08:00:00.000Z",
                "contentHash": "d1" * 32,
                "certScore": 90,
                "diffSummary": "Labels changed.",
                "commit": None,
            }
        ],
        "verdicts": [
            {
                "submissionId": "sub-1",
                "verdict": "PASS",
                "score": 90,
                "scannedAt": "2026-11-23T08:00:00.000Z",
                "ownerId": "583231",
                "path": "skills/pdf",
            }
        ],
        "submissions": [{"id": "sub-1", "state": "PUBLISHED", "receivedAt": "2026-11-22"}],
        "source": "postgres",
        "degraded": False,
        "reasons": [],
    } | changes


def test_a_skill_is_shown_with_all_that_is_known(marketplace: FakeMarketplace) -> None:
    marketplace.on("GET", f"{SKILLS}/pdf-tools", shown())
    result = marketplace.run("show", "pdf-tools")
    assert result.exit_code == 0
    for expected in (
        "pdf-tools: BLOCKED",
        "The copies agree.",
        "pdf, forms",
        "ann",
        "lifted by act-3",
        "lifts act-2",
        "1.4.0",
        "Labels changed.",
        "583231",
        "skills/pdf",
        "PUBLISHED",
    ):
        assert expected in result.stdout
    assert "\x1b[31m" not in result.stdout
    as_json = marketplace.run("show", "pdf-tools", "--json")
    assert json.loads(as_json.stdout) == shown()


FINDINGS_OF_SKILL: dict[str, tuple[dict[str, Any], str]] = {
    "they differ": ({"record": SKILL | {"commit": "c0ffee"}}, "differ: commit"),
    "a record without acts": ({"record": SKILL | {"acts": []}}, "differ: acts"),
    "an act in the log alone": (
        {"acts": [BLOCKED, BLOCKED | {"id": "act-4"}]},
        "PostgreSQL lacks these acts, and answers without them: act-4.",
    ),
    "no row": ({"row": None}, "PostgreSQL does not have it"),
    "no record": ({"record": None}, "KV does not have it"),
    "a broken record": ({"record": "no JSON"}, "cannot be read: no JSON"),
    "a source away": ({"row": None, "reasons": ["row: timeout"]}, "row: timeout"),
}


@pytest.mark.parametrize(
    ("changes", "sentence"), FINDINGS_OF_SKILL.values(), ids=FINDINGS_OF_SKILL.keys()
)
def test_copies_that_differ_or_cannot_be_read_are_a_finding(
    marketplace: FakeMarketplace, changes: dict[str, Any], sentence: str
) -> None:
    marketplace.on("GET", f"{SKILLS}/pdf-tools", shown(**changes))
    result = marketplace.run("show", "pdf-tools")
    assert result.exit_code == 1
    assert sentence in result.stdout
    assert "The copies agree" not in result.stdout
    assert marketplace.run("show", "pdf-tools", "--json").exit_code == 1


def test_a_field_that_differs_is_shown_though_it_is_usually_not(
    marketplace: FakeMarketplace,
) -> None:
    marketplace.on("GET", f"{SKILLS}/pdf-tools", shown(record=SKILL | {"skillMdDigest": "abba"}))
    assert "abba" in marketplace.run("show", "pdf-tools").stdout


def test_a_seed_skill_without_copies_is_no_finding(marketplace: FakeMarketplace) -> None:
    bare = shown(
        row=None, record=None, acts=[], versions=[], verdicts=[], submissions=[], source="seed"
    )
    marketplace.on("GET", f"{SKILLS}/pdf-tools", bare)
    result = marketplace.run("show", "pdf-tools")
    assert result.exit_code == 0
    assert "https://github.com/octo/tools" in result.stdout
    assert "Acts: none." in result.stdout


def acted(kind: str, **stores: bool) -> dict[str, Any]:
    return {
        "slug": "pdf-tools",
        "status": "LISTED" if kind == "RESTORE" else "BLOCKED",
        "act": BLOCKED | {"kind": kind},
        "stores": {"log": True, "postgres": True, "kv": True} | stores,
        "acts": ["act-1"],
    }


ACTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "correct": (
        ["--category", "documents", "--label", "a", "--label", "b", "--tier", "verified"],
        {"category": "documents", "labels": ["a", "b"], "certTier": "VERIFIED"},
    ),
    "correct to none": (["--no-labels"], {"labels": []}),
    "withdraw": ([], {}),
    "block": (
        [
            *("--threat-type", "exfiltration", "--severity", "high"),
            *("--evidence", "https://a.example/1", "--evidence", "https://a.example/2"),
        ],
        {
            "threatType": "exfiltration",
            "severity": "HIGH",
            "evidenceUrls": ["https://a.example/1", "https://a.example/2"],
        },
    ),
    "restore": (["act-1", "act-2"], {"acts": ["act-1", "act-2"]}),
    "accept-owner": (
        ["--repository-id", "7", "--owner-id", "8"],
        {"repositoryId": "7", "ownerId": "8"},
    ),
}


@pytest.mark.parametrize(("act", "given"), ACTS.items(), ids=ACTS.keys())
def test_an_act_is_sent_with_its_reason_and_tells_who_took_it(
    marketplace: FakeMarketplace, act: str, given: tuple[list[str], dict[str, Any]]
) -> None:
    name, (arguments, body) = act.split()[0], given
    marketplace.on("POST", f"{SKILLS}/pdf-tools/{name}", acted(name.upper()))
    result = marketplace.run(name, "pdf-tools", *arguments, "--reason", "It is so.")
    assert result.exit_code == 0, result.output
    assert marketplace.bodies(f"{SKILLS}/pdf-tools/{name}") == [body | {"reason": "It is so."}]
    assert f"pdf-tools: {'LISTED' if name == 'restore' else 'BLOCKED'}" in result.stdout
    assert result.stdout.count("yes") == 3
    undo = "python -m cli restore pdf-tools act-1"
    assert (undo in result.stdout) == (name != "restore")


def test_an_act_that_a_store_did_not_take_is_a_finding(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", f"{SKILLS}/pdf-tools/withdraw", acted("WITHDRAW", postgres=False))
    result = marketplace.run("withdraw", "pdf-tools", "--reason", "Its author asked.")
    assert result.exit_code == 1
    assert "not yet" in result.stdout
    assert "It is kept." in result.stdout
    assert "answers without it until then" in result.stdout
    as_json = marketplace.run("withdraw", "pdf-tools", "--reason", "So.", "--json")
    assert (as_json.exit_code, json.loads(as_json.stdout)["stores"]["postgres"]) == (1, False)
    marketplace.on("POST", f"{SKILLS}/pdf-tools/withdraw", acted("WITHDRAW", kv=False))
    in_postgres = marketplace.run("withdraw", "pdf-tools", "--reason", "Its author asked.")
    assert (in_postgres.exit_code, "It is kept." in in_postgres.stdout) == (1, True)
    assert "answers without it" not in in_postgres.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["correct", "pdf-tools", "--reason", "So."],
        ["correct", "pdf-tools", "--label", "a", "--no-labels", "--reason", "So."],
        ["correct", "pdf-tools", "--category", "documents"],
        ["withdraw", "pdf-tools"],
        ["block", "pdf-tools", "--reason", "So.", "--severity", "HIGH"],
        ["block", "pdf-tools", "--reason", "So.", "--threat-type", "x"],
        ["restore", "pdf-tools", "act-1"],
        ["accept-owner", "pdf-tools", "--reason", "So."],
    ],
)
def test_an_act_without_what_it_needs_is_not_sent(
    marketplace: FakeMarketplace, arguments: list[str]
) -> None:
    assert marketplace.run(*arguments).exit_code == 2
    assert marketplace.requests == []


@pytest.mark.parametrize("as_json", [False, True])
def test_a_restore_without_ids_lists_the_acts_in_force_and_lifts_none(
    marketplace: FakeMarketplace, as_json: bool
) -> None:
    marketplace.on("GET", f"{SKILLS}/pdf-tools", shown())
    result = marketplace.run("restore", "pdf-tools", "--reason", "So.", *["--json"] * as_json)
    assert result.exit_code == 2
    assert "give the ids" in result.stderr
    assert [request.method for request in marketplace.requests] == ["GET"]
    if as_json:
        assert json.loads(result.stdout) == shown()
    else:
        assert "act-1" in result.stdout
        assert "act-2" not in result.stdout


def test_what_a_verdict_withdrew_has_no_act_to_lift(marketplace: FakeMarketplace) -> None:
    withdrawn = shown(acts=[], skill=SKILL | {"status": "WITHDRAWN"})
    marketplace.on("GET", f"{SKILLS}/pdf-tools", withdrawn)
    assert "a PASS brings it back" in marketplace.run("restore", "pdf-tools").stdout


def test_a_slug_stays_one_segment_of_the_path(marketplace: FakeMarketplace) -> None:
    marketplace.run("show", "../rebuild-index")
    assert marketplace.requests[0].url.raw_path == f"{SKILLS}/..%2Frebuild-index".encode()


@pytest.mark.parametrize(
    ("failure", "calls"),
    [
        (httpx.Response(503, json={"title": "Service Unavailable"}), 1),
        (httpx.Response(502, text="a gateway"), 1),
        (httpx.ReadTimeout("late"), 1),
        (httpx.ConnectError("refused"), 3),
        (httpx.ConnectTimeout("late"), 3),
        (httpx.Response(429, json={"title": "Too Many Requests"}), 3),
    ],
)
def test_an_act_is_repeated_only_where_it_cannot_have_arrived(
    marketplace: FakeMarketplace, failure: httpx.Response | Exception, calls: int
) -> None:
    marketplace.on("POST", f"{SKILLS}/pdf-tools/withdraw", failure)
    result = marketplace.run("withdraw", "pdf-tools", "--reason", "Its author asked.")
    assert result.exit_code == 2
    assert len(marketplace.requests) == calls
    assert "python -m cli show pdf-tools" in result.stderr


def outcomes(remaining: int, **by_id: str) -> dict[str, Any]:
    results = [{"id": id_, "outcome": outcome} for id_, outcome in by_id.items()]
    return {"results": results, "remaining": remaining}


def test_redrive_by_ids(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REDRIVE, outcomes(9, a="redriven", b="already-redriven"))
    result = marketplace.run("redrive", "a", "b")
    assert result.exit_code == 0  # others remain, but these two were asked for
    assert marketplace.bodies(REDRIVE) == [{"ids": ["a", "b"]}]
    assert "already-redriven" in result.stdout


def test_redrive_of_many_ids_takes_several_calls(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REDRIVE, outcomes(0))
    marketplace.run("redrive", *[f"id-{n}" for n in range(BATCH_SIZE + 1)])
    assert [len(body["ids"]) for body in marketplace.bodies(REDRIVE)] == [BATCH_SIZE, 1]


@pytest.mark.parametrize("outcome", ["failed", "unknown"])
def test_a_letter_that_is_not_redriven_exits_with_1(
    marketplace: FakeMarketplace, outcome: str
) -> None:
    answer = outcomes(0, a="redriven", b=outcome)
    answer["results"][1]["reason"] = "the queue did not take it"
    marketplace.on("POST", REDRIVE, answer)
    result = marketplace.run("redrive", "a", "b")
    assert result.exit_code == 1
    assert "the queue did not take it" in result.stdout


def test_redrive_all_goes_on_until_nothing_remains(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", REDRIVE, outcomes(1, a="redriven"), outcomes(0, b="redriven"))
    result = marketplace.run("redrive", "--all", "--reason", "not-scanned", "--json")
    assert result.exit_code == 0
    assert marketplace.bodies(REDRIVE) == [{"all": True, "reason": "not-scanned"}] * 2
    assert [item["id"] for item in json.loads(result.stdout)["results"]] == ["a", "b"]


@pytest.mark.parametrize("outcome", ["failed", "redriven"])
def test_redrive_all_ends_where_there_is_no_progress(
    marketplace: FakeMarketplace, outcome: str
) -> None:
    marketplace.on("POST", REDRIVE, outcomes(1, a=outcome))
    assert marketplace.run("redrive", "--all").exit_code == 1
    assert len(marketplace.requests) <= 2


@pytest.mark.parametrize("args", [[], ["a", "--all"], ["a", "--reason", "not-scanned"]])
def test_redrive_must_know_what(marketplace: FakeMarketplace, args: list[str]) -> None:
    assert marketplace.run("redrive", *args).exit_code == 2
    assert marketplace.requests == []


def submission(name: str) -> dict[str, Any]:
    return {"repoUrl": f"https://github.com/acme/{name}", "skillName": name}


def received(id_: str, **more: Any) -> httpx.Response:
    return httpx.Response(202, json={"id": id_, "state": "RECEIVED"} | more)


def test_publish_submits_each_without_the_credential(
    marketplace: FakeMarketplace, tmp_path: Path
) -> None:
    file = tmp_path / "skills.json"
    file.write_text(json.dumps([submission("one"), submission("two")]))
    marketplace.on("POST", SUBMIT, received("s1"), received("s2"))
    result = marketplace.run("publish", str(file), key=None)
    assert result.exit_code == 0
    assert marketplace.bodies(SUBMIT) == [submission("one"), submission("two")]
    assert "s1" in result.stdout
    marketplace.run("publish", str(file))
    assert all("X-Internal-Key" not in request.headers for request in marketplace.requests)


@pytest.mark.parametrize(
    "text",
    [
        '{"skillName": "one"}\n\n{"skillName": "two"}\n',
        '\ufeff{"skillName": "one"}\r\n{"skillName": "two"}',
        '[{"skillName": "one"},\n {"skillName": "two"}]',
    ],
    ids=["lines", "lines of another system", "array"],
)
def test_publish_reads_arrays_and_lines(marketplace: FakeMarketplace, text: str) -> None:
    marketplace.on("POST", SUBMIT, received("s"))
    assert marketplace.run("publish", "-", stdin=text).exit_code == 0
    assert [body["skillName"] for body in marketplace.bodies(SUBMIT)] == ["one", "two"]


def test_one_bad_entry_does_not_hinder_the_others(marketplace: FakeMarketplace) -> None:
    problem = {"title": "Invalid submission", "errors": [{"field": "repoUrl", "message": "https"}]}
    marketplace.on("POST", SUBMIT, httpx.Response(422, json=problem), received("s2"))
    text = '{"skillName": "bad"}\n{broken\n[1]\n{"skillName": "good"}\n'
    result = marketplace.run("publish", "-", "--json", stdin=text)
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["failed"] == 3
    assert [(item["number"], item["outcome"]) for item in answer["results"]] == [
        (1, "failed"),
        (2, "failed"),
        (3, "failed"),
        (4, "submitted"),
    ]
    assert "repoUrl: https" in answer["results"][0]["reason"]
    assert "not JSON" in answer["results"][1]["reason"]


def test_scan_pass_reports_verdicts_and_their_rejections(marketplace: FakeMarketplace) -> None:
    marketplace.on(
        "POST",
        SUBMIT,
        received("s1"),
        httpx.Response(200, json={"id": "s2", "state": "SCANNED", "duplicate": True}),
        httpx.Response(200, json={"id": "s3", "state": "PUBLISHED", "duplicate": True}),
        httpx.Response(200, json={"alreadyVerified": True, "slug": "four"}),
    )
    verdict = {"accepted": ["s1"], "rejected": [{"submissionId": "s2", "reason": "not known yet"}]}
    marketplace.on("POST", SCANS, httpx.Response(202, json=verdict))
    told = {"description": "Does it.", "labels": ["a"]}
    first = submission("one") | told | {"skillPath": "skills/one"}
    others = (submission(name) for name in ("two", "three", "four"))
    text = "\n".join(map(json.dumps, (first, *others)))
    result = marketplace.run("publish", "-", "--scan-pass", "--score", "87", "--json", stdin=text)
    assert result.exit_code == 1
    passed = {"verdict": "PASS", "score": 87}
    assert marketplace.bodies(SCANS) == [
        {
            "results": [
                {"submissionId": "s1", **passed}
                | {"skill": {"name": "one", **told}, "path": "skills/one"},
                {"submissionId": "s2", **passed, "skill": {"name": "two"}},
            ]
        }
    ]
    assert all("x-internal-key" in request.headers for request in marketplace.requests)
    results = json.loads(result.stdout)["results"]
    assert [item["outcome"] for item in results] == [
        "passed",
        "failed",
        "duplicate",
        "already-verified",
    ]
    assert "not known yet" in results[1]["reason"]


def test_scan_pass_needs_a_credential_before_anything_is_submitted(
    marketplace: FakeMarketplace,
) -> None:
    result = marketplace.run("publish", "-", "--scan-pass", key=None, stdin='{"a": 1}')
    assert result.exit_code == 2
    assert marketplace.requests == []


def test_verdicts_go_in_batches(marketplace: FakeMarketplace) -> None:
    count = BATCH_SIZE + 1
    marketplace.on("POST", SUBMIT, *[received(f"s{n}") for n in range(count)])
    accepted = {"accepted": [f"s{n}" for n in range(count)], "rejected": []}
    marketplace.on("POST", SCANS, httpx.Response(202, json=accepted))
    text = json.dumps([submission(f"skill-{n}") for n in range(count)])
    assert marketplace.run("publish", "-", "--scan-pass", stdin=text).exit_code == 0
    assert [len(body["results"]) for body in marketplace.bodies(SCANS)] == [BATCH_SIZE, 1]


def test_an_abort_shows_what_was_done_before_it(marketplace: FakeMarketplace) -> None:
    marketplace.on("POST", SUBMIT, received("s1"), httpx.ConnectError("refused"))
    text = json.dumps([submission("one"), submission("two"), submission("three")])
    result = marketplace.run("publish", "-", stdin=text)
    assert result.exit_code == 2
    assert "s1" in result.stdout
    assert "cannot be reached" in result.stderr

    marketplace.on("POST", SUBMIT, received("s1"), httpx.ConnectError("refused"))
    answer = json.loads(marketplace.run("publish", "-", "--json", stdin=text).stdout)
    assert (len(answer["results"]), answer["notTried"]) == (1, 2)
    assert "cannot be reached" in answer["error"]


@pytest.mark.parametrize("text", ["", "\n", "[]", "[{]"])
def test_an_unusable_file_is_a_sentence(marketplace: FakeMarketplace, text: str) -> None:
    result = marketplace.run("publish", "-", stdin=text)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: the file")


def test_a_missing_file_is_a_sentence(marketplace: FakeMarketplace, tmp_path: Path) -> None:
    result = marketplace.run("publish", str(tmp_path / "none.json"))
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr


RULES = "/api/v1/admin/rules"
RULE: dict[str, Any] = {
    "id": "2026-11-24T08:00:00.000Z-3",
    "kind": "BLOCK",
    "matches": "owner",
    "value": "github.com/evil",
    "reason": "It steals \x1b[31mkeys.",
    "at": "2026-11-24T08:00:00.000Z",
    "by": "ann",
    "threatType": "exfiltration",
    "severity": "HIGH",
    "evidenceUrls": [],
    "liftedBy": None,
    "liftReason": None,
    "appliedAt": None,
}


def test_rules_are_listed(marketplace: FakeMarketplace) -> None:
    lifted = RULE | {"liftedBy": "bob", "liftReason": "A mistake.", "appliedAt": "2026"}
    marketplace.on("GET", RULES, {"rules": [RULE, lifted], "nextCursor": "2"})
    result = marketplace.run("rules", "--limit", "2")
    assert result.exit_code == 0
    for expected in ("github.com/evil", "BLOCK", "exfiltration (HIGH)", "in force, being applied"):
        assert expected in result.stdout
    assert "lifted by bob: A mistake." in result.stdout
    assert "\x1b[31m" not in result.stdout
    assert "--cursor 2" in result.stderr
    marketplace.on("GET", RULES, {"rules": [], "nextCursor": None})
    assert "No rules" in marketplace.run("rules").stdout


def test_a_rule_is_made(marketplace: FakeMarketplace) -> None:
    stores = {"log": True, "postgres": True}
    answer = {"rule": RULE, "stores": stores, "applied": 100, "complete": False}
    marketplace.on("POST", RULES, answer, answer)
    result = marketplace.run(
        *("rules", "add", "--owner", "github.com/evil", "--reason", "So.", "--threat", "x"),
        *("--evidence", "https://example.org"),
    )
    assert result.exit_code == 0
    assert "100 skills changed" in result.stdout
    assert "goes on" in result.stdout
    digest = ("rules", "add", "--content-digest", "d" * 64, "--reason", "So.")
    assert marketplace.run(*digest).exit_code == 0
    assert marketplace.bodies(RULES) == [
        {
            "kind": "BLOCK",
            "matches": "owner",
            "value": "github.com/evil",
            "threatType": "x",
            "severity": "HIGH",
            "reason": "So.",
            "evidenceUrls": ["https://example.org"],
        },
        {
            "kind": "WITHDRAW",
            "matches": "contentDigest",
            "value": "d" * 64,
            "reason": "So.",
            "evidenceUrls": [],
        },
    ]


@pytest.mark.parametrize("targets", [(), ("--owner", "github.com/a", "--identity", "b")])
def test_a_rule_has_one_target(marketplace: FakeMarketplace, targets: tuple[str, ...]) -> None:
    assert marketplace.run("rules", "add", "--reason", "So.", *targets).exit_code == 2
    assert marketplace.requests == []


def test_a_rule_is_lifted_and_a_store_that_did_not_take_it_is_told(
    marketplace: FakeMarketplace,
) -> None:
    path = f"{RULES}/{RULE['id']}/lift"
    stores = {"log": True, "postgres": False}
    marketplace.on("POST", path, {"rule": RULE, "stores": stores, "applied": 0, "complete": False})
    result = marketplace.run("rules", "lift", str(RULE["id"]), "--reason", "A mistake.")
    assert result.exit_code == 1
    assert "Not kept in: postgres" in result.stdout
    assert marketplace.bodies(path) == [{"reason": "A mistake."}]
