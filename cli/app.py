"""The commands. Exit codes: 0 all is well, 1 a finding or a failure, 2 no answer or no access."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from cli import answers, views
from cli.access import DEFAULT_URL, connect
from cli.client import MarketplaceClient, Surroundings
from cli.errors import EXIT_FINDING, EXIT_INTERRUPTED, CliError, NoAnswer, UsageProblem
from cli.submission_file import Entry, read_submissions
from cli.submitting import Outcome, Publisher

FIRST_WAIT_SECONDS: Final = 5  # what fits in one step is answered by the first call
POLL_SECONDS: Final = 1.0
LONGEST_POLL_SECONDS: Final = 5.0
MAX_FAILED_POLLS: Final = 5  # in a row; a marketplace that is being deployed is soon back

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
        connection = connect(self.url, key=self.key, token=self.token, insecure=self.insecure)
        return MarketplaceClient(connection, self.surroundings)


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


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a command: the marketplace, and where to write."""

    client: MarketplaceClient
    surroundings: Surroundings
    as_json: bool
    out: Console
    err: Console

    def show(self, answer: object, view: RenderableType) -> None:
        """Write the answer for machines, or its view for people."""
        if self.as_json:
            _write_json(answer)
        else:
            self.out.print(view)

    def progress(self) -> Progress:
        """A progress bar on standard error, silent when the output is for machines."""
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.err,
            transient=True,
            disable=self.as_json,
        )


@contextmanager
def _running(ctx: typer.Context, *, as_json: bool) -> Iterator[Run]:
    """Connect, and turn errors into a sentence and an exit code."""
    chosen: Options = ctx.obj
    err = Console(stderr=True, highlight=False)
    try:
        with chosen.open_client() as client:
            yield Run(client, chosen.surroundings, as_json, Console(highlight=False), err)
    except CliError as error:
        if as_json:
            _write_json({"error": str(error), "status": error.status})
        _tell(err, error)
        raise typer.Exit(error.exit_code) from None


def _tell(console: Console, error: CliError) -> None:
    _say(console, Text("Error: ", "bold red").append_text(views.plain(str(error), "not bold")))


def _say(console: Console, sentence: Text) -> None:
    """A sentence on one line, so that commands in it can be copied."""
    console.print(sentence, soft_wrap=True)


def _write_json(answer: object) -> None:
    """One JSON document on standard output, not wrapped to the terminal's width."""
    text = msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()
    sys.stdout.write(text + "\n")


