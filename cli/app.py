"""The command line: options and help. What the commands do is in ``cli/commands.py``."""

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli import commands, mirroring
from cli.access import DEFAULT_URL, check_access
from cli.client import MarketplaceClient, Surroundings
from cli.mirror_folder import is_mirror
from cli.output import Output
from cli.scanning import ScanTarget

app = typer.Typer(
    help="Watch and repair a skill marketplace.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # they would show the key
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


@dataclass(frozen=True, slots=True)
class Options:
    """How to reach the marketplace, as given; checked when a command connects."""

    url: str
    key: str | None = field(repr=False)
    token: str | None = field(repr=False)
    insecure: bool
    surroundings: Surroundings

    def open_client(self) -> MarketplaceClient:
        """Raises UsageProblem when the options do not go together."""
        access = check_access(self.url, key=self.key, token=self.token, insecure=self.insecure)
        return MarketplaceClient(access, self.surroundings)


@app.callback()
def options(
    ctx: typer.Context,
    url: Annotated[
        str, typer.Option(envvar="MARKETPLACE_URL", help="The marketplace's base address.")
    ] = DEFAULT_URL,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="MARKETPLACE_KEY",
            help="The internal key. Prefer the variable: command lines are visible to others.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="MARKETPLACE_TOKEN", help="A SUPER_ADMIN JSON web token, instead of the key."
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Send the credential over plain http to another machine."),
    ] = False,
) -> None:
    """Watch and repair a skill marketplace.

    Exit codes: 0 all is well, 1 a finding or a failure, 2 no answer, no access or wrong usage.
    """
    surroundings = ctx.obj if isinstance(ctx.obj, Surroundings) else Surroundings()
    ctx.obj = Options(url, key, token, insecure, surroundings)


def _run(ctx: typer.Context, command: commands.Command, *, as_json: bool) -> None:
    chosen: Options = ctx.obj
    raise typer.Exit(commands.perform(command, chosen.open_client, Output(as_json=as_json)))


