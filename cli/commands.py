"""What the commands do. They take a client and an output, and return the exit code.

``cli/app.py`` declares their options; nothing here knows the command line.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from rich.text import Text

import scanner.skills
from cli import tables
from cli.answers import (
    Acted,
    AuditEntry,
    DeadLetter,
    Health,
    Rebuild,
    RedriveResult,
    Report,
    Rule,
    RuleReceipt,
    ShownSkill,
    read,
)
from cli.client import MarketplaceClient
from cli.errors import EXIT_FINDING, EXIT_INTERRUPTED, EXIT_OK, CliError, NoAnswer, UsageProblem
from cli.following import Follower, Sources, read_map
from cli.output import Output
from cli.reporting import Reported, Reporter, is_done
from cli.scanning import WHAT_IT_IS, Scanned, ScanTarget, readable
from cli.submission_file import read_submissions
from cli.submitting import Outcome, Submitter

FIRST_WAIT_SECONDS: Final = 5  # what fits in one step is answered by the first call
POLL_SECONDS: Final = 1.0
LONGEST_POLL_SECONDS: Final = 5.0
MAX_FAILED_POLLS: Final = 5  # in a row; a marketplace that is being deployed is soon back

Command = Callable[[MarketplaceClient, Output], int]


def perform(command: Command, open_client: Callable[[], MarketplaceClient], output: Output) -> int:
    """Run a command and return its exit code; a CliError becomes a sentence and its code."""
    try:
        with closing(open_client()) as client:
            return command(client, output)
    except CliError as error:
        output.fail(error)
        return error.exit_code


def health(client: MarketplaceClient, output: Output) -> int:
    """Show the health of all sources."""
    answer = client.health()
    report = read(answer, Health)
    output.show(answer, tables.health(report))
    return EXIT_OK if report.is_healthy else EXIT_FINDING


def rebuild(
    client: MarketplaceClient,
    output: Output,
    *,
    dry_run: bool,
    adopt: bool,
    wait: bool,
    job: str | None,
    max_seconds: float,
) -> int:
    """Start a rebuild, or look at ``job``; follow it to its end if asked to wait."""
    if job is not None and (dry_run or adopt):
        option = "--dry-run" if dry_run else "--adopt"
        raise UsageProblem(f"{option} starts a rebuild, --job follows one: give one of them")
    if job is None:
        wait_seconds = FIRST_WAIT_SECONDS if wait else 0
        answer = client.start_rebuild(dry_run=dry_run, wait_seconds=wait_seconds, adopt=adopt)
    else:
        answer = client.rebuild_job(job)
    report = read(answer, Rebuild)
    if wait and not report.complete:
        try:
            answer = follow(client, output, answer, max_seconds=max_seconds)
        except KeyboardInterrupt:
            output.say(_how_to_follow(report))
            return EXIT_INTERRUPTED
        report = read(answer, Rebuild)
    output.show(answer, tables.rebuild(report))
    if not report.complete:
        output.say(_how_to_follow(report))
    if not report.ok or report.errors or (wait and not report.complete):
        return EXIT_FINDING
    return EXIT_OK


def follow(
    client: MarketplaceClient, output: Output, answer: dict[str, Any], *, max_seconds: float
) -> dict[str, Any]:
    """The rebuild's answer when it is complete, or the last one when ``max_seconds`` are over.

    Raises NoAnswer when the marketplace does not answer MAX_FAILED_POLLS times in a row.
    """
    report = read(answer, Rebuild)
    if report.job_id is None:
        raise NoAnswer("the rebuild is not complete, but the answer names no job to follow")
    clock = client.surroundings
    deadline = clock.monotonic() + max_seconds
    pause, failures = POLL_SECONDS, 0
    with output.progress("Dry run" if report.dry_run else "Rebuilding") as show:
        while not report.complete and clock.monotonic() < deadline:
            show(report.progress.processed, report.progress.estimated_total)
            clock.sleep(pause)
            pause = min(pause * 1.5, LONGEST_POLL_SECONDS)
            try:
                answer = client.rebuild_job(report.job_id)
            except NoAnswer:
                failures += 1
                if failures == MAX_FAILED_POLLS:
                    raise
            else:
                report, failures = read(answer, Rebuild), 0
    return answer


def _how_to_follow(report: Rebuild) -> Text:
    text = Text("The marketplace goes on with it. To look again: ")
    return text.append_text(tables.plain(f"python -m cli rebuild --job {report.job_id}", "bold"))


def dead_letters(
    client: MarketplaceClient, output: Output, *, reason: str | None, limit: int, cursor: str | None
) -> int:
    """Show the messages that could not be published."""
    letters, following = client.dead_letters(reason=reason, cursor=cursor, limit=limit)
    output.show(
        {"deadLetters": letters, "nextCursor": following},
        tables.dead_letters([read(letter, DeadLetter) for letter in letters]),
    )
    _tell_of_more(output, following)
    return EXIT_OK


def _tell_of_more(output: Output, following: str | None) -> None:
    if following is not None:
        output.say(tables.plain(f"There are more: --cursor {following}"))


def audit(
    client: MarketplaceClient,
    output: Output,
    *,
    wanted: Mapping[str, str | None],
    limit: int,
    cursor: str | None,
) -> int:
    """Show who changed what."""
    entries, following = client.audit(wanted, cursor=cursor, limit=limit)
    output.show(
        {"entries": entries, "nextCursor": following},
        tables.audit([read(entry, AuditEntry) for entry in entries]),
    )
    _tell_of_more(output, following)
    return EXIT_OK


def reports(client: MarketplaceClient, output: Output, *, limit: int, cursor: str | None) -> int:
    """Show what visitors reported."""
    found, following = client.reports(cursor=cursor, limit=limit)
    output.show(
        {"reports": found, "nextCursor": following},
        tables.reports([read(report, Report) for report in found]),
    )
    _tell_of_more(output, following)
    return EXIT_OK


def resolve(client: MarketplaceClient, output: Output, *, report_id: str, reason: str) -> int:
    """Close a report."""
    answer = client.resolve_report(report_id, reason)
    output.show(answer, tables.reports([read(answer, Report)]))
    return EXIT_OK


def show(client: MarketplaceClient, output: Output, *, slug: str) -> int:
    """Show all that is known of a skill."""
    answer = client.skill(slug)
    shown = read(answer, ShownSkill)
    output.show(answer, tables.skill(shown))
    return EXIT_OK if shown.finding is None else EXIT_FINDING


def correct(
    client: MarketplaceClient,
    output: Output,
    *,
    slug: str,
    reason: str,
    category: str | None,
    labels: Sequence[str],
    no_labels: bool,
    tier: str | None,
) -> int:
    """Set those of category, labels and tier that are given."""
    if labels and no_labels:
        raise UsageProblem("give --label or --no-labels")
    body = {
        "category": category,
        "labels": list(labels) if labels or no_labels else None,
        "certTier": None if tier is None else tier.upper(),
    }
    given = {field: value for field, value in body.items() if value is not None}
    if not given:
        raise UsageProblem("give --category, --label, --no-labels or --tier")
    return _act(client, output, slug, "correct", given | {"reason": reason})


def withdraw(client: MarketplaceClient, output: Output, *, slug: str, reason: str) -> int:
    """Take a skill down."""
    return _act(client, output, slug, "withdraw", {"reason": reason})


def block(
    client: MarketplaceClient,
    output: Output,
    *,
    slug: str,
    reason: str,
    threat_type: str,
    severity: str,
    evidence: Sequence[str],
) -> int:
    """Take a skill down as a threat; ``evidence`` are addresses."""
    body = {
        "reason": reason,
        "threatType": threat_type,
        "severity": severity.upper(),
        "evidenceUrls": list(evidence),
    }
    return _act(client, output, slug, "block", body)


def restore(
    client: MarketplaceClient,
    output: Output,
    *,
    slug: str,
    acts: Sequence[str],
    reason: str | None,
) -> int:
    """Lift acts by their ids; without ids, list those in force."""
    if not acts:
        answer = client.skill(slug)
        output.show(answer, tables.in_force(read(answer, ShownSkill)))
        output.tell(missing := UsageProblem("give the ids of the acts to lift"))
        return missing.exit_code
    if reason is None:
        raise UsageProblem("give --reason")
    return _act(client, output, slug, "restore", {"acts": list(acts), "reason": reason})


def accept_owner(
    client: MarketplaceClient,
    output: Output,
    *,
    slug: str,
    reason: str,
    repository_id: str | None,
    owner_id: str | None,
) -> int:
    """Accept the forge's new ids of a skill's repository or owner."""
    ids = {"repositoryId": repository_id, "ownerId": owner_id}
    given = {field: value for field, value in ids.items() if value is not None}
    if not given:
        raise UsageProblem("give --repository-id or --owner-id")
    return _act(client, output, slug, "accept-owner", given | {"reason": reason})


def _act(
    client: MarketplaceClient, output: Output, slug: str, act: str, body: Mapping[str, Any]
) -> int:
    """Do it, and tell which stores took it. A store that did not is a finding, though the act
    counts."""
    try:
        answer = client.act(slug, act, body)
    except NoAnswer as error:
        look = f"before you repeat it, look whether it was recorded: python -m cli show {slug}"
        raise NoAnswer(f"{error}; {look}", status=error.status) from None
    acted = read(answer, Acted)
    output.show(answer, tables.acted(acted))
    return EXIT_OK if acted.is_everywhere else EXIT_FINDING


def rules(client: MarketplaceClient, output: Output, *, limit: int, cursor: str | None) -> int:
    """Show the rules."""
    found, following = client.rules(cursor=cursor, limit=limit)
    output.show(
        {"rules": found, "nextCursor": following},
        tables.rules([read(rule, Rule) for rule in found]),
    )
    _tell_of_more(output, following)
    return EXIT_OK


def add_rule(
    client: MarketplaceClient,
    output: Output,
    *,
    targets: Mapping[str, str | None],
    reason: str,
    threat: str | None,
    severity: str,
    evidence: Sequence[str],
) -> int:
    """Make a rule of the one target that is given: a BLOCK where there is a threat."""
    given = [(matches, value) for matches, value in targets.items() if value is not None]
    if len(given) != 1:
        raise UsageProblem("give one of --identity, --owner and --content-digest")
    matches, value = given[0]
    rule: dict[str, Any] = {"kind": "WITHDRAW", "matches": matches, "value": value}
    if threat is not None:
        rule |= {"kind": "BLOCK", "threatType": threat, "severity": severity}
    rule |= {"reason": reason, "evidenceUrls": list(evidence)}
    return _show_receipt(output, client.add_rule(rule))


def lift_rule(client: MarketplaceClient, output: Output, *, rule_id: str, reason: str) -> int:
    """Lift a rule."""
    return _show_receipt(output, client.lift_rule(rule_id, reason))


def _show_receipt(output: Output, answer: dict[str, Any]) -> int:
    """A store that did not take the rule is a finding: the check brings it there."""
    receipt = read(answer, RuleReceipt)
    output.show(answer, tables.rule_receipt(receipt))
    return EXIT_OK if all(receipt.stores.values()) else EXIT_FINDING


def redrive(
    client: MarketplaceClient,
    output: Output,
    *,
    ids: Sequence[str],
    everything: bool,
    reason: str | None,
) -> int:
    """Send these dead letters again, or ``everything`` that waits (for one reason)."""
    if bool(ids) == everything:
        raise UsageProblem("give the ids of dead letters, or --all")
    if reason is not None and not everything:
        raise UsageProblem("--reason goes with --all")
    answer = client.redrive(ids) if ids else client.redrive_all(reason=reason)
    results = [read(item, RedriveResult) for item in answer["results"]]
    output.show(answer, tables.redriven(results, answer["remaining"]))
    failed = any(not result.is_redriven for result in results)
    return EXIT_FINDING if failed or (everything and answer["remaining"]) else EXIT_OK


def publish(
    client: MarketplaceClient, output: Output, *, file: Path, scan_score: int | None
) -> int:
    """Submit the skills of a file; with ``scan_score``, report each as passed with that score."""
    entries = read_submissions(file)
    if scan_score is not None:
        client.require_credential()  # now, and not after a thousand submissions
    submitter = Submitter(client, scan_score=scan_score)
    abort: CliError | None = None
    try:
        with output.progress("Submitting") as show:
            show(0, len(entries))
            submitter.submit(entries, lambda: show(len(submitter.results), len(entries)))
    except CliError as error:
        abort = error  # told below, after what was done before it
    failed = sum(result.outcome is Outcome.FAILED for result in submitter.results)
    answer = {
        "results": submitter.results,
        "failed": failed,
        "notTried": len(entries) - len(submitter.results),
        "error": None if abort is None else str(abort),
    }
    output.show(answer, tables.submitted(submitter.results))
    if abort is not None:
        output.tell(abort)
        return abort.exit_code
    return EXIT_FINDING if failed else EXIT_OK


def scan(
    client: MarketplaceClient,
    output: Output,
    *,
    path: Path,
    target: ScanTarget,
    report: bool,
) -> int:
    """Read the skills of a folder, repository or archive; with ``report``, tell the
    marketplace."""
    if report:
        client.require_credential()
    output.lines([tables.plain(WHAT_IT_IS, "bold")])
    scanned = _scan(client, output, path, target, report=report)
    reported: list[Reported] = []
    abort: CliError | None = None
    try:
        if report:
            _report(client, output, scanned, target, reported)
    except CliError as error:
        abort = error  # told below, after what was done before it
    answer = {
        "check": WHAT_IT_IS,
        "source": str(path),
        "commit": scanned.source.commit,
        "ref": scanned.source.ref,
        "skills": scanned.skills,
        "findings": scanned.findings,
        "reported": reported if report else None,
        "error": None if abort is None else str(abort),
    }
    output.show(answer, tables.scan(scanned))
    output.lines([*tables.findings(scanned), *map(tables.reported_line, reported)])
    if abort is not None:
        output.tell(abort)
        return abort.exit_code
    return EXIT_OK if scanned.is_good and all(map(is_done, reported)) else EXIT_FINDING


def _scan(
    client: MarketplaceClient, output: Output, path: Path, target: ScanTarget, *, report: bool
) -> Scanned:
    at = client.surroundings.now()
    with readable(), output.progress("Scanning") as show:
        source = target.open(path, report=report)
        skills = scanner.skills.scan(source.tree, advance=show)
        return Scanned(source, skills, list(scanner.skills.misnamed(source.tree)), at)


def _report(
    client: MarketplaceClient,
    output: Output,
    scanned: Scanned,
    target: ScanTarget,
    reported: list[Reported],
) -> None:
    """``reported`` takes what became of each, also of those before an abort. Raises CliError."""
    repository = target.repository()
    reporter = Reporter(client, reported.append)
    with readable(), output.progress("Reporting") as show:
        try:
            for number, skill in enumerate(scanned.skills):
                show(number, len(scanned.skills))
                told = reporter.submit(repository, skill)
                if told is not None:
                    reporter.report(told, repository, scanned.source, skill, scanned.at)
            reporter.send()
        except CliError as error:
            reporter.drop(error)
            raise


def follow_requests(
    client: MarketplaceClient,
    output: Output,
    *,
    folders: Sequence[str],
    clone: bool,
    limit: int,
    once: bool,
) -> int:
    """Work off what the marketplace wants scanned, until Ctrl-C."""
    client.require_credential()
    sources = Sources(read_map(folders), clone)
    if not sources.folders and not clone:
        raise UsageProblem("--follow needs --map https://host/owner/repository=FOLDER, or --clone")
    output.lines([tables.plain(WHAT_IT_IS, "bold")])
    follower = Follower(client, sources, lambda told: output.say(tables.reported_line(told)))
    exit_code, abort = EXIT_OK, None
    try:
        follower.follow(limit=limit, once=once)
    except KeyboardInterrupt:
        exit_code = EXIT_INTERRUPTED
    except CliError as error:
        exit_code, abort = error.exit_code, error
    answer = {
        "check": WHAT_IT_IS,
        "outcomes": follower.outcomes,
        "results": list(follower.results),
        "content": follower.no_content,
        "error": None if abort is None else str(abort),
    }
    output.show(answer, tables.followed(follower.outcomes, follower.no_content))
    if abort is not None:
        output.tell(abort)
    if exit_code == EXIT_OK and not all(map(is_done, follower.results)):
        return EXIT_FINDING
    return exit_code