@app.command()
def health(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Show counts, sources, drifts and what to do. Exit code 1 on drift or any finding."""
    with _running(ctx, as_json=as_json) as run:
        answer = run.client.health()
        report = answers.read(answer, answers.Health)
        run.show(answer, views.health(report))
        if not report.is_healthy:
            raise typer.Exit(EXIT_FINDING)


@app.command()
def rebuild(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report only, change nothing.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Follow the rebuild to its end.")] = True,
    job: Annotated[
        str | None, typer.Option(help="Follow this rebuild instead of starting one.")
    ] = None,
    max_minutes: Annotated[float, typer.Option(min=0, help="How long to follow it.")] = 60,
    as_json: JsonOption = False,
) -> None:
    """Reconcile PostgreSQL and KV both ways and rewrite the index. Deletes nothing."""
    with _running(ctx, as_json=as_json) as run:
        if job is not None and dry_run:
            raise UsageProblem("--dry-run starts a rebuild, --job follows one: give one of them")
        if job is None:
            answer = run.client.start_rebuild(
                dry_run=dry_run, wait_seconds=FIRST_WAIT_SECONDS if wait else 0
            )
        else:
            answer = run.client.rebuild_job(job)
        report = answers.read(answer, answers.Rebuild)
        if wait and not report.complete:
            answer, report = _follow(run, answer, report, max_seconds=max_minutes * 60)
        run.show(answer, views.rebuild(report))
        if not report.complete:
            _say(run.err, _how_to_follow(report))
        if not report.ok or report.errors or (wait and not report.complete):
            raise typer.Exit(EXIT_FINDING)


def _follow(
    run: Run, answer: dict[str, Any], report: answers.Rebuild, *, max_seconds: float
) -> tuple[dict[str, Any], answers.Rebuild]:
    """Poll a rebuild, with a progress bar, until it is complete or the time is over."""
    if report.job_id is None:
        raise NoAnswer("the rebuild is not complete, but the answer names no job to follow")
    job_id = report.job_id
    deadline = run.surroundings.monotonic() + max_seconds
    pause, failures = POLL_SECONDS, 0
    with run.progress() as progress:
        task = progress.add_task("Dry run" if report.dry_run else "Rebuilding", total=None)
        try:
            while not report.complete and run.surroundings.monotonic() < deadline:
                progress.update(
                    task,
                    completed=report.progress.processed,
                    total=report.progress.estimated_total,
                    refresh=True,
                )
                run.surroundings.sleep(pause)
                pause = min(pause * 1.5, LONGEST_POLL_SECONDS)
                try:
                    answer = run.client.rebuild_job(job_id)
                except NoAnswer:
                    failures += 1
                    if failures == MAX_FAILED_POLLS:
                        raise
                else:
                    report, failures = answers.read(answer, answers.Rebuild), 0
        except KeyboardInterrupt:
            _say(run.err, _how_to_follow(report))
            raise typer.Exit(EXIT_INTERRUPTED) from None
    return answer, report


def _how_to_follow(report: answers.Rebuild) -> Text:
    text = Text("The marketplace goes on with it. To look again: ")
    return text.append_text(views.plain(f"python -m cli rebuild --job {report.job_id}", "bold"))


@app.command()
def dead_letters(
    ctx: typer.Context,
    reason: Annotated[str | None, typer.Option(help="Only those of this reason.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where a former call ended.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the messages that could not be published, and why."""
    with _running(ctx, as_json=as_json) as run:
        letters, following = run.client.dead_letters(reason=reason, cursor=cursor, limit=limit)
        run.show(
            {"deadLetters": letters, "nextCursor": following},
            views.dead_letters([answers.read(letter, answers.DeadLetter) for letter in letters]),
        )
        if following is not None:
            _say(run.err, views.plain(f"There are more: --cursor {following}"))


@app.command()
def redrive(
    ctx: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of dead letters.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that wait.")] = False,
    reason: Annotated[str | None, typer.Option(help="With --all: those of this reason.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Send dead letters on their way again. Exit code 1 if any could not be sent."""
    with _running(ctx, as_json=as_json) as run:
        if bool(ids) == everything:
            raise UsageProblem("give the ids of dead letters, or --all")
        if reason is not None and not everything:
            raise UsageProblem("--reason goes with --all")
        answer = run.client.redrive(ids) if ids else run.client.redrive_all(reason=reason)
        results = [answers.read(item, answers.RedriveResult) for item in answer["results"]]
        run.show(answer, views.redriven(results, answer["remaining"]))
        failed = any(item.outcome not in {"redriven", "already-redriven"} for item in results)
        if failed or (everything and answer["remaining"]):
            raise typer.Exit(EXIT_FINDING)


@app.command()
def publish(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A JSON or JSON Lines file; - for standard input.")],
    scan_pass: Annotated[
        bool, typer.Option("--scan-pass", help="Report each as passed, as a scanner would.")
    ] = False,
    score: Annotated[int, typer.Option(min=0, max=100, help="The score for --scan-pass.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Submit the skills of a file. Exit code 1 if any failed."""
    with _running(ctx, as_json=as_json) as run:
        entries = read_submissions(_read_text(file))
        if scan_pass:
            run.client.require_credential()  # now, and not after a thousand submissions
        publisher = Publisher(run.client, scan_score=score if scan_pass else None)
        abort: CliError | None = None
        try:
            _publish(run, publisher, entries)
        except CliError as error:
            abort = error  # told below, after what was done before it
        failed = sum(result.outcome is Outcome.FAILED for result in publisher.results)
        answer = {
            "results": publisher.results,
            "failed": failed,
            "notTried": len(entries) - len(publisher.results),
            "error": None if abort is None else str(abort),
        }
        run.show(answer, views.published(publisher.results))
        if abort is not None:
            _tell(run.err, abort)
            raise typer.Exit(abort.exit_code)
        if failed:
            raise typer.Exit(EXIT_FINDING)


def _publish(run: Run, publisher: Publisher, entries: Sequence[Entry]) -> None:
    with run.progress() as progress:
        task = progress.add_task("Submitting", total=len(entries))
        publisher.publish(entries, lambda: progress.advance(task))


def _read_text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(f"{file} cannot be read: {error}") from None