@app.command()
def health(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Show counts, sources, drifts and what to do. Exit code 1 on drift or any finding."""
    _run(ctx, commands.health, as_json=as_json)


@app.command()
def rebuild(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report only, change nothing.")
    ] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over another database than before, too.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Follow the rebuild to its end.")] = True,
    job: Annotated[
        str | None, typer.Option(help="Follow this rebuild instead of starting one.")
    ] = None,
    max_minutes: Annotated[float, typer.Option(min=0, help="How long to follow it.")] = 60,
    as_json: JsonOption = False,
) -> None:
    """Reconcile PostgreSQL and KV both ways and rewrite the index. Deletes nothing."""
    command = partial(
        commands.rebuild,
        dry_run=dry_run,
        adopt=adopt,
        wait=wait,
        job=job,
        max_seconds=max_minutes * 60,
    )
    _run(ctx, command, as_json=as_json)


@app.command()
def dead_letters(
    ctx: typer.Context,
    reason: Annotated[str | None, typer.Option(help="Only those of this reason.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where a former call ended.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the messages that could not be published, and why."""
    command = partial(commands.dead_letters, reason=reason, limit=limit, cursor=cursor)
    _run(ctx, command, as_json=as_json)


@app.command()
def redrive(
    ctx: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of dead letters.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that wait.")] = False,
    reason: Annotated[str | None, typer.Option(help="With --all: those of this reason.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Send dead letters on their way again. Exit code 1 if any could not be sent."""
    command = partial(commands.redrive, ids=ids or [], everything=everything, reason=reason)
    _run(ctx, command, as_json=as_json)


@app.command()
def audit(
    ctx: typer.Context,
    principal: Annotated[str | None, typer.Option(help="Only what this one did.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this, such as rebuild.")] = None,
    target: Annotated[str | None, typer.Option(help="Only on this, such as a slug.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Not before this time, as in 2026-11-24T08:15:30Z.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where a former call ended.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List who changed what, the newest first."""
    wanted = {"principal": principal, "action": action, "target": target, "since": since}
    command = partial(commands.audit, wanted=wanted, limit=limit, cursor=cursor)
    _run(ctx, command, as_json=as_json)


@app.command()
def reports(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where a former call ended.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List what visitors reported about skills, the open reports first."""
    _run(ctx, partial(commands.reports, limit=limit, cursor=cursor), as_json=as_json)


@app.command()
def resolve(
    ctx: typer.Context,
    report: Annotated[str, typer.Argument(help="The id of a report.")],
    reason: Annotated[str, typer.Option(help="What was done, or why nothing.")],
    as_json: JsonOption = False,
) -> None:
    """Close a report. One that is closed keeps its first reason."""
    command = partial(commands.resolve, report_id=report, reason=reason)
    _run(ctx, command, as_json=as_json)


SlugArgument = Annotated[str, typer.Argument(help="The skill's slug; an old one works too.")]
ReasonOption = Annotated[
    str, typer.Option(help="Why. Everybody reads it on the page of a skill that is not listed.")
]


@app.command()
def show(ctx: typer.Context, slug: SlugArgument, as_json: JsonOption = False) -> None:
    """Show all that is known of a skill. Exit code 1 if its copies differ or cannot be read."""
    _run(ctx, partial(commands.show, slug=slug), as_json=as_json)


@app.command()
def correct(
    ctx: typer.Context,
    slug: SlugArgument,
    reason: ReasonOption,
    category: Annotated[str | None, typer.Option(help="Its category from now on.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Its labels; repeat it.")] = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="It has no label.")] = False,
    tier: Annotated[str | None, typer.Option(help="SCANNED, VERIFIED or CERTIFIED.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List a skill with another category, labels or tier, whatever scans say."""
    command = partial(
        commands.correct,
        slug=slug,
        reason=reason,
        category=category,
        labels=label or [],
        no_labels=no_labels,
        tier=tier,
    )
    _run(ctx, command, as_json=as_json)


@app.command()
def withdraw(
    ctx: typer.Context, slug: SlugArgument, reason: ReasonOption, as_json: JsonOption = False
) -> None:
    """Take a skill down. It keeps its slug, and `restore` brings it back."""
    _run(ctx, partial(commands.withdraw, slug=slug, reason=reason), as_json=as_json)


@app.command()
def block(
    ctx: typer.Context,
    slug: SlugArgument,
    reason: ReasonOption,
    threat_type: Annotated[str, typer.Option(help="What it is, such as exfiltration.")],
    severity: Annotated[str, typer.Option(help="LOW, MEDIUM, HIGH or CRITICAL.")],
    evidence: Annotated[list[str] | None, typer.Option(help="A URL; repeat it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Take a skill down as a threat, and enter it in the blocklist."""
    command = partial(
        commands.block,
        slug=slug,
        reason=reason,
        threat_type=threat_type,
        severity=severity,
        evidence=evidence or [],
    )
    _run(ctx, command, as_json=as_json)


@app.command()
def restore(
    ctx: typer.Context,
    what: Annotated[
        str, typer.Argument(help="A skill's slug; or the folder of a mirror, with a / in its path.")
    ],
    acts: Annotated[
        list[str] | None, typer.Argument(help="Ids of acts; without, those in force are listed.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    into_existing: Annotated[
        bool, typer.Option("--into-existing", help="Of a mirror: add what is lacking.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Lift acts on a skill: those that are named, and no others. Or fill a marketplace from a
    mirror: exit code 1 if it has another fingerprint then."""
    folder = Path(what)
    if acts is None and (os.sep in what or is_mirror(folder)):
        filling = partial(mirroring.restore, folder=folder, into_existing=into_existing)
        _run(ctx, filling, as_json=as_json)
    command = partial(commands.restore, slug=what, acts=acts or [], reason=reason)
    _run(ctx, command, as_json=as_json)


@app.command()
def mirror(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where the mirror is, or is to be.")],
    content: Annotated[
        bool, typer.Option("--content", help="Get the skills' content, too.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until it is interrupted.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Keep a copy of the catalogue: one JSON file a skill. Needs no credential.

    Exit code 1 if the copy does not have the marketplace's fingerprint in the end.
    """
    command = partial(mirroring.mirror, folder=folder, content=content, follow=follow)
    _run(ctx, command, as_json=as_json)


@app.command()
def accept_owner(
    ctx: typer.Context,
    slug: SlugArgument,
    reason: ReasonOption,
    repository_id: Annotated[
        str | None, typer.Option(help="The forge's new id of the repository.")
    ] = None,
    owner_id: Annotated[str | None, typer.Option(help="The forge's new id of its owner.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a repository that changed hands go on as the same skill."""
    command = partial(
        commands.accept_owner,
        slug=slug,
        reason=reason,
        repository_id=repository_id,
        owner_id=owner_id,
    )
    _run(ctx, command, as_json=as_json)


rules_app = typer.Typer(
    help="List the rules that withhold skills, make one, lift one.", invoke_without_command=True
)
app.add_typer(rules_app, name="rules")


@rules_app.callback()
def rules(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where a former call ended.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the rules, the newest first, those that are lifted too."""
    if ctx.invoked_subcommand is None:
        _run(ctx, partial(commands.rules, limit=limit, cursor=cursor), as_json=as_json)


@rules_app.command("add")
def add_rule(
    ctx: typer.Context,
    reason: Annotated[str, typer.Option(help="Why; everybody is shown it.")],
    identity: Annotated[
        str | None, typer.Option(help="A skill: https://github.com/owner/repository#name.")
    ] = None,
    owner: Annotated[str | None, typer.Option(help="All of an owner: github.com/owner.")] = None,
    content_digest: Annotated[
        str | None, typer.Option(help="All of a content: its SHA-256 in hexadecimal.")
    ] = None,
    threat: Annotated[
        str | None, typer.Option(help="The kind of threat. Without it skills are withdrawn.")
    ] = None,
    severity: Annotated[str, typer.Option(help="LOW, MEDIUM, HIGH or CRITICAL.")] = "HIGH",
    evidence: Annotated[list[str] | None, typer.Option(help="The address of a proof.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Block every skill that matches, or withdraw it. Exit code 1 if a store did not take it."""
    targets = {"identity": identity, "owner": owner, "contentDigest": content_digest}
    command = partial(
        commands.add_rule,
        targets=targets,
        reason=reason,
        threat=threat,
        severity=severity,
        evidence=evidence or [],
    )
    _run(ctx, command, as_json=as_json)


@rules_app.command("lift")
def lift_rule(
    ctx: typer.Context,
    rule: Annotated[str, typer.Argument(help="The id of a rule.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    as_json: JsonOption = False,
) -> None:
    """Lift a rule, and the acts by which it was applied. Exit code 1 as for add."""
    _run(ctx, partial(commands.lift_rule, rule_id=rule, reason=reason), as_json=as_json)


@app.command()
def publish(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A JSON or JSON Lines file; - for standard input.")],
    scan_pass: Annotated[
        bool,
        typer.Option(
            "--scan-pass",
            help="Submit with the credential, without a limit, and report each as passed.",
        ),
    ] = False,
    score: Annotated[int, typer.Option(min=0, max=100, help="The score for --scan-pass.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Submit the skills of a file. Exit code 1 if any failed."""
    command = partial(commands.publish, file=file, scan_score=score if scan_pass else None)
    _run(ctx, command, as_json=as_json)


@app.command()
def scan(
    ctx: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(help="A git repository, a folder, or a zip or tar.gz archive.")
    ] = None,
    repo_url: Annotated[str | None, typer.Option(help="The repository's public address.")] = None,
    commit: Annotated[
        str | None, typer.Option(help="Read this commit, not the head; of an archive: its commit.")
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="The folder of an archive that is the repository.")
    ] = None,
    as_it_lies: Annotated[
        bool, typer.Option("--as-it-lies", help="Read the work tree, and not a commit.")
    ] = False,
    repository_id: Annotated[
        str | None, typer.Option(help="The forge's own id of the repository.")
    ] = None,
    owner_id: Annotated[str | None, typer.Option(help="The forge's own id of its owner.")] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Upload what passed, and report the verdicts.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Work off what the marketplace wants scanned.")
    ] = False,
    folder: Annotated[
        list[str] | None,
        typer.Option("--map", help="With --follow: URL=FOLDER, where a repository is; repeat it."),
    ] = None,
    clone: Annotated[
        bool, typer.Option("--clone", help="With --follow: clone repositories without --map.")
    ] = False,
    limit: Annotated[
        int, typer.Option(min=1, max=100, help="With --follow: requests to take at a time.")
    ] = 20,
    once: Annotated[
        bool, typer.Option("--once", help="With --follow: end when nothing waits.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Read skills as a scanner does: a check of form, not an audit.

    Exit codes: 0 all skills pass or are withdrawn, and all was reported; 1 a skill fails, there is
    none, or the marketplace did not take something; 2 the source cannot be read or is refused, no
    answer, no access or wrong usage; 130 ended by Ctrl-C.
    """
    target = ScanTarget(
        repo_url=repo_url,
        commit=commit,
        root=root,
        as_it_lies=as_it_lies,
        repository_id=repository_id,
        owner_id=owner_id,
    )
    if follow == (path is not None):
        raise typer.BadParameter("give a PATH, or --follow")
    if path is not None:
        command = partial(commands.scan, path=path, target=target, report=report)
        _run(ctx, command, as_json=as_json)
    command = partial(
        commands.follow_requests, folders=folder or [], clone=clone, limit=limit, once=once
    )
    _run(ctx, command, as_json=as_json)
