"""The command line: `python -m local run`, `demo`, `test`. `make help` lists the ways in."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from local.errors import LocalError
from local.paths import DEFAULT_STATE
from local.processes import StopRequested, stop_on_signals
from local.progress import Progress
from local.run import DEFAULT_PORT, prepare, run_marketplace

cli = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@cli.command()
def run(
    port: Annotated[int, typer.Option(envvar="PORT", min=1, max=65535)] = DEFAULT_PORT,
) -> None:
    """Sets up whatever is missing and serves the marketplace until Ctrl-C."""
    run_marketplace(Progress(), DEFAULT_STATE, port)


@cli.command()
def setup() -> None:
    """Only sets up: packages and runtime bundle."""
    prepare(Progress())


@cli.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Sets up and runs pytest with the arguments given."""
    prepare(Progress())
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *context.args])  # noqa: S606


def main() -> int:
    """Exit code 0 after a stop that was asked for, 1 with a sentence when the user must act."""
    try:
        with stop_on_signals():
            cli()  # ends by SystemExit
    except StopRequested:
        print("Stopped.")
    except LocalError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
