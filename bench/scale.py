"""Rebuild, health and fallback at full size: ``make scale`` (ARGS="--skills 20000").

Starts a throw-away PostgreSQL and the real Worker, fills KV and leaves the table empty. Then, one
after the other: dry run, rebuild, a second rebuild, health, 5,000 rows and 5,000 other records
lost and restored, five kills in the middle of a rebuild, and listings with PostgreSQL stopped.
Prints what was measured, and ends with 1 if anything was wrong or beyond its limit. About a
quarter of an hour at 110,000 skills on two cores.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from bench.published_index import generated_skill
from bench.stack import Stack, running, session
from local.host.control import KvEntry
from local.host.processes import wait_until
from marketplace.kv.summaries import encode_metadata
from marketplace.skills.skill import Skill

MIB: Final = 2**20
KV_OPERATIONS_LIMIT: Final = 1_000  # of the platform, an invocation
HEAP_LIMIT: Final = 128.0  # MiB, of the platform
FALLBACK_HEAP_LIMIT: Final = 100.0  # MiB
HEALTH_LIMIT: Final = 3.0  # seconds
FALLBACK_LIMIT: Final = 2.0  # seconds
ENUMERATION_LIMIT: Final = 0.5  # seconds that 5,000 keys may add to a listing
SMALL: Final = 5_000  # skills
STEP_SECONDS_LIMIT: Final = 60.0
JOB_SECONDS: Final = 600.0
KILLED_AT: Final = (0.1, 0.3, 0.55, 0.8, 1.0)  # of the walk; at 1 the index is being written
LOST_SHARE: Final = 22  # of so many skills one is lost on each side: 5,000 of 110,000
CHECK_CRON: Final = "*/5 * * * *"

LISTS_BESIDE: Final = 1  # the submissions that wait

MALFORMED: Final = 7
MENDED: Final = 3
ORPHANED: Final = 4
CHANGES: Final = ("prismaBackfilled", "kvBackfilled", "conflictsResolved")
NUMBERS: Final = ("rebuilt", "errors", "orphanedAliases", *CHANGES)


@dataclass
class Findings:
    """What was measured, and whether all of it was as it should be."""

    table: Table = field(default_factory=lambda: Table("phase", "what", "measured", "wanted", ""))
    good: bool = True

    def note(self, phase: str, what: str, measured: str) -> None:
        """Something measured that has no limit."""
        self._add(phase, what, measured, "", ok=True)

    def equal(self, phase: str, what: str, measured: object, wanted: object) -> None:
        """Something that has to be exact."""
        self._add(phase, what, str(measured), str(wanted), ok=measured == wanted)

    def at_most(self, phase: str, what: str, measured: float, limit: float, unit: str) -> None:
        """Something that has a limit."""
        ok = measured <= limit
        self._add(phase, what, f"{measured:.4g} {unit}", f"≤ {limit:g}", ok=ok)

    def _add(self, phase: str, what: str, measured: str, wanted: str, *, ok: bool) -> None:
        self.good &= ok
        mark = "" if ok else "✗"
        self.table.add_row(phase, what, measured, wanted, mark)
        print(f"{mark or '·'} {phase}: {what}: {measured} {wanted and f'({wanted})'}", flush=True)


class Marketplace:
    """The running stack as an operator sees it, and a look behind it."""

    def __init__(self, stack: Stack, key: str) -> None:
        self.worker, self.postgres, self._log_file = stack
        self._headers = {"X-Internal-Key": key}

    def call(self, method: str, path: str, **parameters: Any) -> dict[str, Any]:
        """The JSON answer of an admin or public route."""
        response = httpx.request(
            method,
            f"{self.worker.url}{path}",
            params=parameters,
            headers=self._headers,
            timeout=120,
            trust_env=False,
        )
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def timed(self, path: str, **parameters: Any) -> tuple[float, dict[str, Any]]:
        """Seconds, and the answer."""
        began = time.perf_counter()
        answer = self.call("GET", path, **parameters)
        return time.perf_counter() - began, answer

    def health(self) -> dict[str, Any]:
        """The admin health answer."""
        return self.call("GET", "/api/v1/admin/health/skills")

    def heap(self) -> float:
        """The Worker's Python heap in MiB. It never shrinks, so it is the highest so far."""
        return float(self.health()["heap"]["bytes"]) / MIB

    def start(self, *, dry_run: bool = False) -> str:
        """Begin a rebuild; its job's id."""
        parameters = {"dryRun": "true"} if dry_run else {}
        report = self.call("POST", "/api/v1/admin/rebuild-index", **parameters)
        return str(report["jobId"])

    def timed_rebuild(self) -> tuple[float, dict[str, Any]]:
        """What a rebuild that answers at once takes, and its report."""
        began = time.perf_counter()
        report = self.call("POST", "/api/v1/admin/rebuild-index")
        return time.perf_counter() - began, report

    def progress(self, job: str) -> dict[str, Any]:
        """A rebuild's report so far."""
        return self.call("GET", f"/api/v1/admin/rebuild-index/{job}")

    def finished(self, job: str) -> dict[str, Any]:
        """A rebuild's report, once it is complete."""
        report = self.progress(job)

        def complete() -> bool:
            nonlocal report
            time.sleep(0.5)  # the Worker has one thread: do not keep it from its work
            report = self.progress(job)
            return bool(report["complete"])

        if not report["complete"]:
            wait_until(complete, JOB_SECONDS, f"rebuild {job}")
        return report

    def reached(self, job: str, processed: int) -> dict[str, Any]:
        """A rebuild's report, once it has processed so many records, or is complete."""
        report = self.progress(job)

        def is_there() -> bool:
            nonlocal report
            time.sleep(0.3)
            report = self.progress(job)
            return bool(report["complete"] or report["progress"]["processed"] >= processed)

        if report["progress"]["processed"] < processed:
            wait_until(is_there, JOB_SECONDS, f"rebuild {job}")
        return report

    def let_time_pass(self) -> None:
        """Make the kept state of the rebuild look old."""
        self.sql(
            """update state
            set value = jsonb_set(value::jsonb, '{current,savedAt}', $1::jsonb)::json
            where name = 'rebuild'""",
            json.dumps("2026-01-01T00:00:00.000Z"),
        )

    def steps(self, job: str) -> list[dict[str, Any]]:
        """What the Worker logged at the end of each of a rebuild's steps."""
        lines = (line for line in self._log_file.open() if "rebuild-step-finished" in line)
        found = [json.loads(line[line.index("{") :]) for line in lines]
        return [line for line in found if line["job"] == job]

    def sql(self, statement: str, *parameters: Any) -> list[tuple[str | None, ...]]:

        async def run() -> list[tuple[str | None, ...]]:
            with await session(self.postgres) as connection:
                return list((await connection.query(statement, *parameters)).rows)

        return asyncio.run(run())

    def kill(self) -> None:
        """SIGKILL to the Worker's host and to workerd, and a new start on the same storage."""
        for pid in _descendants(self.worker.guardian_pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.worker.stop()
        self.worker.start()
        self.worker.wait_healthy()


def _descendants(pid: int) -> list[int]:
    """The processes started by a process, and by those."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(parents.get(pid, []))
    for child in found:  # grows on the way
        found += parents.get(child, [])
    return found


# --- what is in the stores --------------------------------------------------------------------


def skill(number: int) -> Skill:
    """A skill of ordinary size."""
    made = generated_skill(number)
    return msgspec.structs.replace(made, base_slug=made.name)


def record(made: Skill) -> KvEntry:
    """A skill as KV holds it."""
    value = msgspec.json.encode(made).decode()
    return KvEntry(f"skill:{made.name}", value, encode_metadata(made))


def planted() -> Iterator[KvEntry]:
    """Records and aliases that a rebuild has to mend, name or count; none may stop it."""
    for number in range(MALFORMED):
        yield KvEntry(f"skill:broken-{number}", "no json")
    for number in range(MENDED):  # a score out of range, which reading puts right
        yield record(msgspec.structs.replace(skill(10**7 + number), cert_score=1000))
    for number in range(ORPHANED):
        yield KvEntry(f"skill:alias:lost-{number}", '{"slug": "nowhere"}')
    yield KvEntry("skill:alias:kept", json.dumps({"slug": skill(0).name}))


@dataclass(frozen=True)
class Contents:
    """Digests of everything that a rebuild writes."""

    table: tuple[str | None, ...]
    records: tuple[int, str]
    index: tuple[int, str]


def contents(market: Marketplace) -> Contents:
    """What the stores hold now. Records by key and metadata, which carries the revision."""
    (table,) = market.sql(
        "select count(*)::text, sum(hashtextextended(skill::text, 0)::numeric)::text from skill"
    )
    digest, count = hashlib.sha256(), 0
    for key, metadata in market.worker.control.kv_list("skill:"):
        digest.update(json.dumps([key, metadata]).encode())
        count += 1
    manifest = market.worker.control.kv_get("skills:published-index")
    fingerprint = json.loads(manifest.value)["fingerprint"] if manifest else {}
    index = (fingerprint.get("count", 0), fingerprint.get("digest", ""))
    return Contents(table, (count, digest.hexdigest()), index)


# --- the phases -------------------------------------------------------------------------------


@dataclass
class Scale:
    """The whole measurement."""

    market: Marketplace
    findings: Findings
    skills: int

    def fill(self) -> None:
        """KV with all records, the table empty."""
        began = time.perf_counter()
        control = self.market.worker.control
        control.kv_put(map(record, map(skill, range(self.skills))))
        control.kv_put(planted())
        seconds = time.perf_counter() - began
        self.findings.note("fill", f"{self.skills} records into KV", f"{seconds:.0f} s")
        self.findings.note("fill", "heap", f"{self.market.heap():.1f} MiB")

    def rebuild(self, phase: str, *, dry_run: bool = False) -> dict[str, Any]:
        """One rebuild to its end, with what its steps took."""
        began = time.perf_counter()
        job = self.market.start(dry_run=dry_run)
        report = self.market.finished(job)
        seconds = time.perf_counter() - began
        self.report(phase, job, report, seconds)
        return report

    def report(self, phase: str, job: str, report: Mapping[str, Any], seconds: float) -> None:
        """What a rebuild's steps took."""
        found = self.findings
        steps = self.market.steps(job)
        found.note(phase, "time, steps", f"{seconds:.1f} s, {len(steps)}")
        operations = report["progress"]["maxKvOperations"]
        found.at_most(phase, "KV operations of a step", operations, KV_OPERATIONS_LIMIT, "")
        longest = max(step["duration_ms"] for step in steps) / 1000
        found.at_most(phase, "longest step", longest, STEP_SECONDS_LIMIT, "s")
        heap = max(step["heap_bytes"] for step in steps) / MIB
        found.at_most(phase, "heap", heap, HEAP_LIMIT, "MiB")

    def expect(self, phase: str, report: Mapping[str, Any], **numbers: int) -> None:
        """Compare a report with what must be in it; what is not named is 0."""
        wanted = {
            "rebuilt": self.skills + MENDED,
            "errors": MALFORMED,
            "orphanedAliases": ORPHANED,
        } | numbers
        for name in NUMBERS:
            self.findings.equal(phase, name, report[name], wanted.get(name, 0))
        named = sorted(detail["key"] for detail in report["errorDetails"])
        broken = sorted(entry.key for entry in planted() if entry.key.startswith("skill:broken-"))
        self.findings.equal(phase, "all errors named", named == broken, wanted=True)

    def from_an_empty_table(self) -> None:
        """Dry run, rebuild, and a second rebuild."""
        dry = self.rebuild("dry run, empty table", dry_run=True)
        self.expect("dry run, empty table", dry, prismaBackfilled=self.skills + MENDED)
        rows = self.market.sql("select count(*)::text from skill")
        self.findings.equal("dry run, empty table", "rows", rows, [("0",)])
        real = self.rebuild("rebuild, empty table")
        self.expect("rebuild, empty table", real, prismaBackfilled=self.skills + MENDED)
        again = self.rebuild("second rebuild")
        self.expect("second rebuild", again)

    def health(self) -> None:
        """The four counts, in time."""
        found = self.findings
        times = []
        for _ in range(3):
            seconds, answer = self.market.timed("/api/v1/admin/health/skills")
            times.append(seconds)
        found.at_most("health", "slowest of 3", max(times), HEALTH_LIMIT, "s")
        listed = self.skills + MENDED
        found.equal("health", "prisma_count", answer["prisma_count"], listed)
        found.equal("health", "kv_enumerated_count", answer["kv_enumerated_count"], listed)
        found.equal("health", "kv_index_count", answer["kv_index_count"], listed)
        found.equal("health", "seed_count", answer["seed_count"], 118)
        found.equal("health", "drift_detected", answer["drift_detected"], wanted=False)
        latency = {name: source["latency_ms"] for name, source in answer["sources"].items()}
        found.note("health", "milliseconds", str(latency))
        pages = -(-(self.skills + len(list(planted()))) // 1000)
        lists = answer["kv_operations"]["list"]
        found.at_most("health", "KV list calls", lists, pages + LISTS_BESIDE, "")
        found.at_most("health", "heap", answer["heap"]["bytes"] / MIB, HEAP_LIMIT, "MiB")

    def both_sides_damaged(self) -> None:
        """Rows and other records lost at random; one rebuild restores both."""
        phase = "both sides damaged"
        before = contents(self.market)
        number = self.skills // LOST_SHARE
        lost = random.Random(4).sample(range(self.skills), 2 * number)
        rows = [skill(n).name for n in lost[:number]]
        records = [f"skill:{skill(n).name}" for n in lost[number:]]
        self.market.sql("delete from skill where name = any($1::text[])", rows)
        self.market.worker.control.kv_delete(records)
        numbers = {"prismaBackfilled": number, "kvBackfilled": number}
        self.expect(f"{phase}, dry run", self.rebuild(f"{phase}, dry run", dry_run=True), **numbers)
        self.expect(phase, self.rebuild(phase), **numbers)
        self.same(phase, before)

    def killed(self) -> None:
        """A rebuild from an empty table, whose Worker is killed again and again."""
        phase = f"killed {len(KILLED_AT)} times"
        before = contents(self.market)
        self.market.sql("delete from skill")
        self.market.sql("update instance set missing_until = null")  # it is to begin at once
        began = time.perf_counter()
        job = self.market.start()
        for share in KILLED_AT:
            report = self.market.reached(job, round(share * self.skills))
            self.findings.equal(phase, "complete when killed", report["complete"], wanted=False)
            self.market.kill()
            # The queue of this runtime dies with it; the check finds that the rebuild stands still.
            self.market.let_time_pass()
            outcome = self.market.worker.control.fire_scheduled(CHECK_CRON)
            self.findings.equal(phase, "check", outcome, "ok")
        report = self.market.finished(job)
        self.report(phase, job, report, time.perf_counter() - began)
        self.findings.note(phase, "steps repeated", str(report["resumed"]))
        self.same(phase, before)
        self.expect(f"{phase}, the next one", self.rebuild(f"{phase}, the next one"))

    def same(self, phase: str, before: Contents) -> None:
        """Table, records and index are what they were."""
        now = contents(self.market)
        for part in ("table", "records", "index"):
            self.findings.equal(
                phase, f"{part} as before", getattr(now, part) == getattr(before, part), wanted=True
            )
        self.findings.note(phase, "contents", f"{now.table[0]} rows, {now.records[0]} keys")

    def without_postgres(self) -> None:
        """Listings from KV."""
        found, phase = self.findings, "PostgreSQL stopped"
        self.market.postgres.stop("immediate")
        times = []
        for _ in range(20):
            seconds, answer = self.market.timed("/api/v1/skills", limit=24)
            times.append(seconds)
            found.good &= answer["degraded"]
        found.at_most(phase, "slowest of 20 listings", max(times), FALLBACK_LIMIT, "s")
        found.note(phase, "median", f"{median(times):.2f} s")
        found.equal(phase, "source", answer["source"], "kv-index")
        found.equal(phase, "degraded", answer["degraded"], wanted=True)
        found.equal(phase, "total", answer["total"], self.skills + MENDED + 118)
        found.at_most(phase, "heap", self.market.heap(), FALLBACK_HEAP_LIMIT, "MiB")
        for depth in (self.skills // 2, self.skills):
            seconds, answer = self.market.timed("/api/v1/skills", limit=100, offset=depth)
            found.equal(phase, f"page at {depth:,}", len(answer["skills"]), 100)
            found.at_most(phase, f"time at {depth:,}", seconds, FALLBACK_LIMIT, "s")
            found.at_most(
                phase, f"heap at {depth:,}", self.market.heap(), FALLBACK_HEAP_LIMIT, "MiB"
            )
        seconds, report = self.market.timed_rebuild()
        found.equal(phase, "index from KV", report["rebuilt"], self.skills + MENDED)
        found.note(phase, "index from KV, time", f"{seconds:.1f} s")
        found.at_most(phase, "heap after it", self.market.heap(), HEAP_LIMIT, "MiB")
        self.market.postgres.start()


def small(market: Marketplace, findings: Findings) -> None:
    """What enumerating 5,000 keys adds to a listing."""
    phase = f"{SMALL} skills"
    scale = Scale(market, findings, SMALL)
    scale.fill()
    scale.expect(phase, scale.rebuild(phase), prismaBackfilled=SMALL + MENDED)

    def listing() -> float:
        return median(market.timed("/api/v1/skills", limit=24)[0] for _ in range(10))

    usual = listing()
    findings.note(phase, "listing from PostgreSQL", f"{usual * 1000:.0f} ms")
    market.postgres.stop("immediate")
    added = listing() - usual
    findings.at_most(phase, "the fallback adds", added, ENUMERATION_LIMIT, "s")
    findings.at_most(phase, "heap", market.heap(), FALLBACK_HEAP_LIMIT, "MiB")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make scale")
    parser.add_argument("--skills", type=int, default=110_000)
    options = parser.parse_args()
    findings = Findings()
    key = secrets.token_hex(32)
    with running(key) as stack:
        scale = Scale(Marketplace(stack, key), findings, options.skills)
        scale.fill()
        scale.from_an_empty_table()
        scale.health()
        scale.both_sides_damaged()
        scale.killed()
        scale.without_postgres()
    with running(key) as stack:
        small(Marketplace(stack, key), findings)
    Console().print(findings.table)
    if not findings.good:
        sys.exit("something was wrong, or beyond its limit: see the table")


if __name__ == "__main__":
    main()
